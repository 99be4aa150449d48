"""Decodes video with the FFmpeg libraries that OpenCV has brought along, loaded by ctypes in a process of their own.

OpenCV's reader keeps the converter of its first picture: a picture of another size or pixel format is read past its
end. It also hides the container's mirroring, the shape of the pixels, and why something cannot be opened. Here every
picture is converted by what it is itself.

Only functions and leading fields of structures are used; the layouts differ with the major versions in `VERSIONS`.
FFmpeg keeps them within a major version. `Reader` compares what it finds through them with what functions return.
"""

from __future__ import annotations

import ctypes as c
import errno
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Major versions of libavformat with a known layout: FFmpeg 4 to 8.
VERSIONS = range(58, 63)
_NAMES = ("avutil", "avcodec", "avformat", "swscale")
_LIBRARY = re.compile(r"/\S*/lib(avutil|avcodec|avformat|swscale)[-.]\S*")

_VIDEO, _AUDIO = 0, 1
_BGR24 = 3
_BICUBIC = 4
_QUIET = -8
_NO_STAMP = -(1 << 63)
_COVER = 0x400  # AV_DISPOSITION_ATTACHED_PIC
_FRAME_MATRIX, _PACKET_MATRIX = 6, 5
_SEEK_BACKWARD = 1
_AGAIN = -errno.EAGAIN
# Pictures above this size are refused by the decoder: those of damaged headers would take all memory.
_MAX_PIXELS = 1 << 27
# Shapes of pixels beyond these are damage.
_MAX_PIXEL_RATIO = 4.0
# Packets that cannot be decoded, without a picture ever, until the decoder is given up.
_HOPELESS = 200
# Packets of another video, without one of the present stream among them, after which that stream has ended.
_ENDED = 25
# Packets in a row that cannot be decoded, after pictures, until a live stream counts as changed and is opened again.
_CHANGED = 12


def _tag(name: bytes) -> int:
    return -int.from_bytes(name, "little")


END = _tag(b"EOF ")
INVALID = _tag(b"INDA")
NO_DECODER = _tag(b"\xf8DEC")
NO_PROTOCOL = _tag(b"\xf8PRO")
NO_STREAM = _tag(b"\xf8STR")
UNAUTHORIZED, FORBIDDEN, NOT_FOUND = _tag(b"\xf8401"), _tag(b"\xf8403"), _tag(b"\xf8404")
# Codes of our own, outside of FFmpeg's and errno's.
ONLY_COVER, ONLY_SOUND, WRONG_LAYOUT = 1, 2, 3


def loaded_libraries() -> list[str]:
    """Return the paths of this process's FFmpeg libraries in the order to load them; [] unless all are there."""
    found = {match[1]: match[0] for match in _LIBRARY.finditer(Path("/proc/self/maps").read_text(errors="replace"))}
    return [found[name] for name in _NAMES] if len(found) == len(_NAMES) else []


class DecodeError(Exception):
    """FFmpeg cannot open or decode something.

    Attributes:
        stage: 'resolve', 'open', 'probe' or 'decode'.
        code: FFmpeg's (negative), or one of this module's.
        codec: name of the codec, if that is the problem.
    """

    def __init__(self, stage: str, code: int, text: str, codec: str = "") -> None:
        super().__init__(text)
        self.stage, self.code, self.codec = stage, code, codec


class _Rational(c.Structure):
    _fields_ = (("num", c.c_int), ("den", c.c_int))

    def __float__(self) -> float:
        return self.num / self.den if self.den else 0.0


_PACKET = (
    *(("buf", c.c_void_p), ("pts", c.c_int64), ("dts", c.c_int64), ("data", c.c_void_p), ("size", c.c_int)),
    *(("stream_index", c.c_int), ("flags", c.c_int), ("side_data", c.c_void_p), ("side_data_elems", c.c_int)),
    *(("duration", c.c_int64), ("pos", c.c_int64)),
)


class _Packet(c.Structure):
    _fields_ = _PACKET


class _PacketOf58(c.Structure):
    _fields_ = (*_PACKET, ("convergence_duration", c.c_int64))


class _PacketOf59(c.Structure):
    _fields_ = (*_PACKET, ("opaque", c.c_void_p), ("opaque_ref", c.c_void_p), ("time_base", _Rational))


class _Codec(c.Structure):
    _fields_ = (("name", c.c_char_p), ("long_name", c.c_char_p), ("type", c.c_int), ("id", c.c_int))


class _Parameters(c.Structure):
    _fields_ = (
        *(("codec_type", c.c_int), ("codec_id", c.c_int), ("codec_tag", c.c_uint32)),
        *(("extradata", c.c_void_p), ("extradata_size", c.c_int)),
        # Since libavformat 61.
        *(("coded_side_data", c.c_void_p), ("nb_coded_side_data", c.c_int)),
    )


class _Format(c.Structure):
    _fields_ = (
        *((name, c.c_void_p) for name in ("av_class", "iformat", "oformat", "priv_data", "pb")),
        *(("ctx_flags", c.c_int), ("nb_streams", c.c_uint), ("streams", c.POINTER(c.c_void_p))),
    )


class _SideData(c.Structure):
    _fields_ = (("data", c.c_void_p), ("size", c.c_size_t), ("type", c.c_int))


class _FrameSideData(c.Structure):
    _fields_ = (("type", c.c_int), ("data", c.c_void_p))


def _stream_layout(major: int) -> type[c.Structure]:
    common = (
        *(("priv_data", c.c_void_p), ("time_base", _Rational), ("start_time", c.c_int64), ("duration", c.c_int64)),
        *(("nb_frames", c.c_int64), ("disposition", c.c_int), ("discard", c.c_int), ("ratio", _Rational)),
        *(("metadata", c.c_void_p), ("avg_frame_rate", _Rational)),
    )
    index, parameters = (("index", c.c_int), ("id", c.c_int)), ("parameters", c.POINTER(_Parameters))
    fields: tuple[tuple[str, type], ...]
    if major >= 60:
        fields = (("av_class", c.c_void_p), *index, parameters, *common)
    else:
        tail = (("side_data", c.c_void_p), ("nb_side_data", c.c_int), ("event_flags", c.c_int), ("r_rate", _Rational))
        if major == 59:
            fields = (*index, *common, ("cover", _PacketOf59), *tail, parameters)
        else:
            codec, encoder = ("codec", c.c_void_p), ("encoder", c.c_void_p)
            fields = (*index, codec, *common, ("cover", _PacketOf58), *tail, encoder, parameters)
    return type("_Stream", (c.Structure,), {"_fields_": fields})


def _frame_layout(major: int) -> type[c.Structure]:
    """Return the layout of AVFrame for a major version of libavutil."""
    fields = (
        *(("data", c.c_void_p * 8), ("linesize", c.c_int * 8), ("extended_data", c.c_void_p)),
        *(("width", c.c_int), ("height", c.c_int), ("nb_samples", c.c_int), ("format", c.c_int)),
        *((("key_frame", c.c_int),) if major < 60 else ()),
        *(("pict_type", c.c_int), ("ratio", _Rational), ("pts", c.c_int64)),
        *((("pkt_pts", c.c_int64),) if major < 57 else ()),
        ("pkt_dts", c.c_int64),
    )
    return type("_Frame", (c.Structure,), {"_fields_": fields})


# Functions that return something else than int, or take something else than int and pointers.
_P, _I = c.c_void_p, c.c_int
_FUNCTIONS: dict[str, tuple[type, ...]] = {
    "av_log_set_level": (_I, _I),
    "av_strerror": (_I, _I, _P, c.c_size_t),
    "av_dict_set": (_I, _P, c.c_char_p, c.c_char_p, _I),
    "av_dict_free": (_I, _P),
    "av_opt_set": (_I, _P, c.c_char_p, c.c_char_p, _I),
    "av_frame_alloc": (_P,),
    "av_frame_free": (_I, _P),
    "av_frame_get_side_data": (_P, _P, _I),
    "av_get_pix_fmt_name": (c.c_char_p, _I),
    "avcodec_find_decoder": (_P, _I),
    "avcodec_get_name": (c.c_char_p, _I),
    "avcodec_alloc_context3": (_P, _P),
    "avcodec_parameters_to_context": (_I, _P, _P),
    "avcodec_open2": (_I, _P, _P, _P),
    "avcodec_free_context": (_I, _P),
    "avcodec_flush_buffers": (_I, _P),
    "avcodec_send_packet": (_I, _P, _P),
    "avcodec_receive_frame": (_I, _P, _P),
    "av_packet_alloc": (_P,),
    "av_packet_free": (_I, _P),
    "av_packet_unref": (_I, _P),
    "avformat_version": (c.c_uint,),
    "avutil_version": (c.c_uint,),
    "avformat_network_init": (_I,),
    "avformat_open_input": (_I, _P, c.c_char_p, _P, _P),
    "avformat_find_stream_info": (_I, _P, _P),
    "avformat_close_input": (_I, _P),
    "av_find_best_stream": (_I, _P, _I, _I, _I, _P, _I),
    "av_stream_get_side_data": (_P, _P, _I, _P),
    "av_guess_frame_rate": (_Rational, _P, _P, _P),
    "av_guess_sample_aspect_ratio": (_Rational, _P, _P, _P),
    "av_read_frame": (_I, _P, _P),
    "av_seek_frame": (_I, _P, _I, c.c_int64, _I),
    "sws_getCachedContext": (_P, _P, _I, _I, _I, _I, _I, _I, _I, _P, _P, _P),
    "sws_scale": (_I, _P, _P, _P, _I, _I, _P, _P),
    "sws_freeContext": (_I, _P),
}


class Libraries:
    """The functions of FFmpeg as attributes, with their signatures, and the layouts of this version's structures.

    Raises:
        OSError: a library cannot be loaded.
        DecodeError: this version's layout is unknown.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._loaded = [_load(path) for path in paths]
        self.version = self.avformat_version() >> 16
        if self.version not in VERSIONS:
            raise DecodeError("open", WRONG_LAYOUT, f"libavformat {self.version} is unknown")
        self.Stream: Any = _stream_layout(self.version)
        self.Frame: Any = _frame_layout(self.avutil_version() >> 16)
        self.av_log_set_level(_QUIET)
        self.avformat_network_init()

    def __getattr__(self, name: str) -> Any:
        for library in self._loaded:
            if hasattr(library, name):
                function = getattr(library, name)
                function.restype, *function.argtypes = _FUNCTIONS[name]
                setattr(self, name, function)
                return function
        raise AttributeError(name)

    def text_of(self, code: int) -> str:
        """Return FFmpeg's words for an error code."""
        text = c.create_string_buffer(256)
        self.av_strerror(code, text, len(text))
        return text.value.decode(errors="replace")


@dataclass(frozen=True)
class PictureFormat:
    """Describes pictures as they come out of the decoder.

    Attributes:
        codec: FFmpeg's name, such as 'h264'.
        pixels: FFmpeg's name of the pixel format, such as 'yuv420p'.
        coded: (width, height) of the decoder's picture.
        size: (width, height) with square pixels.
        matrix: the upper left 2x2 of the matrix that turns it upright, (a, b, c, d) with values -1, 0, 1.
    """

    codec: str
    pixels: str
    coded: tuple[int, int]
    size: tuple[int, int]
    matrix: tuple[int, int, int, int]


UPRIGHT = (1, 0, 0, 1)


class Reader:
    """Decodes the best video stream of a file or address, picture by picture.

    Args:
        url: as FFmpeg takes it.
        options: of FFmpeg's demuxer and protocol, by name.
        threads: of the decoder.
        live: give up on a stream that changes to something that the decoder cannot decode.

    Attributes:
        fps: nominal frames per second, 0 if unknown.
        frames: number of pictures by the container, 0 if unknown.
        format: of the newest picture.
        time_s: position of the newest picture in the stream; NaN if it has no time stamp.
        damaged: number of packets that could not be decoded.

    Raises:
        DecodeError: it cannot be opened, or has no video that can be decoded.
    """

    def __init__(
        self, libraries: Libraries, url: bytes, options: Mapping[str, str], threads: int, *, live: bool = False
    ) -> None:
        self._av = libraries
        self._threads = threads
        self._url, self._options, self._is_live = url, options, live
        self._context, self._decoder, self._scaler = c.c_void_p(), c.c_void_p(), c.c_void_p()
        self._packet = c.c_void_p(self._av.av_packet_alloc())
        self._frame = c.c_void_p(self._av.av_frame_alloc())
        if not self._packet or not self._frame:
            raise MemoryError
        self._picture = self._av.Frame.from_address(self._frame.value)
        self._read = _Packet.from_address(self._packet.value or 0)
        self._formats: dict[tuple[object, ...], PictureFormat] = {}
        self._is_draining = False
        self._end_code = 0
        # Packets of the stream, indices of other videos, packets of these in a row, and the stream to continue with.
        self._packets = self._foreign = 0
        self._others: set[int] = set()
        self._next_index: int | None = None
        self._pictures = self._failing = self.damaged = 0
        self.format: PictureFormat | None = None
        self.time_s = math.nan

    def open(self) -> None:
        """Open the input: connect, read the header."""
        options = c.c_void_p()
        for name, value in self._options.items():
            self._av.av_dict_set(c.byref(options), name.encode(), value.encode(), 0)
        code = self._av.avformat_open_input(c.byref(self._context), self._url, None, c.byref(options))
        self._av.av_dict_free(c.byref(options))
        self._check("open", code)

    def probe(self) -> None:
        """Find the video in the input, and open its decoder."""
        self._check("probe", self._av.avformat_find_stream_info(self._context, None))
        index = self._av.av_find_best_stream(self._context, _VIDEO, -1, -1, None, 0)
        if index == NO_DECODER:
            index = next(i for i in range(self._container.nb_streams) if self._kind(i) == _VIDEO)
            raise DecodeError("probe", NO_DECODER, "there is no decoder", self._codec_name(index))
        if index == NO_STREAM and self._kind(0) == _AUDIO:
            raise DecodeError("probe", ONLY_SOUND, "it has only sound", self._codec_name(0))
        self._check("probe", index)
        self._use(index)
        if self._stream.disposition & _COVER:
            raise DecodeError("probe", ONLY_COVER, "its only picture is a cover", self._codec_name(index))
        address = c.addressof(self._stream)
        self.fps = float(self._av.av_guess_frame_rate(self._context, address, None))
        self.frames = max(0, self._stream.nb_frames)
        if not self.frames and self._stream.duration > 0:
            self.frames = round(self._stream.duration * float(self._stream.time_base) * self.fps)

    def read(self) -> bool:
        """Decode the next picture; return False at the end.

        Raises:
            DecodeError: the connection broke, or the decoder cannot decode this at all.
        """
        while (code := self._av.avcodec_receive_frame(self._decoder, self._frame)) != 0:
            if code == END and self._next_index is not None:
                self._use(self._next_index)
                self._next_index = None
                self._send(self._packet)
                continue
            if code == END or (self._is_draining and code != _AGAIN):
                if self.damaged and not self._pictures:
                    raise DecodeError("decode", INVALID, "no picture can be decoded", self.codec)
                self._check("decode", self._end_code)
                return False
            if code != _AGAIN:
                self._note_damage(code)
            self._feed()
        self._pictures += 1
        self._failing = 0
        self._describe()
        return True

    def convert(self, address: int, stride: int) -> None:
        """Write the newest picture to memory as BGR with square pixels; its size is `format.size`."""
        picture, shown = self._picture, self.format
        assert shown is not None
        width, height = shown.size
        sizes = picture.width, picture.height, picture.format, width, height, _BGR24, _BICUBIC
        self._scaler.value = self._av.sws_getCachedContext(self._scaler, *sizes, None, None, None)
        if not self._scaler:
            raise DecodeError("decode", INVALID, f"pictures of format {shown.pixels} cannot be converted")
        planes, strides = (c.c_void_p * 4)(address), (c.c_int * 4)(stride)
        rows = self._av.sws_scale(
            self._scaler, picture.data, picture.linesize, 0, picture.height, c.byref(planes), c.byref(strides)
        )
        self._check("decode", min(rows, 0))

    def seek(self, time_s: float) -> bool:
        """Go to the key frame before a position; return whether the container allows it."""
        stamp = round(time_s / float(self._stream.time_base)) + self._start
        code: int = self._av.av_seek_frame(self._context, self._stream.index, stamp, _SEEK_BACKWARD)
        if code >= 0:
            self._av.avcodec_flush_buffers(self._decoder)
        return code >= 0

    def close(self) -> None:
        """Free everything."""
        self._av.sws_freeContext(self._scaler)
        self._av.av_frame_free(c.byref(self._frame))
        self._av.av_packet_free(c.byref(self._packet))
        self._av.avcodec_free_context(c.byref(self._decoder))
        self._av.avformat_close_input(c.byref(self._context))

    @property
    def _container(self) -> _Format:
        return _Format.from_address(self._context.value or 0)

    @property
    def _start(self) -> int:
        start = int(self._stream.start_time)
        return 0 if start == _NO_STAMP else start

    def _stream_at(self, index: int) -> Any:
        return self._av.Stream.from_address(self._container.streams[index])

    def _kind(self, index: int) -> int:
        if index >= self._container.nb_streams:
            return -1
        return int(self._stream_at(index).parameters.contents.codec_type)

    def _codec_name(self, index: int) -> str:
        name: bytes = self._av.avcodec_get_name(self._stream_at(index).parameters.contents.codec_id)
        return name.decode()

    def _use(self, index: int) -> None:
        """Open the decoder of a stream, in place of the present one."""
        self._stream = self._stream_at(index)
        self._parameters = self._stream.parameters.contents
        self._codec_id = self._parameters.codec_id
        # Proves the layout before anything is read through it.
        if self._stream.index != index or self._parameters.codec_type != _VIDEO or not self._codec_id:
            raise DecodeError("probe", WRONG_LAYOUT, f"libavformat {self._av.version} has another layout")
        self.codec = self._codec_name(index)
        found = self._av.avcodec_find_decoder(self._codec_id)
        if not found:
            raise DecodeError("probe", NO_DECODER, "there is no decoder", self.codec)
        if _Codec.from_address(found).id != self._codec_id:
            raise DecodeError("probe", WRONG_LAYOUT, f"libavformat {self._av.version} has another layout")
        self._av.avcodec_free_context(c.byref(self._decoder))
        self._decoder.value = self._av.avcodec_alloc_context3(found)
        self._check("probe", self._av.avcodec_parameters_to_context(self._decoder, c.byref(self._parameters)))
        for name, value in (("threads", self._threads), ("max_pixels", _MAX_PIXELS)):
            self._av.av_opt_set(self._decoder, name.encode(), str(value).encode(), 0)
        self._check("probe", self._av.avcodec_open2(self._decoder, found, None), self.codec)
        self._formats.clear()
        self._stream_matrix = self._find_stream_matrix()

    def _feed(self) -> None:
        """Give the decoder the next packet of its stream, or the end."""
        while True:
            code = self._av.av_read_frame(self._context, self._packet)
            if code == _AGAIN:
                continue
            if code < 0:
                # The decoder still gives its last pictures before this is raised.
                self._end_code = code if code not in (END, INVALID) else 0
                self._is_draining = True
                self._send(None)
                return
            index = self._read.stream_index
            if index != self._stream.index and not self._is_successor(index):
                self._av.av_packet_unref(self._packet)
                continue
            self._packets, self._foreign = self._packets + 1, 0
            if index != self._stream.index or self._parameters.codec_id != self._codec_id:
                # The packet is sent to the new decoder once the present one has given its last pictures.
                self._next_index = index
                self._send(None)
                return
            self._send(self._packet)
            return

    def _send(self, packet: c.c_void_p | None) -> None:
        code = self._av.avcodec_send_packet(self._decoder, packet)
        if packet is None:
            return
        self._av.av_packet_unref(packet)
        if code < 0 and code != _AGAIN:
            self._note_damage(code)

    def _is_successor(self, index: int) -> bool:
        """Return whether a packet of another stream is of a video that continues the present one."""
        if self._kind(index) != _VIDEO or not self._stream_at(index).parameters.contents.codec_id:
            return False
        is_new = index not in self._others and self._packets > _ENDED
        self._others.add(index)
        self._foreign += 1
        return is_new or self._foreign > _ENDED

    def _note_damage(self, code: int) -> None:
        self.damaged += 1
        self._failing += 1
        if self._failing >= _HOPELESS and not self._pictures:
            raise DecodeError("decode", code, self._av.text_of(code), self.codec)
        if self._failing >= _CHANGED and self._pictures and self._is_live:
            raise DecodeError("decode", code, f"{self._failing} packets are no {self.codec} any more")

    def _describe(self) -> None:
        picture = self._picture
        stamp = picture.pts if picture.pts != _NO_STAMP else picture.pkt_dts
        self.time_s = math.nan if stamp == _NO_STAMP else (stamp - self._start) * float(self._stream.time_base)
        ratio = self._av.av_guess_sample_aspect_ratio(self._context, c.addressof(self._stream), self._frame)
        key = picture.width, picture.height, picture.format, ratio.num, ratio.den, self._matrix()
        if key not in self._formats:
            self._formats[key] = self._format_of(float(ratio), key[5])
        self.format = self._formats[key]

    def _matrix(self) -> bytes:
        """Return the display matrix of the newest picture, which may be its container's; b"" if it has none."""
        side = self._av.av_frame_get_side_data(self._frame, _FRAME_MATRIX)
        return c.string_at(_FrameSideData.from_address(side).data, 36) if side else self._stream_matrix

    def _find_stream_matrix(self) -> bytes:
        size = c.c_size_t()
        if self._av.version < 62:
            address = self._av.av_stream_get_side_data(c.addressof(self._stream), _PACKET_MATRIX, c.byref(size))
            return c.string_at(address, 36) if address else b""
        # Later versions give it to each picture, too, unless the decoder is not FFmpeg's own.
        items, count = self._parameters.coded_side_data, self._parameters.nb_coded_side_data
        for item in (_SideData * count).from_address(items) if items else ():
            if item.type == _PACKET_MATRIX:
                return c.string_at(item.data, 36)
        return b""

    def _format_of(self, ratio: float, matrix: bytes) -> PictureFormat:
        picture = self._picture
        width, height = picture.width, picture.height
        size = width, height
        if 1 < ratio <= _MAX_PIXEL_RATIO:
            size = round(width * ratio), height
        elif 1 > ratio >= 1 / _MAX_PIXEL_RATIO:
            size = width, round(height / ratio)
        name: bytes | None = self._av.av_get_pix_fmt_name(picture.format)
        return PictureFormat(self.codec, (name or b"?").decode(), (width, height), size, upright_matrix(matrix))

    def _check(self, stage: str, code: int, codec: str = "") -> None:
        if code < 0:
            raise DecodeError(stage, code, self._av.text_of(code), codec)


def _load(path: str) -> c.CDLL:
    """Load a library, and those of its folder that it needs: in a wheel only OpenCV's own module can find them."""
    while True:
        try:
            return c.CDLL(path)
        except OSError as error:
            missing = Path(path).with_name(str(error).partition(": cannot open shared object")[0])
            if not missing.is_file() or str(missing) == path:
                raise
            _load(str(missing))


def upright_matrix(matrix: bytes) -> tuple[int, int, int, int]:
    """Return the multiple of 90 degrees, mirrored or not, that is nearest to a display matrix of 9 int32."""
    if len(matrix) != 36:
        return UPRIGHT
    a, b, _, x, y = struct.unpack("5i", matrix[:20])
    if abs(a) + abs(y) >= abs(b) + abs(x):
        return _sign(a), 0, 0, _sign(y)
    return 0, _sign(b), _sign(x), 0


def _sign(value: int) -> int:
    return -1 if value < 0 else 1
