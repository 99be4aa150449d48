"""The commands, each a few lines that call one room. Heavy imports wait until a command runs."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Collection
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional, get_args

import typer

from camapp import __version__
from camapp.core.errors import CamappError, ExitCode, SettingsError
from camapp.core.settings import Settings, load_cameras, load_settings, to_toml, type_of
from camapp.system.systemd import JournalFormatter, is_journal

app = typer.Typer(
    name="camapp",
    help="Real-time camera vision for the Raspberry Pi: a camera, a CNN in pure NumPy, and what it saw.",
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Settings that matter to images that have nothing to do with one another.
_FOR_STILLS = (
    *("model", "net", "task", "labels", "mean", "std", "fit", "roi", "threshold_low", "top"),
    *("workers", "threads", "debug"),
)

# Settings that say what a selftest is to try.
_FOR_TRYING = (
    *("source", "size", "fps", "rotate", "hflip", "vflip", "camera_control", "model", "fit", "roi"),
    *("camera_height", "camera_pitch", "camera_hfov", "workers", "threads", "target_fps", "debug"),
)

ConfigOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads the annotation at run time
    typer.Option(
        "--config", metavar="FILE", envvar="CAMAPP_CONFIG", readable=False, help="settings as TOML; flags outrank it"
    ),
]


def with_settings(command: Callable[..., None], only: Collection[str] = ()) -> Callable[..., None]:
    """Give a command one flag for each field of Settings; it receives the merged and checked Settings first.

    Args:
        command: takes Settings, or as `cameras` a list of them, one a camera; then options of its own. One with a
            parameter `reread` also gets a call that merges and checks them anew.
        only: names of the fields that matter to it; all if not given.
    """
    parameters = inspect.signature(command, eval_str=True).parameters
    load: Callable[..., Any] = load_cameras if "cameras" in parameters else load_settings
    own = [parameter for name, parameter in parameters.items() if name not in ("settings", "cameras", "reread")]
    flags = [
        inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_flag(item))
        for item in fields(Settings)
        if not only or item.name in only
    ]
    config = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=ConfigOption)

    def wrapper(config: Path | None = None, **values: Any) -> None:
        mine = {parameter.name: values.pop(parameter.name) for parameter in own}
        given = {name: value for name, value in values.items() if value is not None and value != []}
        if "reread" in parameters:
            mine["reread"] = partial(load, given, config)
        with report_errors(bool(given.get("debug"))):
            settings = load(given, config)
            debug = (settings[0] if "cameras" in parameters else settings).debug
            _set_up_logging(debug)
            with report_errors(debug):
                command(settings, **mine)

    options = [*(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own), *flags, config]
    wrapper.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in options}
    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    return wrapper


def _flag(item: Any) -> Any:
    """The typer option of one setting; values stay text here, `load_settings` checks them all in one place."""
    kind = type_of(item.name)
    names = [f"--{item.name.replace('_', '-')}"]
    is_flag = kind is bool or bool in get_args(kind)
    if is_flag:
        names = [f"{names[0]}/--no-{item.name.replace('_', '-')}"]
    shown = "" if item.default in (None, (), False) else f" (default: {_shown(item.default)})"
    value: Any = bool if is_flag else list[str] if item.name == "camera_control" else str
    return Annotated[
        Optional[value],  # noqa: UP045
        typer.Option(
            *names,
            help=item.metadata["help"] + shown,
            metavar=None if is_flag else item.metadata["metavar"],
            rich_help_panel=item.metadata["panel"],
            show_default=False,
        ),
    ]


def _shown(value: object) -> str:
    return "on" if value is True else str(value)


class report_errors:
    """Turn an error into one line and an exit code; `debug` shows the traceback before it."""

    def __init__(self, debug: bool = False) -> None:
        self.debug = debug

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, SystemExit | typer.Exit | KeyboardInterrupt):
            return
        if self.debug:
            traceback.print_exception(error)
        code = code_of(error)
        if code is None:
            fail(f"internal error: {type(error).__name__}: {error} (--debug shows where)", ExitCode.INTERNAL)
        if isinstance(error, PermissionError):
            fail(f"no permission for '{error.filename}': change its owner or mode, or run as another user", code)
        fail(str(error), code)


def code_of(error: BaseException) -> ExitCode | None:
    """The exit code of an error that a user can cause, None for any other."""
    if isinstance(error, PermissionError) or isinstance(error.__cause__, PermissionError):
        return ExitCode.DENIED
    if isinstance(error, CamappError):
        return error.code
    from engine.graph import ModelError  # loaded already if one was raised

    return ExitCode.CONFIG if isinstance(error, ModelError) else None


def fail(message: str, code: ExitCode) -> NoReturn:
    """Say what is wrong in one line and end."""
    print(f"camapp: {message}", file=sys.stderr)
    raise SystemExit(int(code))


def _set_up_logging(debug: bool) -> None:
    # Others' chatter (picamera2 logs every job) is kept one level quieter than ours.
    logging.getLogger("camapp").setLevel(logging.DEBUG if debug else logging.INFO)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JournalFormatter()
        if is_journal(sys.stderr.fileno())
        # On a terminal a status line may stand there already: it is wiped first, and drawn again soon after.
        else logging.Formatter(
            ("\r\x1b[2K" if sys.stderr.isatty() else "") + "%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"
        )
    )
    logging.basicConfig(level=logging.INFO if debug else logging.WARNING, handlers=[handler], force=True)


@app.callback(invoke_without_command=True)
def default(version: Annotated[bool, typer.Option("--version", help="show the version and end")] = False) -> None:
    """Without a command: run."""
    if version:
        print(__version__)


@app.command("run")
@with_settings
def run(
    cameras: list[Settings],
    reread: Callable[[], list[Settings]],
    print_config: Annotated[
        bool, typer.Option("--print-config", help="print the settings as TOML and end", show_default=False)
    ] = False,
) -> None:
    """Watch a source with a model, live: preview, predictions, log."""
    if print_config:
        if len(cameras) > 1:
            raise SettingsError("--print-config prints one camera's settings, and --config has several", usage=True)
        print(to_toml(cameras[0]), end="")
        return
    from camapp.app import run as run_program

    for summary in run_program(cameras, reread):
        if summary.code is not ExitCode.OK:
            if cameras[0].debug and summary.error is not None:
                traceback.print_exception(summary.error)
            fail(summary.reason, summary.code)


@app.command("bench")
@with_settings
def bench(
    settings: Settings,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", min=0.5, max=86400, help="how long to measure")
    ] = 10.0,
    draw: Annotated[bool, typer.Option("--draw", help="draw the preview too, without showing it")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure a source and model: rates, drops, latency per stage, CPU and memory. Output options are left out."""
    from camapp.commands.bench import run_bench

    run_bench(settings, seconds, draw, as_json)


@app.command("profile")
def profile(
    file: Annotated[str, typer.Argument(metavar="FILE", help="a model file, or the name of one that ships")],
    net: Annotated[Optional[str], typer.Option(metavar="NAME", help="of the net, without a card")] = None,  # noqa: UP045
    batch: Annotated[int, typer.Option(min=1, max=1024, metavar="N", help="items a run")] = 1,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, metavar="N", help="runs to take the median of")] = 20,
    threads: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="BLAS threads")] = 1,
    kernel: Annotated[
        str, typer.Option(metavar="LAYER=KERNEL", help="pin a layer's or an operator's; commas between")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    chart: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--chart", metavar="FILE", help="draw the layers into a .svg or .png"),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="show where errors come from")] = False,
) -> None:
    """Where a model's time goes, layer by layer; and an estimate of what Raspberry Pis would make of it."""
    from camapp.system.process import blas_threads

    os.environ.update(blas_threads(threads))  # NumPy is not imported yet; later it would be too late
    if kernel:
        os.environ["ENGINE_KERNELS"] = kernel
    with report_errors(debug):
        from camapp.commands.profile import ProfileOptions, run_profile

        run_profile(file, ProfileOptions(net, batch, rounds, as_json, chart))


@app.command("classify")
@partial(with_settings, only=_FOR_STILLS)
def classify(
    settings: Settings,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="images, folders with all below, globs")],
    csv: Annotated[Optional[Path], typer.Option("--csv", metavar="FILE", help="write a line an image as CSV")] = None,  # noqa: UP045
    jsonl: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--jsonl", metavar="FILE", help="write a JSON object an image, - for stdout"),
    ] = None,
    truth: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="true labels: name (12_7.png), folder, none, or auto: either, where the model knows the label",
        ),
    ] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="go on with files that an earlier run left")] = False,
    batch: Annotated[
        int, typer.Option(min=0, max=1024, metavar="N", help="images run at once by a worker; 0 suits the model")
    ] = 0,
    executor: Annotated[str, typer.Option(metavar="KIND", help="local, or dask for a cluster")] = "local",
    scheduler: Annotated[str, typer.Option(metavar="ADDRESS", help="the cluster's, such as tcp://pi:8786")] = "",
) -> None:
    """Classify images and folders as fast as the machine can."""
    from camapp.commands.classify.command import BatchOptions, run_classify
    from camapp.commands.classify.files import Target
    from camapp.commands.classify.formats import TRUTHS

    if truth not in TRUTHS:
        fail(f"--truth {truth} is not one of {', '.join(TRUTHS)}", ExitCode.USAGE)
    if executor not in ("local", "dask") or (executor == "dask") != bool(scheduler):
        fail("--executor is local, or dask with --scheduler ADDRESS", ExitCode.USAGE)
    targets = [Target(csv, "csv")] if csv else []
    if jsonl is not None:
        targets.append(Target(None if jsonl == "-" else Path(jsonl), "jsonl"))
    code, message = run_classify(settings, paths, BatchOptions(targets, resume, truth, batch, scheduler))
    if code is not ExitCode.OK:
        fail(message, code)


@app.command("collect")
@with_settings
def collect(
    settings: Settings,
    label: Annotated[str, typer.Option("--label", metavar="NAME", help="what the images show")],
    into: Annotated[Path, typer.Option("--into", metavar="FOLDER", help="folder of all labels")] = Path("collected"),
    every: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option("--every", min=0.01, metavar="S", help="save one in so many seconds; without it: the space bar"),
    ] = None,
    count: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--count", min=1, metavar="N", help="end after so many"),
    ] = None,
) -> None:
    """Store labelled images from a source, to teach the app with."""
    from camapp.commands.collect import CollectOptions, run_collect

    code, message = run_collect(settings, CollectOptions(label, into, every, count))
    if code is not ExitCode.OK:
        fail(message, code)


@app.command("calibrate-track")
def calibrate_track(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", readable=False, help="taken by the camera as it sits")],
    point: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="X,Y=RIGHT,AHEAD", help="a ground point: pixel and metres, four times or more"),
    ] = None,
    rectangle: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="WxD", help="instead: metres across and ahead of a rectangle whose corners you click"),
    ] = None,
    chessboard: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="CxR", help="instead: inner corners of a chessboard on the ground, such as 9x6"),
    ] = None,
    square: Annotated[float, typer.Option(min=0.001, metavar="METRES", help="side of one of its fields")] = 0.025,
    bend: Annotated[float, typer.Option(min=0, max=89, metavar="DEGREES", help="as --camera-distortion")] = 0.0,
    into: Annotated[Path, typer.Option(metavar="FILE", help="settings file to keep it in, for --config")] = Path(
        "camera.toml"
    ),
) -> None:
    """Find out how the camera sits over the ground, so that offsets come in metres."""
    from camapp.commands.calibrate_track import run_calibration

    with report_errors():
        print(run_calibration(image, point or [], chessboard, square, bend, into, rectangle))


@app.command("film")
def film(
    source: Annotated[str, typer.Argument(metavar="SCENE", help="such as 'pattern://track?seed=1&size=640x480'")],
    into: Annotated[Path, typer.Argument(metavar="FILM", help="the video to write, .mp4 or .avi")],
    seconds: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.01, max=3600, metavar="S", help="how long (default: a lap of a track, else ten)"),
    ] = None,
) -> None:
    """Film a generated scene, with the truth of each image in a .truth.jsonl beside it."""
    from camapp.commands.render import run_render

    with report_errors():
        print(run_render(source, into, seconds))


@app.command("sources")
def sources(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List what can be watched here."""
    from camapp.commands.list import print_sources

    with report_errors():
        print_sources(as_json)


@app.command("models")
def models(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the models that ship."""
    from camapp.commands.list import print_models

    with report_errors():
        print_models(as_json)


@app.command("check-config")
def check_config(file: Annotated[Path, typer.Argument(metavar="FILE", readable=False, help="a TOML file")]) -> None:
    """Check a configuration file and all it names, without starting anything."""
    with report_errors():
        cameras = load_cameras({}, file)
        from camapp.app import check

        print(f"{file}: good; {check(cameras)}")


@app.command("doctor")
def doctor(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Look this machine over: what is well, what is not and how to mend it. Ends with 1 if something will not work."""
    from camapp.commands.doctor import CheckStatus, examine, print_report

    with report_errors():
        findings = examine()
        print_report(findings, as_json)
        if any(finding.verdict is CheckStatus.FAIL for finding in findings):
            raise SystemExit(1)


@app.command("selftest")
@partial(with_settings, only=_FOR_TRYING)
def selftest(
    settings: Settings,
    seconds: Annotated[
        float,
        typer.Option("--seconds", metavar="S", min=0.5, max=600, help="how long to try the camera, and a whole run"),
    ] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Try all of this machine and print a report to paste into an issue. Ends with 1 if something fails."""
    from camapp.commands.selftest import run_selftest

    if not run_selftest(settings, seconds, as_json):
        raise SystemExit(1)


@app.command("fleet")
def fleet(
    broker: Annotated[
        str,
        typer.Option(
            "--broker", metavar="URI", envvar="CAMAPP_MQTT", help="mqtt://[USER@]HOST[:PORT][/PREFIX], mqtts://"
        ),
    ],
    mqtt_ca: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--mqtt-ca", metavar="FILE", help="certificate of who signed the broker's"),
    ] = None,
    mqtt_password_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--mqtt-password-file", metavar="FILE", help="the broker's password (or: CAMAPP_MQTT_PASSWORD)"),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="print one table and end")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON and end")] = False,
) -> None:
    """Watch all devices that run with --mqtt on a broker."""
    from camapp.commands.fleet import run_fleet

    with report_errors():
        run_fleet(broker, mqtt_password_file, mqtt_ca, once, as_json)


@app.command("install-service")
@with_settings
def install_service(
    settings: Settings,
    headless: Annotated[bool, typer.Option("--headless", help="predictions go to a log (the default)")] = False,
    kiosk: Annotated[bool, typer.Option("--kiosk", help="on the screen of a machine without a desktop")] = False,
    desktop: Annotated[bool, typer.Option("--desktop", help="in a window, when the desktop starts")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done")] = False,
) -> None:
    """Start on boot under systemd, with the settings given here (kept in /etc/camapp/config.toml)."""
    from camapp.commands.install import Installer, ServiceKind, install

    if headless + kiosk + desktop > 1:
        raise SettingsError("choose one of --headless, --kiosk and --desktop", usage=True)
    kind = ServiceKind.KIOSK if kiosk else ServiceKind.DESKTOP if desktop else ServiceKind.HEADLESS
    install(Installer(kind, settings), dry_run)


@app.command("uninstall-service")
def uninstall_service(
    keep_data: Annotated[bool, typer.Option("--keep-data", help="leave the settings, the log and snapshots")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done")] = False,
) -> None:
    """Take the service away again, with its settings and logs."""
    from camapp.commands.install import Installer, uninstall

    with report_errors():
        uninstall(Installer(), dry_run, keep_data)


def _end_for_sure(end: SystemExit) -> None:
    """End at once if a call into a driver hangs: libcamera's would hold up Python's own way out for ever."""
    bounded = sys.modules.get("camapp.core.timeouts")
    if bounded is not None and (names := bounded.left_behind()):
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
        logging.getLogger(__name__).warning("ending although %s hangs", ", ".join(names))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _with_bare_flags(arguments: list[str]) -> list[str]:
    """`--web` without a value, which the parser of the command line has no word for, with its value."""
    bare = {f"--{item.name.replace('_', '-')}": item.metadata["bare"] for item in fields(Settings)}
    following = [*arguments[1:], "-"]
    return [
        f"{argument}={bare[argument]}" if bare.get(argument) and after.startswith("-") else argument
        for argument, after in zip(arguments, following, strict=True)
    ]


def main() -> None:
    """The program."""
    # Started with closed descriptors, as some supervisors do: words need somewhere to go.
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    # `camapp` means `camapp run`, and `camapp --source X` means `camapp run --source X`.
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version")):
        arguments = ["run", *arguments]
    try:
        app(args=_with_bare_flags(arguments), prog_name="camapp")
    except SystemExit as end:
        _end_for_sure(end)
        raise
    except BrokenPipeError:
        # Whoever read our words has left; nothing more can be said, and Python's own last flush must not try.
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(int(ExitCode.OK)) from None
