"""Whether the buckets of a config (INPUT.BUCKETS) hold the data, and batches that keep to them in evaluation."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from detframe.arrays.canvases import Canvases, SizeHW
from detframe.arrays.resize import resize_shapes, size_of_each
from detframe.config import ConfigNode
from detframe.data import Records
from detframe.data.transforms import build_train_transforms
from detframe.errors import InvalidValueError
from detframe.evaluation.alike import canvas_of
from detframe.evaluation.loop import takes_paste_masks
from detframe.inference.augmentation import views_of
from detframe.structures import Prediction
from detframe.texts import counted


def test_forms(cfg: ConfigNode) -> list[SizeHW]:
    """(shorter side, limit of the longer side) of each resizing in evaluation, several with TEST.AUG."""
    views = views_of(cfg) if cfg.TEST.AUG.ENABLED else []
    forms = [(view.min_size, view.max_size) for view in views]
    return list(dict.fromkeys(forms)) or [(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)]


def largest_sizes(cfg: ConfigNode, sizes_hw: np.ndarray, training: bool) -> Iterator[np.ndarray]:
    """The largest sizes int64 (I, 2) in which a model sees images of some sizes; several where none is the largest."""
    if training:
        yield size_of_each(sizes_hw, build_train_transforms(cfg).largest_after)
        return
    for form in test_forms(cfg):
        yield resize_shapes(sizes_hw, *form)


def outside(cfg: ConfigNode, canvases: Canvases, records: Records, training: bool) -> tuple[np.ndarray, np.ndarray]:
    """The images that no bucket holds at their largest size.

    Returns:
        Their numbers, int64 (M,), and sizes as the model would see them, int64 (M, 2).
    """
    too_large: dict[int, np.ndarray] = {}
    for sizes_hw in largest_sizes(cfg, records.sizes_hw, training):
        held = size_of_each(sizes_hw, lambda size_hw: canvases.bucket(size_hw) or (0, 0)).any(1)
        for index in np.flatnonzero(~held).tolist():
            too_large.setdefault(index, sizes_hw[index])
    rows = sorted(too_large)
    return np.array(rows, dtype=np.int64), np.array([too_large[row] for row in rows], dtype=np.int64).reshape(-1, 2)


def check_shapes(
    cfg: ConfigNode, divisor: int, tests: Mapping[str, Records], train: Mapping[str, Records] | None = None
) -> str:
    """Every image, or tile, must have a bucket that holds it, so that no shape is a surprise.

    Args:
        divisor: of the model, to which the buckets grow.
        tests, train: what is evaluated and trained on, by name.

    Returns:
        What a log says of the shapes of batches; "" without buckets.

    Raises:
        ValueError: an image that no bucket holds, its size and what to do.
    """
    if not cfg.INPUT.BUCKETS:
        return ""
    canvases = Canvases.of(cfg.INPUT.BUCKETS, divisor)
    for training, sets in ((True, train or {}), (False, tests)):
        for name, records in sets.items():
            rows, sizes_hw = outside(cfg, canvases, records, training)
            if len(rows):
                raise InvalidValueError(_too_large(cfg, name, records, rows, sizes_hw, training))
    return _shapes_line(canvases)


def _too_large(
    cfg: ConfigNode, name: str, records: Records, rows: np.ndarray, sizes_hw: np.ndarray, training: bool
) -> str:
    (height, width), most = sizes_hw[0].tolist(), sizes_hw.max(axis=0).tolist()
    what = "tiles" if cfg.INPUT.TILES.SIZE else "images"
    return (
        f"no bucket of INPUT.BUCKETS {[list(bucket) for bucket in cfg.INPUT.BUCKETS]} holds {len(rows)} of the "
        f"{len(records)} {what} of {name} as {'training' if training else 'evaluation'} sees them: the first is "
        f"{Path(records.file_name(int(rows[0]))).name} with {height}x{width} pixels (height x width); the largest "
        f"height is {most[0]}, the largest width {most[1]}. Add buckets for them (`detframe check` proposes some), "
        "make them smaller (INPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN, MIN_SIZE_TEST and MAX_SIZE_TEST), or set "
        "INPUT.BUCKETS []"
    )


def _shapes_line(canvases: Canvases) -> str:
    if not canvases.buckets:
        return f"the sides of batches are multiples of {canvases.multiple} pixels (INPUT.BUCKETS)"
    shapes = canvases.shapes
    listed = ", ".join(f"{height}x{width}" for height, width in shapes)
    mixing = "" if len(shapes) == len(canvases.buckets) else "; the last is for batches that mix images of others"
    return f"batches have at most {counted(len(shapes), 'shape')} (INPUT.BUCKETS, height x width): {listed}{mixing}"


class FullBatches(nn.Module):
    """A detector that never sees a batch of fewer images than others, which would be one more shape.

    What is missing, as in the last batch of a data set, is filled with the last image, and what is found there is
    dropped. Else as `model` in evaluation.

    Args:
        batch_size: how many images there are in others; 0: as many as in the first batch, and only where images are
            padded to the shape that it had: without buckets, this one has a graph of its own (MODEL.COMPILE).
    """

    def __init__(self, model: nn.Module, batch_size: int = 0) -> None:
        super().__init__()
        self.model, self.batch_size = model, batch_size
        self._first: tuple[Hashable, int] | None = None  # canvas and images of the first batch
        self.takes_paste_masks = takes_paste_masks(model)
        self.class_agnostic = getattr(model, "class_agnostic", False)
        self.pixel = getattr(model, "pixel", 0.0)
        self.canvas_hw = canvas_of(model)

    def shapes_seen(self, size_hw: SizeHW) -> list[SizeHW]:
        """See `AugmentedModel`."""
        seen: Any = getattr(self.model, "shapes_seen", None)
        return [size_hw] if seen is None else seen(size_hw)

    def forward(self, images: Sequence[Tensor], **how: Any) -> list[Prediction]:
        """Predictions of the images."""
        missing = max(0, self._full(images) - len(images))
        found: list[Prediction] = self.model([*images, *[images[-1]] * missing], **how)
        return found[: len(images)]

    def _full(self, images: Sequence[Tensor]) -> int:
        if self.batch_size:
            return self.batch_size
        canvas = self.canvas_hw((images[0].shape[-2], images[0].shape[-1]))
        self._first = self._first or (canvas, len(images))
        return self._first[1] if canvas == self._first[0] else 0
