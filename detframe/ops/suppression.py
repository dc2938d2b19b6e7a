"""Beyond NMS by overlap: boxes that overlap and of which none is simply dropped, and NMS by another measure.

Legend: M boxes, G groups of boxes that have to do with each other, L boxes of the largest group.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from detframe.ops.assigning import wasserstein_squared
from detframe.ops.boxes import CACHE_PAIRS, pairwise_iou
from detframe.ops.operators import define
from detframe.ops.ragged import places


def soft_scores(
    boxes: Tensor, scores: Tensor, group: Tensor, *, sigma: float = 0.5, linear_from: float | None = None, most: int
) -> Tensor:
    """Scores after Soft-NMS, (M,): of each group the best box is taken, and lowers the scores of all that are left.

    Scores are lowered by exp(-IoU² / sigma), or linearly, by 1 - IoU.

    Args:
        boxes: (M, 4), xyxy.
        scores: (M,), at least 0; what does not count has less, and then 0.
        group: int64 (M,).
        linear_from: lower linearly, and only what overlaps by more than this IoU.
        most: how many are taken of a group; what is left then has a score of 0, as it lies below all of those.

    Source: Bodla et al. 2017, arXiv:1704.04503, section 3. Of equal scores, the first row is taken first.
    """
    lowered: Tensor = _SOFT_SCORES(boxes, scores, group, sigma, linear_from, most)
    return lowered


def _soft_scores(
    boxes: Tensor, scores: Tensor, group: Tensor, sigma: float, linear_from: float | None, most: int
) -> Tensor:
    rows, filled = _grouped(group)
    left = torch.where(filled, scores[rows], -1.0)
    boxes, taken = boxes[rows], torch.zeros_like(left)
    for _ in range(min(most, left.shape[1])):
        best = left.argmax(1, keepdim=True)
        taken.scatter_reduce_(1, best, left.gather(1, best), "amax")  # -1 in groups that are used up
        overlap = pairwise_iou(boxes.gather(1, best[..., None].expand(-1, -1, 4)), boxes)[:, 0]
        left = torch.where(left < 0, left, left * _kept_share(overlap, sigma, linear_from)).scatter(1, best, -1.0)
    return torch.zeros_like(scores).index_put((rows[filled],), taken[filled])


_SOFT_SCORES = define(
    "detframe::soft_scores",
    "(Tensor boxes, Tensor scores, Tensor group, float sigma, float? linear_from, int most) -> Tensor",
    _soft_scores,
    lambda boxes, scores, group, sigma, linear_from, most: torch.empty_like(scores),
)


def _kept_share(overlap: Tensor, sigma: float, linear_from: float | None) -> Tensor:
    if linear_from is None:
        return torch.exp(-(overlap**2) / sigma)
    return torch.where(overlap > linear_from, 1 - overlap, 1.0)


def weighted_boxes(
    boxes: Tensor, scores: Tensor, group: Tensor, *, iou: float, models: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted boxes fusion: boxes of a group that overlap become one, the mean of them weighted by their scores.

    By falling score, a box joins the fused box that it overlaps most, if by more than `iou`, or begins one of its own.
    The score of a fused box of T boxes is their mean, times min(T, models) / models: what few models saw counts less.

    Args:
        boxes: (M, 4), xyxy.
        scores: (M,), above 0.
        group: int64 (M,).
        models: how many models, or views of the image, the boxes are from.

    Returns:
        F fused boxes: their boxes (F, 4), scores (F,), and for each the row of its best box, int64 (F,).

    Source: Solovyev et al. 2021, arXiv:1910.13302, section 3, equations 1 to 5.
    """
    order = scores.sort(descending=True, stable=True).indices
    rows, filled = _grouped(group[order])
    rows = order[rows]
    # a fused box each, at most as many as there are boxes
    shape = rows.shape
    weighted, total, members = boxes.new_zeros((*shape, 4)), scores.new_zeros(shape), scores.new_zeros(shape)
    first, used = torch.zeros_like(rows), torch.zeros_like(rows[:, :1])
    for place in range(shape[1]):
        there = filled[:, place : place + 1]
        row = rows[:, place]
        fused = weighted / total[..., None].clamp(min=torch.finfo(total.dtype).tiny)
        overlap, joins = pairwise_iou(boxes[row][:, None], fused)[:, 0].max(1, keepdim=True)
        begins = ~(overlap > iou)
        slot = torch.where(begins, used, joins)
        first = torch.where(there & begins, first.scatter(1, slot, row[:, None]), first)
        used = used + (there & begins)
        score = scores[row][:, None] * there
        weighted = weighted.scatter_add(1, slot[..., None].expand(-1, -1, 4), score[..., None] * boxes[row][:, None])
        total, members = total.scatter_add(1, slot, score), members.scatter_add(1, slot, there.to(members))
    there = members > 0
    weighted, total, members = weighted[there], total[there], members[there]
    return weighted / total[:, None], total / members * members.clamp(max=models) / models, first[there]


def nwd_nms(boxes: Tensor, scores: Tensor, group: Tensor, threshold: float, constant: float) -> Tensor:
    """NMS whose measure is the normalised Wasserstein distance, NWD = exp(-W / C), in place of IoU: of each group the
    best box is taken, and all goes whose NWD with it exceeds the threshold; then the best of what is left, and so on.

    Args:
        boxes: (M, 4), xyxy.
        scores: (M,); of equal ones, the first row is taken first.
        group: int64 (M,).
        constant: C, in pixels.

    Returns:
        Which stay, bool (M,).

    Source: Wang et al. 2021, arXiv:2110.13389, section 3.3.
    """
    kept: Tensor = _NWD_NMS(boxes, scores, group, threshold, constant)
    return kept


def _nwd_nms(boxes: Tensor, scores: Tensor, group: Tensor, threshold: float, constant: float) -> Tensor:
    order = scores.sort(descending=True, stable=True).indices
    rows, filled = _grouped(group[order])
    rows = order[rows]
    boxes, reach = boxes[rows], _reach_squared(threshold, constant)
    num_groups, largest = rows.shape
    step = max(1, CACHE_PAIRS // max(1, num_groups * largest))
    for start in range(0, largest, step):
        end = min(start + step, largest)
        near = wasserstein_squared(boxes[:, start:end, None], boxes[:, None, start:]) < reach
        kept = _greedy(filled[:, start:end], near[:, :, : end - start].triu(1))
        filled[:, start:end] = kept
        filled[:, end:] &= ~(near[:, :, end - start :] & kept[:, :, None]).any(1)
    return torch.zeros_like(group, dtype=torch.bool).index_fill(0, rows[filled], True)


_NWD_NMS = define(
    "detframe::nwd_nms",
    "(Tensor boxes, Tensor scores, Tensor group, float threshold, float constant) -> Tensor",
    _nwd_nms,
    lambda boxes, scores, group, threshold, constant: torch.empty_like(group, dtype=torch.bool),
)


def _reach_squared(threshold: float, constant: float) -> float:
    """The W^2 below which NWD exceeds a threshold."""
    return (constant * math.log(threshold)) ** 2 if threshold > 0 else math.inf


def _greedy(there: Tensor, drops: Tensor) -> Tensor:
    """Which boxes of each group stay, bool (G, L), if each that stays drops others behind it.

    What stays follows from what stays before it. So from a guess, each pass puts at least one more right, and what a
    pass leaves as it is is the answer; it takes as many as the longest chain of boxes that decide about each other.

    Args:
        there: bool (G, L).
        drops: bool (G, L, L), whether the first would drop the second, which stands behind it.
    """
    kept, before = there, torch.zeros_like(there)
    while not torch.equal(kept, before):
        kept, before = there & ~(drops & kept[:, :, None]).any(1), kept
    return kept


def _grouped(group: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of each group, in order: int64 (G, L), and which of them are no padding, bool (G, L)."""
    _, number, counts = torch.unique(group, return_inverse=True, return_counts=True)
    order = number.sort(stable=True).indices
    number = number[order]
    shape = (len(counts), int(counts.max()) if len(counts) else 0)
    rows, filled = torch.zeros(shape, dtype=torch.int64, device=group.device), torch.zeros(shape, device=group.device)
    at = (number, places(number, len(counts)))
    return rows.index_put(at, order), filled.index_put(at, torch.ones_like(number, dtype=filled.dtype)) > 0
