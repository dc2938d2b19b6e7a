"""Assignment of anchors or proposals to ground-truth boxes by overlap, for a whole batch at once.

Legend: N images, G ground-truth boxes of the fullest image (the others are padded), A anchors or proposals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from detframe.ops.boxes import pairwise_iou

# Pairs of boxes whose overlaps are held at once (float32: 128 MiB); those of more are computed again when needed
MAX_PAIRS = 2**25
# Pairs that a CPU computes at a time: passes over a chunk that stays in its cache take less time than passes
# over the whole
CACHE_PAIRS = 2**20


@dataclass(frozen=True)
class Matching:
    """What an anchor is, by its overlap with the object that it overlaps most."""

    fg: float  # at or above it, foreground
    bg: float  # below it, background


class Matches(NamedTuple):
    """What each anchor is matched to."""

    gt_index: Tensor  # int64 (N, A), row of the best ground-truth box; 0 where there is none
    label: Tensor  # int8 (N, A), 1 foreground, 0 background, -1 between the thresholds
    iou: Tensor  # float32 (N, A), overlap with that box


@torch.no_grad()
def match_boxes(
    gt_boxes: Tensor,
    gt_valid: Tensor,
    anchors: Tensor,
    matching: Matching,
    keep_best: bool,
    max_pairs: int = MAX_PAIRS,
) -> Matches:
    """Match every anchor to the ground-truth box that it overlaps most (Faster R-CNN, arXiv:1506.01497, section 3.1.2).

    Args:
        gt_boxes: (N, G, 4), rows beyond an image's own are padding; G is at least 1.
        gt_valid: bool (N, G), which rows are no padding. Without any, all anchors of the image are background.
        anchors: (A, 4), shared by the images, or (N, A, 4); A is at least 1.
        keep_best: the anchors that overlap a box most are foreground whatever the overlap, unless it is 0.
        max_pairs: bound on the overlaps in memory; the result does not depend on it.
    """
    num_anchors, pairs_per_anchor = anchors.shape[-2], max(1, gt_valid.numel())
    fused = anchors.device.type != "cpu" or torch.compiler.is_compiling()
    step = max(1, (max_pairs if fused else min(max_pairs, CACHE_PAIRS)) // pairs_per_anchor)
    chunks = [anchors[..., start : start + step, :] for start in range(0, num_anchors, step)]
    overlaps = _Overlaps(gt_boxes, gt_valid, chunks, keep=num_anchors * pairs_per_anchor <= max_pairs)
    best = [overlaps.of(i).max(1) for i in range(len(chunks))]
    iou = torch.cat([b.values for b in best], -1)  # -1 without objects
    index = torch.cat([b.indices for b in best], -1)
    foreground = iou >= matching.fg
    label = foreground.to(torch.int8) - ((iou >= matching.bg) & ~foreground).to(torch.int8)
    if keep_best:
        label = label.masked_fill(_best_of_a_box(overlaps, len(chunks)), 1)
    return Matches(index, label, iou.clamp(min=0))


class _Overlaps:
    """IoU of all ground truth with each chunk of anchors; computed when first asked for, and kept, or each time."""

    def __init__(self, gt_boxes: Tensor, gt_valid: Tensor, chunks: list[Tensor], keep: bool) -> None:
        self.gt_boxes, self.chunks, self.keep = gt_boxes, chunks, keep
        self.padding = ~gt_valid[..., None]
        self.kept: dict[int, Tensor] = {}

    def of(self, chunk: int) -> Tensor:
        if chunk in self.kept:
            return self.kept[chunk]
        iou = pairwise_iou(self.gt_boxes, self.chunks[chunk]).masked_fill_(self.padding, -1.0)
        if self.keep:
            self.kept[chunk] = iou
        return iou


def _best_of_a_box(overlaps: _Overlaps, num_chunks: int) -> Tensor:
    per_gt = torch.stack([overlaps.of(i).amax(-1) for i in range(num_chunks)]).amax(0)
    per_gt = per_gt.masked_fill(per_gt <= 0, torch.inf)[..., None]
    return torch.cat([(overlaps.of(i) == per_gt).any(1) for i in range(num_chunks)], -1)
