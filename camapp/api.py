"""The Python API: `load` a model and predict single images, or `watch` a source in the background."""

from __future__ import annotations

import logging
import math
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from camapp import app
from camapp.capture.images import decode_image, find_images, read_image
from camapp.capture.source import EndOfStream, Source, SourceOptions
from camapp.core.errors import CamappError, ExitCode, PermanentSourceError, SettingsError, SourceDenied, SourceLost
from camapp.core.events import Event, Trigger
from camapp.core.frames import Frame, Shot, Trace
from camapp.core.image import Image, Layout, silence_opencv
from camapp.core.models import BadModel, bad_models, load_model, run_items
from camapp.core.predictions import Box, KeyPoint, LineState, Polyline, Prediction, ZoneState
from camapp.core.settings import Settings, load_settings
from camapp.core.status import Status
from camapp.core.timeouts import register_stuck
from camapp.overlay.overlay import Overlay
from camapp.pipeline.inference import Result
from camapp.pipeline.multi_camera import MultiCamera
from camapp.pipeline.pipeline import Summary
from camapp.remote.interfaces import RemoteInterface, build_interfaces
from camapp.sinks.sink import ImageSink, PredictionSink, Sink
from camapp.tasks.task import Prepared, Task, TaskOptions, task_for
from engine.model import Model as EngineModel
from engine.model_card import ModelCard

# The names of `camapp`, which imports this module late.
__all__ = [
    "BadModel", "Box", "CamappError", "EndOfStream", "Event", "Frame", "Image", "ImageSink", "KeyPoint", "Layout",
    "LineState", "Model", "Polyline", "Prediction", "PredictionSink", "Prepared", "Result", "Shot", "Source",
    "SourceLost", "SourceOptions", "Task", "TaskOptions", "Trace", "Trigger", "Watch", "ZoneState", "draw", "load",
    "watch",
]  # fmt: skip

log = logging.getLogger(__name__)

FilePath: TypeAlias = str | os.PathLike[str]

# Limit of a stop in seconds: a pipeline's stages take at most 4 s in all, each sink 2 s, a video file 5 s.
_STOP_S = 15.0
# Step of the waits, in seconds.
_STEP = 0.5


def load(model: FilePath, *, task: str | type[Task] | None = None, **settings: Any) -> Model:
    """Load a model to predict single images.

    Args:
        model: name of a shipped model, or a model file.
        task: name of the task, or a subclass of Task; None takes the task that the model names.
        settings: options of `camapp classify`, such as `net="resnet50"` or `labels="imagenet.json"`.

    Raises:
        CamappError: the model or a setting cannot be used.

    Example:
        >>> camapp.load("digits").predict("12_7.png").label
        '7'
    """
    checked, own_task = _settings(task, {"model": model, **settings})
    engine_model = load_model(checked)
    silence_opencv()
    return Model(engine_model, task_for(checked, engine_model.card, own_task, smoothing=0.0), Path(checked.model).name)


def draw(
    image: FilePath | bytes | NDArray[np.uint8], prediction: Prediction, *, colour: Literal["RGB", "BGR"] = "RGB"
) -> NDArray[np.uint8]:
    """Draw a prediction on its image, as the preview does.

    Args:
        image: as for `Model.predict`.
        colour: order of the channels of an array, and of the result.

    Returns:
        A new array, uint8 (height, width, 3).

    Raises:
        CamappError: the image cannot be read.
    """
    canvas = _open_image(image, colour).bgr().copy()
    Overlay().draw(canvas, prediction, None, 0.0, False, exact=True)
    return canvas if colour == "BGR" else np.ascontiguousarray(canvas[..., ::-1])


def watch(
    source: FilePath | Source | type[Source] = "auto",
    *,
    model: FilePath = "digits",
    task: str | type[Task] | None = None,
    sinks: Sequence[Sink] = (),
    **settings: Any,
) -> Watch:
    """Start a run in the background and iterate over its results.

    A live source never waits for the loop: results that the loop is too slow for are skipped, and `Watch.skipped`
    counts them. A file waits for the loop: every frame is predicted, in order.

    The run opens a window only if `display` is given, and prints nothing to stdout unless `log="-"`. It installs no
    signal handlers. It sets OpenCV's number of threads to 1, since the workers use the other cores.

    Args:
        source: URI or path as for `camapp run --source`, or a Source of your own, or its class, which is created with
            the URI and the SourceOptions of the settings.
        model: name of a shipped model, or a model file.
        task: name of the task, or a subclass of Task; None takes the task that the model names.
        sinks: outputs of your own: instances of subclasses of PredictionSink or ImageSink.
        settings: options of `camapp run`, such as `size=(1280, 720)` or `log="predictions.jsonl"`.

    Returns:
        An iterator over Result(frame, trace, prediction), which is a context manager, too.

    Raises:
        CamappError: the model, the source, a sink or a setting cannot be used. Errors during the run, such as a source
            that is lost for good, are raised by the iteration.

    Example:
        >>> with camapp.watch("auto", model="track") as results:
        ...     for result in results:
        ...         print(result.prediction.values.get("offset_m"))
    """
    own_source = None if isinstance(source, str | os.PathLike) else source
    uri = source if own_source is None else own_source.uri or getattr(own_source, "__name__", type(own_source).__name__)
    checked, own_task = _settings(task, {"display": "none", "source": uri, "model": model, **settings})
    with bad_models():
        cameras = app.build_cameras([checked], source=own_source, task=own_task, drain_file_s=math.inf)
    try:
        (pipeline,) = cameras.pipelines
        results = _Results(pipeline.source.live)
        for sink in (*sinks, results):
            pipeline.add_sink(sink)
        app.add_preview(cameras, app.screen_for(checked))
        interfaces = build_interfaces([pipeline], lambda name: checked)
    except BaseException:
        cameras.discard()
        raise
    return Watch(_Run(cameras, interfaces, results))


class Model:
    """Predicts single images; made by `load`. Several threads may use it, one at a time.

    Args:
        model: of the engine.
        task: without filters over time.
        name: of the model, for the predictions.
    """

    def __init__(self, model: EngineModel, task: Task, name: str) -> None:
        self._model = model
        self._task = task
        self._name = name
        self._batch = np.zeros((task.max_items, *model.card.input_shape), np.float32)
        self._lock = threading.Lock()

    @property
    def card(self) -> ModelCard:
        """The net, task, input shape, labels, accuracy and licence of the model."""
        return self._model.card

    def predict(
        self, image: FilePath | bytes | NDArray[np.uint8], *, colour: Literal["RGB", "BGR"] = "RGB"
    ) -> Prediction:
        """Predict one image.

        Args:
            image: path of an image file; the content of one, as bytes; or an array, uint8 (height, width, 3), or
                (height, width) for grey.
            colour: order of the array's channels; OpenCV's is "BGR".

        Returns:
            The prediction. Its boxes and lines are in pixels of the image.

        Raises:
            CamappError: the image cannot be read, or the model cannot be run.
        """
        opened = _open_image(image, colour)
        frame = Frame.still(opened)
        with self._lock, bad_models():
            prepared = self._task.prepare(frame, self._batch)
            # Plans of a few sizes.
            size = self._model.only_batch or 1 << max(0, prepared.count - 1).bit_length()
            outputs = run_items(self._model, self._batch, prepared.count, size)
            (prediction,) = self._task.decode_stills([opened], outputs, [prepared])
        return replace(prediction, model=self._name)


class Watch(Iterator[Result]):
    """Iterates over the results of a run in the background; made by `watch`.

    The run stops, within its time limits, when the `with` block is left, when `close` is called, when the iterator is
    garbage, and when the interpreter exits.
    """

    def __init__(self, run: _Run) -> None:
        self._run = run
        run.start()
        # Also called at the exit of the interpreter. It must not refer to this object, or that would never be garbage.
        self._finalizer = weakref.finalize(self, run.discard)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Result:
        """Wait for the next result.

        Raises:
            StopIteration: the run has ended, or was closed.
            CamappError: the run has failed.
        """
        result = self._run.results.get()
        if result is not None:
            return result
        self.close()
        if error := self._run.take_error():
            raise error
        raise StopIteration

    @property
    def skipped(self) -> int:
        """Number of results of a live source for which the loop was too slow."""
        return self._run.results.skipped

    def status(self) -> Status:
        """Return the state, rates, latencies and frame counts of this moment."""
        return self._run.cameras.pipelines[0].status()

    def pause(self) -> None:
        """Hold the image and the predictions."""
        self._run.cameras.pipelines[0].pause()

    def resume(self) -> None:
        """Continue after `pause`."""
        self._run.cameras.pipelines[0].resume()

    def close(self) -> None:
        """Stop the run and wait for its end; harmless if it has ended."""
        self._finalizer.detach()
        self._run.stop()


class _Run:
    """Runs the cameras in a thread, and stops them from another."""

    def __init__(self, cameras: MultiCamera, interfaces: Sequence[RemoteInterface], results: _Results) -> None:
        self.cameras = cameras
        self.results = results
        self._interfaces = interfaces
        self._error: CamappError | None = None
        self._owner = threading.get_ident()
        self._thread = threading.Thread(target=self._work, name="camapp.watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the run and wait for its end."""
        self.results.close()
        self.cameras.request_stop("the iterator was closed")
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            log.warning("the run did not stop within %g s and is abandoned", _STOP_S)
            register_stuck(self._thread)

    def discard(self) -> None:
        """Stop the run. Wait only in a thread of the caller: garbage is collected in the run's own threads, too."""
        if threading.get_ident() == self._owner or threading.current_thread() is threading.main_thread():
            self.stop()
        else:
            self.results.close()
            self.cameras.request_stop("the iterator is garbage")

    def take_error(self) -> CamappError | None:
        """Return the error of the run once."""
        error, self._error = self._error, None
        return error

    def _work(self) -> None:
        try:
            (summary,) = app.run_cameras(self.cameras, self._interfaces, self._before_stop)
            self._error = _error_of(summary)
        except CamappError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - raised by the iteration
            self._error = CamappError(f"internal error: {type(error).__name__}: {error}")
            self._error.__cause__ = error
        finally:
            self.results.end()

    def _before_stop(self) -> None:
        """Release the run from a loop that takes no result, unless these are the last results of a file."""
        if self.cameras.pipelines[0].stopping:
            self.results.close()


class _Results(PredictionSink):
    """Hands the results of the run to the loop: the newest of a live source, every one of a file."""

    def __init__(self, live: bool) -> None:
        self.skipped = 0
        self._live = live
        self._changed = threading.Condition()
        self._result: Result | None = None
        self._closed = self._ended = False

    def accept(self, prediction: Prediction, frame: Frame, trace: Trace) -> None:
        """Keep the result; with a file, wait until the one before was taken."""
        with self._changed:
            if not self._live:
                while self._result is not None and not self._closed:
                    self._changed.wait(_STEP)
            if self._closed:
                return
            self.skipped += self._result is not None
            self._result = Result(frame, trace, prediction)
            self._changed.notify_all()

    def get(self) -> Result | None:
        """Wait for a result and take it; None if there will be none."""
        with self._changed:
            while self._result is None and not self._closed and not self._ended:
                self._changed.wait(_STEP)
            result, self._result = self._result, None
            self._changed.notify_all()
            return result

    def close(self) -> None:
        """Discard the results, the waiting ones included."""
        with self._changed:
            self._closed, self._result = True, None
            self._changed.notify_all()

    def end(self) -> None:
        """Note that no result will follow."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _settings(task: str | type[Task] | None, given: dict[str, Any]) -> tuple[Settings, type[Task] | None]:
    """Check keyword arguments as the command line checks its options; return them and the task's class, if given."""
    if isinstance(task, str):
        given["task"] = task
    # As the text that the command line would have, so that the same values are allowed and errors have the same line.
    texts = {
        name: str(value) if isinstance(value, int | float | os.PathLike) and not isinstance(value, bool) else value
        for name, value in given.items()
        if value is not None
    }
    return load_settings(texts, environment={}), None if isinstance(task, str) else task


def _open_image(image: FilePath | bytes | NDArray[np.uint8], colour: str) -> Image:
    if isinstance(image, np.ndarray):
        if colour not in ("RGB", "BGR"):
            raise SettingsError(f"colour='{colour}' is not allowed: RGB or BGR", usage=True)
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
            found = f"{image.dtype} {image.shape}"
            raise PermanentSourceError(f"cannot read an array of {found}: expected uint8 (height, width[, 3])")
        return Image.of(np.ascontiguousarray(image), Layout.GRAY if image.ndim == 2 else Layout(colour))
    what = "the bytes" if isinstance(image, bytes) else os.fspath(image)
    try:
        if isinstance(image, bytes):
            return decode_image(image)
        if not os.path.isdir(image):
            # Raises the errors of `camapp classify` for a file that is absent, unreadable or a pipe.
            find_images(os.fspath(image))
        return read_image(image if isinstance(image, str) else Path(image))
    except PermissionError as error:
        raise SourceDenied(f"cannot read {what}: {error.strerror}") from error
    except OSError as error:
        raise PermanentSourceError(f"cannot read {what}: {error.strerror or error}") from error
    except ValueError as error:
        raise PermanentSourceError(f"cannot read {what}: {error}") from error


def _error_of(summary: Summary) -> CamappError | None:
    """Return the error of a run that failed, with the line that the command line prints."""
    if summary.code is ExitCode.OK:
        return None
    if isinstance(summary.error, CamappError) and str(summary.error) == summary.reason:
        return summary.error
    error = CamappError(summary.reason)
    error.code = summary.code
    error.__cause__ = summary.error
    return error
