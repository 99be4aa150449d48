"""The Scene protocol and the registry of scenes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module

from camapp.core.arrays import Pixels
from camapp.core.frames import Truth
from camapp.core.ground_camera import GroundCamera


@dataclass(frozen=True)
class SceneOptions:
    """What every scene is made from.

    Attributes:
        size: (width, height) in pixels.
        fps: frames a second, which turns an index into a time.
        seed: everything random follows from it and the index.
        count: how many things to show; None varies.
    """

    size: tuple[int, int] = (1280, 720)
    fps: float = 30.0
    seed: int = 1
    count: int | None = None


class Scene(ABC):
    """A world that can be photographed at any frame index, in any order.

    Attributes:
        counts: the least and the most things that `SceneOptions.count` may ask for.
        seconds: after which it has shown all that it has to show, and begins again.
        camera: over the ground, where there is ground.
    """

    counts: tuple[int, int] = (1, 8)
    seconds: float = 10.0
    camera: GroundCamera | None = None

    def __init__(self, options: SceneOptions) -> None:
        self.options = options

    @abstractmethod
    def render(self, index: int) -> tuple[Pixels, Truth]:
        """The image of that index, RGB uint8 (height, width, 3), new memory, and what it shows in its pixels."""


REGISTRY = {
    "digits": "camapp.scenes.digits:DigitScene",
    "objects": "camapp.scenes.objects:ObjectScene",
    "track": "camapp.scenes.track:TrackScene",
}


def scene_class(name: str) -> type[Scene]:
    """The class of a scene.

    Raises:
        ValueError: no such scene.
    """
    if name not in REGISTRY:
        raise ValueError(f"unknown scene '{name}'; known are {', '.join(REGISTRY)}")
    module, _, cls = REGISTRY[name].partition(":")
    found: type[Scene] = getattr(import_module(module), cls)
    return found
