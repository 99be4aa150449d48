"""Models a camera above flat ground: pixels to metres and back, for scenes that draw and tasks that measure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from camapp.core.arrays import Floats

# Least distance in front of the camera at which a point is visible, metres.
NEAREST = 1e-3


@dataclass(frozen=True)
class GroundCamera:
    """Holds the position, orientation and lens of a camera.

    Ground coordinates are x to the right and y ahead, in metres, from the point below the camera. The lens follows
    Devernay and Faugeras' field-of-view model: one parameter, an inverse in closed form, and no radius at which it
    folds over.

    Attributes:
        focal: (horizontal, vertical) focal length in pixels; they differ if the image was stretched.
        height: of the camera above the ground, metres.
        pitch: downward tilt, radians.
        roll: tilt to the right, radians (the horizon then rises to the right).
        bend: barrel distortion, radians; 0 is a straight lens.
        centre: (x, y) of the optical axis in pixels; None is the middle.

    Raises:
        ValueError: a number out of range.
    """

    size: tuple[int, int]
    focal: tuple[float, float]
    height: float
    pitch: float
    roll: float = 0.0
    bend: float = 0.0
    centre: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        numbers = (*self.size, *self.focal, self.height, self.pitch, self.roll, self.bend, *(self.centre or ()))
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"camera numbers must be finite: {self}")
        if min(*self.size, *self.focal, self.height) <= 0:
            raise ValueError(f"camera size {self.size}, focal length {self.focal} and height {self.height} must be > 0")
        if not -math.pi / 2 < self.pitch < math.pi / 2 or not 0 <= self.bend < math.pi / 2:
            raise ValueError(
                f"camera pitch {self.pitch} must lie within 90 degrees, bend {self.bend} in 0 to 90 degrees"
            )

    @classmethod
    def of(
        cls, size: tuple[int, int], height: float, pitch: float, across: float, roll: float = 0.0, bend: float = 0.0
    ) -> GroundCamera:
        """Return a camera with square pixels and a field of view of `across` radians along its longer image side.

        Raises:
            ValueError: a number out of range.
        """
        if not 0 < across < math.pi:
            raise ValueError(f"field of view {across} must lie between 0 and 180 degrees")
        half = max(size) / 2
        straight = GroundCamera(size, (1.0, 1.0), height, pitch, roll, bend)
        focal = half / float(straight._bent(np.array(math.tan(across / 2))))
        return replace(straight, focal=(focal, focal))

    def resized(self, size: tuple[int, int]) -> GroundCamera:
        """Return the same camera for its image stretched to another size."""
        x, y = size[0] / self.size[0], size[1] / self.size[1]
        centre = None if self.centre is None else (self.centre[0] * x, self.centre[1] * y)
        return replace(self, size=size, focal=(self.focal[0] * x, self.focal[1] * y), centre=centre)

    @property
    def across(self) -> float:
        """Return the field of view along the longer image side, radians, as `of` takes it."""
        far = max(self.size) / 2 / self.focal[0]
        return 2 * math.atan(math.tan(far * self.bend) / (2 * math.tan(self.bend / 2)) if self.bend else far)

    @property
    def _axis(self) -> tuple[float, float]:
        return self.centre or (self.size[0] / 2, self.size[1] / 2)

    def project(self, ground: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Map ground points (..., 2) to pixels (..., 2), with a mask (...) of those in front of the camera."""
        sine, cosine = math.sin(self.pitch), math.cos(self.pitch)
        ahead = ground[..., 1] * cosine + self.height * sine
        down = self.height * cosine - ground[..., 1] * sine
        seen = ahead > NEAREST
        ahead = np.where(seen, ahead, NEAREST)
        x, y = ground[..., 0] / ahead, down / ahead
        if self.roll:
            sine, cosine = math.sin(self.roll), math.cos(self.roll)
            x, y = x * cosine + y * sine, y * cosine - x * sine
        if self.bend:
            radius = np.maximum(np.hypot(x, y), 1e-9)
            shrink = self._bent(radius) / radius
            x, y = x * shrink, y * shrink
        return np.stack([x * self.focal[0] + self._axis[0], y * self.focal[1] + self._axis[1]], axis=-1), seen

    def unproject(self, pixels: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Map pixels (..., 2) to ground points (..., 2), with a mask (...) of those on the ground; the others are 0."""
        x = (pixels[..., 0] - self._axis[0]) / self.focal[0]
        y = (pixels[..., 1] - self._axis[1]) / self.focal[1]
        inside: NDArray[np.bool_] = np.ones(x.shape, bool)
        if self.bend:
            radius = np.maximum(np.hypot(x, y), 1e-9)
            inside = radius * self.bend < math.pi / 2 - 0.01
            stretch = np.tan(np.where(inside, radius, 0.0) * self.bend) / (2 * math.tan(self.bend / 2)) / radius
            x, y = x * stretch, y * stretch
        if self.roll:
            sine, cosine = math.sin(self.roll), math.cos(self.roll)
            x, y = x * cosine - y * sine, y * cosine + x * sine
        sine, cosine = math.sin(self.pitch), math.cos(self.pitch)
        down = sine + y * cosine
        seen = inside & (down > 1e-6)
        reach = np.where(seen, self.height / np.where(seen, down, 1.0), 0.0)
        return np.stack([x * reach, (cosine - y * sine) * reach], axis=-1), seen

    def _bent(self, radius: Floats) -> Floats:
        """Map undistorted distances from the optical axis to distorted ones; both for a focal length of 1."""
        if not self.bend:
            return radius
        bent: Floats = np.arctan(radius * (2 * math.tan(self.bend / 2))) / self.bend
        return bent
