"""Declares what a training run consists of; nothing here runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Augment:
    """How training images are varied; drawn again for each image in each epoch.

    Attributes:
        share: part of the images that the geometric and stroke changes touch; the rest stay as they are.
        rotate: largest turn either way, degrees.
        shift: largest move either way along each axis, pixels.
        scale: largest relative change of size, each axis on its own: 0.1 is 0.9 to 1.1.
        stroke: largest change of stroke thickness: 1 widens (or thins) bright strokes by a full 3x3 neighbourhood.
        crop: pixels of reflected border from which an image of the old size is cut at random.
        flip: mirror left and right, one image in two.
        erase: side in pixels of a square, somewhere in the image, that is painted grey.
    """

    share: float = 1.0
    rotate: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    stroke: float = 0.0
    crop: int = 0
    flip: bool = False
    erase: int = 0


@dataclass(frozen=True)
class Recipe:
    """One net, its data and its schedule: stochastic gradient descent on cross-entropy.

    Attributes:
        net: a name that `engine.nets.build` knows; also the name of the shipped file.
        data: a name in `weights.datasets.SOURCES`.
        epochs: passes over the training split; 0 leaves the weights of `start` as they are.
        batch: images a step.
        learning_rate: at the start; the highest, where the schedule is 'one_cycle'.
        momentum: of the optimiser; Nesterov's where it is not 0.
        weight_decay: on weights of two and more dimensions, not on biases or norms.
        schedule: 'constant'; 'cosine' from the learning rate down to 0 over the run; or 'one_cycle': straight up to
            the learning rate over the first fifth of the run, then straight down to 0.
        label_smoothing: share of the truth that is spread over all classes alike.
        precision: of activations and their gradients; 'bfloat16' is three times as fast on a CPU that has AVX-512
            BF16. Parameters, their sums and what judges an epoch stay float32.
        storage: of weights of two and more dimensions in the file. What ships is measured as stored.
        validation: part of the images outside the test split that is held back to choose the checkpoint.
        augment: how training images are varied.
        paper: number of digits of the training split that are also used on paper, cut out by the application.
        start: model (a name or a file) whose weights the net begins with; '' for none.
        kept: share of these weights in the result; the rest is what training made of them.
        outliers: number of generated images that show none of the classes (`weights.outliers`). A step has one for
            two images, and the net learns to score all classes alike on them.
        outlier_weight: of their loss, relative to that of the images.
        none_class: number of training images, and of generated ones, to which one class more is fitted in the end; see
            `weights.none_class`. 0 for none.
        title: name of the recipe, if it is not that of its net.
        seed: of the initial values, the order, the augmentation and the generated images.
    """

    net: str
    data: str
    epochs: int
    batch: int
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    label_smoothing: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    storage: Literal["float32", "float16"] = "float32"
    validation: float = 0.1
    augment: Augment = Augment()
    paper: int = 0
    start: str = ""
    kept: float = 0.0
    outliers: int = 0
    outlier_weight: float = 0.5
    none_class: int = 0
    title: str = ""
    seed: int = 42

    @property
    def name(self) -> str:
        """Name for `python -m weights train`."""
        return self.title or self.net


@dataclass(frozen=True)
class FineTuning(Recipe):
    """A recipe that starts from a shipped model with a new last layer, for other classes.

    Attributes:
        frozen: first epochs, in which only the last layer learns.
    """

    frozen: int = 0

    @property
    def name(self) -> str:
        """Name of the data; the same for any classes."""
        return self.data


@dataclass(frozen=True)
class TrackRecipe:
    """The track net and its schedule: Muon on presence and place, on images rendered during the training.

    Attributes:
        name: what `python -m weights train` calls it.
        net: a name that `engine.nets.build` knows.
        epochs: each begins with a new shard of images.
        images: in a shard.
        uses: epochs that learn from a shard; the images are varied each time.
        batch: images a step.
        learning_rate: the highest, of matrices; it rises over a twentieth of the run, then falls to 0 as a cosine.
        weight_decay: on matrices, as a share of the rate.
        average: share of the old values that the running mean of the weights keeps in a step; it is what is saved.
        bfloat16: whether the layers compute in 16 bits; the weights themselves are kept in 32.
        photographs: variants of labelled photographs that go with each shard.
        parts: of the folder of photographs, 'SUBFOLDER' or 'SUBFOLDER/SOURCE'; () for the folder itself.
        start: model (a name or a file) whose weights it begins with; '' for none.
        gain: factor of the presence's logits in the file. Focal weighting makes a net less sure than it is right.
        validation: images, of seeds never learnt from, that choose the checkpoint.
        seed: of the initial values, the order and the images.
    """

    name: str
    net: str
    epochs: int
    images: int
    batch: int
    learning_rate: float
    uses: int = 6
    weight_decay: float = 1e-2
    average: float = 0.998
    bfloat16: bool = True
    photographs: int = 0
    parts: tuple[str, ...] = ()
    start: str = ""
    gain: float = 1.0
    validation: int = 400
    seed: int = 42

    def samples(self, epoch: int) -> int:
        """Number of images in an epoch, counted from 1."""
        return min(epoch, self.uses) * (self.images + self.photographs)
