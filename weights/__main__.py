"""Train models in PyTorch (train), and measure model files with the NumPy engine (evaluate)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from camapp.core.command_help import PlainCommand, PlainGroup
from camapp.core.files import write_atomic
from camapp.core.program import program, spelled
from weights import WeightsError
from weights.recipes import RECIPES, TRACKS

if TYPE_CHECKING:
    from rich.progress import Progress

    from engine.model import Model
    from engine.model_card import ModelCard
    from weights.datasets import Dataset, Images
    from weights.evaluate import Evaluation
    from weights.recipe import Recipe, TrackRecipe
    from weights.softmax import Step
    from weights.train import Trained

DEFAULT_FOLDER = Path("data")
SETS = ", ".join(sorted({recipe.data for recipe in RECIPES.values()}))
FOLDER, FOLDER_SIGNALS, SCENES = "folder", "folder-signals", "scenes"
PATIENCE_OF_FOLDER = 10
BAD_DATA_OR_MODEL = 78
INTERRUPTED = 130
FELL = "  validation loss fell, saved"
INSTALL = "pip install -e '.[train]' --extra-index-url https://download.pytorch.org/whl/cpu"

AnyRecipe = TypeVar("AnyRecipe", "Recipe", "TrackRecipe")

app = typer.Typer(
    cls=PlainGroup,
    add_completion=False,
    no_args_is_help=True,
    help=__doc__,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

DataFolder = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help="Folder of the data sets; missing ones are downloaded. For track_photographs: the labelled photographs.",
    ),
]
Plots = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder for PNG plots.")]


@app.command(
    cls=PlainCommand,
    epilog="camapp train folder collected --from objects\ncamapp train cifar_small --epochs 2 --plots plots",
)
def train(
    name: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help=f"One of: {', '.join([*RECIPES, *TRACKS])}; or 'folder' for images of your own classes, or "
            "'folder-signals' for signals.",
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            help="For 'folder': a folder with one subfolder of images per class. For 'folder-signals': one with "
            "data.npy (count, channels, length) and label.npy (count).",
        ),
    ] = None,
    data: DataFolder = DEFAULT_FOLDER,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Model file to write (default: runs/NAME.npz).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run after its last epoch.")] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of epochs (default: the recipe's).")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="N", help="Random seed (default: the recipe's).")] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Stop after this many epochs without progress; 0: never.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Model file whose weights a track recipe starts from, instead of its own."),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="For 'folder': teach this model's last layer without PyTorch: a name, or a file.",
        ),
    ] = None,
    net: Annotated[
        str, typer.Option(metavar="NAME", help="For 'folder-signals': mobilenet_v3_1d_small or mobilenet_v3_1d_large.")
    ] = "mobilenet_v3_1d_small",
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C", help="For 'folder-signals': class names, separated by commas, or a file of them."
        ),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(min=0, metavar="RATE", help="Learning rate (default: the recipe's).")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Images a step (default: the recipe's).")
    ] = None,
    validation: Annotated[
        float | None, typer.Option(min=0.01, max=0.9, metavar="SHARE", help="Share held back to choose the checkpoint.")
    ] = None,
    show_batch: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PNG file for the first training images, written before the training."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=64, metavar="N", help="For --from: worker processes; 0: one per core.")
    ] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Threads of PyTorch (default: chosen by PyTorch).")
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(metavar="NAME", help="Device that PyTorch uses: cpu or cuda.")
    ] = "cpu",
    plots: Plots = None,
) -> None:
    """Train a recipe in PyTorch and write the best checkpoint as a model file with its card.

    'train folder DATA --from NAME' needs no PyTorch: only a new last layer learns.
    """
    changes = {"epochs": epochs, "seed": seed, "learning_rate": lr, "batch": batch_size, "validation": validation}
    if backbone is not None:
        with _errors():
            if name != FOLDER or images is None:
                raise WeightsError("--from belongs to 'train folder DATA'")
            given = {**changes, "patience": patience, "threads": threads, "start": start, "resume": resume or None}
            if unused := [key for key, value in given.items() if value is not None and key != "validation"]:
                raise WeightsError(f"{', '.join(unused)}: of no use with --from, which solves for the last layer")
            _teach(images, backbone, out, validation, workers, show_batch, plots)
        return
    if name in TRACKS:
        with _errors():
            if validation is not None or show_batch is not None:
                raise WeightsError("--validation and --show-batch do not apply to the track recipes")
            track = _changed(TRACKS[name], changes)
            track = track if start is None else replace(track, start=start)
            _train_track(track, data, out, threads, device, plots, resume)
        return
    out = out or Path("runs") / f"{name}.npz"
    checkpoint = out.with_suffix(".checkpoint")
    with _errors(f"interrupted: --resume continues from {checkpoint}"):
        if start is not None:
            raise WeightsError("--start applies to the track recipes only")
        recipe = _recipe(name, changes, net)
        if (images is None) == (name in (FOLDER, FOLDER_SIGNALS)):
            raise WeightsError("only 'train folder DATA' takes a folder of images, and 'folder-signals' one of signals")
        _check_out(out)
        torch = _import_torch(device)
        if plots:
            _import_plots()
        if threads:
            torch.set_num_threads(threads)
        from weights.export import export

        if patience is None:
            patience = PATIENCE_OF_FOLDER if images else 0
        if images and name == FOLDER_SIGNALS:
            from weights.folder_signals import load_signals, read_names

            dataset = load_signals(images, read_names(labels), recipe.validation, _warn)
        elif images:
            dataset = _load_folder(images, recipe.validation)
        else:
            dataset = _load(recipe.data, data, recipe.validation)
        if recipe.paper:
            dataset = _on_paper(dataset, recipe.paper)
        if show_batch:
            _show_batch(recipe, dataset, device, show_batch)
        trained = _train(recipe, dataset, device, checkpoint, resume, patience)
        model, result = export(trained, recipe, dataset, out)
        checkpoint.unlink(missing_ok=True)
        _print_result(result, model.card, f"{name} on its {dataset.measured}", detail=images is not None)
        if plots:
            from weights.plots import curves

            curves(trained.history, trained.best, name, plots / f"{name}_curves.png")
            _plot_result(model, result, dataset.test, name, plots)
        size, epochs_done = out.stat().st_size / 1000, len(trained.history)
        print(f"wrote {out} ({size:.0f} kB), best epoch {trained.best.number} of {epochs_done}")
        if name == FOLDER:
            print(f"try it: {program()} --model {out}")


@app.command(
    "evaluate",
    cls=PlainCommand,
    epilog="camapp evaluate runs/cifar10.npz\ncamapp evaluate net.onnx --dataset cifar10 --limit 500",
)
def evaluate_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A model file.")],
    data: DataFolder = DEFAULT_FOLDER,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"One of: {SETS} (default: the recipe's); {SCENES}: digits on paper; {FOLDER_SIGNALS}: "
            "data.npy and label.npy in the folder --data.",
        ),
    ] = None,
    split: Annotated[
        Literal["held-out", "test"],
        typer.Option(
            metavar="SPLIT", help="held-out: the last tenth of the training files; test: the official test set."
        ),
    ] = "held-out",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Use only this many images of the test split.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=64, metavar="N", help="Worker processes; 0: one per core.")] = 0,
    plots: Plots = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Markdown file to write.")
    ] = None,
) -> None:
    """Measure a model file on its test split with the NumPy engine."""
    with _errors():
        if plots:
            _import_plots()
        from engine.model import load
        from weights.evaluate import evaluate, report

        model = load(file)
        if dataset == SCENES:
            _evaluate_scenes(file, model, data, limit, plots, report_file)
            return
        if dataset == FOLDER_SIGNALS:
            model, images, name = _own_signals(model, data)
        else:
            images, name = _test_images(dataset or _data_of(model.card, file), data, split)
        images = images[slice(limit)]
        result = evaluate(model, images, workers)
        title = f"{file} on the {name}"
        _print_result(result, model.card, title, detail=True)
        if plots:
            _plot_result(model, result, images, file.stem, plots)
        if report_file:
            _write_report(report_file, report(model, result, title, _command()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; None is that of `python -m weights`."""
    app(args=arguments, prog_name=program().replace("-m camapp", "-m weights") if arguments is None else program())


@contextmanager
def _errors(interrupted: str = "interrupted") -> Iterator[None]:
    """Print an error that a user can cause as one line, and exit with its code."""
    from camapp.core.errors import CamappError
    from engine.graph import ModelError

    try:
        yield
    except (WeightsError, ModelError, CamappError) as error:
        print(f"error: {spelled(str(error))}", file=sys.stderr)
        raise typer.Exit(BAD_DATA_OR_MODEL) from error
    except KeyboardInterrupt as error:
        print(interrupted, file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from error


def _recipe(name: str, changes: Mapping[str, Any], net: str) -> Recipe:
    from weights import folder, folder_signals

    recipes = {**RECIPES, FOLDER: folder.RECIPE}
    if name == FOLDER_SIGNALS:
        recipes[name] = folder_signals.recipe_for(net)
    if name not in recipes:
        raise WeightsError(f"no recipe '{name}'; available: {', '.join([*recipes, FOLDER_SIGNALS, *TRACKS])}")
    return _changed(recipes[name], changes)


def _changed(recipe: AnyRecipe, changes: Mapping[str, Any]) -> AnyRecipe:
    return replace(recipe, **{key: value for key, value in changes.items() if value is not None})


def _teach(
    folder: Path,
    name: str,
    out: Path | None,
    validation: float | None,
    workers: int,
    show_batch: Path | None,
    plots: Path | None,
) -> None:
    """Teach a model's last layer the classes of a folder, without PyTorch."""
    from camapp.commands.models import offer
    from camapp.core.models import NotFetched
    from weights import teach

    if plots:
        _import_plots()
    try:
        backbone = teach.backbone_named(name)
    except NotFetched as missing:
        offer(missing)
        backbone = teach.backbone_named(name)
    out = out or (Path("runs") / FOLDER).with_suffix(teach.suffix_for(backbone))
    _check_out(out, teach.suffix_for(backbone))
    if show_batch:
        from weights.sheet import write_sheet

        some, classes = teach.some_images(folder, backbone.start.card)
        write_sheet(show_batch, some, classes)
        print(f"wrote {show_batch}")
    with _progress() as progress:
        task = progress.add_task(f"features by {backbone.start.card.net}", total=None)
        header = [f"{'decay':>9}  {'train loss':>10} {'right':>7}  {'valid. loss':>11} {'right':>7}"]

        def step(done: Step) -> None:
            while header:
                progress.console.print(header.pop())
            progress.console.print(
                f"{done.decay:>9.1e}  {done.train_loss:>10.4f} {done.train_accuracy:>7.2%}  "
                f"{done.validation_loss:>11.4f} {done.validation_accuracy:>7.2%}{FELL if done.is_best else ''}",
                highlight=False,
            )

        report = teach.Report(
            images=lambda count: progress.update(task, total=count),
            done=lambda count: progress.advance(task, count),
            step=step,
            warn=_warn,
        )
        taught = teach.teach(folder, backbone, name, report, validation, workers)
    teach.write(taught, out)
    card = taught.model.card
    _print_result(taught.result, card, f"{FOLDER} on its {next(iter(card.accuracy))}", detail=True)
    print(taught.rejection)
    if plots:
        from weights.plots import confusion

        title = f"{name}: {taught.result.accuracy:.2%} of {taught.result.images}"
        confusion(taught.result.confusion, card.labels, title, plots / f"{FOLDER}_confusion.png")
    print(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB)\ntry it: {program()} --model {out}")


def _show_batch(recipe: Recipe, dataset: Dataset, device: str, path: Path) -> None:
    from weights.sheet import write_sheet
    from weights.train import first_batch

    write_sheet(path, first_batch(recipe, dataset, device), dataset.classes)
    print(f"wrote {path}")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _train_track(
    recipe: TrackRecipe,
    data: Path,
    out: Path | None,
    threads: int | None,
    device: str,
    plots: Path | None,
    resume: bool,
) -> None:
    out = out or Path("runs") / f"{recipe.name}.npz"
    _check_out(out)
    if device != "cpu":
        raise WeightsError("the track net is trained on the CPU only: omit --device")
    torch = _import_torch(device)
    if plots:
        _import_plots()
    if threads:
        torch.set_num_threads(threads)
    from weights.export import export_track
    from weights.photographs import Photographs
    from weights.train_track import TrackEpoch, train_track

    print(f"{'epoch':>9}  {'train loss':>10}  {'valid. loss':>11} {'precision':>9} {'recall':>7} {'place':>6}")

    def report(done: TrackEpoch) -> None:
        print(
            f"{done.number:>4}/{recipe.epochs:<4}  {done.train_loss:>10.4f}  {done.validation_loss:>11.4f} "
            f"{done.precision:>9.2%} {done.recall:>7.2%} {done.place:>6.3f}",
            flush=True,
        )

    photographs = Photographs(data, recipe.parts) if recipe.photographs else None
    # Images are slow to render: like the checkpoint, they are kept until the run is complete.
    folder = out.with_suffix(".run")
    trained = train_track(recipe, folder, report, photographs=photographs, resume=resume)
    export_track(trained, recipe, out)
    shutil.rmtree(folder)
    if plots:
        from weights.plots import track_curves

        track_curves(trained.history, trained.best, recipe.name, plots / f"{recipe.name}_curves.png")
    print(f"wrote {out} ({out.stat().st_size / 1000:.0f} kB), best epoch {trained.best.number} of {recipe.epochs}")


def _check_out(out: Path, suffix: str = ".npz") -> None:
    """Check the output file before the training, not after it."""
    if out.suffix != suffix:
        raise WeightsError(f"--out {out}: a model file's name ends in {suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"cannot make {out.parent}: {error.strerror or error}") from error
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise WeightsError(f"cannot write {out}: choose another place with --out")


def _import_torch(device: str) -> Any:
    torch = _optional("torch", "training needs PyTorch", "; 'train folder DATA --from NAME' needs none")
    if device == "cuda" and not torch.cuda.is_available():
        raise WeightsError("this PyTorch finds no CUDA device: omit --device to train on the CPU")
    return torch


def _import_plots() -> None:
    _optional("matplotlib", "plots need matplotlib")


def _optional(module: str, need: str, remedy: str = "") -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise WeightsError(f"{need}, which is not installed: {INSTALL}{remedy}") from error


@contextmanager
def _progress(*columns: str) -> Iterator[Progress]:
    """Show a progress bar with the time left and these fields of the task."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    fields = (TextColumn("{task.fields[" + column + "]}") for column in columns)
    text = TextColumn("{task.description}")
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(text, BarColumn(), *fields, *times, transient=True) as progress:
        yield progress


def _load(name: str, folder: Path, validation: float = 0.1) -> Dataset:
    from weights.datasets import load

    with _progress() as progress:
        task = progress.add_task(f"reading {name}", total=None)

        def downloaded(done: int, total: int) -> None:
            progress.update(task, description=f"downloading {name}", completed=done, total=total or None)

        return load(name, folder, validation, progress=downloaded)


def _on_paper(dataset: Dataset, learnt: int) -> Dataset:
    from weights.written import with_scenes

    with _progress() as progress:
        task = progress.add_task("photographing digits on paper", total=None)
        return with_scenes(dataset, learnt, lambda done, total: progress.update(task, completed=done, total=total))


def _test_images(name: str, folder: Path, split: str) -> tuple[Images, str]:
    """Return the images to measure on, and their name."""
    if split == "held-out":
        return _load(name, folder).test, f"{name} test split"
    from weights.datasets import load_test

    with _progress() as progress:
        task = progress.add_task(f"downloading {name}", total=None)
        return load_test(
            name, folder, progress=lambda done, total: progress.update(task, completed=done, total=total or None)
        )


def _own_signals(model: Model, folder: Path) -> tuple[Model, Images, str]:
    """Return the model for the length of a folder's signals, its test split, and the split's name."""
    from engine.model import for_length
    from weights.folder_signals import load_signals

    dataset = load_signals(folder, model.card.labels, warn=_warn)
    length = dataset.test.images.shape[2]
    model = model if model.card.input_shape[-1] == length else for_length(model, length)
    return model, dataset.test, dataset.measured


def _data_of(card: ModelCard, file: Path) -> str:
    from engine import nets
    from weights.datasets import SOURCES

    if card.net not in RECIPES:
        raise WeightsError(f"no recipe for net '{card.net}': give its data set with --dataset ({SETS})")
    own = card.labels != (nets.default_card(card.net).labels or SOURCES[RECIPES[card.net].data].classes)
    if not card.colour and (own or card.input_shape != nets.default_card(card.net).input_shape):
        raise WeightsError(
            f"the model has its own classes or signals: 'camapp evaluate {file} --dataset {FOLDER_SIGNALS} "
            "--data FOLDER' measures it on FOLDER's data.npy and label.npy"
        )
    if own:
        raise WeightsError(
            "the model has its own classes: 'camapp classify FOLDER --model FILE --truth folder' measures it"
        )
    return RECIPES[card.net].data


def _load_folder(folder: Path, validation: float) -> Dataset:
    from engine import nets
    from weights.folder import RECIPE, load_folder

    return load_folder(folder, nets.default_card(RECIPE.net), warn=_warn, validation=validation)


def _train(recipe: Recipe, dataset: Dataset, device: str, checkpoint: Path, resume: bool, patience: int) -> Trained:
    from weights.train import Epoch, Report, steps_in, train

    per_epoch = steps_in(recipe, dataset) // max(1, recipe.epochs)
    with _progress("loss") as progress:
        task = progress.add_task(f"training {recipe.name}", total=per_epoch * recipe.epochs, loss="")
        progress.console.print(f"{'epoch':>9}  {'train loss':>10} {'right':>7}  {'valid. loss':>11} {'right':>7}")

        def step(loss: float) -> None:
            progress.update(task, advance=1, loss=f"loss {loss:.3f}")

        least = float("inf")

        def epoch(done: Epoch) -> None:
            nonlocal least
            is_best = done.validation_loss < least
            least = min(least, done.validation_loss)
            progress.update(task, completed=done.number * per_epoch)
            progress.console.print(
                f"{done.number:>4}/{recipe.epochs:<4}  {done.train_loss:>10.4f} {done.train_accuracy:>7.2%}  "
                f"{done.validation_loss:>11.4f} {done.validation_accuracy:>7.2%}{FELL if is_best else ''}",
                highlight=False,
            )

        return train(recipe, dataset, device, Report(step, epoch), checkpoint, resume, patience)


def _print_result(result: Evaluation, card: ModelCard, title: str, detail: bool = False) -> None:
    from rich.console import Console

    from camapp.commands.classify.report import print_report

    print(title)
    print_report(Console(highlight=False), result.names(card), result.confusion, detail)
    if result.seconds:
        print(f"loss {result.loss:.4f} (mean cross-entropy)")
        print(f"NumPy engine, {result.workers} worker(s): {result.images_per_s:.0f} images/s, including the start")


def _evaluate_scenes(
    file: Path, model: Model, data: Path, limit: int | None, plots: Path | None, report_file: Path | None
) -> None:
    from rich.console import Console

    from camapp.commands.classify.report import confusion_of, print_report
    from camapp.scenes.paper import RANGES
    from weights.written import read_scenes, report

    images = _load("mnist", data).test[slice(limit)]
    with _progress() as progress:
        task = progress.add_task("reading digits on paper", total=None)
        result = read_scenes(model, images, lambda done, total: progress.update(task, completed=done, total=total))
    title = f"{file} on {result.scenes} camera scenes with the digits of the mnist test split"
    names, matrix = confusion_of(result.predicted)
    print(f"{title}\n{RANGES}")
    print_report(Console(highlight=False), names, matrix)
    print(result)
    if plots:
        from weights.plots import confusion

        confusion(matrix, names, title, plots / f"{model.card.net}_scenes_confusion.png")
    if report_file:
        _write_report(report_file, report(model, result, title, _command()))


def _command() -> str:
    return " ".join([program(), *sys.argv[1:]])


def _write_report(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
    except OSError as error:
        raise WeightsError(f"cannot write {path}: {error.strerror or error}") from error
    print(f"wrote {path}")


def _plot_result(model: Model, result: Evaluation, images: Images, name: str, folder: Path) -> None:
    from weights.evaluate import normalised
    from weights.plots import confusion, grid

    card = model.card
    title = f"{name}: {result.accuracy:.2%} of {result.images}"
    confusion(result.confusion, result.names(card), title, folder / f"{name}_confusion.png")
    some = images[:: max(1, len(images) // 16)][slice(16)]
    outputs: Any = model.run(normalised(some.fitted(card.input_shape).images, card))
    grid(some, outputs.argmax(axis=1).tolist(), result.names(card), title, folder / f"{name}_pictures.png")


if __name__ == "__main__":
    main()
