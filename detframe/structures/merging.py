"""The predictions of an image's tiles as one prediction of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from detframe.arrays.merging import Method, merge_tiles
from detframe.arrays.results import as_numpy
from detframe.structures.tile_masks import TileMask, TileMasks, tile_masks


class Merging(NamedTuple):
    """How: INPUT.TILES.MERGE and MERGE_THRESH; see `arrays.merging.merge_tiles`."""

    method: Method = "ios"
    threshold: float = 0.5


def compact(prediction: Mapping[str, Any], tile: Sequence[int]) -> dict[str, Any]:
    """A tile's prediction as it is to wait for those of the other tiles: masks of pixels without their empty part.

    Args:
        tile: x1, y1, x2, y2 in the image.
    """
    out = dict(prediction)
    if "masks" in out and not isinstance(out["masks"], list):
        out["masks"] = tile_masks(out["masks"], tile)
    return out


def merge_predictions(
    predictions: Sequence[Mapping[str, Any]], tiles: np.ndarray, size_hw: tuple[int, int], merging: Merging
) -> dict[str, Any]:
    """One prediction of an image, in its coordinates, of those of its tiles, each in the coordinates of the tile.

    The prediction of an image that is one tile stays as it is. Else its entries are those that all tiles have of
    boxes, labels, scores, masks (as TileMasks) and keypoints, tensors where these were tensors.

    Args:
        predictions: of the T tiles; those of images of several tiles may be what `compact` gave.
        tiles: int64 (T, 4), xyxy.
        size_hw: of the image.
    """
    if tiles.tolist() == [[0, 0, size_hw[1], size_hw[0]]]:
        return dict(predictions[0])
    counts = [len(prediction["scores"]) for prediction in predictions]
    tile = np.repeat(np.arange(len(tiles)), counts)
    offsets = tiles[tile][:, [0, 1, 0, 1]]
    boxes, scores, labels = (_stacked(predictions, key) for key in ("boxes", "scores", "labels"))
    masks = _all_masks(predictions, tiles)
    merged = merge_tiles(
        boxes.reshape(-1, 4) + offsets,
        scores,
        labels,
        tile,
        tiles,
        size_hw,
        *merging,
        mask_of=None if masks is None else lambda row: masks[row].pixels,
    )
    out: dict[str, Any] = {
        "boxes": merged.boxes.astype(np.float32),
        "labels": labels[merged.lead].astype(np.int64),
        "scores": merged.scores.astype(np.float32),
    }
    if all("keypoints" in prediction for prediction in predictions):
        points = _stacked(predictions, "keypoints")[merged.lead]
        points[..., :2] += offsets[merged.lead][:, None, :2].astype(points.dtype)
        out["keypoints"] = points
    as_torch = hasattr(predictions[0]["boxes"], "detach")
    if as_torch:
        import torch

        out = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in out.items()}
    if masks is not None:
        parts = [[masks[row] for row in rows.tolist()] for rows in merged.parts]
        out["masks"] = TileMasks(parts, size_hw, "torch" if as_torch else "numpy")
    return out


def _stacked(predictions: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.concatenate([as_numpy(prediction[key]) for prediction in predictions])


def _all_masks(predictions: Sequence[Mapping[str, Any]], tiles: np.ndarray) -> list[TileMask] | None:
    if not all("masks" in prediction for prediction in predictions):
        return None
    found: list[TileMask] = []
    for prediction, tile in zip(predictions, tiles.tolist(), strict=True):
        found += compact(prediction, tile)["masks"]
    return found
