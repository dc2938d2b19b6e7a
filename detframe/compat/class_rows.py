"""Outputs that have rows for each class: which rows of a checkpoint belong to which classes of a model.

Legend: K classes of the model, J of the checkpoint, both without background.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from detframe.data.coco_categories import COCO_CATEGORIES
from detframe.errors import listed

Names = tuple[str | None, ...]  # None: a row that stands for no class

_SCORES = re.compile(r"roi_heads\.(box|extended)_predictor\.(\d\.)?cls_score\.bias")
_DENSE = "rpn.head.classification_head.cls_logits.bias"
_DENSE_BOXES = "rpn.head.regression_head.bbox_reg.bias"
_POINT_MASKS = "roi_heads.mask.point_head.predictor.bias"
_COCO: Names = tuple(COCO_CATEGORIES.values())
_COCO_BY_ID: Names = tuple(COCO_CATEGORIES.get(i) for i in range(1, 91))
_SHOWN = 12


@dataclass(frozen=True)
class _Axis:
    """An axis with something for every class.

    `layout` "after": first what belongs to no class, as the background, then one a class. "blocks": `width` rows a
    class (0: any number). "groups": one a class, repeated, as for each anchor of a cell.
    """

    dim: int
    layout: str
    width: int = 0

    def fits(self, size: int, other: int, classes: int, others: int) -> bool:
        """Whether sizes of both sides agree with so many classes; those of class-agnostic outputs do not."""
        if self.layout == "after":
            return size - classes == other - others >= 0
        width = self.width or size // classes
        return size == width * classes and other == width * others

    def rows(self, chosen: Sequence[int], size: int, classes: int) -> list[int]:
        """Rows of the classes, and of what belongs to none."""
        if self.layout == "after":
            first = size - classes
            return [*range(first), *(first + c for c in chosen)]
        if self.layout == "blocks":
            width = size // classes
            return [c * width + i for c in chosen for i in range(width)]
        return [g * classes + c for g in range(size // classes) for c in chosen]


_LAYERS: tuple[tuple[str, tuple[_Axis, ...]], ...] = (
    (r"roi_heads\.(box|extended)_predictor\.(\d\.)?cls_score\.(weight|bias)", (_Axis(0, "after"),)),
    (r"roi_heads\.(box|extended)_predictor\.(\d\.)?bbox_pred\.(weight|bias)", (_Axis(0, "blocks", 4),)),
    (r"roi_heads\.mask\.predictor\.mask_fcn_logits\.(weight|bias)", (_Axis(0, "blocks", 1),)),
    (r"rpn\.head\.classification_head\.cls_logits\.(weight|bias)", (_Axis(0, "groups"),)),
    (r"roi_heads\.mask\.coarse\.prediction\.(weight|bias)", (_Axis(0, "blocks"),)),
    # the coarse masks join the input of every layer of PointRend
    (r"roi_heads\.mask\.point_head\.fcs\.\d\.weight", (_Axis(1, "after"),)),
    (r"roi_heads\.mask\.point_head\.predictor\.weight", (_Axis(0, "blocks", 1), _Axis(1, "after"))),
    (r"roi_heads\.mask\.point_head\.predictor\.bias", (_Axis(0, "blocks", 1),)),
)


@dataclass
class ClassRows:
    """What came of the class outputs: parameters with rows by name, and the classes."""

    values: dict[str, Tensor] = field(default_factory=dict)  # complete parameters, those of the model where new
    counts: dict[str, int] = field(default_factory=dict)  # how many of their values are the checkpoint's
    copied: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    taken_for: str = ""

    @property
    def total(self) -> int:
        """K."""
        return len(self.copied) + len(self.new)

    def note(self) -> str:
        """One line for a report."""
        line = f"class rows copied: {len(self.copied)} of {self.total}{_listed(' (', self.copied, ')')}"
        line += _listed("; new: ", self.new, "")
        return f"{line}; {self.taken_for}" if self.taken_for else line


def count_classes(state: Mapping[str, Tensor]) -> int:
    """How many classes a state dict in our names has, without background; 0 where it has no class outputs."""
    for name, value in state.items():
        if _SCORES.fullmatch(name):
            return len(value) - 1
    if _DENSE in state:
        return len(state[_DENSE]) // max(len(state.get(_DENSE_BOXES, ())) // 4, 1)
    return 0


def coco_names(state: Mapping[str, Tensor], by_id: bool) -> Names | None:
    """The classes of a checkpoint that does not say them, if it has as many as COCO: 80, or `by_id` 90 with gaps.

    A dense detector of torchvision has a column more, in front, that stands for no class.
    """
    classes = count_classes(state)
    if not by_id:
        return _COCO if classes == len(_COCO) else None
    known: dict[int, Names] = {90: _COCO_BY_ID, 91: (None, *_COCO_BY_ID)}
    return known.get(classes)


def rows_by_name(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], theirs: Names, ours: Sequence[str]
) -> ClassRows:
    """The class outputs of the model, with those rows of the checkpoint that belong to classes of the same name.

    Names are the same whatever their case, and "_" and "-" are spaces. A name that a side has twice belongs to none.

    Args:
        state: of the checkpoint, in our names.
        target: of the model.
        theirs: the J classes of the checkpoint.
        ours: the K classes of the model.
    """
    place = _places(theirs)
    pairs = sorted((i, place[name]) for name, i in _places(ours).items() if name in place)
    found = {i for i, _ in pairs}
    out = ClassRows(copied=tuple(ours[i] for i, _ in pairs), new=tuple(n for i, n in enumerate(ours) if i not in found))
    for name, axes in _class_layers(state, target, len(ours)):
        mine, other = target[name], state[name]
        if _fit(mine, other, axes, len(ours), len(theirs)):
            out.values[name], out.counts[name] = _merged(mine, other, axes, pairs, len(ours), len(theirs))
    return out


def _fit(mine: Tensor, other: Tensor, axes: Sequence[_Axis], classes: int, others: int) -> bool:
    """Whether two tensors differ by their classes only."""
    by_class = {axis.dim: axis for axis in axes}
    return mine.ndim == other.ndim and all(
        by_class[dim].fits(size, other.shape[dim], classes, others) if dim in by_class else size == other.shape[dim]
        for dim, size in enumerate(mine.shape)
    )


def _class_layers(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], classes: int
) -> list[tuple[str, tuple[_Axis, ...]]]:
    out = []
    for name in target:
        axes = next((axes for pattern, axes in _LAYERS if re.fullmatch(pattern, name)), None)
        of_points = ".mask.coarse." in name or ".point_head." in name
        if of_points and len(target.get(_POINT_MASKS, ())) != classes:
            continue
        if axes and name in state:
            out.append((name, axes))
    return out


def _merged(
    mine: Tensor, other: Tensor, axes: Sequence[_Axis], pairs: Sequence[tuple[int, int]], classes: int, others: int
) -> tuple[Tensor, int]:
    """The model's values, with those of the pairs (class of ours, class of theirs) from the checkpoint; how many."""
    out = mine.detach().clone()
    if not pairs:
        return out, 0
    index, source = [torch.arange(size) for size in mine.shape], other
    for axis in axes:
        index[axis.dim] = torch.tensor(axis.rows([i for i, _ in pairs], mine.shape[axis.dim], classes))
        rows = axis.rows([j for _, j in pairs], other.shape[axis.dim], others)
        source = source.index_select(axis.dim, torch.tensor(rows))
    at = (rows.reshape(-1, *[1] * (mine.ndim - 1 - dim)).to(out.device) for dim, rows in enumerate(index))
    out[tuple(at)] = source.to(out)
    return out, source.numel()


def _places(names: Sequence[str | None]) -> dict[str, int]:
    plain = [None if name is None else re.sub(r"[_-]", " ", name).casefold() for name in names]
    times = Counter(plain)
    return {name: i for i, name in enumerate(plain) if name is not None and times[name] == 1}


def _listed(before: str, names: Sequence[str], after: str) -> str:
    return f"{before}{listed(names, _SHOWN)}{after}" if names else ""
