"""What visitors of the page ask of a camera, in JSON: pause, resume, snapshot, another model or region, figures."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from camapp.core.errors import SettingsError
from camapp.core.settings import Settings, checked
from camapp.remote.commands import CameraControl, CommandRejected, RemoteControl
from camapp.system.state_dir import remember_roi

log = logging.getLogger(__name__)

# Under it a region is a slip of the finger, and hardly a pixel of the model's input.
_SMALLEST_SIDE = 0.02


class WebCommands:
    """Obeys, one order at a time; may take seconds, so never in a stage's thread.

    Args:
        cameras: that can be ordered about.
        state: folder where regions are kept.
        metrics: renders the text that Prometheus reads; None for none.
        reread: gives a camera's settings as the next start would.
        notify: tells all visitors (camera, text, who it came from).
    """

    def __init__(
        self,
        cameras: Sequence[CameraControl],
        state: Path,
        metrics: Callable[[], str] | None,
        reread: Callable[[str], Settings] | None,
        notify: Callable[[str, str, str], None],
    ) -> None:
        self._cameras = {camera.name: camera for camera in cameras}
        self._state = state
        self._metrics = metrics
        self._reread = reread
        self._notify = notify
        self._steering = RemoteControl(cameras, self._tell_saved)
        self._orders: Mapping[str, Callable[[CameraControl, Mapping[str, Any]], dict[str, Any]]] = {
            "pause": lambda camera, body: self._pause(camera, True, body),
            "resume": lambda camera, body: self._pause(camera, False, body),
            "snapshot": self._snapshot,
            "model": self._model,
            "roi": self._roi,
            "hud": self._hud,
        }

    def obey(self, order: str, camera: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Do it and say what came of it.

        Raises:
            Refused: it cannot be done.
        """
        if order == "metrics":
            if self._metrics is None:
                raise CommandRejected(f"metrics need a package: {sys.executable} -m pip install prometheus-client")
            return {"text": self._metrics()}
        return self._orders[order](self._cameras[camera], body)

    def _pause(self, camera: CameraControl, held: bool, body: Mapping[str, Any]) -> dict[str, Any]:
        (camera.pause if held else camera.resume)()
        self._notify(camera.name, "paused" if held else "resumed", str(body.get("client", "")))
        return {"paused": held}

    def _snapshot(self, camera: CameraControl, body: Mapping[str, Any]) -> dict[str, Any]:
        self._steering.snapshots[camera.name].request()
        return {"folder": str(camera.settings.snapshots)}

    def _tell_saved(self, camera: str, path: Path) -> None:
        log.info("saved '%s'", path)
        self._notify(camera, f"snapshot saved as {path.name}", "")

    def _model(self, camera: CameraControl, body: Mapping[str, Any]) -> dict[str, Any]:
        wanted = body.get("model")
        self._steering.choose_model(camera, wanted)
        self._notify(camera.name, f"model {wanted}", str(body.get("client", "")))
        return {"model": wanted}

    def _roi(self, camera: CameraControl, body: Mapping[str, Any]) -> dict[str, Any]:
        raw = body.get("roi")
        try:
            roi = None if raw is None else checked("roi", raw, "the page")
        except SettingsError as error:
            raise CommandRejected(str(error)) from error
        if roi is not None:
            roi = tuple(round(value, 4) for value in roi)
            if min(roi[2:]) < _SMALLEST_SIDE:
                raise CommandRejected(f"the region is too small: each side at least {_SMALLEST_SIDE:.0%} of the image")
        self._steering.change(camera, replace(camera.settings, roi=roi))
        kept, why = self._keep(camera.name, roi)
        shown = "the whole image" if roi is None else ", ".join(f"{value:.0%}" for value in roi)
        self._notify(camera.name, f"region changed: {shown}", str(body.get("client", "")))
        return {"roi": roi, "kept": kept, "why": why}

    def _keep(self, camera: str, roi: tuple[float, ...] | None) -> tuple[bool, str]:
        """Whether the next start will find this region too, and why not."""
        try:
            remember_roi(self._state, camera, roi)  # type: ignore[arg-type]
        except OSError as error:
            log.warning("the region is not kept: %s: %s", self._state, error.strerror)
            return False, f"it cannot be kept in {self._state}: {error.strerror}"
        try:
            if self._reread is not None and self._reread(camera).roi != roi:
                return False, "the configuration gives another, which the next start takes"
        except SettingsError as error:
            return False, f"the next start will fail: {error}"
        return True, ""

    def _hud(self, camera: CameraControl, body: Mapping[str, Any]) -> dict[str, Any]:
        shown = body.get("shown")
        if not isinstance(shown, bool):
            raise CommandRejected("shown is true or false")
        camera.set_hud(shown)
        return {"shown": shown}
