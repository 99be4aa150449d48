"""Task `track`: finds the lane lines of a track and the position of the car in its lane."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from camapp.core.arrays import Floats
from camapp.core.frames import Frame
from camapp.core.ground_camera import GroundCamera
from camapp.core.image_ops import Fit, Preprocessor, roi_pixels
from camapp.core.log_once import LogOnce
from camapp.core.predictions import Polyline, Prediction
from camapp.tasks import line_colour, line_decoder
from camapp.tasks.freeze_detector import FreezeDetector
from camapp.tasks.lane import Lane, LaneFilter, find_lane
from camapp.tasks.self_calibration import PITCHES, WIDTHS, LaneWidthEstimator, PitchEstimator
from camapp.tasks.task import Prepared, Task, TaskOptions
from camapp.tasks.upside_down import UpsideDownDetector
from engine.model import ModelCard
from engine.nets.track import FIELDS, SUBCELLS

log = logging.getLogger(__name__)

# What is expected of a camera and a lane before anything was seen, if the user has not set it: degrees and metres.
PITCH, HEIGHT, LANE_WIDTH = 18.0, 0.3, 1.22
CAMERA_SETTINGS = ("camera_height", "camera_pitch", "camera_roll", "camera_hfov", "camera_distortion")
# Cameras are made for pitches rounded to this many degrees.
PITCH_STEP = 0.25
# Mean brightness, 0 to 1, below which the lens is covered and above which it is dazzled.
DARK, BRIGHT = 0.02, 0.985
# Standard deviation of the brightness below which an image shows nothing.
FLAT = 0.008
# A camera whose images do not differ at all for this time has stopped, since sensors have noise.
FROZEN_S = 1.0
FROZEN = "the image is frozen; see 'camapp doctor'"
NO_LINE, NO_LINE_IN_ROI = "no %s in sight; aim the camera at the track%s", ", or widen --roi"
OTHER_COLOUR = ", or see --line-colour"
UPSIDE_DOWN = "the image seems upside down; turn the camera, or --rotate 180"
CALIBRATE = "see 'camapp calibrate-track'"
DIVERGED = "the lines fit no pitch of the camera: expecting %g degrees again; if that is wrong, give --camera-pitch: %s"


@dataclass(frozen=True, slots=True)
class _Geometry:
    fit: Fit
    fault: str
    grey: Floats


class TrackTask(Task):
    """Finds lines anywhere in the image; the two beside the car are labelled 'left' and 'right'.

    `label` is 'lane', or 'no lane: ' with the reason. `values` always has `confidence` (0 without a lane) and `age_ms`
    (since a lane was last measured in an image that differs from the one before). Only with a lane it has `offset_m`,
    `offset_lanes`, `heading_deg`, `curvature_1_m` and `lane_width_m`: an absent number cannot be used for steering;
    and `camera_pitch_deg`, if that is estimated.
    """

    name = "track"

    def __init__(self, card: ModelCard, options: TaskOptions) -> None:
        """Prepare for a model.

        Raises:
            ValueError: the outputs are no field of line points, the region leaves the image, no camera has this
                geometry, or the model does not see the colour of the lines.
        """
        shapes = [output.shape for output in card.outputs]
        planes = SUBCELLS**2 * FIELDS
        if shapes and (len(shapes) != 1 or len(shapes[0]) != 3 or shapes[0][0] != planes):
            raise ValueError(f"task 'track' needs one output of {planes} maps, but the model has outputs of {shapes}")
        super().__init__(card, options)
        self._white_of = line_colour.WHITE_OF.get(options.line_colour)
        if self._white_of is not None:
            if card.input_shape[0] != 3:
                raise ValueError(f"--line-colour {options.line_colour} needs a model that takes colours")
            log.info("looking for each %s", line_colour.WORDS[options.line_colour])
        # The net was trained on images of any shape stretched to its input.
        self._preprocess = Preprocessor(card, "stretch", options.roi)
        self._mean = np.array(card.mean, np.float32)[:, None, None]
        self._std = np.array(card.std, np.float32)[:, None, None]
        self._last: Lane | None = None
        self._camera = lru_cache(maxsize=64)(self._make_camera)
        self._camera((640, 480), self._expected_pitch)
        self._log_once = LogOnce(log)
        self._calibrate_anew()
        self.reset()

    def prepare(self, frame: Frame, batch: Floats) -> Prepared:
        """Write the whole image, or its region of interest, into `batch[0]`."""
        item = batch[0]
        fit = self._preprocess(frame.model_view, item)
        pixels = item * self._std + self._mean
        grey = pixels.mean(axis=0)
        if self._white_of is not None:
            rgb = slice(None, None, 1 if self.card.colour == "RGB" else -1)
            np.divide(self._white_of(pixels[rgb]) - self._mean[rgb], self._std[rgb], out=item[rgb])
        return Prepared(1, _Geometry(fit, _fault(grey), grey))

    def decode(self, frame: Frame, outputs: Sequence[Floats], prepared: Prepared, now_ns: int) -> Prediction:
        """Turn the field of line points into lines and the filtered lane."""
        geometry: _Geometry = prepared.geometry
        if frame.shot.still:
            self._calibrate_anew()
        unchanged_s = self._freeze.update(geometry.grey, now_ns)
        fault = geometry.fault or (FROZEN if unchanged_s > FROZEN_S else "")
        chains = [] if fault else line_decoder.decode(line_decoder.unpack(outputs[0][0]))
        lines = self._in_view(chains, frame)
        lane, reason = (None, fault) if fault else self._measure(lines, frame, now_ns)
        if fault or reason == UPSIDE_DOWN:
            # The last lane of a camera that now sees nothing, or sees wrongly, must not be extrapolated.
            self._filter = LaneFilter()
        filtered, age = self._filter.update(lane, now_ns)
        self._last = filtered
        # A lane measured in a repeated image is as old as the first copy of that image.
        age += unchanged_s
        label = "lane" if filtered else f"no lane: {reason}"
        return Prediction(
            seq=frame.seq,
            task=self.name,
            label=label,
            score=filtered.confidence if filtered else 0.0,
            raw_label="lane" if lane else f"no lane: {reason}",
            raw_score=lane.confidence if lane else 0.0,
            lines=_named(lines, lane),
            values=_values(filtered, age) | ({} if filtered is None else self._estimated),
            region=geometry.fit.region(frame.model_to_view),
        )

    def reset(self) -> None:
        """Clear the lane; what was learned of the camera's position stays."""
        self._freeze = FreezeDetector()
        self._filter = LaneFilter()
        self._last = None

    def learned(self) -> dict[str, float]:
        """Return the estimated pitch in degrees, and the lane's width in camera heights."""
        if not self._pitch.is_sure or self.options.camera_pitch is not None:
            return {}
        return {"camera_pitch_deg": round(self._pitch.pitch, 2), "lane_width_heights": round(self._width.width, 3)}

    def recall(self, learned: Mapping[str, float]) -> None:
        """Expect the pitch and the width of an earlier run; what the user has set outranks them."""
        super().recall(learned)
        self._calibrate_anew()

    def take_over(self, previous: Task) -> None:
        """Expect what the task before has estimated."""
        super().take_over(previous)
        self.recall(previous.learned() or previous.recalled)

    @property
    def _expected_pitch(self) -> float:
        given = self.options.camera_pitch
        recalled = self.recalled.get("camera_pitch_deg", PITCH)
        return given if given is not None else min(max(recalled, float(PITCHES[0])), float(PITCHES[-1]))

    @property
    def _estimated(self) -> dict[str, float]:
        return {"camera_pitch_deg": self._pitch.pitch} if self.options.camera_pitch is None else {}

    @property
    def _is_camera_given(self) -> bool:
        """Return whether a setting of the camera differs from its default, and so outranks what the source knows."""
        return any(getattr(self.options, name) != getattr(TaskOptions, name) for name in CAMERA_SETTINGS)

    def _calibrate_anew(self) -> None:
        options = self.options
        height, width = options.camera_height or HEIGHT, options.lane_width or LANE_WIDTH
        is_given = options.camera_height is not None and options.lane_width is not None
        expected = width / height if is_given else self.recalled.get("lane_width_heights", width / height)
        self._pitch = PitchEstimator(self._expected_pitch, self._camera)
        self._width = LaneWidthEstimator(min(max(expected, float(WIDTHS[0])), float(WIDTHS[-1])))
        self._upside_down = UpsideDownDetector()

    def _height_and_width(self) -> tuple[float, float]:
        """Return the camera's height and the lane's width, metres; what the user did not set follows from the rest."""
        height, width = self.options.camera_height, self.options.lane_width
        if height is None:
            height = HEIGHT if width is None else width / self._width.width
        return height, width or self._width.width * height

    def _in_view(self, chains: Sequence[line_decoder.Chain], frame: Frame) -> list[Polyline]:
        x0, y0, x1, y1 = roi_pixels((frame.view.width, frame.view.height), self.options.roi)
        return [
            Polyline(tuple(map(tuple, (chain.points * (x1 - x0, y1 - y0) + (x0, y0)).tolist())), score=chain.score)
            for chain in chains
        ]

    def _measure(self, lines: Sequence[Polyline], frame: Frame, now_ns: int) -> tuple[Lane | None, str]:
        """Return the lane that these lines make, or None and the reason."""
        if not lines:
            what = line_colour.WORDS[self.options.line_colour]
            hint = OTHER_COLOUR if self._white_of is None else ""
            return None, NO_LINE % (what, NO_LINE_IN_ROI if self.options.roi else hint)
        size = frame.view.width, frame.view.height
        scores = [line.score for line in lines]
        pixels = [np.array(line.points) for line in lines]
        self._upside_down.update(pixels, now_ns)
        if self._upside_down.upside_down:
            return None, UPSIDE_DOWN
        self._pitch.update(pixels, scores, size)
        if self._pitch.has_diverged and self.options.camera_pitch is None:
            self._log_once(logging.WARNING, "pitch", DIVERGED, self._pitch.expected, CALIBRATE)
        height, width = self._height_and_width()
        is_given = self.options.camera_pitch is not None
        pitch = self._expected_pitch if is_given else round(self._pitch.pitch / PITCH_STEP) * PITCH_STEP
        camera = self._camera(size, pitch)
        if frame.shot.camera is not None and not self._is_camera_given:
            camera, height = replace(frame.shot.camera, height=1.0), frame.shot.camera.height
            width = self.options.lane_width or self._width.width * height
        grounds = [height * ground[visible] for ground, visible in map(camera.unproject, pixels)]
        lane = find_lane(grounds, scores, width, height, self._last)
        known = f"--camera-pitch is {pitch:g}" + ("" if is_given else ", estimated") + f"; {CALIBRATE}"
        if not any(map(len, grounds)):
            return None, f"all lines lie above the horizon ({known})"
        if lane is None:
            return None, f"no line leads along the car's way ({known})"
        self._width.update(lane, height)
        if abs(lane.offset) > 1.5 * lane.width:
            return None, f"the lines are too far off to be the car's lane (--lane-width is {width:.2g} m; {CALIBRATE})"
        return lane, ""

    def _make_camera(self, size: tuple[int, int], pitch: float) -> GroundCamera:
        """Return the camera for a pitch in degrees, 1 m above the ground."""
        options = self.options
        return GroundCamera.of(
            size,
            1.0,
            math.radians(pitch),
            math.radians(options.camera_hfov),
            roll=math.radians(options.camera_roll),
            bend=math.radians(options.camera_distortion),
        )


def _fault(grey: Floats) -> str:
    """Return why no line can be seen in an image of brightness 0 to 1 per pixel; '' if one could be seen."""
    mean, spread = float(grey.mean()), float(grey.std())
    if mean < DARK:
        return "the image is black; is the lens covered? If not, try --camera-control ExposureTime=20000"
    if mean > BRIGHT:
        return "the image is white; is the camera dazzled? If not, try --camera-control ExposureTime=2000"
    if spread < FLAT:
        return "the image is blank; is the lens covered? If not, try --camera-control LensPosition=1"
    return ""


def _named(lines: Sequence[Polyline], lane: Lane | None) -> tuple[Polyline, ...]:
    names = {lane.left: "left", lane.right: "right"} if lane else {}
    return tuple(replace(line, label=names.get(i, "")) for i, line in enumerate(lines))


def _values(lane: Lane | None, age: float) -> dict[str, float]:
    if lane is None:
        return {"confidence": 0.0, "age_ms": 0.0}
    return {
        "offset_m": lane.offset,
        "offset_lanes": lane.offset / lane.width,
        "heading_deg": math.degrees(lane.heading),
        "curvature_1_m": lane.curvature,
        "lane_width_m": lane.width,
        "confidence": lane.confidence,
        "age_ms": 1000 * age,
    }
