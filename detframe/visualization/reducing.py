"""Objects and detections of an image, for a smaller picture of it or for a part of it. Free of torch where they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detframe.arrays.results import INSTANCE_KEYS, as_numpy, rows_of
from detframe.arrays.tiles import clip_boxes


def reduced(instances: Mapping[str, Any], from_hw: tuple[int, int], to_hw: tuple[int, int]) -> dict[str, Any]:
    """The instances of an image of size `from_hw` in a picture of it of size `to_hw`."""
    out = dict(instances)
    if from_hw == to_hw:
        return out
    y, x = (new / old for new, old in zip(to_hw, from_hw, strict=True))
    out["boxes"] = as_numpy(out["boxes"]) * np.array([x, y, x, y], dtype=np.float32)
    if "keypoints" in out:
        out["keypoints"] = as_numpy(out["keypoints"]) * np.array([x, y, 1], dtype=np.float32)
    masks: Any = out.get("masks")
    if hasattr(masks, "rescale"):  # BoxMasks and TileMasks; pixels are resized when they are drawn
        out["masks"] = masks.rescale(from_hw, to_hw)
    elif hasattr(masks, "resize") and hasattr(masks, "decode"):  # LazyMasks
        out["masks"] = masks.resize(to_hw)
    return out


def within(instances: Mapping[str, Any], window: Sequence[int]) -> dict[str, Any]:
    """The instances of an image that reach into a part of it (x1, y1, x2, y2), in its pixels; without their masks."""
    corner = np.array([window[0], window[1]], dtype=np.float32)
    boxes = clip_boxes(as_numpy(instances["boxes"]).reshape(-1, 4), np.asarray(window, dtype=np.float32))
    there = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1))
    out = {key: rows_of(instances[key], there) for key in instances if key in INSTANCE_KEYS and key != "masks"}
    out["boxes"] = boxes[there] - np.tile(corner, 2)
    if "keypoints" in out:
        points = np.array(as_numpy(out["keypoints"]))
        points[..., :2] -= corner
        out["keypoints"] = points
    return out
