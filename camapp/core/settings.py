"""Every option, once: defaults < TOML file < CAMAPP_* environment < command line."""

from __future__ import annotations

import math
import os
import re
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

from camapp.core.errors import SettingsError
from camapp.core.mqtt_address import checked_address
from camapp.core.web_address import parse_address

ENVIRONMENT_PREFIX = "CAMAPP_"
# Names with that prefix that are no settings: the configuration's path, what an --on-label program is told, and a
# secret, which must not be printed with them.
NOT_SETTINGS = {"CAMAPP_CONFIG", "CAMAPP_LABEL", "CAMAPP_SCORE", "CAMAPP_SEQ", "CAMAPP_MQTT_PASSWORD"}
# Former name -> present name of a setting. Both work as TOML key, environment variable, keyword and flag.
ALIASES = {"camera_view": "camera_hfov", "camera_bend": "camera_distortion"}

_COMMAND_LINE = "command line"


def parse_size(text: str) -> tuple[int, int]:
    """'1280x720' -> (1280, 720)."""
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise ValueError("a size is WIDTHxHEIGHT, such as 1280x720") from None


def parse_floats(text: str) -> tuple[float, ...]:
    """'0.5,0.5,0.5' -> (0.5, 0.5, 0.5)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError("numbers separated by commas, such as 0.5,0.5,0.5") from None


def parse_words(text: str) -> tuple[str, ...]:
    """'a=1; b=2,3' -> ('a=1', 'b=2,3')."""
    return tuple(part.strip() for part in text.split(";") if part.strip())


def parse_list(text: str) -> tuple[str, ...]:
    """'a, b' -> ('a', 'b')."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_web(text: str) -> str | None:
    """':8080' -> '127.0.0.1:8080'; 'off' -> None."""
    return None if text.strip() == "off" else str(parse_address(text))


def option(
    default: Any,
    help: str,
    panel: str,
    metavar: str = "TEXT",
    parse: Callable[[str], Any] | None = None,
    bare: str = "",
) -> Any:
    """A setting's default with what the command line and the error messages say of it.

    Args:
        default: its value where nobody gives one.
        help: what it does.
        panel: the heading it stands under.
        metavar: what its value is called.
        parse: makes a value of a text.
        bare: the value of its flag where none follows it; "" where one must.
    """
    metadata = {"help": help, "panel": panel, "metavar": metavar, "parse": parse, "bare": bare}
    return field(default=default, metadata=metadata)


Positive = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Le(1)]
# A camera's name stands in file names, addresses and a broker's topics.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
# One for all cameras of a run: no [[camera]] table may hold it.
_FOR_THE_RUN = {
    *("display", "full_screen", "share_workers", "duration", "debug"),
    *("web", "web_hosts", "mqtt", "mqtt_ca", "mqtt_password_file", "device_name"),
}
# Likewise where the cameras take turns at the same workers.
_FOR_SHARED_WORKERS = {"workers", "threads"}
# One for each camera: where several are configured, neither the command line nor the environment may give it.
_FOR_ONE_CAMERA = {"source", "name"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `camapp run` does. Each field is a TOML key, CAMAPP_<NAME> and a --flag of the same name."""

    source: str = option("auto", "where frames come from; see 'camapp sources'", "Input", "URI")
    name: str = option("camera", "what this camera is called on pages and in records", "Input", "NAME")
    size: tuple[Annotated[int, Ge(16)], Annotated[int, Ge(16)]] | None = option(
        None, "size of the image, 1280x720 if the source has a choice", "Input", "WxH", parse_size
    )
    fps: Positive | None = option(None, "frames a second asked of the source", "Input", "FPS")
    rotate: Literal[0, 90, 180, 270] = option(0, "turn clockwise: 0, 90, 180 or 270 degrees", "Input", "DEGREES", int)
    hflip: bool = option(False, "mirror left and right", "Input")
    vflip: bool = option(False, "mirror top and bottom", "Input")
    camera_control: tuple[str, ...] = option(
        (),
        "set a camera control, NAME=VALUE such as AfMode=Continuous (repeatable)",
        "Input",
        "NAME=VALUE",
        parse_words,
    )
    realtime: bool | None = option(
        None, "play files at their own pace, newest frame wins (default: cameras yes, files every frame)", "Input"
    )
    loop: bool = option(False, "start files again at their end", "Input")

    model: str = option("digits", "a shipped model's name or a file; see 'camapp models'", "Model", "FILE")
    net: str | None = option(None, "network of a file that does not name its own", "Model", "NAME")
    task: str | None = option(
        None, "what the numbers mean, if the model does not say: classify, digits or track", "Model", "NAME"
    )
    labels: str | None = option(
        None, "file with a class name a line (or a JSON list), or names with commas", "Model", "FILE"
    )
    mean: tuple[float, ...] | None = option(
        None, "mean a channel on the 0..1 scale, subtracted", "Model", "M,M,M", parse_floats
    )
    std: tuple[Positive, ...] | None = option(
        None, "standard deviation a channel on the 0..1 scale, divided by", "Model", "S,S,S", parse_floats
    )
    fit: Literal["crop", "letterbox", "stretch"] = option(
        "crop", "how the image meets the model's input: crop, letterbox or stretch", "Model", "HOW"
    )
    roi: tuple[Fraction, Fraction, Fraction, Fraction] | None = option(
        None, "look only at this part: x,y,width,height as fractions of the image", "Model", "X,Y,W,H", parse_floats
    )
    smoothing: Annotated[float, Ge(0), Le(60)] = option(
        0.3, "seconds of the label's moving average; 0 turns it off", "Model", "SECONDS"
    )
    threshold_high: Fraction = option(0.5, "score at which a label is taken", "Model", "SCORE")
    threshold_low: Fraction = option(0.35, "score under which it is let go", "Model", "SCORE")
    top: Annotated[int, Ge(1), Le(10)] = option(3, "how many best labels to show and log", "Model", "N")

    camera_height: Annotated[float, Gt(0), Le(100)] = option(
        0.3, "height of the camera over the ground, metres", "Track", "METRES"
    )
    camera_pitch: Annotated[float, Gt(-90), Lt(90)] = option(
        18.0, "how far the camera looks down from level, degrees", "Track", "DEGREES"
    )
    camera_roll: Annotated[float, Gt(-90), Lt(90)] = option(
        0.0, "how far the camera leans to the right, degrees", "Track", "DEGREES"
    )
    camera_hfov: Annotated[float, Gt(0), Lt(180)] = option(
        66.0, "what the camera sees along the longer side of its image, degrees", "Track", "DEGREES"
    )
    camera_distortion: Annotated[float, Ge(0), Lt(90)] = option(
        0.0, "barrel distortion of its lens, degrees; 0 is a straight lens, 60 a strong wide angle", "Track", "DEGREES"
    )
    lane_width: Annotated[float, Gt(0), Le(100)] = option(1.22, "width of a lane, metres", "Track", "METRES")

    workers: Annotated[int, Ge(0), Le(64)] = option(
        0, "processes that run the CNN; 0 takes the cores less one (classify: all)", "Speed", "N"
    )
    threads: Annotated[int, Ge(1), Le(64)] = option(1, "BLAS threads of each worker", "Speed", "N")
    share_workers: bool = option(False, "several cameras with the same model take turns at all workers", "Speed")
    target_fps: Positive = option(30.0, "the rate the display colours are judged against", "Speed", "FPS")
    idle_fps: Annotated[float, Ge(0.5)] | None = option(
        None, "infer only so many frames a second while nothing changes; all again at once when something does",
        "Speed", "FPS",
    )  # fmt: skip
    idle_after: Positive = option(10.0, "how long nothing must have changed for that", "Speed", "SECONDS")

    display: Literal["auto", "window", "drm", "kiosk", "none"] = option(
        "auto",
        "show the preview: auto (if there is a display), window, drm (a Pi camera's own, on the console), "
        "kiosk (by cage, without a desktop) or none",
        "Output",
        "KIND",
    )
    full_screen: bool = option(False, "open the window full screen", "Output")
    hud: bool = option(True, "draw rates, latencies and drops on the preview", "Output")
    record: Path | None = option(None, "write the drawn preview to a video file (.mp4 or .avi)", "Output", "FILE")
    snapshots: Path = option(Path("snapshots"), "folder for images taken with the s key", "Output", "FOLDER")
    log: str | None = option(None, "write predictions as JSON Lines to a file, or - for stdout", "Output", "FILE")
    log_max_mb: Positive = option(10.0, "size at which the log file is rotated", "Output", "MB")
    log_files: Annotated[int, Ge(1), Le(1000)] = option(5, "how many rotated log files to keep", "Output", "N")
    log_on_change: bool = option(
        False, "log only predictions that change the label, and a heartbeat: spares an SD card", "Output"
    )
    log_heartbeat: Positive = option(
        60.0, "with --log-on-change, log one after so many seconds without any", "Output", "SECONDS"
    )
    clip_on: tuple[str, ...] = option(
        (),
        "save short films when these begin: labels (* is any), or comparisons such as score<0.5",
        "Output",
        "EVENT,EVENT",
        parse_list,
    )
    clips: Path = option(Path("clips"), "folder for them", "Output", "FOLDER")
    clip_before: Annotated[float, Ge(0), Le(60)] = option(
        3.0, "seconds before an event in its film", "Output", "SECONDS"
    )
    clip_after: Annotated[float, Gt(0), Le(60)] = option(5.0, "seconds after it", "Output", "SECONDS")
    clip_budget_mb: Positive = option(500.0, "what all films may take on the disk; the oldest go first", "Output", "MB")
    on_label: str | None = option(
        None, "program to run when the label changes (CAMAPP_LABEL, CAMAPP_SCORE in its environment)", "Output", "CMD"
    )
    on_label_every: Positive = option(1.0, "run it at most once in so many seconds", "Output", "SECONDS")

    web: str | None = option(
        None,
        "serve a page with the live image: HOST:PORT, a port of this machine alone, or off; bare: 127.0.0.1:8080",
        "Output",
        "HOST:PORT",
        parse_web,
        bare="127.0.0.1:8080",
    )
    web_hosts: tuple[str, ...] = option(
        (), "further names that browsers know this machine by", "Output", "NAME,NAME", parse_list
    )
    drive: str | None = option(
        None, "tell a car's controller: udp://HOST:PORT or serial:///dev/NAME?baud=115200", "Output", "URI"
    )

    mqtt: str | None = option(
        None,
        "tell a broker, and take orders there: mqtt://USER@HOST:PORT/PREFIX, mqtts:// for TLS; its password goes into "
        "the environment variable CAMAPP_MQTT_PASSWORD or a file",
        "MQTT",
        "URI",
        checked_address,
    )
    mqtt_ca: Path | None = option(None, "file with the certificate of who signed the broker's", "MQTT", "FILE")
    mqtt_password_file: Path | None = option(None, "file with the broker's password", "MQTT", "FILE")
    device_name: str | None = option(
        None, "what this machine is called there (default: its host name and four letters)", "MQTT", "NAME"
    )

    max_frames: Annotated[int, Ge(1)] | None = option(None, "stop after so many captured frames", "Limits", "N")
    duration: Positive | None = option(None, "stop after so many seconds", "Limits", "SECONDS")
    reconnect: Positive = option(
        60.0, "give up (exit 69) when a live source has been lost for so many seconds", "Limits", "SECONDS"
    )
    debug: bool = option(False, "log more, and show tracebacks", "Limits")

    @property
    def controls(self) -> dict[str, str]:
        """`camera_control` as a mapping."""
        return dict(_control(item) for item in self.camera_control)


def _control(item: str) -> tuple[str, str]:
    name, sep, value = item.partition("=")
    if not sep or not name.strip() or not value.strip():
        raise ValueError(f"'{item}' is not NAME=VALUE, such as AfMode=Continuous")
    return name.strip(), value.strip()


_HINTS = typing.get_type_hints(Settings, include_extras=True)
_FIELDS = {item.name: item for item in fields(Settings)}


def type_of(name: str) -> Any:
    """The annotated type of a setting."""
    return _HINTS[name]


def load_settings(
    command_line: Mapping[str, Any],
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Merge the layers and check every value where it was given.

    Args:
        command_line: flags given, by setting name.
        config: a TOML file, or None for none.
        environment: CAMAPP_* variables; None takes the process's.

    Raises:
        SettingsError: an unknown key or a bad value, with where it stands and what is allowed.
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
    """The same for each [[camera]] table of the file, which outranks the keys above it; one without any.

    Raises:
        SettingsError: likewise, or two cameras have the same name.
    """
    environment = os.environ if environment is None else environment
    shared = _read_toml(config) if config is not None else {}
    tables = shared.pop("camera", None)
    if tables is None:
        return [_merged(shared, str(config), {}, "", environment, command_line)]
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables) or not tables:
        raise SettingsError(f"{config}: cameras are tables, each under a line [[camera]]")
    _refuse_in_tables(tables, _FOR_THE_RUN, str(config), "the whole run")
    if len(tables) > 1:
        _refuse_beside_tables(f"{config} has {len(tables)}", environment, command_line)
    cameras = []
    for number, table in enumerate(tables, 1):
        named = {"name": f"camera{number}"} | table
        where = f"{config}: [[camera]] {named['name']}"
        cameras.append(_merged(shared, str(config), named, where, environment, command_line))
    names = [camera.name for camera in cameras]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"{config}: two cameras are named '{twice[0]}': give each a name of its own")
    if len(cameras) > 1 and cameras[0].share_workers:
        _refuse_in_tables(tables, _FOR_SHARED_WORKERS, str(config), "all cameras that share workers")
    return cameras


def _refuse_in_tables(tables: list[dict[str, Any]], names: set[str], config: str, whom: str) -> None:
    for table in tables:
        if misplaced := sorted(names & table.keys()):
            raise SettingsError(f"{config}: '{misplaced[0]}' is for {whom}: write it above the first [[camera]]")


def _refuse_beside_tables(several: str, environment: Mapping[str, str], command_line: Mapping[str, Any]) -> None:
    for name in sorted(_FOR_ONE_CAMERA):
        variable = f"{ENVIRONMENT_PREFIX}{name.upper()}"
        if name in command_line or variable in environment:
            given = f"--{name}" if name in command_line else variable
            raise SettingsError(
                f"{given} is of one camera, and {several}: write it into a [[camera]] table", usage=name in command_line
            )


def _merged(
    shared: Mapping[str, Any],
    config: str,
    table: Mapping[str, Any],
    table_where: str,
    environment: Mapping[str, str],
    command_line: Mapping[str, Any],
) -> Settings:
    """Settings from their layers, each outranking the one before."""
    values: dict[str, Any] = {}
    variables = {
        variable.removeprefix(ENVIRONMENT_PREFIX).lower(): (raw, f"environment variable {variable}")
        for variable, raw in environment.items()
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in NOT_SETTINGS
    }
    for name, (raw, where) in (
        *((name, (raw, config)) for name, raw in shared.items()),
        *((name, (raw, table_where)) for name, raw in table.items()),
        *variables.items(),
        *((name, (raw, _COMMAND_LINE)) for name, raw in command_line.items()),
    ):
        values[name] = checked(name, raw, where)
    settings = Settings(**values)
    if settings.threshold_low > settings.threshold_high:
        raise SettingsError(
            f"threshold_low ({settings.threshold_low}) must not be above threshold_high ({settings.threshold_high})",
            usage=not {"threshold_low", "threshold_high"}.isdisjoint(command_line),
        )
    return settings


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from error


def checked(name: str, raw: Any, where: str) -> Any:
    """The value of one setting, parsed and found allowed. Raises SettingsError, which names `where`."""
    from pydantic import TypeAdapter, ValidationError

    usage = where == _COMMAND_LINE
    if name not in _FIELDS:
        raise SettingsError(f"{where}: unknown setting '{name}'{_nearest(name)}", usage=usage)
    # A password in an address is refused, and never shown.
    presentable = re.sub(r"://.*@", "://***@", raw) if isinstance(raw, str) else raw
    given_as = f"--{name.replace('_', '-')}" if usage else name
    shown = f"{given_as} = {presentable!r}"
    metadata = _FIELDS[name].metadata
    try:
        value = metadata["parse"](raw) if isinstance(raw, str) and metadata["parse"] else raw
        value = TypeAdapter(_HINTS[name]).validate_python(value)
        if name == "camera_control":
            for item in value:
                _control(item)
        if name in ("name", "device_name") and value is not None and not _NAME.fullmatch(value):
            raise ValueError("letters, digits, - and _, at most 63 of them")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("a finite number")
        if (
            name == "roi"
            and value is not None
            and (min(value[2:]) <= 0 or max(value[0] + value[2], value[1] + value[3]) > 1)
        ):
            raise ValueError("it must lie in the image: x + width and y + height at most 1, both above 0")
    except ValidationError as error:
        reason = "; ".join(dict.fromkeys(item["msg"] for item in error.errors()))
        raise SettingsError(f"{where}: {shown} is not allowed: {reason} ({metadata['help']})", usage=usage) from None
    except ValueError as error:
        raise SettingsError(f"{where}: {shown} is not allowed: {error}", usage=usage) from None
    return value


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, _FIELDS, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(_FIELDS)}"


def to_toml(settings: Settings) -> str:
    """The settings as a TOML file that `--config` reads back; unset ones stand as comments."""
    lines: list[str] = []
    panel = ""
    for item in fields(settings):
        if item.metadata["panel"] != panel:
            panel = item.metadata["panel"]
            lines += ["", f"# {panel}"] if lines else [f"# {panel}"]
        value = getattr(settings, item.name)
        line = f"# {item.name} =" if value is None else f"{item.name} = {_toml_value(value)}"
        lines.append(f"{line}  # {item.metadata['help']}")
    return "\n".join(lines) + "\n"


def _toml_value(value: object) -> str:
    import json

    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_toml_value(part) for part in value) + "]"
    # A JSON string is a valid TOML basic string, but for DEL, which no setting holds.
    return json.dumps(str(value), ensure_ascii=False)
