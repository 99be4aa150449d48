"""Fakes libcamera's Python module: the few names that users of picamera2 need."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace


@dataclass
class Transform:
    hflip: bool = False
    vflip: bool = False


@dataclass(frozen=True)
class ColorSpace:
    name: str

    @staticmethod
    def Smpte170m() -> ColorSpace:
        return ColorSpace("SMPTE170M")


class AfModeEnum(Enum):
    Manual = 0
    Auto = 1
    Continuous = 2


class NoiseReductionModeEnum(Enum):
    Off = 0
    Fast = 1


controls = SimpleNamespace(AfModeEnum=AfModeEnum, draft=SimpleNamespace(NoiseReductionModeEnum=NoiseReductionModeEnum))
