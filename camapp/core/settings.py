"""Declares every option once, and merges them: defaults < TOML file < CAMAPP_* environment < command line."""

from __future__ import annotations

import math
import os
import re
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from camapp.core.addresses import parse_mqtt, parse_web, plain_source
from camapp.core.errors import SettingsError
from camapp.core.zones import NAME, NAME_RULE, check_roi, parse_lines, parse_regions, parse_zones

ENVIRONMENT_PREFIX = "CAMAPP_"
# Variables with the prefix that are not settings: the path of the configuration, the variables of an --on-label
# command, and a secret, which must not be printed with the settings.
NOT_SETTINGS = {
    *("CAMAPP_CONFIG", "CAMAPP_MQTT_PASSWORD"),
    *("CAMAPP_CAMERA", "CAMAPP_LABEL", "CAMAPP_SCORE", "CAMAPP_COUNT", "CAMAPP_EVENT", "CAMAPP_SEQ"),
}
# Former name -> present name of a setting. Both work as TOML key, environment variable, keyword and flag.
ALIASES = {"camera_view": "camera_hfov", "camera_bend": "camera_distortion"}

_COMMAND_LINE, _ENVIRONMENT = "command line", "environment variables"
# Shared by all cameras of a run, so no [[camera]] table may hold them.
_FOR_THE_RUN = {
    *("display", "full_screen", "share_workers", "duration", "debug"),
    *("drive_page", "web", "web_hosts", "mqtt", "mqtt_ca", "mqtt_password_file", "device_name"),
}
# Shared by all cameras if --share-workers is set.
_FOR_SHARED_WORKERS = {"workers", "threads"}
_PLACES: dict[str, Callable[[Sequence[str]], Any]] = {
    **{"region": parse_regions, "zone": parse_zones, "line": parse_lines}
}
# Different for each camera, so neither the command line nor the environment may set them for several.
_FOR_ONE_CAMERA = {"source", "name", "region"}


def parse_size(text: str) -> tuple[int, int]:
    """Parse '1280x720' to (1280, 720)."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
    if not found:
        raise ValueError("a size is WIDTHxHEIGHT, such as 1280x720")
    return int(found[1]), int(found[2])


def parse_float(text: str) -> float:
    """Parse a finite number. Raises ValueError."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a finite number")
    return number


def parse_floats(text: str) -> tuple[float, ...]:
    """Parse '0.5,0.5,0.5' to (0.5, 0.5, 0.5)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError("numbers separated by commas, such as 0.5,0.5,0.5") from None


def parse_words(text: str, separator: str = ",") -> tuple[str, ...]:
    """Parse 'a, b' to ('a', 'b')."""
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _web_or_off(text: str) -> str | None:
    """Parse ':8080' to '127.0.0.1:8080', and 'off' to None."""
    return None if text.strip() == "off" else str(parse_web(text))


def _checked_mqtt(uri: str) -> str:
    parse_mqtt(uri)
    return uri


def option(
    default: Any, help: str, metavar: str = "TEXT", parse: Callable[[str], Any] | None = None, bare: str = ""
) -> Any:
    """Declare a setting.

    Args:
        help: one line for --help, docs/settings.md and error messages.
        bare: value of a flag that is given without one; "" if the flag needs a value.
    """
    return field(default=default, metadata={"help": help, "metavar": metavar, "parse": parse, "bare": bare})


Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


# Only Settings is instantiated: generated methods of the groups would cost 4 ms at each start.
@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class InputSettings:
    """Choose and adjust the source of frames."""

    source: str = option(
        "auto",
        "source of frames: a file, folder, camera number, webcam, picamera or address; see 'camapp sources'",
        "URI",
        plain_source,
    )
    name: str = option("camera", "name of this camera on pages and in records", "NAME")
    size: tuple[Annotated[int, Ge(16)], Annotated[int, Ge(16)]] | None = option(
        None, "image size; 1280x720 if the source has a choice", "WxH", parse_size
    )
    fps: Positive | None = option(None, "frame rate requested from the source", "FPS")
    rotate: Literal[0, 90, 180, 270] = option(0, "rotate clockwise by 0, 90, 180 or 270 degrees", "DEGREES", int)
    hflip: bool = option(False, "mirror left and right")
    vflip: bool = option(False, "mirror top and bottom")
    camera_control: tuple[str, ...] = option(
        (),
        "set a camera control, NAME=VALUE such as AfMode=Continuous (repeatable)",
        "NAME=VALUE",
        partial(parse_words, separator=";"),
    )
    region: tuple[str, ...] = option(
        (),
        "part of the image to watch like a camera of its own: NAME=x,y,width,height as fractions of the image, and "
        ":MODEL if it has its own model (repeatable)",
        "NAME=X,Y,W,H",
        partial(parse_words, separator=";"),
    )
    realtime: bool | None = option(
        None,
        "play files at their own speed, newest frame wins (default: cameras, and films in a window; else every frame)",
    )
    loop: bool = option(False, "restart files at their end")
    open_timeout: Positive | None = option(
        None, "longest time for a stream to give its first frame (default: 30)", "SECONDS"
    )
    read_timeout: Positive | None = option(
        None, "time without a frame after which a camera or stream counts as lost (default: by its rate)", "SECONDS"
    )

    @property
    def controls(self) -> dict[str, str]:
        """Return `camera_control` as a mapping."""
        return dict(_control(item) for item in self.camera_control)


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class ModelSettings:
    """Choose the model, its input and its labels."""

    model: str = option("digits", "name of a shipped or fetched model, or a file; see 'camapp models'", "FILE")
    net: str | None = option(None, "network name, for model files that do not contain it", "NAME")
    task: str | None = option(
        None, "meaning of the outputs, if the model does not define it: classify, detect, digits or track", "NAME"
    )
    labels: str | None = option(
        None, "class names: a file (one per line, or a JSON list), names separated by commas, imagenet or coco", "FILE"
    )
    mean: tuple[float, ...] | None = option(None, "mean per channel (0..1 scale), subtracted", "M,M,M", parse_floats)
    std: tuple[Positive, ...] | None = option(
        None, "standard deviation per channel (0..1 scale), divided by", "S,S,S", parse_floats
    )
    colour: Literal["RGB", "BGR"] | None = option(None, "order of the model's input channels: RGB or BGR", "ORDER")
    fit: Literal["crop", "letterbox", "stretch"] | None = option(
        None,
        "fit of the image to the model's input: crop, letterbox or stretch (default: crop; what a detector's head "
        "expects)",
        "HOW",
    )
    roi: tuple[Fraction, Fraction, Fraction, Fraction] | None = option(
        None, "region of interest: x,y,width,height as fractions of the image", "X,Y,W,H", parse_floats
    )
    smoothing: Annotated[float, Ge(0), Le(60)] = option(
        0.3, "averaging time of the label, seconds; 0 turns it off", "SECONDS"
    )
    threshold_high: Fraction = option(0.5, "score at which a label is accepted (hysteresis)", "SCORE")
    threshold_low: Fraction = option(0.35, "score below which the label is dropped (hysteresis)", "SCORE")
    reject: Annotated[float, Ge(0), Le(0.2)] = option(
        0.01, "share of known things that may be taken for unknown ones; 0: everything gets a label", "SHARE"
    )
    top: Annotated[int, Ge(1), Le(10)] = option(3, "number of best labels to show and log", "N")


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class DetectSettings:
    """Choose what a detector reports."""

    head: str | None = option(
        None,
        "how the model's outputs encode objects, such as yolox; see docs/detection.md (default: recognised)",
        "NAME",
    )
    score: Fraction | None = option(None, "score from which on objects are reported (default: the head's)", "SCORE")
    iou: Fraction | None = option(
        None, "overlap above which the weaker of two boxes of a class is dropped (default: the head's)", "IOU"
    )
    classes: tuple[str, ...] = option((), "report objects of these classes only", "NAME,NAME", parse_words)
    zone: tuple[str, ...] = option(
        (),
        "area to count objects in: NAME=x,y x,y x,y ..., corners as fractions of the image (repeatable)",
        "NAME=X,Y...",
        partial(parse_words, separator=";"),
    )
    line: tuple[str, ...] = option(
        (),
        "line to count objects that cross it: NAME=x,y,x,y as fractions of the image (repeatable)",
        "NAME=X,Y,X,Y",
        partial(parse_words, separator=";"),
    )
    anchors: tuple[Positive, ...] | None = option(
        None, "widths and heights of the model's anchor boxes in pixels of its input", "W,H,W,H", parse_floats
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class TrackSettings:
    """Describe the camera above the track, for models that find lanes."""

    camera_height: Annotated[float, Gt(0), Le(100)] | None = option(
        None, "height of the camera above the ground, metres (default: by the lane's width, or 0.3)", "METRES"
    )
    camera_pitch: Annotated[float, Gt(-90), Lt(90)] | None = option(
        None, "downward tilt of the camera, degrees (default: estimated from the lines)", "DEGREES"
    )
    camera_roll: Annotated[float, Gt(-90), Lt(90)] = option(0.0, "tilt of the camera to the right, degrees", "DEGREES")
    camera_hfov: Annotated[float, Gt(0), Lt(180)] = option(
        66.0, "horizontal field of view (along the longer side of the image), degrees", "DEGREES"
    )
    camera_distortion: Annotated[float, Ge(0), Lt(90)] = option(
        0.0, "barrel distortion of the lens, degrees; 0 is a straight lens, 60 a strong wide angle", "DEGREES"
    )
    lane_width: Annotated[float, Gt(0), Le(100)] | None = option(
        None, "width of a lane, metres (default: estimated, in camera heights)", "METRES"
    )
    line_colour: Literal["white", "yellow", "black", "any"] = option(
        "white", "colour of the lines: white, yellow, black (on bright ground), or any: white and yellow ones", "COLOUR"
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class SpeedSettings:
    """Set processes, threads and rates."""

    workers: Annotated[int, Ge(0), Le(64)] = option(
        0, "processes that run the CNN; 0 is the CPU cores minus one (classify: all)", "N"
    )
    threads: Annotated[int, Ge(1), Le(64)] = option(1, "BLAS threads per worker", "N")
    share_workers: bool = option(False, "share all workers between the cameras that run the same model")
    target_fps: Positive = option(
        30.0,
        "target of the displayed rates (green from 97 %, amber from 80 %), and the camera's rate without --fps",
        "FPS",
    )
    idle_fps: Annotated[float, Ge(0.5)] | None = option(
        None, "inference rate while the image does not change; the full rate returns with the first change", "FPS"
    )
    idle_after: Positive = option(10.0, "seconds without a change before --idle-fps applies", "SECONDS")


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class OutputSettings:
    """Choose the preview, files, commands and the car's controller."""

    display: Literal["auto", "window", "drm", "kiosk", "none"] = option(
        "auto",
        "preview: auto (if there is a display), window, drm (a Pi camera's own, on the console), "
        "kiosk (by cage, without a desktop) or none",
        "KIND",
    )
    full_screen: bool = option(False, "open the window full screen")
    hud: bool = option(True, "draw rates, latencies and drops on the preview")
    record: Path | None = option(None, "record the drawn preview to a video file (.mp4 or .avi)", "FILE")
    drawn: Path | None = option(
        None, "write each picture of a folder or film as it is drawn, at its own size, into a folder", "FOLDER"
    )
    raw: bool = option(False, "also save snapshots and the recording without the drawing, as NAME-raw.*")
    snapshots: Path = option(Path("snapshots"), "folder for images saved with the s key", "FOLDER")
    log: str | None = option(None, "write predictions as JSON Lines to a file (.csv: as CSV), or - for stdout", "FILE")
    log_max_mb: Positive = option(10.0, "size at which the log file is rotated", "MB")
    log_files: Annotated[int, Ge(1), Le(1000)] = option(5, "number of rotated log files to keep", "N")
    log_on_change: bool = option(
        False, "log only predictions that change the label, and a heartbeat (spares an SD card)"
    )
    log_heartbeat: Positive = option(
        60.0, "with --log-on-change, log one prediction after this many seconds without any", "SECONDS"
    )
    clip_on: tuple[str, ...] = option(
        (),
        "save a video clip when one of these begins: labels (* is any), or comparisons such as person>2, score<0.5",
        "EVENT,EVENT",
        parse_words,
    )
    clips: Path = option(Path("clips"), "folder for clips", "FOLDER")
    clip_before: Annotated[float, Ge(0), Le(60)] = option(3.0, "seconds before the event in a clip", "SECONDS")
    clip_after: Annotated[float, Gt(0), Le(60)] = option(5.0, "seconds after the event in a clip", "SECONDS")
    clip_budget_mb: Positive = option(500.0, "disk space for all clips; the oldest are deleted first", "MB")
    on_label: str | None = option(
        None, "command to run when the label changes (CAMAPP_LABEL and CAMAPP_SCORE in its environment)", "CMD"
    )
    on_label_when: tuple[str, ...] = option(
        ("*",),
        "run the --on-label command when one of these begins: labels (* is any), or comparisons such as person>2",
        "EVENT,EVENT",
        parse_words,
    )
    on_label_every: Positive = option(1.0, "minimum time between two runs of the --on-label command", "SECONDS")
    record_drive: Path | None = option(
        None,
        "record raw frames, predictions and orders as a donkeycar tub; replay it with --source tub:FOLDER",
        "FOLDER",
    )
    drive: str | None = option(
        None, "send values to a car's controller: udp://HOST:PORT or serial:///dev/NAME?baud=115200", "URI"
    )
    drive_page: bool = option(
        False, "hold the car until a page of --web lets it drive, and stop it from any page; the page needs its token"
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class WebSettings:
    """Serve a page to browsers."""

    web: str | None = option(
        None,
        "serve a page with the live image: HOST:PORT, a port (this machine only), or off; bare: 127.0.0.1:8080",
        "HOST:PORT",
        _web_or_off,
        bare="127.0.0.1:8080",
    )
    web_hosts: tuple[str, ...] = option(
        (), "further host names under which browsers may open the page", "NAME,NAME", parse_words
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class MqttSettings:
    """Connect to an MQTT broker."""

    mqtt: str | None = option(
        None,
        "publish to an MQTT broker and accept commands from it: mqtt://USER@HOST:PORT/PREFIX, mqtts:// for TLS; the "
        "password is read from the environment variable CAMAPP_MQTT_PASSWORD or from a file",
        "URI",
        _checked_mqtt,
    )
    mqtt_ca: Path | None = option(None, "CA certificate (PEM) to verify the broker", "FILE")
    mqtt_password_file: Path | None = option(None, "file with the broker's password", "FILE")
    mqtt_image: Positive | None = option(
        None,
        "publish the picture, with what is found drawn on it, when that changes; at most once in this many seconds "
        "(default: no picture)",
        "SECONDS",
    )
    device_name: str | None = option(
        None, "name of this machine in MQTT topics (default: its host name and four letters)", "NAME"
    )


@dataclass(frozen=True, kw_only=True, init=False, repr=False, eq=False)
class LimitSettings:
    """Limit a run, and choose how much it logs."""

    max_frames: Annotated[int, Ge(1)] | None = option(None, "stop after N captured frames", "N")
    duration: Positive | None = option(None, "stop after this many seconds", "SECONDS")
    reconnect: Positive = option(
        60.0, "give up (exit code 69) if a live source stays lost for this many seconds", "SECONDS"
    )
    debug: bool = option(False, "log more, and show tracebacks")


GROUPS: dict[str, type[Any]] = {
    "Input": InputSettings,
    "Model": ModelSettings,
    "Detect": DetectSettings,
    "Track": TrackSettings,
    "Speed": SpeedSettings,
    "Output": OutputSettings,
    "Web": WebSettings,
    "MQTT": MqttSettings,
    "Limits": LimitSettings,
}


# The bases stand in reverse: a dataclass collects its fields from the last base to the first.
@dataclass(frozen=True, kw_only=True)
class Settings(
    LimitSettings, MqttSettings, WebSettings, OutputSettings, SpeedSettings, TrackSettings, DetectSettings,
    ModelSettings, InputSettings,
):  # fmt: skip
    """Configures `camapp run`. Each field is a TOML key, CAMAPP_<NAME> and a --flag of the same name."""


def _control(item: str) -> tuple[str, str]:
    name, sep, value = item.partition("=")
    if not sep or not name.strip() or not value.strip():
        raise ValueError(f"'{item}' is not NAME=VALUE, such as AfMode=Continuous")
    return name.strip(), value.strip()


_HINTS = typing.get_type_hints(Settings, include_extras=True)
_FIELDS = {item.name: item for item in fields(Settings)}


def type_of(name: str) -> Any:
    """Return the annotated type of a setting."""
    return _HINTS[name]


def group_of(name: str) -> str:
    """Return the title of the group that a setting belongs to."""
    return next(title for title, group in GROUPS.items() if name in group.__dataclass_fields__)


def load_settings(
    command_line: Mapping[str, Any],
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Merge the layers and check every value.

    Args:
        environment: CAMAPP_* variables; None reads those of the process.

    Raises:
        SettingsError: unknown key or bad value; the message names its origin and what is allowed.
    """
    cameras = load_cameras(command_line, config, environment)
    if len(cameras) > 1:
        raise SettingsError(f"{config}: has {len(cameras)} cameras; only 'camapp run' watches several at a time")
    return cameras[0]


def load_cameras(
    command_line: Mapping[str, Any],
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> list[Settings]:
    """Merge like `load_settings`, once for each [[camera]] table of the file.

    A table outranks the keys above it. A file without tables configures one camera.

    Raises:
        SettingsError: as `load_settings`; or two cameras have the same name.
    """
    environment = os.environ if environment is None else environment
    variables = {
        variable.removeprefix(ENVIRONMENT_PREFIX).lower(): raw
        for variable, raw in environment.items()
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in NOT_SETTINGS
    }
    shared = _read_toml(config) if config is not None else {}
    tables = shared.pop("camera", None)
    given = [(variables, _ENVIRONMENT), (command_line, _COMMAND_LINE)]
    if tables is None:
        return [_merged([(shared, str(config)), *given])]
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables) or not tables:
        raise SettingsError(f"{config}: cameras are tables, each under a line [[camera]]")
    _refuse_in_tables(tables, _FOR_THE_RUN, str(config), "the whole run")
    if len(tables) > 1:
        _refuse_beside_tables(f"{config} has {len(tables)}", variables, command_line)
    cameras = []
    for number, table in enumerate(tables, 1):
        named = {"name": f"camera{number}"} | table
        cameras.append(_merged([(shared, str(config)), (named, f"{config}: [[camera]] {named['name']}"), *given]))
    names = [camera.name for camera in cameras]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"{config}: two cameras are named '{repeated[0]}': give each a different name")
    if len(cameras) > 1 and cameras[0].share_workers:
        _refuse_in_tables(tables, _FOR_SHARED_WORKERS, str(config), "all cameras that share workers")
    return cameras


def _refuse_in_tables(tables: list[dict[str, Any]], names: set[str], config: str, scope: str) -> None:
    for table in tables:
        if misplaced := sorted(names & table.keys()):
            raise SettingsError(f"{config}: '{misplaced[0]}' is for {scope}: write it above the first [[camera]]")


def _refuse_beside_tables(several: str, variables: Mapping[str, str], command_line: Mapping[str, Any]) -> None:
    for name in sorted(_FOR_ONE_CAMERA & {*variables, *command_line}):
        usage = name in command_line
        given = f"--{name}" if usage else f"{ENVIRONMENT_PREFIX}{name.upper()}"
        raise SettingsError(f"{given} is for one camera, and {several}: write it into a [[camera]] table", usage=usage)


def _merged(layers: list[tuple[Mapping[str, Any], str]]) -> Settings:
    """Merge (values by name, origin) pairs; each outranks the one before, and the last is the command line."""
    values: dict[str, Any] = {}
    faults: list[SettingsError] = []
    for layer, where in layers:
        for old, new in ALIASES.items():
            if old in layer and new in layer:
                message = f"{where}: '{old}' is the former name of '{new}': give only one of them"
                raise SettingsError(message, usage=where == _COMMAND_LINE)
        for name, raw in layer.items():
            variable = f"{ENVIRONMENT_PREFIX}{name.upper()}"
            origin = f"environment variable {variable}" if where == _ENVIRONMENT else where
            try:
                values[ALIASES.get(name, name)] = checked(name, raw, origin)
            except SettingsError as error:
                faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise SettingsError(*(str(fault) for fault in faults), usage=any(fault.usage for fault in faults))
    settings = Settings(**values)
    if settings.threshold_low > settings.threshold_high:
        raise SettingsError(
            f"threshold_low ({settings.threshold_low}) must not be above threshold_high ({settings.threshold_high})",
            usage=not {"threshold_low", "threshold_high"}.isdisjoint(layers[-1][0]),
        )
    if settings.region and settings.roi:
        raise SettingsError("--region and --roi both choose a part of the image: give one of them", usage=True)
    return settings


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise SettingsError(f"{path}: not valid TOML: it is UTF-16, save it as UTF-8")
        # Windows' editors begin a file with a byte order mark.
        return tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def checked(name: str, raw: Any, where: str) -> Any:
    """Parse and check the value of one setting.

    Args:
        name: of the setting; a former name works too.
        raw: text, or a value as TOML or JSON has it.
        where: origin of the value, for the error message.

    Raises:
        SettingsError: unknown name or bad value.
    """
    from pydantic import TypeAdapter, ValidationError

    usage = where == _COMMAND_LINE
    # An address with a password is refused, and its password is never shown.
    presentable = re.sub(r"://.*@", "://***@", raw) if isinstance(raw, str) else raw
    given_as = f"--{name.replace('_', '-')}" if usage else name
    shown = f"{given_as} = {presentable!r}"
    name = ALIASES.get(name, name)
    if name not in _FIELDS:
        raise SettingsError(f"{where}: unknown setting '{name}'{_nearest(name)}", usage=usage)
    metadata = _FIELDS[name].metadata
    try:
        value = metadata["parse"](raw) if isinstance(raw, str) and metadata["parse"] else raw
        value = TypeAdapter(_HINTS[name]).validate_python(value)
        _check_content(name, value)
    except ValidationError as error:
        reason = "; ".join(dict.fromkeys(item["msg"] for item in error.errors()))
        raise SettingsError(f"{where}: {shown} is not allowed: {reason} ({metadata['help']})", usage=usage) from None
    except ValueError as error:
        raise SettingsError(f"{where}: {shown} is not allowed: {error}", usage=usage) from None
    return value


def _check_content(name: str, value: Any) -> None:
    """Raise ValueError for a value of the right type that is not allowed."""
    if name == "camera_control":
        for item in value:
            _control(item)
    if name in ("name", "device_name") and value is not None and not NAME.fullmatch(value):
        raise ValueError(NAME_RULE)
    if name in _PLACES:
        _PLACES[name](value)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError("a finite number")
    if name == "anchors" and value is not None and len(value) % 2:
        raise ValueError("widths and heights, in pairs")
    if name == "roi" and value is not None:
        check_roi(value)


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, _FIELDS, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(_FIELDS)}"


def to_toml(settings: Settings) -> str:
    """Return the settings as a TOML file that `--config` reads back; unset ones are comments."""
    blocks = []
    for title, group in GROUPS.items():
        lines = [f"# {title}"]
        for item in fields(group):
            value = getattr(settings, item.name)
            line = f"# {item.name} =" if value is None else f"{item.name} = {_toml_value(value)}"
            lines.append(f"{line}  # {item.metadata['help']}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _toml_value(value: object) -> str:
    import json

    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_toml_value(part) for part in value) + "]"
    # A JSON string is a valid TOML basic string, except for DEL, which no setting contains.
    return json.dumps(str(value), ensure_ascii=False)
