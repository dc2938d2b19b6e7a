"""Pictures of a run: training images as the model sees them, and what it finds in test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.trainer import Hook, Trainer, is_due
from detframe.structures import Prediction, Target
from detframe.visualization import side_by_side, training_image

_MOST = 4
_THRESHOLD = 0.3  # of the score, for predictions


class PictureHook(Hook):
    """Draws up to four images of the first batch, and of a batch every `period` steps (0: only the first).

    They are drawn from the collated tensors, after all transforms, so that what is wrong there can be seen.

    Args:
        file_name: the file of an image id, for the captions.
    """

    name = "pictures"

    def __init__(
        self,
        writer: MetricsWriter,
        class_names: Sequence[str],
        period: int,
        file_name: Callable[[Any], str] | None = None,
    ) -> None:
        self.writer = writer
        self.file_name = file_name
        self.class_names = class_names
        self.period = period
        self._drawn = False

    def after_step(self, trainer: Trainer) -> None:
        """Draw where it is due; only rank 0 does anything."""
        step = trainer.last_step
        if step is None or not self.writer.active or (self._drawn and not is_due(trainer.iteration, self.period)):
            return
        self._drawn = True
        for number, (image, target) in enumerate(list(zip(*step.batch, strict=True))[:_MOST]):
            with self.writer.drawing():
                name = Path(self.file_name(target["image_id"])).name if self.file_name is not None else ""
                picture = training_image(image, target, self.class_names, name)
                self.writer.picture(trainer.iteration, f"train_{number}", picture)


class EvaluationPictures:
    """Draws the first images of rank 0's shard, ground truth beside prediction.

    Args:
        class_names: of the ground truth, and of the predictions.
        count: how many images.
        file_name: the file of an image id, for the captions.
    """

    def __init__(
        self,
        writer: MetricsWriter | None,
        name: str,
        iteration: int,
        class_names: tuple[Sequence[str], Sequence[str]],
        count: int,
        file_name: Callable[[Any], str],
    ) -> None:
        self.writer = writer
        self.name = name
        self.iteration = iteration
        self.class_names, self.predicted_names = class_names
        self.file_name = file_name
        self.left = count if writer is not None and writer.active else 0
        self._number = 0

    @property
    def on_batch(self) -> Callable[[Sequence[Tensor], Sequence[Target], list[Prediction]], None] | None:
        """What `run_evaluation` calls with each batch."""
        return self._draw if self.left else None

    def _draw(self, images: Sequence[Tensor], targets: Sequence[Target], predictions: list[Prediction]) -> None:
        if self.writer is None:
            return
        for image, target, prediction in list(zip(images, targets, predictions, strict=True))[: self.left]:
            names, predicted = self.class_names, self.predicted_names
            with self.writer.drawing():
                file = Path(self.file_name(target["image_id"])).name
                picture = side_by_side(image, target, prediction, names, _THRESHOLD, predicted, file)
                self.writer.picture(self.iteration, f"predictions_{self.name}_{self._number}", picture)
            self._number += 1
            self.left -= 1
