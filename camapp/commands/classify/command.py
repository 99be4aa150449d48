"""`camapp classify` labels images and folders at full speed of the machine, and reports the accuracy."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from camapp.capture.images import walk_images
from camapp.capture.source import IMAGE_SUFFIXES
from camapp.commands.classify.files import Results, Tally, Target
from camapp.commands.classify.formats import shown
from camapp.commands.classify.job import FilesJob, FilesOptions, ReadItem, to_message
from camapp.commands.classify.report import confusion_of, print_report
from camapp.commands.cluster import classify_on_cluster
from camapp.core.errors import ExitCode, PermanentSourceError, SinkError
from camapp.core.events import counts_text
from camapp.core.models import load_model
from camapp.core.settings import Settings
from camapp.core.truth import TruthRule
from camapp.sinks.drawn import make_folder
from camapp.system.process import limit_blas
from camapp.system.systemd import on_stop_signals
from camapp.tasks.task import TaskOptions, task_for
from camapp.workers.ordered import OrderedRun, Work
from camapp.workers.pool import Outcome, OwnJob
from camapp.workers.protocol import MESSAGE_BYTES
from engine.model import Model

# The batch of a worker is as large as fits into this size of the plan's buffers, up to this number of images.
_PLAN_BYTES, _MAX_BATCH = 8 << 20, 64
# Seconds after which a batch counts as hung: the slowest card in the slowest Pi reads 64 photos in less.
_STUCK_AFTER = 120.0
# A worker gets files for about this many seconds at a time, up to this number of batches.
_STRIDE_SECONDS, _MAX_BATCHES = 0.03, 8
# Unreadable files that the report lists.
_BAD_SHOWN = 20
# Labels of the report on a single image.
_TOP_OF_ONE = 5
# Truths without a label that the report names.
_STRAYS_SHOWN = 5
_MAKE = "camapp.commands.classify.job:make"


def run_classify(
    settings: Settings,
    paths: Sequence[Path],
    targets: Sequence[Target] = (),
    resume: bool = False,
    truth: str = "auto",
    batch: int = 0,
    scheduler: str = "",
) -> tuple[ExitCode, str]:
    """Classify all images of the paths; return the exit code and its reason.

    Args:
        truth: source of true labels, see `camapp.core.truth.TruthRule`.
        batch: images that a plan runs at once; 0 = automatic.
        scheduler: address of a Dask cluster to run on; "" runs in processes of this machine.
    """
    # For the whole process: it plans for workers, which have as many.
    limit_blas(settings.threads)
    model = load_model(settings)
    # Raises here for errors that would occur in every worker.
    task_for(settings, model.card)
    drawn = _drawn_folder(settings.drawn, paths, scheduler)
    if len(paths) == 1 and paths[0].is_file() and not targets:
        return _classify_one(settings, model, paths[0], truth)
    total = _count(paths)
    stopping = threading.Event()
    on_stop_signals(lambda name: stopping.set())
    targets = targets or [Target(None, "text")]
    name = Path(settings.model).name
    batch = batch or suitable_batch(model)
    formats = tuple(target.format for target in targets)
    files = FilesOptions(_still(settings), batch, truth, formats, name, drawn, tuple(map(str, paths)))
    results = Results(targets, name, resume)
    done, tally = results.open()
    before, began = tally.files, time.monotonic()
    strays = _Strays(model.card.labels, truth, numbers=model.card.task == "digits")
    left = (file for file in strays.watch(_walk(paths)) if shown(file) not in done)
    if scheduler:
        groups = grouped(left, lambda: batch)
        reads = classify_on_cluster(model, files, groups, scheduler, _STUCK_AFTER, stopping.is_set)
    else:
        workers = settings.workers or len(os.sched_getaffinity(0))
        reads = classify_files(model, files, left, workers, settings.threads, stopping.is_set)
    try:
        with _progress(total, before, shows=_has_bar(targets)) as advance:
            for read in reads:
                results.write(read.lines)
                tally.files += read.files
                tally.bad += len(read.bad)
                tally.first_bad += read.bad[: _BAD_SHOWN - len(tally.first_bad)]
                tally.predicted.update(read.predicted)
                advance(read.files)
    except BrokenPipeError:
        # The reader of stdout, such as `head`, has ended.
        stopping.set()
    finally:
        results.close()
    _report(tally, total, tally.files - before, time.monotonic() - began)
    if said := strays.summary(bool(tally.predicted)):
        Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(said)
    if stopping.is_set():
        return ExitCode.INTERRUPTED, f"interrupted: {tally.files} of {total} images are done; --resume continues"
    if tally.bad == tally.files:
        return ExitCode.SOURCE_GONE, "none of the images could be read"
    return ExitCode.OK, ""


def classify_files(
    model: Model,
    options: FilesOptions,
    files: Iterable[str],
    workers: int,
    threads: int = 1,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[ReadItem]:
    """Read and classify files in worker processes; yield the results of some files at a time, in order.

    A file whose worker dies repeatedly is listed as bad.

    Raises:
        PoolError: the workers do not start or stay alive.
    """
    stride = Stride(options.batch)

    def read(files: list[str], outcome: Outcome) -> ReadItem:
        stride.learn(len(files), (outcome.infer_end - outcome.infer_start) / 1e9)
        return ReadItem.from_bytes(outcome.reply)

    work: Work[list[str], ReadItem] = Work(
        write=lambda files, slot: (len(files), to_message(files)),
        read=read,
        give_up=lambda files, error: ReadItem.given_up(files, f"the process that read it failed: {error}", options),
        split=lambda files: [[file] for file in files],
    )
    own_job = OwnJob(_MAKE, asdict(options), _STUCK_AFTER)
    yield from OrderedRun(model, work, 1, workers, threads, own_job).results(grouped(files, stride.files), stop)


class Stride:
    """Adapts the number of files that a worker gets at a time: more if they are quick, since each message has a cost.

    With 64 tiny images at a time, on a busy machine, a worker waits for the next as long as it works on them.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._files = batch

    def files(self) -> int:
        """Return the present number of files, a multiple of the batch."""
        return self._files

    def learn(self, files: int, seconds: float) -> None:
        """Adapt to the seconds that a number of files took."""
        batches = int(min(files * _STRIDE_SECONDS / max(seconds, 1e-6), 2 * files) / self._batch)
        self._files = self._batch * min(max(batches, 1), _MAX_BATCHES)


class _Strays:
    """Counts the images whose truth is no label of the model, and keeps the first of these truths.

    By kind: a word in the name; a number in it, as of any photo; or a folder, as of any photo.
    """

    def __init__(self, labels: Sequence[str], truth: str, numbers: bool) -> None:
        self._rule, self._folder_rule = TruthRule(labels, truth, numbers), TruthRule(labels, "folder")
        self._is_auto = truth == "auto"
        self._has_folders = False
        self._counts = {"word": 0, "number": 0, "folder": 0}
        self._first: dict[str, dict[str, None]] = {kind: {} for kind in self._counts}

    def watch(self, files: Iterable[str]) -> Iterator[str]:
        """Pass on the files."""
        for file in files:
            if text := self._rule.stray(file):
                in_name = "_" in file.rpartition("/")[2]
                kind = "folder" if not in_name else "number" if text.isdigit() else "word"
                self._counts[kind] += 1
                if len(self._first[kind]) <= _STRAYS_SHOWN:
                    self._first[kind][text] = None
            elif not self._has_folders:
                self._has_folders = not self._folder_rule.stray(file)
            yield file

    def summary(self, some_known: bool) -> str:
        """Return a line about them, "" if there is nothing to say; `some_known` if other images have a truth."""
        counts = {"word": True, "number": some_known, "folder": self._has_folders}
        kinds = [kind for kind, is_meant in counts.items() if is_meant or not self._is_auto]
        count, first = sum(self._counts[kind] for kind in kinds), [text for kind in kinds for text in self._first[kind]]
        if not count:
            return ""
        names = ", ".join(f"'{shown(text)}'" for text in first[:_STRAYS_SHOWN])
        more = ", ..." if len(first) > _STRAYS_SHOWN else ""
        effect = "not counted above" if self._is_auto else "counted as wrong"
        images = "1 image" if count == 1 else f"{count} images"
        return f"the true label of {images} is no label of the model ({names}{more}): {effect}"


def grouped(files: Iterable[str], size: Callable[[], int]) -> Iterator[list[str]]:
    """Yield lists of `size()` files, or fewer if their names would not fit into a message."""
    group: list[str] = []
    used = 0
    for file in files:
        length = (1 if file.isascii() else 4) * len(file) + 1
        if group and (len(group) >= size() or used + length > MESSAGE_BYTES):
            yield group
            group, used = [], 0
        group.append(file)
        used += length
    if group:
        yield group


def _classify_one(settings: Settings, model: Model, path: Path, truth: str) -> tuple[ExitCode, str]:
    """Classify one image in this process, and print its labels."""
    task = replace(_still(settings), top=max(_TOP_OF_ONE, settings.top))
    job = FilesJob(model, FilesOptions(task, 1, truth, (), Path(settings.model).name, str(settings.drawn or "")))
    (row,) = job.rows([str(path)])
    if row.prediction is None:
        return ExitCode.SOURCE_GONE, f"cannot read {path}: {row.error}"
    found = row.prediction
    console = Console(highlight=False, markup=False, soft_wrap=True)
    what = counts_text(found.counts) or found.label or ("unknown" if found.top else "nothing found")
    console.print(f"{row.file} ({row.size[0]}x{row.size[1]}): {what}")
    for label, score in found.top if not found.boxes else ():
        console.print(f"  {score:6.1%}  {label}")
    for box in found.boxes:
        place = f"  at {box.x0:.0f},{box.y0:.0f} to {box.x1:.0f},{box.y1:.0f}" if found.counts else ""
        console.print(f"  {box.score:6.1%}  {box.label}{place}")
    if row.truth:
        console.print(f"  it is {row.truth}: {'right' if row.truth == found.label else 'wrong'}")
    return ExitCode.OK, ""


def _drawn_folder(drawn: Path | None, paths: Sequence[Path], scheduler: str) -> str:
    """Return the folder for drawn pictures as text, "" for none. Raises SinkError if it cannot be used."""
    if drawn is None:
        return ""
    if scheduler:
        raise SinkError("--drawn is for this machine: the pictures of a cluster would lie on its machines")
    if any(path.is_dir() and drawn.resolve().is_relative_to(path.resolve()) for path in paths):
        raise SinkError(f"--drawn {drawn} lies in the folder that is read: name another")
    make_folder(drawn)
    return str(drawn)


def _still(settings: Settings) -> TaskOptions:
    return replace(TaskOptions.of(settings), smoothing=0.0)


def suitable_batch(model: Model) -> int:
    """Return the batch size of a worker: as many images as its share of the memory holds, up to 64."""
    plan = model.plan((1, *model.card.input_shape))
    each = plan.arena_bytes + sum(array.nbytes for array in plan.inputs)
    return max(1, min(_MAX_BATCH, _PLAN_BYTES // each))


def _walk(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        yield from walk_images(path)


def _count(paths: Iterable[Path]) -> int:
    """Return the number of images, without keeping their names."""
    total = 0
    for path in paths:
        found = sum(1 for _ in walk_images(path, in_order=False))
        if not found:
            raise PermanentSourceError(f"no images at {path}; they end in {', '.join(sorted(IMAGE_SUFFIXES))}")
        total += found
    return total


def _has_bar(targets: Sequence[Target]) -> bool:
    """Return whether to draw a progress bar: not between lines on the same terminal."""
    mixed = sys.stdout.isatty() and any(target.path is None for target in targets)
    return sys.stderr.isatty() and not mixed


@contextmanager
def _progress(total: int, done: int, shows: bool) -> Iterator[Callable[[int], None]]:
    """Draw a bar with images/s and the time left; yield a function that takes the number of further images done."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=4, transient=True, disable=not shows)
    with bar:
        task = bar.add_task("", total=total, completed=done, rate="")
        began, count = time.monotonic(), 0

        def advance(files: int) -> None:
            nonlocal count
            count += files
            bar.update(task, advance=files, rate=f"{count / (time.monotonic() - began):.0f} images/s")

        yield advance


def _report(tally: Tally, total: int, now: int, seconds: float) -> None:
    console = Console(stderr=True, highlight=False)
    earlier = f", {tally.files - now} of them earlier" if tally.files > now else ""
    rate = f": {now} in {seconds:.1f} s, {now / seconds:.0f} images/s" if now else ""
    console.print(f"{tally.files} of {total} images done{earlier}{rate}")
    if tally.bad:
        console.print(f"{tally.bad} could not be read:")
        for file, reason in tally.first_bad:
            console.print(f"  {file}: {reason}", markup=False, soft_wrap=True)
        if tally.bad > len(tally.first_bad) > 0:
            console.print(f"  and {tally.bad - len(tally.first_bad)} more")
    if tally.predicted:
        print_report(console, *confusion_of(tally.predicted))
