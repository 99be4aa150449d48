"""Reads video files, decoded in a child process."""

from __future__ import annotations

import logging
import math
import os
import time
from pathlib import Path

from camapp.capture.clock import Pace
from camapp.capture.decode_errors import file_error
from camapp.capture.decoder import Decoder, DecoderDied, End, Picture
from camapp.capture.decoder_process import Job
from camapp.capture.ffmpeg import file_url, libraries
from camapp.capture.libav import DecodeError
from camapp.capture.source import EndOfStream, Source, SourceOptions, local_path, sane_fps
from camapp.core.errors import PermanentSourceError, SourceDenied
from camapp.core.frames import Shot
from camapp.core.image import fit_within

log = logging.getLogger(__name__)

_FALLBACK_FPS = 30.0
# Seconds for one picture; a slow disk or network drive may take some.
_LIMIT_S = 30.0
# Seconds that are skipped after a second crash without a picture in between, doubled with each further one; and the
# crashes in a row until the file is given up.
_JUMP_S, _MAX_CRASHES = 1.0, 6


class VideoSource(Source):
    """Reads a video file: every frame as fast as possible, or in realtime by its time stamps.

    In realtime it behaves like a camera: frames that were not read in time are skipped, and `Shot.sensor_ns` is the
    moment at which the frame was due.

    Args:
        catch_up_s: longest time to skip frames in realtime before a late one is shown and the schedule shifted.
        limit_s: longest time for one picture, before the decoder is replaced.
    """

    finite = True
    regular = False

    def __init__(self, uri: str, options: SourceOptions, catch_up_s: float = 0.25, limit_s: float = _LIMIT_S) -> None:
        super().__init__(uri, options)
        self.live = bool(options.realtime)
        self._catch_up_s, self._limit_s = catch_up_s, limit_s
        self._path = local_path(uri)
        self._pace = Pace()
        self._decoder: Decoder | None = None
        self._waiting: Picture | None = None

    def open(self) -> None:
        """Open the file and decode its first frame.

        Raises:
            PermanentSourceError: it is missing, or not a readable video.
            SourceDenied: this user may not read it.
        """
        self.close()
        path = self._path
        if not path.exists():
            raise PermanentSourceError(f"no such file: {path}")
        if not path.is_file():
            raise PermanentSourceError(f"{path} is not a file; cameras are v4l2://N or picamera://N")
        if not os.access(path, os.R_OK):
            raise SourceDenied(f"{path} may not be read by this user: chmod u+r it, or change the user")
        self._pace = Pace()
        # Seconds at which the present round of a loop began, position of the newest frame, the file's own of it.
        self._start_s = self._media_s = 0.0
        self._own_s = math.nan
        self._frames = self._crashes = 0
        self._start()
        first = self._next()
        if isinstance(first, End):
            raise PermanentSourceError(f"{path} has no picture that can be decoded: it is damaged")
        self._waiting = first
        form = self._decoder.format if self._decoder else {}
        self.fps = sane_fps(form["fps"]) or _FALLBACK_FPS
        self._size, self._expected = form["size"], form["frames"]

    def read(self, timeout: float) -> Shot:
        """Return the next frame; in realtime the next that is not late, at its due time."""
        if not self.live:
            return self._shot(self._advance(), 0)
        deadline = time.monotonic() + self._catch_up_s
        picture = self._advance()
        while self._pace.lateness(self._media_s) > 1 / self.fps:
            if time.monotonic() > deadline:
                self._pace.rebase(self._media_s)
                break
            picture = self._advance()
        self._pace.wait(self._media_s, self.stopping)
        return self._shot(picture, self._pace.due_ns(self._media_s))

    def resume(self) -> None:
        """Make the frame after the newest one due now."""
        self._pace.rebase(self._media_s + (1 / self.fps if self._frames else 0.0))

    def close(self) -> None:
        """End the decoder."""
        self._waiting = None
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def describe(self) -> str:
        """Return name, size and rate."""
        if self._decoder is None:
            return self.uri
        return f"{self.uri}, {self._size[0]}x{self._size[1]} at {self.fps:g} fps"

    def processes(self) -> list[int]:
        """Return the number of the decoder's process."""
        decoder = self._decoder
        return [decoder.pid] if decoder is not None else []

    def _start(self) -> None:
        """Start a decoder behind the last frame."""
        job = Job(file_url(self._path), libraries(), loop=self.options.loop, after_s=self._own_s, after=self._frames)
        self._decoder = Decoder(str(self._path), job, self.stopping)

    def _advance(self) -> Picture:
        """Take the next frame, and set `_media_s` to its time."""
        picture: Picture | End | None
        if self._waiting is not None:
            picture, self._waiting = self._waiting, None
        else:
            picture = self._next()
            while isinstance(picture, End):
                self._end()
                picture = self._next()
        own_s = self._start_s + picture.time_s
        if not self._frames:
            self._media_s = self._start_s
        else:
            # Some files have no time stamps, or decreasing ones.
            self._media_s = own_s if own_s > self._media_s else self._media_s + 1 / self.fps
        self._frames += 1
        self._own_s = picture.time_s
        return picture

    def _next(self) -> Picture | End:
        """Return the next picture or the end; a decoder that crashed is replaced by another.

        Raises:
            EndOfStream: the source is closed, or the run stops.
            PermanentSourceError: the file cannot be decoded.
        """
        while self._decoder is not None:
            try:
                # A new decoder needs time to start.
                limit_s = self._limit_s if self._decoder.format else max(_LIMIT_S, self._limit_s)
                picture = self._decoder.next(limit_s, self._earliest_s())
            except DecodeError as error:
                self.close()
                if not self._frames:
                    raise file_error(self._path, error) from error
                log.warning("%s cannot be decoded past frame %d (%s): it is damaged", self._path, self._frames, error)
                raise EndOfStream from error
            except DecoderDied as error:
                self._replace(str(error))
            except TimeoutError:
                self._replace(f"the decoder hung for {self._limit_s:g} s")
            else:
                if picture is None:
                    raise EndOfStream("stopped")
                self._crashes = 0
                return picture
        raise EndOfStream

    def _earliest_s(self) -> float:
        """Return the position in the file before which a frame would be late, if there is one."""
        # In a loop the position might be of the round before.
        if not self.live or not self._frames or self.options.loop:
            return -math.inf
        late_s = self._pace.lateness(self._media_s) - 1 / self.fps
        return self._media_s + late_s if late_s > 0 else -math.inf

    def _replace(self, reason: str) -> None:
        """Continue with another decoder: behind the last frame, or, after another crash there, further on."""
        assert self._decoder is not None
        self._decoder.close()
        self._crashes += 1
        if self._crashes > _MAX_CRASHES:
            self._decoder = None
            raise PermanentSourceError(f"{self._path} cannot be decoded past frame {self._frames}: {reason}")
        if self._crashes > 1 and self._frames:
            jump = _JUMP_S * 2 ** (self._crashes - 2)
            self._own_s = (0.0 if math.isnan(self._own_s) else self._own_s) + jump
            log.warning("%s: %s again; continuing %g s further on", self._path, reason, jump)
        else:
            log.warning("%s: %s at frame %d; continuing with another", self._path, reason, self._frames)
        self._start()

    def _end(self) -> None:
        """Note the end of the file. Raises EndOfStream unless it is played in a loop."""
        # Containers only estimate the number of frames, so a few missing ones are no damage.
        if self._frames < 0.95 * self._expected - 2:
            log.warning("%s ends after %d of about %d frames: it is damaged", self._path, self._frames, self._expected)
        if not self.options.loop:
            self.close()
            raise EndOfStream
        self._start_s = self._media_s + 1 / self.fps
        self._frames, self._own_s = 0, math.nan

    def _shot(self, picture: Picture, due_ns: int) -> Shot:
        image = fit_within(picture.image, self.options.size)
        return Shot(image, image, due_ns, name=Path(self._path).name, moment_ns=round(self._media_s * 1e9))
