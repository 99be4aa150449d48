"""Reads image files: one, a folder with all folders below, or a glob."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from camapp.capture.clock import Pace
from camapp.capture.exif import orientation_of
from camapp.capture.source import IMAGE_SUFFIXES, EndOfStream, Source, SourceOptions, local_path
from camapp.capture.still_process import decode_isolated
from camapp.core.errors import PermanentSourceError, SourceDenied
from camapp.core.files import natural_key
from camapp.core.frames import Shot, Truth
from camapp.core.image import Image, as_image, fit_within, silence_opencv
from camapp.core.log_once import LogOnce
from camapp.core.truth import TruthRule

log = logging.getLogger(__name__)

_DEFAULT_FPS = 30.0
# First bytes of files whose alpha is ignored: JPEG has none, and that of BMP is seldom meant.
_OPAQUE = (b"\xff\xd8", b"BM")
_SUFFIXES = tuple(IMAGE_SUFFIXES)
# Sizes in bytes: of one read, and of the largest file to read.
_BLOCK, _MAX_BYTES = 64 << 10, 512 << 20
# First bytes of the formats that are decoded in this process: JPEG, PNG, BMP, TIFF, and PNM.
_COMMON = (b"\xff\xd8", b"\x89PNG", b"BM", b"II*\0", b"MM\0*", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")
# Both ignore the orientation in EXIF data, which is applied here, the same way for all formats and versions of OpenCV.
_NO_ALPHA = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_ALPHA = cv2.IMREAD_UNCHANGED


def read_image(path: Path | str) -> Image:
    """Read a file as an 8-bit image, rotated by its EXIF orientation, alpha blended over white.

    Raises:
        ValueError: not an image, or of an unsupported kind; the message names the problem.
        OSError: the file cannot be read.
    """
    return decode_image(_content(path))


def decode_image(data: bytes) -> Image:
    """Decode the content of an image file, as `read_image` does.

    Raises:
        ValueError: the content is no image, or of a kind that cannot be read; the message says which.
    """
    if not data:
        raise ValueError("the file is empty")
    if not data.startswith(_COMMON) and data[8:12] != b"WEBP":
        return as_image(decode_isolated(data))
    try:
        # ANYCOLOR drops the alpha that UNCHANGED keeps.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _NO_ALPHA if data.startswith(_OPAQUE) else _ALPHA)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in error.err:
            raise ValueError("it has more pixels than allowed (OPENCV_IO_MAX_IMAGE_PIXELS)") from error
        raise ValueError(f"it cannot be decoded: {error.err}") from error
    if image is None:
        raise ValueError("it is damaged, or not an image")
    turn = orientation_of(data)
    return as_image(image) if turn.is_identity else turn.image(as_image(image))


def _content(path: Path | str) -> bytes:
    """Read a file. A file object alone takes as long as all of this, which matters for small images."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = os.read(descriptor, _BLOCK)
        more = os.read(descriptor, _BLOCK)
        if not more:
            return data
        if (size := os.fstat(descriptor).st_size) > _MAX_BYTES:
            raise ValueError(f"it has {size >> 20} MB, more than any image has")
        with open(descriptor, "rb", closefd=False) as file:
            return data + more + file.read()
    finally:
        os.close(descriptor)


def find_images(uri: str) -> list[Path]:
    """Return the image files of a path, folder or glob, 'img2' before 'img10', without hidden ones.

    Raises:
        PermanentSourceError: there are none.
        SourceDenied: this user may not read the folder.
    """
    path = local_path(uri)
    images = [Path(name) for name in walk_images(path)]
    if not images:
        where = "in folder" if path.is_dir() else "at"
        raise PermanentSourceError(f"no images {where} {path}; they end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return images


def walk_images(path: Path, in_order: bool = True) -> Iterator[str]:
    """Yield the names of the image files of a path, folder or glob, with one folder in memory at a time.

    Within a folder, files and folders are sorted together, 'img2' before 'img10', unless `in_order` is False; sorting
    takes longer than finding. Hidden files are left out, and unreadable folders, with a warning.

    Raises:
        PermanentSourceError: it is missing, a pipe, which might never end, or a device.
        SourceDenied: this user may not read the file or the topmost folder.
    """
    if path.is_dir():
        if not os.access(path, os.R_OK | os.X_OK):
            raise SourceDenied(f"folder {path} may not be read by this user: chmod u+rx it, or change the user")
        yield from _walk_folder(str(path), in_order)
    elif path.exists():
        if not os.access(path, os.R_OK):
            raise SourceDenied(f"{path} may not be read by this user: chmod u+r it, or change the user")
        if not path.is_file():
            raise PermanentSourceError(f"{path} is not a file but a pipe or a device; name an image or a folder")
        yield str(path)
    elif not any(char in str(path) for char in "*?["):
        raise PermanentSourceError(f"no such file or folder: {path}")
    else:
        found = (name for name in glob.iglob(str(path), recursive=True) if _is_image(name) and os.path.isfile(name))
        yield from sorted(found, key=natural_key)


def _walk_folder(folder: str, in_order: bool) -> Iterator[str]:
    """Yield the images of a folder and of all below, without recursion: they may be deeper than Python's call stack."""
    open_folders = [_list_folder(folder, in_order)]
    while open_folders:
        for path in open_folders[-1]:
            if path.endswith("/"):
                open_folders.append(_list_folder(path, in_order))
                break
            yield path
        else:
            open_folders.pop()


def _list_folder(folder: str, in_order: bool) -> Iterator[str]:
    """Yield the images and folders in a folder, the latter with a final '/'; none, with a warning, if unreadable."""
    try:
        with os.scandir(folder) as entries:
            names = [
                f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and (entry.is_dir(follow_symlinks=False) or (_is_image(entry.name) and _leads_to_file(entry)))
            ]
    except OSError as error:
        log.warning("skipped folder %s: %s", folder, error.strerror)
        return
    if in_order:
        names.sort(key=natural_key)
    prefix = os.path.join(folder, "")
    for name in names:
        yield prefix + name


def _leads_to_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    # A circular link, or one through an unreadable folder: reading it reports the error.
    except OSError:
        return True


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


class ImagesSource(Source):
    """Yields the images of a folder in order; unreadable files are skipped.

    Attributes:
        skipped: (path, reason) of each unreadable file.
    """

    finite = True

    def __init__(self, uri: str, options: SourceOptions) -> None:
        super().__init__(uri, options)
        self.live = bool(options.realtime)
        self.skipped: list[tuple[Path, str]] = []
        self._paths: list[Path] = []
        self._next = 0
        self._shown = 0
        self._waiting: Shot | None = None
        self._pace = Pace()
        self._rule = TruthRule(options.labels)
        self._is_labelled = False
        self._log_once = LogOnce(log)

    def open(self) -> None:
        """Find the files and read the first. Raises PermanentSourceError if there are none, or none is readable."""
        silence_opencv()
        self.skipped = []
        self._paths = find_images(self.uri)
        self._next = self._shown = 0
        self._pace = Pace()
        self.fps = self.options.fps or (_DEFAULT_FPS if self.live else 0.0)
        self._waiting = self._load()

    def read(self, timeout: float) -> Shot:
        """Return the next image: at once, or when it is due in realtime."""
        shot = self._waiting or self._load()
        self._waiting = None
        if self.live:
            due = self._shown / self.fps
            if self._pace.lateness(due) > 1 / self.fps:
                self._pace.rebase(due)
            self._pace.wait(due, self.stopping)
        self._shown += 1
        return shot

    def close(self) -> None:
        """Forget the files."""
        self._paths = []
        self._waiting = None

    def describe(self) -> str:
        """Return the URI and the number of images."""
        return f"{self.uri}, {len(self._paths)} images"

    def _load(self) -> Shot:
        while True:
            if self._next == len(self._paths):
                self._rewind()
            path = self._paths[self._next]
            self._next += 1
            try:
                image = fit_within(read_image(path), self.options.size)
            except PermissionError:
                self._skip(path, "it may not be read by this user")
            except OSError as error:
                self._skip(path, error.strerror or str(error))
            except ValueError as error:
                self._skip(path, str(error))
            else:
                return Shot(image, image, truth=self._truth_of(str(path)), name=path.name, still=True)

    def _truth_of(self, path: str) -> Truth | None:
        if label := self._rule(path):
            self._is_labelled = True
            return Truth(label)
        if self._is_labelled and "_" in os.path.basename(path) and (stray := self._rule.stray(path)):
            self._log_once(
                logging.WARNING, "", "%s: its truth '%s' is no label of the model (logged once)", path, stray
            )
        return None

    def _rewind(self) -> None:
        unreadable = {path for path, _ in self.skipped}
        if unreadable.issuperset(self._paths):
            path, reason = self.skipped[0]
            others = f" (nor can the other {len(self._paths) - 1})" if len(self._paths) > 1 else ""
            raise PermanentSourceError(f"cannot read {path}: {reason}{others}")
        if not self.options.loop:
            raise EndOfStream
        self._paths = [path for path in self._paths if path not in unreadable]
        self._next = 0

    def _skip(self, path: Path, reason: str) -> None:
        self.skipped.append((path, reason))
        log.warning("skipped %s: %s", path, reason)
