"""What is wrong with a camera that goes on giving frames, and whether there is light to see by."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from edgebird.structures import Frame, Image

log = logging.getLogger(__name__)

# Brightness below which there is nothing to see: mean and two deviations, of 255.
DARK_LEVEL = 36.0
_LIGHT_LEVEL = 48.0
# Dusk takes minutes; a picture that was this bright so shortly before was not dark by nature.
_BRIGHT_LEVEL = 60.0
_SUDDEN_S = 5.0
# A picture of anything has more contrast than this deviation of brightness.
COVERED_DEVIATION = 5.0
# Edges per contrast below this share of the usual: badly out of focus, or a drop on the lens.
_BLURRED_SHARE = 0.25
_USUAL_MEMORY_S = 600.0
# What is usual is learned for so long before anything is compared with it.
_LEARNING_S = 60.0
_SHARPNESS_EVERY_S = 1.0
# What keeps being so for hours is the new normal: someone has turned the lens or the camera.
_NEW_NORMAL_S = 6 * 3600.0
_CLOCK_STEP_S = 2.0
_CLOCK_SHOWN_S = 60.0
_RESTART_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class _Rule:
    """How long something has to be so, and not so, until it is believed; and its consequences."""

    after_s: float
    until_s: float
    blind: bool
    text: str


_RULES = {
    # a still scene may come out of a stream as the same picture from one key frame to the next
    "frozen": _Rule(12.0, 0.0, True, "gives the same picture all the time"),
    "black": _Rule(1.0, 1.0, True, "is suddenly black: is the lens covered?"),
    "covered": _Rule(10.0, 3.0, True, "sees an even surface: is the lens covered?"),
    "blurred": _Rule(30.0, 10.0, False, "is badly out of focus: is there a drop on the lens?"),
    "size": _Rule(0.0, 0.0, False, "gives pictures of another size than it used to"),
    "clock": _Rule(0.0, 0.0, False, "goes on, but this machine's clock was set"),
}


class _Steady:
    """A condition that is believed after it held for some time."""

    def __init__(self, after_s: float, until_s: float) -> None:
        self.on = False
        self._after_s = after_s
        self._until_s = until_s
        self._since_s: float | None = None

    def update(self, is_so: bool, now_s: float) -> bool:
        """Take in whether it is so now; whether it is believed."""
        if is_so == self.on:
            self._since_s = None
            return self.on
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s >= (self._until_s if self.on else self._after_s):
            self.on, self._since_s = is_so, None
        return self.on


class FaultWatch:
    """Watches a live camera's frames for faults; none of them ends anything.

    The faults: ``frozen`` (identical frames), ``black`` (suddenly), ``covered``, ``blurred``,
    ``size`` (not the usual one), ``clock`` (this machine's time of day was set). Begin and end of
    each are logged once. Darkness that came slowly is no fault but night: ``dark``.

    Args:
        camera: its name, for the log.
        size: width and height in pixels that were asked for; else what comes first is usual.
        restart: opens the camera anew; called once a minute while it is frozen.

    Attributes:
        faults: those of now, in alphabetical order.
        dark: there is too little light to see birds by.
        resized: the size has just changed, so places in older frames mean nothing any more.
    """

    def __init__(
        self,
        camera: str,
        *,
        size: tuple[int, int] | None = None,
        restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.faults: tuple[str, ...] = ()
        self.dark = False
        self.resized = False
        self._camera = camera
        self._restart = restart
        self._restart_s = 0.0
        self._steady = {name: _Steady(rule.after_s, rule.until_s) for name, rule in _RULES.items()}
        self._dark = _Steady(10.0, 5.0)
        self._usual_size = size
        self._size_since_s = 0.0
        self._last: Frame | None = None
        self._levels: deque[tuple[float, float]] = deque()
        self._fell_dark: bool | None = None
        self._first_s: float | None = None
        self._usual_sharpness: float | None = None
        self._blurred_since_s: float | None = None
        self._is_blurred = False
        self._sharpness_s = -_SHARPNESS_EVERY_S
        self._clock_until_s = 0.0

    @property
    def blind(self) -> bool:
        """Nothing can be seen now, so looking for birds is no use."""
        return self.dark or any(_RULES[name].blind for name in self.faults)

    def check(self, frame: Frame, luma: Image) -> None:
        """Take in one frame and its `small_luma`."""
        now_s = frame.monotonic_s
        if self._first_s is None:
            self._first_s = now_s
        mean, deviation = mean_and_deviation(luma)
        level = mean + 2 * deviation
        is_dark = level < (_LIGHT_LEVEL if self._dark.on else DARK_LEVEL)
        sudden = self._was_bright_just_now(level, is_dark, now_s)
        so_now = {
            "frozen": self._is_same(frame) and not is_dark,
            "black": is_dark and sudden,
            "covered": deviation < COVERED_DEVIATION and not is_dark,
            "blurred": self._blurs(luma, deviation, is_dark, now_s),
            "size": self._has_other_size(frame),
            "clock": self._clock_was_set(frame),
        }
        faults = {name for name, so in so_now.items() if self._steady[name].update(so, now_s)}
        was_dark = self.dark
        self.dark = self._dark.update(is_dark and not sudden, now_s)
        self._tell(faults, was_dark)
        if "frozen" in faults and now_s >= self._restart_s:
            self._restart_s = now_s + _RESTART_EVERY_S
            self._restart()
        self._last = frame

    def _tell(self, faults: set[str], was_dark: bool) -> None:
        before, self.faults = self.faults, tuple(sorted(faults))
        for name in self.faults:
            if name not in before:
                log.warning("camera %s %s (fault: %s)", self._camera, _RULES[name].text, name)
        for name in before:
            if name not in faults:
                log.warning("camera %s is well again (no longer: %s)", self._camera, name)
        if self.dark and not was_dark:
            log.info("camera %s: too dark to see birds, detection pauses", self._camera)
        if was_dark and not self.dark:
            log.info("camera %s: light enough again, detection goes on", self._camera)

    def _is_same(self, frame: Frame) -> bool:
        last = self._last
        # The noise of any sensor changes some of these pixels from frame to frame.
        return (
            last is not None
            and last.size == frame.size
            and np.array_equal(frame.image[::16, ::16], last.image[::16, ::16])
            and np.array_equal(frame.image, last.image)
        )

    def _was_bright_just_now(self, level: float, is_dark: bool, now_s: float) -> bool:
        """Whether a dark picture was bright a moment before it became dark."""
        while self._levels and now_s - self._levels[0][0] > _SUDDEN_S:
            self._levels.popleft()
        if not is_dark:
            self._fell_dark = None
        elif self._fell_dark is None:
            # not after a flash in the night: most of the time it was bright
            bright = [seen > _BRIGHT_LEVEL for _, seen in self._levels]
            self._fell_dark = sum(bright) > len(bright) / 2
        self._levels.append((now_s, level))
        return bool(self._fell_dark)

    def _blurs(self, luma: Image, deviation: float, is_dark: bool, now_s: float) -> bool:
        """Whether there are far less edges than usual for the picture's contrast."""
        if now_s - self._sharpness_s < _SHARPNESS_EVERY_S:
            return self._is_blurred
        step_s = min(now_s - self._sharpness_s, 10 * _SHARPNESS_EVERY_S)
        self._sharpness_s = now_s
        if is_dark or deviation < COVERED_DEVIATION:
            self._is_blurred = False
            return False
        edges = mean_and_deviation(cv2.Laplacian(luma, cv2.CV_16S))[1]
        sharpness = edges / deviation
        usual = self._usual_sharpness or sharpness
        learning = self._first_s is None or now_s - self._first_s < _LEARNING_S
        self._is_blurred = not learning and sharpness < _BLURRED_SHARE * usual
        if not self._is_blurred:
            self._blurred_since_s = None
        elif self._blurred_since_s is None:
            self._blurred_since_s = now_s
        elif now_s - self._blurred_since_s > _NEW_NORMAL_S:
            usual = sharpness
        if self._is_blurred:
            self._usual_sharpness = usual
        else:
            share = min(step_s / (_LEARNING_S / 4 if learning else _USUAL_MEMORY_S), 1.0)
            self._usual_sharpness = usual + share * (sharpness - usual)
        return self._is_blurred

    def _has_other_size(self, frame: Frame) -> bool:
        now_s = frame.monotonic_s
        self.resized = self._last is not None and self._last.size != frame.size
        if self._usual_size is None:
            self._usual_size = frame.size
        if self._last is None or self.resized:
            self._size_since_s = now_s
        if now_s - self._size_since_s > _NEW_NORMAL_S:
            self._usual_size = frame.size
        return frame.size != self._usual_size

    def _clock_was_set(self, frame: Frame) -> bool:
        last, now_s = self._last, frame.monotonic_s
        if last is not None:
            step_s = (frame.utc_s - last.utc_s) - (now_s - last.monotonic_s)
            if abs(step_s) > _CLOCK_STEP_S:
                self._clock_until_s = now_s + _CLOCK_SHOWN_S
        return now_s < self._clock_until_s


def mean_and_deviation(picture: Any) -> tuple[float, float]:
    """Of all pixels' values in a picture of any number type, (h, w)."""
    mean, deviation = cv2.meanStdDev(picture)
    return float(mean[0, 0]), float(deviation[0, 0])
