"""Mirrors and rotates shots, with their ground truth, if the device cannot do it itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2

from camapp.core.frames import Shot, Truth
from camapp.core.image import Image, Layout
from camapp.core.predictions import Box, Point, Polyline

_ROTATE = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass(frozen=True)
class Orientation:
    """Describes flips, followed by a clockwise rotation in degrees."""

    hflip: bool = False
    vflip: bool = False
    rotate: int = 0

    @property
    def is_identity(self) -> bool:
        """Return whether it changes nothing."""
        return not (self.hflip or self.vflip or self.rotate)

    def shot(self, shot: Shot) -> Shot:
        """Return the oriented shot."""
        if self.is_identity:
            return shot
        view = self.image(shot.view)
        model_view = view if shot.model_view is shot.view else self.image(shot.model_view)
        truth = self.truth(shot.truth, shot.view.size) if shot.truth else None
        return replace(shot, view=view, model_view=model_view, truth=truth, camera=None)

    def image(self, image: Image) -> Image:
        """Return an oriented copy; planar layouts become RGB."""
        if image.layout is Layout.I420:
            image = Image.of(image.rgb(), Layout.RGB)
        data = image.data
        if self.hflip or self.vflip:
            data = cv2.flip(data, -1 if self.hflip and self.vflip else int(self.hflip))
        if self.rotate:
            data = cv2.rotate(data, _ROTATE[self.rotate])
        return Image.of(data, image.layout)

    def truth(self, truth: Truth, size: tuple[int, int]) -> Truth:
        """Return the oriented ground truth of an image of `size` (width, height)."""

        def box(item: Box) -> Box:
            (ax, ay), (bx, by) = self._point((item.x0, item.y0), size), self._point((item.x1, item.y1), size)
            return replace(item, x0=min(ax, bx), y0=min(ay, by), x1=max(ax, bx), y1=max(ay, by))

        def line(item: Polyline) -> Polyline:
            return replace(item, points=tuple(self._point(point, size) for point in item.points))

        return replace(truth, boxes=tuple(map(box, truth.boxes)), lines=tuple(map(line, truth.lines)))

    def _point(self, point: Point, size: tuple[int, int]) -> Point:
        (x, y), (width, height) = point, size
        x = width - x if self.hflip else x
        y = height - y if self.vflip else y
        turned = {0: (x, y), 90: (height - y, x), 180: (width - x, height - y), 270: (y, width - x)}
        return turned[self.rotate]
