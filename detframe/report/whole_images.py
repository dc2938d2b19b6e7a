"""Tiles and whole images beside each other: the rows that an evaluation in tiles leaves (INPUT.TILES.COMPARE)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

WHOLE, EQUAL = "whole", "whole_equal_pixels"  # what their metrics begin with; those of tiles are the plain ones
_WAYS = {"tiles": "Tiles", WHOLE: "Whole images", EQUAL: "Whole images, at as many pixels"}
_COLUMNS = {
    "bbox/AP": "AP",
    "bbox/AP50": "AP50",
    "bbox/APs": "AP small",
    "segm/AP": "Mask AP",
    "keypoints/AP": "Keypoint AP",
    "voc/AP50": "VOC AP50",
    "tt100k/F1": "F1",
    "proposals/AR@100": "AR@100",
}


class Way(NamedTuple):
    """One way to look at the images of a data set.

    Attributes:
        values: of the columns. pixels, seconds: per image, as the network sees and needs them.
    """

    title: str
    values: tuple[float, ...]
    pixels: float
    seconds: float


def ways(metrics: Mapping[str, float | None]) -> tuple[list[str], list[Way]]:
    """The names of the columns, and the ways that were evaluated; none where it was not in tiles, or not compared."""
    columns = [key for key in _COLUMNS if key in metrics] or [key for key in metrics if "/" in key][:1]
    out = []
    for kind, title in _WAYS.items():
        own = "" if kind == "tiles" else f"{kind}/"
        if f"{kind}/pixels" in metrics:
            values = tuple(_number(metrics.get(own + key)) for key in columns)
            cost = (_number(metrics[f"{kind}/{what}"]) for what in ("pixels", "seconds"))
            out.append(Way(title, values, *cost))
    return [_COLUMNS.get(key, key) for key in columns], out


def is_comparison(name: str, names: Collection[str]) -> bool:
    """Whether a metric is of an evaluation as whole images, or the cost of one, of one of several sets too.

    Args:
        names: of all metrics of the run.
    """
    parts = name.split("/")
    heads = ("/".join(parts[: index + 1]) for index, part in enumerate(parts[:-1]) if part in _WAYS)
    return any(f"{head}/pixels" in names for head in heads)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
