"""Defines the interface of scenes and their registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module

from camapp.core.arrays import Pixels
from camapp.core.frames import Truth
from camapp.core.ground_camera import GroundCamera


@dataclass(frozen=True)
class SceneOptions:
    """Options common to all scenes.

    Attributes:
        size: (width, height) in pixels.
        fps: frames per second, which converts an index to a time.
        seed: with the index it determines everything random.
        count: number of things to show; None varies it.
    """

    size: tuple[int, int] = (1280, 720)
    fps: float = 30.0
    seed: int = 1
    count: int | None = None


class Scene(ABC):
    """A synthetic world that can be rendered at any frame index, in any order.

    Attributes:
        counts: minimum and maximum of `SceneOptions.count`.
        seconds: duration after which the scene repeats.
        camera: the camera over the ground, if the scene has ground.
    """

    counts: tuple[int, int] = (1, 8)
    seconds: float = 10.0
    camera: GroundCamera | None = None

    def __init__(self, options: SceneOptions) -> None:
        self.options = options

    @abstractmethod
    def render(self, index: int) -> tuple[Pixels, Truth]:
        """Return the image of an index, RGB uint8 (height, width, 3), newly allocated, and its truth in pixels."""


REGISTRY = {
    "crossing": "camapp.scenes.crossing:CrossingScene",
    "digits": "camapp.scenes.digits:DigitScene",
    "objects": "camapp.scenes.objects:ObjectScene",
    "track": "camapp.scenes.lap:LapScene",
}


def scene_class(name: str) -> type[Scene]:
    """Return the class of a scene; raises ValueError if it is unknown."""
    if name not in REGISTRY:
        raise ValueError(f"unknown scene '{name}'; known are {', '.join(REGISTRY)}")
    module, _, cls = REGISTRY[name].partition(":")
    found: type[Scene] = getattr(import_module(module), cls)
    return found
