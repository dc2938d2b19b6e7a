"""Settings that would let a detector reach more objects: a few of each kind, which `detframe.recipes.reach` tries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from detframe.config import ConfigNode
from detframe.engine.fit import THRESHOLDS
from detframe.modeling.rpn.anchors import size_rows
from detframe.registry import BACKBONES

Settings = tuple[tuple[str, Any], ...]
FINEST_STRIDE = 4  # of a pyramid; finer ones are other extractors
SMALLEST = 4  # pixels, of an anchor


def options(cfg: ConfigNode, model: Any, sides: np.ndarray, ratios: np.ndarray) -> Iterator[Settings]:
    """Groups of settings, each to be tried alone: those of the RPN head, a larger input, a finer level.

    Args:
        model: the outline of the config's detector.
        sides: float (N,), square roots of the objects' areas in training, after resizing.
        ratios: float (N,), their heights over widths.
    """
    yield from head_options(cfg, model, sides, ratios)
    yield from _larger(cfg)
    yield from _finer_level(cfg, model, THRESHOLDS.get(cfg.MODEL.RPN.NAME))


def head_options(cfg: ConfigNode, model: Any, sides: np.ndarray, ratios: np.ndarray) -> Iterator[Settings]:
    """Those of the RPN head; see `options`."""
    section, rule = THRESHOLDS.get(cfg.MODEL.RPN.NAME), cfg.MODEL.RPN.ASSIGNER
    if section is not None and rule != "rfla":  # whose fields stand for the anchors
        yield from _anchors(cfg, model, section, sides, ratios)
    elif cfg.MODEL.RPN.NAME == "FCOS" and rule == "iou":
        yield from _locations(cfg)


def _anchors(cfg: ConfigNode, model: Any, section: str, sides: np.ndarray, ratios: np.ndarray) -> Iterator[Settings]:
    """Smaller anchors, sizes and aspect ratios at the quantiles of the objects."""
    strides = {name: model.backbone.strides[name] for name in model.rpn_maps}
    key, rows = f"MODEL.{section}.ANCHOR_SIZES", size_rows(cfg, section, strides)
    for factor in (2, 4):
        if min(map(min, rows)) / factor >= SMALLEST:
            yield ((key, _rounded([[size / factor for size in row] for row in rows])),)
    yield ((key, _rounded(quantile_sizes(rows, list(strides.values()), sides))),)
    shapes = tuple(sorted({float(f"{value:.2g}") for value in np.quantile(ratios, (1 / 6, 1 / 2, 5 / 6))}))
    if shapes != tuple(cfg.MODEL[section].ASPECT_RATIOS):
        yield ((f"MODEL.{section}.ASPECT_RATIOS", shapes),)


def quantile_sizes(rows: Sequence[Sequence[float]], strides: Sequence[int], sides: np.ndarray) -> list[list[float]]:
    """As many sizes as there are, at evenly spaced quantiles of the objects' sides.

    Where levels have sizes of their own, none but the finest gets less than two of its strides: objects would fall
    between its anchors.
    """
    if len(rows) == 1:
        count = len(rows[0])
        return [np.quantile(sides, (np.arange(count) + 0.5) / count).tolist()]
    middle = np.quantile(sides, (np.arange(len(rows)) + 0.5) / len(rows))
    out = []
    for row, stride, size in zip(rows, strides, middle, strict=True):
        first = max(float(size), 2.0 * stride if stride > strides[0] else SMALLEST)
        out.append([first * other / row[0] for other in row])
    return out


def _rounded(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, ...], ...]:
    """Sizes as one would write them: whole pixels, below 10 halves; equal ones of a single row once."""
    out = [
        tuple(max(float(SMALLEST), round(2 * size) / 2) if size < 10 else float(round(size)) for size in row)
        for row in rows
    ]
    return (tuple(sorted(set(out[0]))),) if len(out) == 1 else tuple(out)


def _locations(cfg: ConfigNode) -> Iterator[Settings]:
    radius = cfg.MODEL.FCOS.CENTER_SAMPLING_RADIUS
    if radius > 0:
        yield (("MODEL.FCOS.CENTER_SAMPLING_RADIUS", 0.0),)


def _larger(cfg: ConfigNode) -> Iterator[Settings]:
    """One and a half times the input size, and twice, in training and evaluation."""
    keys = cfg.INPUT
    trained = ("LSJ.SIZE",) if keys.LSJ.ON else ("MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN")
    if not keys.LSJ.ON and 0 in keys.MIN_SIZE_TRAIN:
        return
    for factor in (1.5, 2.0):
        yield tuple(
            (f"INPUT.{name}", _scaled(cfg.INPUT[name], factor)) for name in (*trained, "MIN_SIZE_TEST", "MAX_SIZE_TEST")
        )


def _scaled(value: Any, factor: float) -> Any:
    return tuple(round(size * factor) for size in value) if isinstance(value, tuple) else round(value * factor)


def _finer_level(cfg: ConfigNode, model: Any, section: str | None) -> Iterator[Settings]:
    """One level more below the finest one of a pyramid, with anchors of half the size."""
    settings = _finer_extractor(cfg, model)
    if not settings or cfg.MODEL.RPN.IN_FEATURES or cfg.MODEL.RPN.FINEST_LEVEL:
        return
    if section is not None:
        rows = size_rows(cfg, section, model.backbone.strides)
        if len(rows) > 1:
            rows = [tuple(size / 2 for size in rows[0]), *rows]
            settings = (*settings, (f"MODEL.{section}.ANCHOR_SIZES", _rounded(rows)))
    elif cfg.MODEL.FCOS.SIZES_OF_INTEREST:
        sizes = cfg.MODEL.FCOS.SIZES_OF_INTEREST
        settings = (*settings, ("MODEL.FCOS.SIZES_OF_INTEREST", (sizes[0] / 2, *sizes)))
    yield settings


def _finer_extractor(cfg: ConfigNode, model: Any) -> Settings:
    read = getattr(model.backbone, "in_features", [])
    known = getattr(getattr(model.backbone, "body", None), "strides", {})
    names = list(known)
    if read and read[0] in names and names.index(read[0]) > 0:
        finer = names[names.index(read[0]) - 1]
        if known[finer] >= FINEST_STRIDE:
            return (("MODEL.FPN.IN_FEATURES", (finer, *read)),)
    if 2 not in getattr(getattr(model.backbone, "body", None), "all_strides", (2,)):
        return ()  # a model of timm without the map that an extended pyramid needs
    name = cfg.MODEL.BACKBONE.CONV_BODY
    extended = f"{name.removesuffix('-FPN')}-EFPN"
    if name.endswith("-FPN") and extended in BACKBONES and min(model.backbone.strides.values()) == FINEST_STRIDE:
        return (("MODEL.BACKBONE.CONV_BODY", extended),)
    return ()
