"""Reads network streams and pipes, decoded in a child process, or picture by picture if they are motion JPEG."""

from __future__ import annotations

import logging
import os
import select
import time
from abc import abstractmethod
from typing import Protocol
from urllib.parse import urlsplit

from camapp.capture.decode_errors import pipe_error, silence, stream_error
from camapp.capture.decoder import Decoder, DecoderDied, End, Picture
from camapp.capture.decoder_process import Job
from camapp.capture.ffmpeg import libraries, stream_options
from camapp.capture.libav import DecodeError
from camapp.capture.source import EndOfStream, Source, SourceOptions, local_path, redacted, sane_fps
from camapp.core.errors import PermanentSourceError, SourceDenied, SourceLost
from camapp.core.frames import Shot
from camapp.core.image import fit_within

log = logging.getLogger(__name__)

# Seconds for a stream's first picture (key frames may be 20 s apart).
OPEN_S = 30.0
_STEP_S = 0.05


class Feed(Protocol):
    """Delivers the pictures of a stream."""

    def next(self, timeout: float) -> Picture | End | None:
        """Return the next picture, the end, or None if the run stops; raises what `Decoder.next` raises."""

    def close(self) -> None:
        """Hang up."""


class _LiveSource(Source):
    """Reads a feed, and gives each loss a reason."""

    def __init__(self, uri: str, options: SourceOptions) -> None:
        super().__init__(uri, options)
        self._open_s = options.open_timeout or OPEN_S
        self._feed: Feed | None = None
        self._waiting: Picture | None = None
        self._has_worked = False
        self._size = 0, 0

    def open(self) -> None:
        """Connect and read the first picture, within `open_timeout`.

        Raises:
            SourceLost: no answer, or no picture in time.
            PermanentSourceError: it is no live stream, cannot be decoded, or wants a password.
            EndOfStream: the run stops.
        """
        self.close()
        deadline = time.monotonic() + self._open_s
        self._feed = self._connect(deadline)
        self._waiting = self._next(max(0.1, deadline - time.monotonic()))
        self._size = self._waiting.image.size
        if isinstance(self._feed, Decoder):
            self.fps = sane_fps(self._feed.format["fps"])
        self._has_worked = True

    def read(self, timeout: float) -> Shot:
        """Return the next picture."""
        picture, self._waiting = self._waiting or self._next(timeout), None
        self._size = picture.image.size
        image = fit_within(picture.image, self.options.size)
        return Shot(image, image)

    def close(self) -> None:
        """Hang up."""
        self._waiting = None
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    def describe(self) -> str:
        """Return address, size and rate."""
        size = f", {self._size[0]}x{self._size[1]}" if any(self._size) else ""
        return f"{redacted(self.uri)}{size}" + (f" at {self.fps:g} fps" if self.fps else "")

    def processes(self) -> list[int]:
        """Return the number of the decoder's process."""
        decoder = self._feed
        return [decoder.pid] if isinstance(decoder, Decoder) else []

    def _next(self, timeout: float) -> Picture:
        if self._feed is None:
            raise SourceLost(f"{redacted(self.uri)} is not open")
        try:
            picture = self._feed.next(timeout)
        except DecoderDied as error:
            raise SourceLost(f"{redacted(self.uri)}: {error}") from error
        if picture is None:
            raise EndOfStream("stopped")
        if isinstance(picture, End):
            raise self._ended()
        return picture

    @abstractmethod
    def _connect(self, deadline: float) -> Feed:
        """Return a new feed, by the monotonic second `deadline`."""

    @abstractmethod
    def _ended(self) -> Exception:
        """Return the exception for the end of the feed."""


class StreamSource(_LiveSource):
    """Reads a network stream that FFmpeg knows. Its password appears in no message.

    Raises:
        PermanentSourceError: the address is malformed.
    """

    def __init__(self, uri: str, options: SourceOptions) -> None:
        super().__init__(uri, options)
        check_address(uri)

    def _connect(self, deadline: float) -> Feed:
        scheme = urlsplit(self.uri).scheme
        job = Job(scheme + self.uri[len(scheme) :], libraries(), stream_options(scheme), live=True)
        return Decoder(redacted(self.uri), job, self.stopping)

    def _next(self, timeout: float) -> Picture:
        try:
            return super()._next(timeout)
        except DecodeError as error:
            raise stream_error(self.uri, error, has_worked=self._has_worked) from error
        except TimeoutError as error:
            raise self._silence(timeout) from error

    def _silence(self, seconds: float) -> Exception:
        if self._waiting is None and isinstance(self._feed, Decoder) and not self._feed.format:
            return silence(self.uri, self._feed.stage, self._feed.peer, seconds)
        return self._ended()

    def _ended(self) -> Exception:
        return SourceLost(f"{redacted(self.uri)} sends no more frames: check the camera and the network")


class PipeSource(_LiveSource):
    """Reads what a camera program writes to a pipe: `-` (standard input), or the path of a FIFO."""

    def __init__(self, uri: str, options: SourceOptions) -> None:
        super().__init__(uri, options)
        self._path = None if uri == "-" else local_path(uri)
        self._name = "standard input" if self._path is None else str(self._path)
        self._fd = -1

    def close(self) -> None:
        """Close a FIFO; standard input stays open, so that another decoder may continue."""
        super().close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def describe(self) -> str:
        """Return name and size."""
        return super().describe().replace(redacted(self.uri), self._name, 1)

    def _connect(self, deadline: float) -> Feed:
        self._fd = self._open_pipe()
        self._await_data(deadline)
        # Another number than 0: the child's own standard input is /dev/null.
        return Decoder(self._name, Job(f"pipe:{self._fd}", libraries(), live=True), self.stopping, fds=[self._fd])

    def _open_pipe(self) -> int:
        try:
            if self._path is None:
                return os.dup(0)
            # Without NONBLOCK this would wait for a writer.
            fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError as error:
            raise SourceDenied(f"{self._name} may not be read by this user: chmod u+r it") from error
        except OSError as error:
            raise PermanentSourceError(f"{self._name} cannot be read: {error.strerror}") from error
        os.set_blocking(fd, True)
        return fd

    def _await_data(self, deadline: float) -> None:
        """Wait for the first byte."""
        if os.isatty(self._fd):
            raise PermanentSourceError(
                "standard input is a terminal: send video through a pipe, 'rpicam-vid -t 0 -o - | camapp --source -'"
            )
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while not (events := dict(poll.poll(1000 * _STEP_S))):
            if self.stopping.is_set():
                raise EndOfStream("stopped")
            if time.monotonic() > deadline:
                raise SourceLost(
                    f"nothing arrives at {self._name} within {self._open_s:.0f} s: start the camera program"
                )
        if not events[self._fd] & select.POLLIN:
            raise self._ended()

    def _next(self, timeout: float) -> Picture:
        try:
            return super()._next(timeout)
        except DecodeError as error:
            raise pipe_error(self._name, error) from error
        except TimeoutError as error:
            raise SourceLost(f"no picture arrives at {self._name} within {timeout:.0f} s") from error

    def _ended(self) -> Exception:
        if self._path is not None:
            return SourceLost(f"the program at the other end of {self._name} has closed it")
        if self._has_worked:
            return EndOfStream("the other program has ended")
        return PermanentSourceError("standard input has ended without a picture: look at the other program's messages")


def check_address(uri: str) -> None:
    """Raise PermanentSourceError if a URI's user and password have characters that end them early."""
    scheme, _, rest = uri.partition("://")
    authority = rest.replace("?", "/").replace("#", "/").partition("/")[0]
    cut_off = "#" in rest and "@" in rest[rest.index("#") :]
    try:
        port_is_wrong = urlsplit(f"{scheme}://{authority}").port == 0
        cut_off |= not authority and "@" in rest
    except ValueError:
        port_is_wrong, cut_off = True, cut_off or "@" in rest[len(authority) :]
    if cut_off:
        raise PermanentSourceError(
            f"the user or password in {redacted(uri)} contains #, / or ?: write them as %23, %2F and %3F"
        )
    if port_is_wrong:
        raise PermanentSourceError(f"the port in {redacted(uri)} is no number from 1 to 65535")
