"""Pictures of a run: training images as the model sees them, and what it finds in test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from detframe.data.image_files import max_pixels
from detframe.data.reduced import form_to_show, load_reduced
from detframe.data.regions import load_region
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.trainer import Hook, Trainer, is_due
from detframe.evaluation.tiled import OnImage
from detframe.structures import Prediction, Target
from detframe.visualization import reduced, side_by_side, training_image, within

_MOST = 4
_THRESHOLD = 0.3  # of the score, for predictions
_LONGEST_SIDE = 4096  # of a whole image that was evaluated in tiles


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
    """Draws the first images of rank 0's shard, ground truth beside prediction: of tiles, the whole images.

    An image that is too large for memory is shown by the tile with most objects.

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

    @property
    def on_image(self) -> OnImage | None:
        """What `TiledEvaluator` calls with each image, its merged prediction, and its tiles."""
        return self._draw_image if self.left else None

    def _draw_image(self, target: Target, prediction: Prediction, tiles: np.ndarray) -> None:
        if self.writer is None or not self.left:
            return
        with self.writer.drawing():
            path = self.file_name(target["image_id"])
            name, (height, width) = Path(path).name, target["orig_size_hw"]
            shown: list[Mapping[str, Any]]
            if height * width <= max_pixels():
                image = load_reduced(path, _LONGEST_SIDE, form_to_show(path))
                small_hw = (image.shape[0], image.shape[1])
                shown = [reduced(instances, (height, width), small_hw) for instances in (target, prediction)]
            else:
                tile = fullest_tile(target, tiles)
                image = load_region(path, tile, form=form_to_show(path))
                name = f"{name} {list(tile)}, the tile with most objects"
                shown = [within(instances, tile) for instances in (target, prediction)]
            self._show(image, shown[0], shown[1], name)
        self._number += 1
        self.left -= 1

    def _draw(self, images: Sequence[Tensor], targets: Sequence[Target], predictions: list[Prediction]) -> None:
        if self.writer is None:
            return
        for image, target, prediction in list(zip(images, targets, predictions, strict=True))[: self.left]:
            with self.writer.drawing():
                self._show(image, target, prediction, Path(self.file_name(target["image_id"])).name)
            self._number += 1
            self.left -= 1

    def _show(self, image: Any, target: Mapping[str, Any], prediction: Mapping[str, Any], name: str) -> None:
        names, predicted = self.class_names, self.predicted_names
        picture = side_by_side(image, target, prediction, names, _THRESHOLD, predicted, name)
        if self.writer is not None:
            self.writer.picture(self.iteration, f"predictions_{self.name}_{self._number}", picture)


def fullest_tile(target: Target, tiles: np.ndarray) -> tuple[int, int, int, int]:
    """The tile in which most objects have their centres, x1, y1, x2, y2; the first of several. Crowds do not count.

    Args:
        tiles: int64 (T, 4); one that is the whole image does not count either.
    """
    height, width = target["orig_size_hw"]
    parts = tiles[(tiles != [0, 0, width, height]).any(1)]
    boxes = target["boxes"][~target["iscrowd"].bool()].numpy()
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (centres >= parts[:, None, :2]) & (centres < parts[:, None, 2:])
    x1, y1, x2, y2 = parts[inside.all(-1).sum(1).argmax()].tolist()
    return x1, y1, x2, y2
