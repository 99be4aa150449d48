"""Makes the errors of video files and streams that cannot be read: one sentence for each cause, with the remedy."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from camapp.capture import libav
from camapp.capture.libav import DecodeError
from camapp.capture.source import redacted
from camapp.core.errors import PermanentSourceError, SourceAbsent, SourceDenied, SourceError, SourceLost

# Seconds to find out whether a host that sent no video accepts connections at all.
_CONNECT_S = 1.0
_PORTS = {"rtsp": 554, "rtsps": 322, "rtmp": 1935, "http": 80, "https": 443}
# Codecs that every FFmpeg decodes.
_ALWAYS_DECODED = ("h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4", "vp8", "vp9")
# Bytes that show whether a file is text.
_HEAD = 4096
_UNREACHABLE = (-errno.ETIMEDOUT, -errno.EHOSTUNREACH, -errno.ENETUNREACH, -errno.ENETDOWN, -errno.EHOSTDOWN)


def file_error(path: Path, error: DecodeError) -> PermanentSourceError:
    """Return the error for a file that cannot be decoded."""
    if error.stage == "memory":
        return PermanentSourceError(f"{path} needs more memory than there is: {error}")
    if error.code == -errno.EACCES:
        return SourceDenied(f"{path} may not be read by this user: chmod u+r it, or change the user")
    return PermanentSourceError(f"{path} {_content_problem(error) or _file_problem(path)}")


def pipe_error(name: str, error: DecodeError) -> PermanentSourceError:
    """Return the error for a pipe whose content cannot be decoded."""
    problem = (
        _content_problem(error) or "brings no video that FFmpeg knows: let the program write MPEG-TS, H.264 or MJPEG"
    )
    return PermanentSourceError(f"{name} {problem}")


def unsupported(codec: str) -> str:
    """Return the end of a message about a codec without a decoder, with the remedy."""
    return (
        f"is compressed as {codec or 'something unknown'}, which the FFmpeg of this OpenCV cannot decode: convert it, "
        "'ffmpeg -i IN -c:v libx264 OUT.mp4'"
    )


def stream_error(uri: str, error: DecodeError, *, has_worked: bool) -> SourceError:
    """Return the error for a network stream that cannot be opened.

    Args:
        has_worked: whether it gave pictures before; then a retry may help in any case.
    """
    shown = redacted(uri)
    permanent: Callable[[str], SourceError] = SourceLost if has_worked else PermanentSourceError
    code = error.code
    if error.stage == "resolve":
        return unknown_host(uri)
    if code == -errno.ECONNREFUSED:
        return refused(uri)
    if code in _UNREACHABLE:
        return unreachable(uri)
    if code in (libav.UNAUTHORIZED, libav.FORBIDDEN):
        return denied(uri, has_worked=has_worked)
    if code == libav.NOT_FOUND:
        return not_found(uri)
    if code == libav.NO_PROTOCOL:
        scheme = uri.partition(":")[0]
        return PermanentSourceError(
            f"{shown}: the FFmpeg of this OpenCV cannot read {scheme}://; let another program convert it, such as "
            f"'ffmpeg -i ADDRESS -c copy -f mpegts udp://127.0.0.1:5000', and give --source udp://127.0.0.1:5000"
        )
    if error.stage == "memory":
        return SourceLost(f"{shown} needs more memory than there is: {error}")
    if problem := _content_problem(error):
        return permanent(f"{shown} {problem}")
    if code == libav.INVALID:
        return SourceLost(f"{shown} answers with something that is no video: check the path of the stream")
    return SourceLost(f"{shown} breaks off ({error}): check the camera and the network")


def unknown_host(uri: str) -> SourceError:
    """Return the error for a host name without an address."""
    host = urlsplit(uri).hostname
    return SourceAbsent(f"no host is called '{host}': check the name, and this machine's network")


def refused(uri: str) -> SourceError:
    """Return the error for a port on which nothing listens."""
    return SourceAbsent(f"{address_of(uri)} refuses the connection: check the port, and that the stream is switched on")


def unreachable(uri: str) -> SourceError:
    """Return the error for an address that does not answer."""
    return SourceAbsent(f"{address_of(uri)} does not answer: is it switched on, and in this network?")


def denied(uri: str, *, has_worked: bool) -> SourceError:
    """Return the error for a missing or wrong user or password."""
    scheme, _, rest = uri.partition("://")
    what = "refuses this user and password" if "@" in rest else "wants a user and a password"
    text = (
        f"{redacted(uri)} {what}: write {scheme}://USER:PASSWORD@..., "
        "with special characters as %XX (# is %23, @ is %40, / is %2F)"
    )
    return SourceLost(text) if has_worked else SourceDenied(text)


def not_found(uri: str) -> SourceError:
    """Return the error for a path that the host does not have."""
    return SourceLost(f"{redacted(uri)}: the host answers, but has no such stream: check the path")


def silence(uri: str, stage: str, peer: str, seconds: float) -> SourceError:
    """Return the error for a stream that gave no picture in time.

    Args:
        stage: what the decoder was doing.
        peer: numeric address of the host, if it has been looked up.
    """
    address = address_of(uri)
    if stage == "resolve":
        return SourceAbsent(f"the name '{urlsplit(uri).hostname}' was not looked up in time: check the network's DNS")
    port = _port_of(uri)
    if peer and port and stage == "open" and urlsplit(uri).scheme not in ("udp", "rtp", "srtp", "srt"):
        try:
            socket.create_connection((peer, port), _CONNECT_S).close()
        except ConnectionRefusedError:
            return refused(uri)
        except OSError:
            return unreachable(uri)
        return SourceLost(f"{address} accepts connections, but sent nothing within {seconds:.0f} s: restart the camera")
    return SourceLost(
        f"{redacted(uri)} sent no picture within {seconds:.0f} s: check the camera, or give it more --open-timeout"
    )


def address_of(uri: str) -> str:
    """Return 'host:port' of a URI, or the host alone."""
    host, port = urlsplit(uri).hostname or redacted(uri), _port_of(uri)
    return f"{host}:{port}" if port else host


def _port_of(uri: str) -> int | None:
    parts = urlsplit(uri)
    return parts.port or _PORTS.get(parts.scheme)


def _content_problem(error: DecodeError) -> str:
    """Return what is wrong with what was read; "" if nothing is known about it."""
    if error.code == libav.ONLY_COVER:
        return "is music with a cover picture: it has no video"
    if error.code == libav.ONLY_SOUND:
        return "has only sound: it has no video"
    if error.code == libav.NO_STREAM:
        return "has no video in it"
    if error.code == libav.NO_DECODER or (error.stage == "decode" and error.codec not in ("", *_ALWAYS_DECODED)):
        return unsupported(error.codec)
    if error.stage == "decode" and error.codec:
        return "has no picture that can be decoded: it is damaged"
    return ""


def _file_problem(path: Path) -> str:
    """Return why FFmpeg does not know a file, from its first bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not head:
        return "is empty: nothing was written to it"
    if head[4:8] == b"ftyp":
        return "was cut off while it was recorded: an MP4 without its end cannot be read"
    if not head.strip(b"\0"):
        return "has only zeros at its beginning: it was not written completely"
    if b"\0" not in head and _is_text(head):
        return "is a text, not a video"
    return "is damaged, or not a video (FFmpeg knows no such format)"


def _is_text(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        # A character may be cut off at the end.
        return error.start >= len(head) - 3
    return True
