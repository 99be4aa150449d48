"""Defines the commands of the `camapp` program; each is a few lines that call `camapp.commands` or `camapp.app`.

Heavy modules are imported when a command runs, so that `camapp --help` is quick.
"""

from __future__ import annotations

import errno
import inspect
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

import typer

from camapp import __version__
from camapp.core.command_help import PlainCommand, PlainGroup
from camapp.core.errors import CamappError, ExitCode, SettingsError
from camapp.core.keys import COLLECT, RUN, Keys, sentence
from camapp.core.program import program, spelled
from camapp.core.settings import ALIASES, GROUPS, Settings, group_of, load_cameras, load_settings, to_toml, type_of
from camapp.core.timeouts import exit_process
from camapp.system.systemd import JournalFormatter, is_journal

app = typer.Typer(
    name="camapp",
    cls=PlainGroup,
    help="Classify what a camera sees in real time, on a Raspberry Pi: CNNs in pure NumPy.",
    epilog="camapp\ncamapp video.mp4 --model cifar10\ncamapp doctor",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

# Settings that matter to separate images.
_FOR_STILLS = (
    *("model", "net", "task", "labels", "mean", "std", "colour", "fit", "roi", "threshold_low", "top"),
    *("head", "score", "iou", "classes", "anchors", "workers", "threads", "drawn", "debug"),
    *("camera_height", "camera_pitch", "camera_roll", "camera_hfov", "camera_distortion", "lane_width"),
    "line_colour",
)

# Settings that a measurement uses, and those that `collect` does.
_FOR_MEASURING = (
    *(
        name
        for group in ("Input", "Model", "Detect", "Track", "Speed")
        for name in GROUPS[group].__dataclass_fields__
        if name != "region"
    ),
    *("max_frames", "reconnect", "debug"),
)
_FOR_COLLECTING = (
    *(name for name in GROUPS["Input"].__dataclass_fields__),
    *("roi", "region", "display", "full_screen", "hud", "web", "max_frames", "duration", "reconnect", "debug"),
)

# Settings that choose what `doctor --try` tries.
_FOR_TRIALS = (
    *("source", "size", "fps", "rotate", "hflip", "vflip", "camera_control", "model", "fit", "roi"),
    *("camera_height", "camera_pitch", "camera_hfov", "workers", "threads", "target_fps", "debug"),
)

# Commands for one camera that use its regions.
_WITH_REGIONS = ("collect", "install_service")

# Settings whose flag may be given several times.
_REPEATABLE = ("camera_control", "region", "zone", "line")

# Former spellings, which scripts and units may still hold.
_COMMAND_ALIASES = {"selftest": ("doctor", "--try"), "film": ("render",)}
_OPTION_ALIASES = {"--bend": "--distortion"} | {
    f"--{old.replace('_', '-')}": f"--{new.replace('_', '-')}" for old, new in ALIASES.items()
}


def _switch(name: str, help: str) -> Any:
    """Return the typer option of a flag that is off by default."""
    return typer.Option(name, help=help, show_default=False)


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="CAMAPP_CONFIG",
        readable=False,
        help="settings file (TOML); flags outrank it",
    ),
]
_SourceArgument = Annotated[
    str | None, typer.Argument(metavar="SOURCE", help="what --source takes", show_default=False)
]
JsonOption = Annotated[bool, _switch("--json", "print JSON")]
DryRunOption = Annotated[bool, _switch("--dry-run", "print the steps, change nothing")]


def command(name: str, *examples: str, keys: Keys = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the decorator that makes a function a command; its help has the keys, and ends with the examples."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        help = f"{inspect.getdoc(function)}\n\n{sentence(keys)}" if keys else None
        return app.command(name, cls=PlainCommand, help=help, epilog="\n".join(examples))(function)

    return add


def add_program(name: str, run: Callable[[list[str]], None], help: str) -> None:
    """Add a command that another package implements, with a parser of its own.

    Args:
        run: called with the name and what follows it on the command line.
    """

    def call(context: typer.Context) -> None:
        run([name, *context.args])

    raw = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command(name, cls=PlainCommand, help=help, add_help_option=False, context_settings=raw)(call)


def with_settings(
    command: Callable[..., None], only: Collection[str] = (), uses: Collection[str] = ()
) -> Callable[..., None]:
    """Give a command one flag for each field of Settings.

    If the command reads one source and has no argument of its own, that may be the argument.

    Args:
        command: takes the merged and checked Settings as `settings`, or a list of them, one for each camera, as
            `cameras`, or neither; then its own options. If it has a parameter `reread`, it also gets a function that
            merges and checks them again.
        only: names of the fields that the command has; default all.
        uses: names of the fields that its help lists; default those that it has.
    """
    parameters = inspect.signature(command, eval_str=True).parameters
    load: Callable[..., Any] = load_cameras if "cameras" in parameters else load_settings
    own = [parameter for name, parameter in parameters.items() if name not in ("settings", "cameras", "reread")]
    names = [item.name for item in fields(Settings) if not only or item.name in only]
    place = ["place"] if "source" in names and {"cameras", "settings"} & parameters.keys() else []
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in [
            *((name, _SourceArgument) for name in place),
            *((name, _flag(name, bool(uses) and name not in uses)) for name in names),
        ]
    ]
    config = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOption)

    def wrapper(config: Path | None = None, **values: Any) -> None:
        arguments = {parameter.name: values.pop(parameter.name) for parameter in own}
        source = values.pop("place", None)
        given = {name: value for name, value in values.items() if value is not None and value != []}
        if source is not None:
            if "source" in given:
                fail(f"'{source}' and --source '{given['source']}' are two sources: give one", ExitCode.USAGE)
            given["source"] = source
        reread = partial(load, given, config)
        debug = bool(given.get("debug"))
        if "reread" in parameters:
            arguments["reread"] = reread
        with report_errors(debug):
            if name := next((name for name in ("settings", "cameras") if name in parameters), None):
                arguments[name] = loaded = reread()
                debug = (loaded[0] if name == "cameras" else loaded).debug
            _set_up_logging(debug)
            if name == "settings" and loaded.region and command.__name__ not in _WITH_REGIONS:
                text = "regions are for 'camapp run' and 'camapp collect': this uses the whole image"
                logging.getLogger("camapp").warning(text)
            with report_errors(debug):
                _run_or_fetch(partial(command, **arguments))

    options = [*(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own), *flags, config]
    wrapper.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in options}
    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    return wrapper


def _run_or_fetch(command: Callable[[], None]) -> None:
    """Run a command; if it lacks a published model, offer to fetch it and run the command again."""
    from camapp.core.models import NotFetched

    try:
        command()
    except NotFetched as missing:
        from camapp.commands.models import offer

        offer(missing)
        command()


@cache
def _flag(name: str, hidden: bool = False) -> Any:
    """Return the typer option of a setting. Its value stays text, since `load_settings` checks all in one place."""
    item = next(item for item in fields(Settings) if item.name == name)
    kind = type_of(name)
    spelled = f"--{name.replace('_', '-')}"
    is_flag = kind is bool or bool in get_args(kind)
    if is_flag:
        spelled = f"{spelled}/--no-{spelled[2:]}"
    default = "on" if item.default is True else item.default
    shown = "" if default in (None, (), False) else f" (default: {default})"
    value: Any = bool if is_flag else list[str] if name in _REPEATABLE else str
    return Annotated[
        value | None,
        typer.Option(
            spelled,
            help=item.metadata["help"] + shown,
            metavar=None if is_flag else item.metadata["metavar"],
            rich_help_panel=group_of(name),
            show_default=False,
            hidden=hidden,
        ),
    ]


@contextmanager
def report_errors(debug: bool = False) -> Iterator[None]:
    """Turn an error into one line and an exit code; with `debug` the traceback is printed before it."""
    try:
        yield
    except typer.Exit:
        raise
    except Exception as error:  # noqa: BLE001 - ends the program
        if debug:
            traceback.print_exception(error)
        fail(*explained(error))


def explained(error: Exception) -> tuple[str, ExitCode]:
    """Return the line to print for an error, and the exit code."""
    code = code_of(error)
    if code is None:
        text = f"internal error: {type(error).__name__}: {error} (--debug prints the traceback)"
        return text, ExitCode.INTERNAL
    if isinstance(error, PermissionError):
        return f"no permission for '{error.filename}': change its owner or mode, or run as another user", code
    return str(error), code


def code_of(error: BaseException) -> ExitCode | None:
    """Return the exit code of an error that a user can cause, None for any other."""
    if isinstance(error, PermissionError) or isinstance(error.__cause__, PermissionError):
        return ExitCode.DENIED
    if isinstance(error, CamappError):
        return error.code
    from engine.graph import ModelError  # if one was raised, it is loaded already

    return ExitCode.CONFIG if isinstance(error, ModelError) else None


def fail(message: str, code: ExitCode) -> NoReturn:
    """Print an error as one line and end the program; its exit code does not depend on a terminal that is gone."""
    with suppress(OSError):
        print(f"camapp: {spelled(message)}", file=sys.stderr)
    raise SystemExit(int(code))


def fail_with(faults: Sequence[Exception]) -> NoReturn:
    """Print a line for each fault and end the program with the exit code of the first."""
    lines = [explained(fault) for fault in faults]
    for text, _ in lines[:-1]:
        print(f"camapp: {spelled(text)}", file=sys.stderr)
    fail(lines[-1][0], lines[0][1])


class _TerminalFormatter(logging.Formatter):
    """Spells commands in messages as this program was started."""

    def format(self, record: logging.LogRecord) -> str:
        return spelled(super().format(record))


def _set_up_logging(debug: bool) -> None:
    # Other libraries are logged one level quieter than camapp: picamera2 logs every job.
    logging.getLogger("camapp").setLevel(logging.DEBUG if debug else logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    # On a terminal a status line may be in the way: it is erased first, and drawn again soon after.
    erase = "\r\x1b[2K" if sys.stderr.isatty() else ""
    handler.setFormatter(
        JournalFormatter()
        if is_journal(sys.stderr.fileno())
        else _TerminalFormatter(f"{erase}%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S")
    )
    # The engine, which knows no logging, warns by Python's warnings.
    warnings.showwarning = lambda message, *_, **__: logging.getLogger("camapp").warning("%s", message)
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, handlers=[handler], force=True)


@app.callback(invoke_without_command=True)
def default(version: Annotated[bool, _switch("--version", "print the version")] = False) -> None:
    """Run live, if no command is given: 'camapp' is 'camapp run'."""
    if version:
        print(__version__)


@command(
    "run",
    "camapp run video.mp4 --model cifar10",
    "camapp run webcam --web --log seen.jsonl",
    "camapp run 192.168.1.20:8554/door --model track",
    keys=RUN,
)
@with_settings
def run(
    cameras: list[Settings],
    reread: Callable[[], list[Settings]],
    print_config: Annotated[bool, _switch("--print-config", "print the settings as TOML, and end")] = False,
) -> None:
    """Run a model on a camera or file, live."""
    if print_config:
        if len(cameras) > 1:
            raise SettingsError("--print-config is for one camera, and --config has several", usage=True)
        print(to_toml(cameras[0]), end="")
        return
    from camapp.app import run as run_program

    for summary in run_program(cameras, reread):
        if summary.code is not ExitCode.OK:
            if cameras[0].debug and summary.error is not None:
                traceback.print_exception(summary.error)
            fail(summary.reason, summary.code)


@command("bench", "camapp bench video.mp4 --seconds 20", "camapp bench --model track --workers 2 --json")
@partial(with_settings, uses=_FOR_MEASURING)
def bench(
    settings: Settings,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.5, max=86400, help="duration of the measurement")] = 10.0,
    draw: Annotated[bool, _switch("--draw", "also draw the preview, without showing it")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure rates, latency, CPU and memory of a run.

    Display, log and all other outputs are left out.
    """
    from camapp.commands.bench import run_bench

    run_bench(settings, seconds, draw, as_json)


@command("profile", "camapp profile digits", "camapp profile net.onnx --threads 4")
def profile(
    file: Annotated[str, typer.Argument(metavar="MODEL", help="name of a shipped model, or a model file")],
    net: Annotated[
        str | None, typer.Option(metavar="NAME", help="network name, for files without a model card")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, metavar="N", help="items a run")] = 1,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="runs; times are their median")] = 20,
    threads: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="BLAS threads")] = 1,
    kernel: Annotated[
        str,
        typer.Option(
            metavar="WHAT=KERNEL",
            help="force a kernel: LAYER=KERNEL or OPERATOR=KERNEL, comma-separated",
            show_default=False,
        ),
    ] = "",
    as_json: JsonOption = False,
    debug: Annotated[bool, _switch("--debug", "print the traceback of an error")] = False,
) -> None:
    """Measure where a model's time goes, layer by layer."""
    from camapp.system.process import blas_threads

    # BLAS reads these variables once, when NumPy is imported below.
    os.environ.update(blas_threads(threads))
    if kernel:
        os.environ["ENGINE_KERNELS"] = kernel
    with report_errors(debug):
        from camapp.commands.profile import run_profile

        run_profile(file, net, batch, rounds, as_json)


@command(
    "classify",
    "camapp classify photo.jpg --model cifar10",
    "camapp classify photos --csv seen.csv",
    "camapp classify 'photos/*.png' --jsonl -",
)
@partial(with_settings, only=_FOR_STILLS)
def classify(
    settings: Settings,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="images, folders (with subfolders), globs")],
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="write one CSV line for each image")] = None,
    jsonl: Annotated[
        str | None, typer.Option(metavar="FILE", help="write one JSON object for each image; - for stdout")
    ] = None,
    truth: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="true labels: from the file name (name: 12_7.png), from the folder, none, or auto: "
            "name or folder, whichever holds a label of the model",
        ),
    ] = "auto",
    resume: Annotated[bool, _switch("--resume", "continue the files of an interrupted run")] = False,
    batch: Annotated[
        int, typer.Option(min=0, max=1024, metavar="N", help="batch size of each worker; 0 = automatic")
    ] = 0,
    executor: Annotated[str, typer.Option(metavar="KIND", help="local, or dask for a cluster")] = "local",
    scheduler: Annotated[
        str, typer.Option(metavar="ADDRESS", help="of the Dask scheduler, such as tcp://pi:8786", show_default=False)
    ] = "",
) -> None:
    """Classify images and folders."""
    from camapp.commands.classify.command import run_classify
    from camapp.commands.classify.files import Target
    from camapp.core.truth import TRUTHS

    if truth not in TRUTHS:
        fail(f"--truth {truth} is not one of {', '.join(TRUTHS)}", ExitCode.USAGE)
    if executor not in ("local", "dask") or (executor == "dask") != bool(scheduler):
        fail("--executor is local, or dask with --scheduler ADDRESS", ExitCode.USAGE)
    targets = [Target(csv, "csv")] if csv else []
    if jsonl is not None:
        targets.append(Target(None if jsonl == "-" else Path(jsonl), "jsonl"))
    code, message = run_classify(settings, paths, targets, resume, truth, batch, scheduler)
    if code is not ExitCode.OK:
        fail(message, code)


@command(
    "collect",
    "camapp collect --label cup",
    "camapp collect 0 --label empty --every 0.5 --count 99",
    keys=COLLECT,
)
@partial(with_settings, uses=_FOR_COLLECTING)
def collect(
    settings: Settings,
    label: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="label of the images, name of their folder; several for the number keys"),
    ],
    into: Annotated[Path, typer.Option(metavar="FOLDER", help="folder of all labels")] = Path("collected"),
    every: Annotated[
        float | None, typer.Option(min=0.01, metavar="S", help="save a frame every S seconds (default: on space)")
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="end after N images")] = None,
) -> None:
    """Save labelled images of a source, to train with."""
    from camapp.commands.collect import run_collect

    code, message = run_collect(settings, label, into, every, count)
    if code is not ExitCode.OK:
        fail(message, code)


@command(
    "calibrate-track",
    "camapp calibrate-track shot.png --chessboard 9x6",
    "camapp calibrate-track shot.png --rectangle 0.21x0.297",
)
def calibrate_track(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", readable=False, help="taken by the camera in its final position")
    ],
    point: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X,Y=RIGHT,AHEAD", help="a point on the ground: its pixel, and metres right and ahead; four or more"
        ),
    ] = None,
    rectangle: Annotated[
        str | None,
        typer.Option(metavar="WxD", help="instead of points: width and depth in metres of a rectangle to click"),
    ] = None,
    chessboard: Annotated[
        str | None,
        typer.Option(metavar="CxR", help="instead of points: inner corners of a chessboard on the ground, such as 9x6"),
    ] = None,
    square: Annotated[float, typer.Option(min=0.001, metavar="METRES", help="side of its squares")] = 0.025,
    distortion: Annotated[
        float, typer.Option(min=0, max=89, metavar="DEGREES", help="distortion of the lens, as --camera-distortion")
    ] = 0.0,
    into: Annotated[Path, typer.Option(metavar="FILE", help="settings file to write, for --config")] = Path(
        "camera.toml"
    ),
) -> None:
    """Measure how the camera sits over the ground.

    With this, the values of the task track are in metres.
    """
    from camapp.commands.calibrate_track import run_calibration

    with report_errors():
        print(run_calibration(image, point or [], chessboard, square, distortion, into, rectangle))


@command(
    "render",
    "camapp render pattern://track?seed=1 lap.mp4",
    "camapp render pattern://digits digits.avi --seconds 5",
)
def render(
    source: Annotated[str, typer.Argument(metavar="SCENE", help="such as 'pattern://track?seed=1&size=640x480'")],
    into: Annotated[Path, typer.Argument(metavar="VIDEO", help="the video to write, .mp4 or .avi")],
    seconds: Annotated[
        float | None,
        typer.Option(min=0.01, max=3600, metavar="S", help="duration (default: a lap of a track, else 10)"),
    ] = None,
) -> None:
    """Write a synthetic scene as a video with ground truth.

    The truth of each image is a line of a .truth.jsonl file beside the video.
    """
    from camapp.commands.render import run_render

    with report_errors():
        print(run_render(source, into, seconds))


@command("sources", "camapp sources", "camapp sources --json")
def sources(as_json: JsonOption = False) -> None:
    """List the cameras and other sources of this machine."""
    from camapp.commands.list import print_sources

    with report_errors():
        print_sources(as_json)


models_app = typer.Typer(
    cls=PlainGroup,
    epilog="camapp models\ncamapp models get yolox_nano",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models_app, name="models")


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the models that ship, are fetched, or can be fetched ('models get NAME')."""
    if context.invoked_subcommand is not None:
        return
    from camapp.commands.models import print_models

    with report_errors():
        print_models(as_json)


@models_app.command("get", cls=PlainCommand, epilog="camapp models get yolox_nano\ncamapp models get resnet18 --yes")
def models_get(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="published models; 'camapp models' lists them")],
    yes: Annotated[bool, _switch("--yes", "accept the licences without being asked")] = False,
) -> None:
    """Fetch published models from their publishers into this user's cache.

    An interrupted download continues.
    """
    from camapp.commands.models import get_models

    with report_errors():
        get_models(names, yes)


@command("check-config", "camapp check-config camapp.toml", "camapp check-config /etc/camapp/config.toml")
def check_config(file: Annotated[Path, typer.Argument(metavar="FILE", readable=False, help="a TOML file")]) -> None:
    """Check a settings file, without starting anything.

    It tries what a start would try: the model, the source, and whether each output can be written. All faults are
    listed.
    """
    with report_errors():
        try:
            cameras = load_cameras({}, file)
        except SettingsError as error:
            fail_with([SettingsError(part) for part in error.parts] or [error])
        from camapp.app import check

        found = check(cameras)
        if found.faults:
            fail_with(found.faults)
        print(f"{file}: good; {found.summary}")


@command("doctor", "camapp doctor", "camapp doctor --try --source webcam")
@partial(with_settings, only=_FOR_TRIALS)
def doctor(
    reread: partial[Settings],
    trying: Annotated[bool, _switch("--try", "also use each part: camera, models, workers, window")] = False,
    seconds: Annotated[
        float, typer.Option(metavar="S", min=0.5, max=600, help="duration of the trials of --try")
    ] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Check this machine and print a remedy for each fault.

    Ends with exit code 1 if something does not work. With --try the report is a table to paste into an issue, without
    names and passwords, and the settings choose what to try.
    """
    from camapp.commands.doctor import run_doctor

    given, _ = reread.args
    if not trying and (misplaced := given.keys() - {"debug"}):
        raise SettingsError(f"--{min(misplaced).replace('_', '-')} has an effect only with --try", usage=True)
    if not run_doctor(as_json, reread() if trying else None, seconds):
        raise SystemExit(1)


@command("fleet", "camapp fleet --broker mqtt://broker", "camapp fleet --broker mqtts://me@broker --once")
def fleet(
    broker: Annotated[
        str,
        typer.Option(metavar="URI", envvar="CAMAPP_MQTT", help="mqtt://USER@HOST:PORT/PREFIX, mqtts:// for TLS"),
    ],
    mqtt_ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CA certificate (PEM) to verify the broker")
    ] = None,
    mqtt_password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="file with the password (or: CAMAPP_MQTT_PASSWORD)")
    ] = None,
    once: Annotated[bool, _switch("--once", "print one table, and end")] = False,
    as_json: Annotated[bool, _switch("--json", "print JSON, and end")] = False,
) -> None:
    """Show all devices that publish to an MQTT broker."""
    from camapp.commands.fleet import run_fleet

    with report_errors():
        run_fleet(broker, mqtt_password_file, mqtt_ca, once, as_json)


@command(
    "install-service",
    "camapp install-service --dry-run",
    "camapp install-service --web :8080 --model digits",
    "camapp install-service --kiosk",
)
@with_settings
def install_service(
    settings: Settings,
    headless: Annotated[bool, _switch("--headless", "write predictions to a log (default)")] = False,
    kiosk: Annotated[bool, _switch("--kiosk", "show the preview on a screen without a desktop")] = False,
    desktop: Annotated[bool, _switch("--desktop", "open a window when the desktop starts")] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Start camapp at boot under systemd.

    The settings given here are stored in /etc/camapp/config.toml, unless that file exists.
    """
    from camapp.commands.install import Installer, ServiceKind, install

    if headless + kiosk + desktop > 1:
        raise SettingsError("choose one of --headless, --kiosk and --desktop", usage=True)
    kind = ServiceKind.KIOSK if kiosk else ServiceKind.DESKTOP if desktop else ServiceKind.HEADLESS
    install(Installer(kind, settings), dry_run)


@command("uninstall-service", "camapp uninstall-service --dry-run", "camapp uninstall-service --keep-data")
def uninstall_service(
    keep_data: Annotated[bool, _switch("--keep-data", "keep the settings, the log and snapshots")] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Remove the service, its settings and its logs."""
    from camapp.commands.install import Installer, uninstall

    with report_errors():
        uninstall(Installer(), dry_run, keep_data)


def normalised(arguments: list[str]) -> list[str]:
    """Return the command line in the form that the parser takes.

    `camapp`, `camapp video.mp4` and `camapp --source X` become `camapp run ...`, former spellings the present ones, and
    flags that may stand without a value, such as `--web`, get their value.
    """
    if not arguments or _is_for_run(arguments[0]):
        arguments = ["run", *arguments]
    arguments = [*_COMMAND_ALIASES.get(arguments[0], arguments[:1]), *arguments[1:]]
    parts = [argument.partition("=") for argument in arguments]
    arguments = [_OPTION_ALIASES.get(name, name) + sign + value for name, sign, value in parts]
    bare = {f"--{item.name.replace('_', '-')}": item.metadata["bare"] for item in fields(Settings)}
    following = [*arguments[1:], "-"]
    return [
        f"{argument}={bare[argument]}" if bare.get(argument) and after.startswith("-") else argument
        for argument, after in zip(arguments, following, strict=True)
    ]


def _is_for_run(word: str) -> bool:
    """Return whether the first word is an option or a source, and no command.

    Raises:
        SystemExit: it is none of them.
    """
    if word.startswith("-"):
        return word not in ("-h", "--help", "--version")
    commands = [str(item.name) for items in (app.registered_commands, app.registered_groups) for item in items]
    if word in (*commands, *_COMMAND_ALIASES):
        return False
    sources = ("auto", "webcam", "picamera")
    if word in sources or not re.fullmatch("[a-z][a-z-]*", word) or os.path.exists(word):
        return True
    close = get_close_matches(word, [*commands, *sources], n=1)
    hint = f"did you mean '{close[0]}'?" if close else "'camapp --help' lists the commands"
    fail(f"'{word}' is no command, and no file or camera; {hint}", ExitCode.USAGE)


def main() -> None:
    """Run the program."""
    # Some supervisors start a program with closed descriptors.
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    arguments = normalised(sys.argv[1:])
    try:
        app(args=arguments, prog_name=program())
    except SystemExit as end:
        _let_go_of_lost_streams()
        exit_process(end.code)
    except OSError as error:
        # The reader of stdout has left, or the terminal.
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        _let_go_of_lost_streams()
        raise SystemExit(int(ExitCode.OK)) from None


def _let_go_of_lost_streams() -> None:
    """Replace streams that cannot be written any more: Python's last flush would change the exit code to 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (AttributeError, ValueError):
            # It was closed from the start, or is closed by now.
            continue
