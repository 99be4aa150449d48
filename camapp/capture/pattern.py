"""Plays a generated scene as a camera (`pattern://SCENE`), for machines without one; shots have ground truth."""

from __future__ import annotations

import re
import time
from urllib.parse import urlsplit

from camapp.capture.source import EndOfStream, Source, SourceOptions, query_of
from camapp.core.errors import PermanentSourceError, SourceLost
from camapp.core.frames import Shot
from camapp.core.image import Image, Layout
from camapp.core.settings import parse_size
from camapp.scenes.scene import Scene, SceneOptions, scene_class

# Allowed sides of an image, pixels.
SIDES = (64, 4096)
# Allowed frames per second.
RATES = (1.0, 240.0)


class PatternSource(Source):
    """Plays `pattern://digits?size=1280x720&fps=30&seed=1&count=3`; values in the URI outrank the options.

    A live pattern keeps an absolute schedule: a late reader gets the frame of that moment, as with a camera, and never
    a burst of old ones. With `realtime=False` every frame follows at once.
    """

    def __init__(self, uri: str, options: SourceOptions) -> None:
        super().__init__(uri, options)
        self.live = options.realtime is not False
        try:
            self._scene_class, self._scene_options = _parse(uri, options)
        except ValueError as error:
            raise PermanentSourceError(f"{error} (in '{uri}')") from error
        self._scene: Scene | None = None
        self._is_open = False
        self._start_ns = 0
        self._index = 0

    def open(self) -> None:
        """Make the scene and start its clock."""
        self.fps = self._scene_options.fps
        # Keep the scene after `close`: making it takes time and megabytes, and gives the same scene again.
        self._scene = self._scene or self._scene_class(self._scene_options)
        self._is_open = True
        self._start_ns = time.monotonic_ns()
        self._index = 0

    def read(self, timeout: float) -> Shot:
        """Return the next frame; a live one at its due time."""
        if self._scene is None or not self._is_open:
            raise SourceLost(f"'{self.uri}' is not open")
        if self.live:
            late_ns = time.monotonic_ns() - self._due_ns(self._index)
            self._index += max(0, int(late_ns * self.fps / 1e9))
        due_ns = self._due_ns(self._index)
        image, truth = self._scene.render(self._index)
        self._index += 1
        if self.live:
            # Rendered early and returned when due, like the frame of a camera.
            early_ns = due_ns - time.monotonic_ns()
            if early_ns > 0 and self.stopping.wait(early_ns / 1e9):
                raise EndOfStream("stopped")
        view = Image.of(image, Layout.RGB)
        moment_ns = due_ns - self._start_ns
        sensor_ns = due_ns if self.live else 0
        return Shot(view, view, sensor_ns, truth, moment_ns=moment_ns, camera=self._scene.camera)

    def close(self) -> None:
        """Stop the clock."""
        self._is_open = False

    @property
    def scene(self) -> Scene:
        """Return the scene; available after `open`."""
        assert self._scene is not None
        return self._scene

    def describe(self) -> str:
        """Return such as 'pattern digits 1280x720 at 30 fps, seed 1'."""
        width, height = self._scene_options.size
        return (
            f"pattern {urlsplit(self.uri).netloc} {width}x{height} at {self._scene_options.fps:g} fps, "
            f"seed {self._scene_options.seed}"
        )

    def _due_ns(self, index: int) -> int:
        return self._start_ns + round(index * 1e9 / self.fps)


def _parse(uri: str, options: SourceOptions) -> tuple[type[Scene], SceneOptions]:
    """Return the scene and its options. Raises ValueError, which names what is allowed."""
    scene = scene_class(urlsplit(uri).netloc)
    query = query_of(uri)
    allowed = ("size", "fps", "seed", "count")
    for key in query:
        if key not in allowed:
            raise ValueError(f"unknown option '{key}'; allowed are {', '.join(allowed)}")
    default = SceneOptions()
    size = parse_size(query["size"]) if "size" in query else options.size or default.size
    fps = _number(query, "fps", options.fps or default.fps)
    seed = _number(query, "seed", default.seed)
    count = _number(query, "count", 0)
    low, high = SIDES
    if not all(low <= side <= high for side in size):
        raise ValueError(f"size {size[0]}x{size[1]}: each side may be {low} to {high}")
    if not RATES[0] <= fps <= RATES[1]:
        raise ValueError(f"fps {fps:g}: allowed are {RATES[0]:g} to {RATES[1]:g}")
    if seed != int(seed) or seed < 0:
        raise ValueError(f"seed {seed:g}: allowed are whole numbers from 0")
    low, high = scene.counts
    if "count" in query and (count != int(count) or not low <= count <= high):
        raise ValueError(f"count {count:g}: allowed are {low} to {high}")
    return scene, SceneOptions(size, float(fps), int(seed), int(count) if "count" in query else None)


def _number(query: dict[str, str], key: str, default: float) -> float:
    text = query.get(key)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text):
        raise ValueError(f"{key} '{text}': expected a number")
    return float(text)
