"""Evaluating tiles on whole images: what was found in the tiles of an image, merged, against its own annotations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from detframe.errors import InvalidValueError
from detframe.structures import Merging, Prediction, Target, merge_predictions
from detframe.structures.merging import compact

OnImage = Callable[[Target, Prediction, np.ndarray], None]


class TiledEvaluator:
    """An evaluator of images, for a loader that gives their tiles; all else it has, as `table`, is that evaluator's.

    The tiles of an image follow one another. When the next image begins, what was found in those that came is merged
    and handed on with the annotations of the whole image; so a tile that could not be read is one in which nothing was
    found.

    Args:
        evaluator: scores whole images.
        merging: how detections are merged.

    Attributes:
        on_image: called with the target, the merged prediction and the tiles (T, 4) of each image, as it is scored.
    """

    def __init__(self, evaluator: Any, merging: Merging) -> None:
        self.evaluator = evaluator
        self.merging = merging
        self.on_image: OnImage | None = None
        self._clear()
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        if name == "evaluator":  # not there yet, as in a copy that is being made
            raise AttributeError(name)
        return getattr(self.evaluator, name)

    def _clear(self) -> None:
        self._target: Target | None = None
        self._image_id: Any = None
        self._tiles: list[Sequence[int]] = []
        self._found: list[Mapping[str, Any]] = []

    def reset(self) -> None:
        """Forget all predictions, and the time that merging took (`seconds`)."""
        self._clear()
        self.seconds = 0.0
        self.evaluator.reset()

    def update(self, targets: Sequence[Target], predictions: Sequence[Prediction]) -> None:
        """Take the predictions of some tiles, in the coordinates of the tile.

        Args:
            targets: of the tiles: `image_id`, `tile` (x1, y1, x2, y2) and `tiles_of_image`; the first tile of an image
                has the target of the whole image as `image_target`.

        Raises:
            ValueError: a tile without the annotations of its image; or as the evaluator of images.
        """
        for target, prediction in zip(targets, predictions, strict=True):
            of_tile: Mapping[str, Any] = target
            if self._target is None or of_tile["image_id"] != self._image_id:
                self._finish()
                self._begin(of_tile)
            self._tiles.append(of_tile["tile"])
            alone = of_tile["tiles_of_image"] == 1
            self._found.append(prediction if alone else compact(prediction, of_tile["tile"]))
            if len(self._tiles) == of_tile["tiles_of_image"]:
                self._finish()

    def compute(self) -> dict[str, float]:
        """The metrics of whole images; see the evaluator."""
        self._finish()
        metrics: dict[str, float] = self.evaluator.compute()
        return metrics

    def _begin(self, of_tile: Mapping[str, Any]) -> None:
        if "image_target" not in of_tile:
            raise InvalidValueError(
                f"the first tile of the image {of_tile['image_id']!r} has no image_target, the annotations of the "
                "whole image; the tiles of an image must follow one another"
            )
        self._target, self._image_id = of_tile["image_target"], of_tile["image_id"]

    def _finish(self) -> None:
        """Merge what there is of an image, and hand it on."""
        if self._target is None:
            return
        begun = time.perf_counter()
        tiles = np.array([[int(side) for side in tile] for tile in self._tiles], dtype=np.int64)
        merged: Any = merge_predictions(self._found, tiles, self._target["orig_size_hw"], self.merging)
        self.seconds += time.perf_counter() - begun
        target = self._target
        self._clear()
        if self.on_image is not None:
            self.on_image(target, merged, tiles)
        self.evaluator.update([target], [merged])


def as_loaded(cfg: Any, evaluator: Any) -> Any:
    """An evaluator of images for what a test loader gives: where these are tiles, they are put together for it."""
    tiles = cfg.INPUT.TILES
    return TiledEvaluator(evaluator, Merging(tiles.MERGE, tiles.MERGE_THRESH)) if tiles.SIZE else evaluator
