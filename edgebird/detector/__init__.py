"""Detectors: from a picture to boxes. A detector is anything with ``detect``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgebird.errors import UsageError
from edgebird.model import DEFAULT_CLASSIFIER, DEFAULT_DETECTOR, Model, load_model
from edgebird.structures import Detections, Image
from edgebird.tiles import Region

if TYPE_CHECKING:
    from edgebird.config import DetectorSection


class Detector(Protocol):
    """Finds birds in a picture."""

    def detect(
        self, image: Image, regions: Sequence[Region] | None = None, *, threshold: float
    ) -> Detections:
        """Find birds in the given regions of a frame, or in all of it, best first."""


def open_detector(settings: DetectorSection, *, for_stills: bool = False) -> tuple[Model, Detector]:
    """The detector that the settings name, and the model it runs on.

    Args:
        settings: which one.
        for_stills: pictures on their own are to be looked at, which may take longer.

    Raises:
        UsageError: two settings do not go together.
        ModelError: a model cannot be loaded.
    """
    # Here and not above, because they import this module.
    from edgebird.classify import Classifier, open_classifier
    from edgebird.detector.conv import ConvDetector, still_detector
    from edgebird.detector.verify import VerifyingDetector
    from edgebird.detector.window import WindowDetector
    from edgebird.interpreter import TfliteInterpreter, default_threads

    threads = settings.threads or default_threads()
    path = None if settings.model is None else Path(settings.model)
    if settings.name == "window":
        if settings.verify:
            raise UsageError(
                "the window detector is the classifier already, a second look adds nothing: "
                "leave --verify out"
            )
        model = load_model(path or DEFAULT_CLASSIFIER, "classifier")
        classifier = Classifier(TfliteInterpreter(model, threads), model.card)
        return model, WindowDetector(classifier, settings.smallest_bird_px)
    if settings.smallest_bird_px is not None:
        raise UsageError("smallest_bird_px is for the window detector only: leave it out")
    model = load_model(path or DEFAULT_DETECTOR, "detector")
    make = still_detector if for_stills else ConvDetector
    detector = make(TfliteInterpreter(model, threads), model.card)
    if settings.verify is False:
        return model, detector
    return model, VerifyingDetector(detector, open_classifier(threads))
