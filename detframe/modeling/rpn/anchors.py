"""The anchors of a pyramid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import ByShape
from detframe.modeling.proposals import box_coder
from detframe.modeling.rpn.assigner import field_sides
from detframe.ops import BoxCoder, anchor_templates, grid_anchors, grid_step
from detframe.ops.ranked_reach import PriorLevel
from detframe.ops.reach import Objects, grid_cells, nearest_anchors
from detframe.structures import ImageList

T = TypeVar("T")
_FINEST_LEVELS = {f"p{level}" for level in range(1, 6)}  # that MODEL.RPN.FINEST_LEVEL may name


class AnchorGenerator(nn.Module):
    """Anchors of every level; the templates are buffers, so that they follow the model to its device.

    Args:
        style: see `anchor_templates`.
        step: see `grid_step`.
        offset: where in its cell an anchor stands, in steps.
        coder: where boxes run from pixel to pixel, so do the anchors, and have the same sides by that measure.
    """

    templates0: Tensor

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float],
        strides: Sequence[int],
        style: str,
        step: str,
        offset: float,
        coder: BoxCoder,
    ) -> None:
        super().__init__()
        self.step, self.offset = step, offset
        self.strides = list(strides)
        self._known: ByShape[list[Tensor]] = ByShape()
        self.num_sizes, self.num_ratios = len(sizes[0]), len(aspect_ratios)
        self.num_anchors = self.num_sizes * self.num_ratios
        for i, level_sizes in enumerate(sizes):
            templates = anchor_templates(level_sizes, aspect_ratios, style, self.strides[i])
            self.register_buffer(f"templates{i}", coder.shrink(templates), persistent=False)

    @classmethod
    def from_config(cls, cfg: ConfigNode, section: str, strides: Mapping[str, int]) -> AnchorGenerator:
        """The anchors that ANCHOR_SIZES, ASPECT_RATIOS, ANCHOR_STYLE, _STEP and _OFFSET of MODEL.SECTION describe.

        With MODEL.RPN.ASSIGNER "rfla" they are the effective receptive fields, one a cell, whatever the sizes and
        ratios are, and never rounded.

        Raises:
            ValueError: sizes, or receptive fields, that do not match the levels of the pyramid.
        """
        keys = cfg.MODEL[section]
        if cfg.MODEL.RPN.ASSIGNER == "rfla":
            sizes: list[tuple[float, ...]] = [(side,) for side in field_sides(cfg, strides)]
            shapes: Sequence[float] = (1.0,)
            style = "exact" if keys.ANCHOR_STYLE == "torchvision" else keys.ANCHOR_STYLE
        else:
            own = size_rows(cfg, section, strides) if cfg.MODEL.RPN.FINEST_LEVEL else keys.ANCHOR_SIZES
            sizes = _sizes_per_level(f"MODEL.{section}.ANCHOR_SIZES", own, strides)
            shapes, style = keys.ASPECT_RATIOS, keys.ANCHOR_STYLE
        return cls(
            sizes=sizes,
            aspect_ratios=shapes,
            strides=list(strides.values()),
            style=style,
            step=keys.ANCHOR_STEP,
            offset=keys.ANCHOR_OFFSET,
            coder=box_coder(cfg),
        )

    def forward(self, features: Sequence[Tensor], images: ImageList) -> list[Tensor]:
        """Anchors (H * W * T, 4) of each level, which are not to be changed in place."""
        grids = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        key = (*grids, images.padded_hw, self.templates0.dtype)
        return self._known.get(key, features[0], lambda: self._place(grids, images.padded_hw))

    def _place(self, grids: Sequence[tuple[int, int]], padded_hw: tuple[int, int]) -> list[Tensor]:
        out = []
        for i, (grid_hw, stride) in enumerate(zip(grids, self.strides, strict=True)):
            step = grid_step(self.step, stride, grid_hw, padded_hw)
            out.append(grid_anchors(getattr(self, f"templates{i}"), grid_hw, step, self.offset))
        return out

    def levels(self, objects: Objects) -> list[PriorLevel]:
        """The anchors of each level in the images of some objects."""
        return [
            PriorLevel(getattr(self, f"templates{i}"), grid_cells(self.step, stride, objects.padded_hw), self.offset)
            for i, stride in enumerate(self.strides)
        ]

    def nearest(self, objects: Objects, margin: float) -> tuple[Tensor, Tensor]:
        """The anchors of each level and shape that overlap objects most; see `nearest_anchors`."""
        found = [
            nearest_anchors(objects, level.templates, level.cells, level.offset, margin)
            for level in self.levels(objects)
        ]
        anchors, there = zip(*found, strict=True)
        return torch.cat(anchors, 1), torch.cat(there, 1)


def size_rows(cfg: ConfigNode, section: str, strides: Mapping[str, int]) -> list[tuple[float, ...]]:
    """ANCHOR_SIZES of MODEL.SECTION as rows: a single one for all levels, or one for each of them, which the coarsest
    levels decide where MODEL.RPN.FINEST_LEVEL chooses the levels."""
    rows = _as_rows(cfg.MODEL[section].ANCHOR_SIZES)
    if not cfg.MODEL.RPN.FINEST_LEVEL or len(rows) == 1:
        return rows
    return from_the_coarsest(rows, strides, len(strides), lambda row: tuple(size / 2 for size in row))


def _as_rows(sizes: Sequence[Any]) -> list[tuple[float, ...]]:
    return [tuple(row) if isinstance(row, (tuple, list)) else (row,) for row in sizes]


def from_the_coarsest(values: Sequence[T], strides: Mapping[str, int], count: int, finer: Callable[[T], T]) -> list[T]:
    """Values of the coarsest levels, as many as are needed: more are made of the first, again and again, and those of
    levels that are finer than the finest of `strides` are left out, which is as many as there could be.
    """
    finest = min(strides.values())
    out = list(values)
    surplus = len(out) - count
    if 0 < surplus < finest.bit_length() - 1:  # as there are finer levels, of stride 2 and more
        return out[surplus:]
    while len(out) < count:
        out.insert(0, finer(out[0]))
    return out


def _sizes_per_level(
    key: str, sizes: Sequence[float | Sequence[float]], strides: Mapping[str, int]
) -> list[tuple[float, ...]]:
    """Anchor sizes of each level; a single row serves all levels.

    Raises:
        ValueError: as many rows as levels are needed, equally long; the message names `key`.
    """
    rows = _as_rows(sizes)
    if len(rows) == 1:
        rows *= len(strides)
    if len(rows) != len(strides):
        raise InvalidValueError(
            f"{key} has {len(rows)} levels {sizes}, but the pyramid has {len(strides)}: "
            f"{', '.join(f'{name} (stride {stride})' for name, stride in strides.items())}; {_remedy(rows, strides)}"
        )
    if len({len(row) for row in rows}) != 1:
        raise InvalidValueError(f"{key} needs equally many sizes on every level, not {sizes}")
    return rows


def _remedy(rows: Sequence[Any], strides: Mapping[str, int]) -> str:
    """What to do where levels and rows of sizes differ in number."""
    text = "write one row of sizes for each level, from the finest, or a single one for all"
    names = list(strides)
    begin = names[-len(rows)] if len(rows) < len(names) else ""
    if begin not in _FINEST_LEVELS or names[0] not in _FINEST_LEVELS:
        return text
    return (
        f"{text}; or set MODEL.RPN.FINEST_LEVEL (and no IN_FEATURES): with {begin!r} these rows are those of {begin} "
        f"and coarser levels, and finer ones have no anchors; with {names[0]!r} they have half the sizes of the next"
    )
