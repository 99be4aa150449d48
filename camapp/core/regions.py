"""Makes a camera of each region that the settings of a camera name; all of them read the same source."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

from camapp.core.errors import SettingsError
from camapp.core.settings import Settings
from camapp.core.zones import parse_regions


def by_region(cameras: Sequence[Settings]) -> list[Settings]:
    """Return the settings of each region in place of those of its camera; a camera without regions stays as it is.

    A region has its own name, rectangle and model, and files of its own: its name is added to theirs.

    Raises:
        SettingsError: two cameras or regions have the same name.
    """
    found = [part for camera in cameras for part in (_parts(camera) if camera.region else [camera])]
    names = [part.name for part in found]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"two cameras or regions are named '{repeated[0]}': give each a different name")
    return found


def group_of_regions(settings: Settings) -> Hashable:
    """Return what all regions of one camera have in common; None for a camera without regions."""
    return (settings.source, settings.region) if settings.region else None


def _parts(camera: Settings) -> list[Settings]:
    return [
        replace(
            camera,
            name=region.name,
            roi=region.roi,
            model=region.model or camera.model,
            log=camera.log if camera.log in (None, "-") else str(_of_its_own(Path(camera.log), region.name)),
            record=camera.record and _of_its_own(camera.record, region.name),
            clips=camera.clips / region.name,
            drawn=camera.drawn and camera.drawn / region.name,
        )
        for region in parse_regions(camera.region)
    ]


def _of_its_own(file: Path, name: str) -> Path:
    """Return the name of a region's file: log.jsonl becomes log-gate.jsonl."""
    return file.with_name(f"{file.stem}-{name}{file.suffix}")
