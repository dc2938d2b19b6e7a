"""The pace of a training on this machine, from a trial of a few of its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from detframe.config import ConfigNode
from detframe.data.records import Records
from detframe.parallel.device import resolve_device
from detframe.recipes.budget import Pace
from detframe.recipes.trial import Trial, try_model

STEPS = 8  # ordinary ones, whose median a burst of other work does not move
SCORING = 0.004  # seconds an image, for matching detections with objects once all are there
FULL_MODEL = 1.3  # a trained model finds more than one at its beginning
CLOSING = 6.0  # seconds for the last checkpoints and pictures


class DoesNotFit(Exception):  # noqa: N818 - it asks for a smaller batch
    """A batch that takes more memory than there is."""


def measure(cfg: ConfigNode, train: Records, val: Records, seconds: float, ranks: int = 1) -> Pace:
    """Try the model that a config describes.

    Args:
        train, val: records.
        seconds: after this time no further step is made.
        ranks: processes that will share the batch and the evaluation.

    Raises:
        DoesNotFit: a batch takes more memory than there is.
        ValueError: weights that do not fit the model.
    """
    on_gpu = resolve_device(cfg.MODEL.DEVICE).type != "cpu"  # where memory that runs out is an error to avoid
    begun = time.perf_counter()
    trial = try_model(cfg, train, val, STEPS, seconds, ranks, extremes=on_gpu)
    return pace_of(trial, time.perf_counter() - begun, ranks)


def pace_of(trial: Trial, seconds: float, ranks: int = 1) -> Pace:
    """The pace that a trial shows; `seconds` is how long all of it took. Errors as of `measure`."""
    if any(batch.failure == "out-of-memory" for batch in trial.batches):
        raise DoesNotFit
    stepping = [batch.seconds for batch in trial.batches if not math.isnan(batch.seconds)]
    step = trial.step_seconds if not math.isnan(trial.step_seconds) else max(stepping, default=0.0)
    image = trial.evaluation_seconds / max(trial.eval_images, 1)
    predicting = 0.0 if math.isnan(image) else FULL_MODEL * image
    building = max(0.0, seconds - sum(stepping))
    return Pace(max(step, 1e-3), (predicting + SCORING) / ranks, building + CLOSING)


Measure = Callable[[ConfigNode, Records, Records, float, int], Pace]
