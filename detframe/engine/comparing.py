"""Tiles beside whole images: what the network sees and how long it takes, and the same evaluation without tiles."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from detframe.arrays.resize import resize_shape
from detframe.arrays.tiles import tile_grid
from detframe.config import ConfigNode
from detframe.data.image_files import max_pixels
from detframe.data.scaled import LARGE_PIXELS
from detframe.evaluation.alike import canvas_of
from detframe.evaluation.exported import FileModel
from detframe.evaluation.loop import takes_paste_masks
from detframe.evaluation.table import format_metric
from detframe.parallel.collectives import gather_objects
from detframe.report.whole_images import EQUAL, WHOLE, ways
from detframe.structures import Prediction, rescale_prediction
from detframe.texts import text_table

SizeHW = tuple[int, int]

MOST_PIXELS = 2**25  # that a whole image may have as the network sees it; more would hardly fit into memory


class Watched(nn.Module):
    """A model whose pixels and seconds are counted; else as the model.

    Args:
        spare: a batch that needs more memory than the GPU has gives no detections, and is counted.

    Attributes:
        pixels: that the network has seen, without padding. seconds: that it took. failed: batches without memory.
    """

    def __init__(self, model: nn.Module, spare: bool = False) -> None:
        super().__init__()
        self.model, self.spare = model, spare
        self.takes_paste_masks = takes_paste_masks(model)
        self.class_agnostic = getattr(model, "class_agnostic", False)
        self.pixel = getattr(model, "pixel", 0.0)
        self.canvas_hw = canvas_of(model)
        self.pixels, self.seconds, self.failed = 0, 0.0, 0

    def forward(self, images: Sequence[Tensor], **how: Any) -> list[Prediction]:
        """Predictions of the model."""
        begun = _now()
        try:
            found: list[Prediction] = self.model(images, **how)
        except torch.OutOfMemoryError:
            if not self.spare:
                raise
            self.failed += 1
            found = [_nothing() for _ in images]
        self.seconds += _now() - begun
        self.pixels += sum(_pixels_seen(self.model, (image.shape[-2], image.shape[-1])) for image in images)
        return found


def _now() -> float:
    if torch.cuda.is_available():  # whose work goes on behind the call
        torch.cuda.synchronize()
    return time.perf_counter()


def _nothing() -> Prediction:
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}


def _pixels_seen(model: Any, size_hw: SizeHW) -> int:
    """How many pixels a network sees of an image that is handed in at this size."""
    if hasattr(model, "shapes_seen"):
        return sum(height * width for height, width in model.shapes_seen(size_hw))
    return size_hw[0] * size_hw[1]


class EqualPixels(nn.Module):
    """A detector that looks at whole images, at as many pixels as it would see of their tiles.

    Images are handed in as they are in their files; predictions are in their coordinates.
    """

    pixel = 0.0

    def __init__(self, model: nn.Module, cfg: ConfigNode) -> None:
        super().__init__()
        self.model, self.cfg = model, cfg
        self.takes_paste_masks = takes_paste_masks(model)
        self.class_agnostic = getattr(model, "class_agnostic", False)

    def forward(self, images: Sequence[Tensor], **how: Any) -> list[Prediction]:
        """Predictions, one image after the other, since they are large."""
        out: list[Prediction] = []
        for image in images:
            from_hw = (int(image.shape[-2]), int(image.shape[-1]))
            to_hw = equal_shape(self.cfg, from_hw)
            resized = image if to_hw == from_hw else transforms.resize(image, list(to_hw), antialias=True)
            (found,) = self.model([resized], **how)
            out.append(rescale_prediction(found, to_hw, from_hw, getattr(self.model, "pixel", 0.0)))
        return out


def tile_shapes(cfg: ConfigNode, size_hw: SizeHW) -> list[SizeHW]:
    """The sizes in which the network sees the tiles of an image."""
    keys, form = cfg.INPUT.TILES, (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    grid = tile_grid(size_hw, keys.SIZE, keys.OVERLAP)
    seen = [resize_shape((int(grid[0, 3] - grid[0, 1]), int(grid[0, 2] - grid[0, 0])), *form)] * len(grid)
    return [*seen, resize_shape(size_hw, *form)] if keys.WHOLE_IMAGE_TOO and len(grid) > 1 else seen


def equal_shape(cfg: ConfigNode, size_hw: SizeHW) -> SizeHW:
    """The size of a whole image with as many pixels as its tiles have, as the network sees them."""
    seen = tile_shapes(cfg, size_hw)
    if len(seen) == 1:
        return seen[0]
    scale = (sum(height * width for height, width in seen) / (size_hw[0] * size_hw[1])) ** 0.5
    return max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale))


def why_not(kind: str, cfg: ConfigNode, model: Any, sizes_hw: np.ndarray) -> str:
    """Why images of these sizes int64 (I, 2) are not evaluated whole; "" where they are."""
    if not len(sizes_hw):
        return "there is no image"
    largest = tuple(int(side) for side in sizes_hw[sizes_hw.prod(1).argmax()])
    if largest[0] * largest[1] > max_pixels():
        return f"an image of {_size(largest)} is larger than DETFRAME_MAX_IMAGE_PIXELS allows"
    if largest[0] * largest[1] > LARGE_PIXELS and (kind == EQUAL or cfg.TEST.AUG.ENABLED):
        return f"all of an image of {_size(largest)} would have to be in memory"
    if kind == WHOLE:
        seen = resize_shape((largest[0], largest[1]), cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    elif kind == EQUAL and cfg.TEST.AUG.ENABLED:
        return "TEST.AUG looks at images in several sizes"
    elif isinstance(model, FileModel) and model.session.card.input.static_hw is not None:
        return "the exported file takes images of one size"
    else:
        seen = max((equal_shape(cfg, (int(h), int(w))) for h, w in np.unique(sizes_hw, axis=0)), key=np.prod)
    if seen[0] * seen[1] > MOST_PIXELS:
        return f"an image would be {_size(seen)}, which takes too much memory"
    return ""


def _size(size_hw: Sequence[int]) -> str:
    return f"{size_hw[1]}x{size_hw[0]} pixels (width x height)"


def costs(watched: Watched, num_images: int, seconds: float = 0.0) -> dict[str, float]:
    """Pixels and seconds per image over all ranks; every rank calls it.

    Args:
        num_images: of all ranks.
        seconds: that this rank needed beside the model.
    """
    totals = gather_objects((watched.pixels, watched.seconds + seconds))
    count = max(1, num_images)
    return {"pixels": sum(t[0] for t in totals) / count, "seconds": sum(t[1] for t in totals) / count}


def comparison_table(metrics: Mapping[str, float]) -> str:
    """The ways to look at the images beside each other: what was measured, pixels and seconds per image."""
    columns, found = ways(metrics)
    rows = [["", *columns, "Mpx/image", "s/image"]]
    for way in found:
        scores = [format_metric(value) for value in way.values]
        rows.append([way.title, *scores, f"{way.pixels / 1e6:.2f}", f"{way.seconds:.3f}"])
    return text_table(rows)
