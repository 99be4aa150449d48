"""Varies a whole batch of training images, as tensors, according to an `Augment`."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from weights.recipe import Augment


def apply(images: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """Vary a batch.

    Args:
        images: (batch, channels, height, width) float32 in 0..1.
        augment: what to vary, and how far.
        generator: where chance comes from; on the images' device.

    Returns:
        A tensor of the same shape and range.
    """
    if augment.flip:
        images = _flip(images, generator)
    if augment.crop:
        images = _crop(images, augment.crop, generator)
    if augment.rotate or augment.shift or augment.scale or augment.stroke:
        changed = _affine(images, augment, generator)
        if augment.stroke:
            changed = _stroke(changed, augment.stroke, generator)
        touched = _uniform(images, 1, generator)[:, :, None, None] < augment.share
        images = torch.where(touched, changed, images)
    if augment.erase:
        images = _erase(images, augment.erase, generator)
    return images


def _uniform(images: Tensor, columns: int, generator: torch.Generator) -> Tensor:
    """Return random numbers (batch, columns) in 0..1."""
    return torch.rand(len(images), columns, generator=generator, device=images.device)


def _flip(images: Tensor, generator: torch.Generator) -> Tensor:
    mirrored = _uniform(images, 1, generator)[:, :, None, None] < 0.5
    return torch.where(mirrored, images.flip(3), images)


def _crop(images: Tensor, border: int, generator: torch.Generator) -> Tensor:
    batch, _, height, width = images.shape
    device = images.device
    padded = F.pad(images, (border,) * 4, mode="reflect")
    corner = torch.randint(0, 2 * border + 1, (2, batch, 1), generator=generator, device=device)
    rows = corner[0] + torch.arange(height, device=device)
    columns = corner[1] + torch.arange(width, device=device)
    chosen = torch.arange(batch, device=device)[:, None, None]
    return padded[chosen, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _erase(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Paint a grey square at a random position, partly outside the image if near its border."""
    height, width = images.shape[2:]
    down, across = _uniform(images, 2, generator).unbind(1)
    rows, columns = (
        ((torch.arange(size, device=images.device) + 0.5 - size * centre[:, None]).abs() < side / 2)
        for size, centre in ((height, down), (width, across))
    )
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], 0.5, images)


def _affine(images: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    height, width = images.shape[2:]
    angle, x, y, wide, high = (2 * _uniform(images, 5, generator) - 1).unbind(1)
    angle = angle * math.radians(augment.rotate)
    wide, high = 1 + augment.scale * wide, 1 + augment.scale * high
    # The matrix maps output positions to input positions, both in -1..1, hence the divisions.
    across = torch.stack([angle.cos() / wide, -angle.sin() / wide, x * 2 * augment.shift / width], 1)
    down = torch.stack([angle.sin() / high, angle.cos() / high, y * 2 * augment.shift / height], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _stroke(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Widen or thin bright strokes: blend towards the maximum or minimum of each 3x3 neighbourhood."""
    amount = strength * (2 * _uniform(images, 1, generator) - 1)[:, :, None, None]
    widest = F.max_pool2d(images, 3, stride=1, padding=1)
    thinnest = -F.max_pool2d(-images, 3, stride=1, padding=1)
    return images + amount.clamp(min=0) * (widest - images) + amount.clamp(max=0) * (images - thinnest)
