"""PictureHook: training images as the model sees them, with their targets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detframe.engine.recorder import RunRecorder
from detframe.engine.trainer import Hook, Trainer, is_due

logger = logging.getLogger(__name__)
_MOST = 4


class PictureHook(Hook):
    """Draws up to four images of the first batch, and of a batch every `period` steps (0: only the first).

    They are drawn from the collated tensors, after all transforms, so that what is wrong there can be seen.

    Args:
        file_name: the file of an image id, for the captions.
    """

    name = "pictures"

    def __init__(
        self,
        recorder: RunRecorder,
        class_names: Sequence[str],
        period: int,
        file_name: Callable[[Any], str] | None = None,
    ) -> None:
        self.recorder = recorder
        self.file_name = file_name
        self.class_names = class_names
        self.period = period
        self._drawn = False

    def after_step(self, trainer: Trainer) -> None:
        """Draw where it is due; only rank 0 does anything."""
        step = trainer.last_step
        if step is None or not self.recorder.active or (self._drawn and not is_due(trainer.iteration, self.period)):
            return
        from detframe.visualization import training_image

        self._drawn = True
        for number, (image, target) in enumerate(list(zip(*step.batch, strict=True))[:_MOST]):
            with pictures_are_optional(self.recorder):
                name = Path(self.file_name(target["image_id"])).name if self.file_name is not None else ""
                picture = training_image(image, target, self.class_names, name)
                self.recorder.picture(trainer.iteration, f"train_{number}", picture)


@contextmanager
def pictures_are_optional(recorder: RunRecorder) -> Iterator[None]:
    """A picture that cannot be drawn is a warning, the first time, with the place in the code."""
    try:
        yield
    except Exception as error:
        if not recorder.drawing_failed:
            recorder.drawing_failed = True
            logger.warning("a picture cannot be drawn (%s), and the run goes on without it", error, exc_info=error)
