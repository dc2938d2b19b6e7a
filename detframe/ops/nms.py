"""NMS of a whole batch as one operator, and the best of each image.

Legend: N images, M candidates over all images, K of the best of each image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import batched_nms
from torchvision.ops import nms as plain_nms

from detframe.ops.boxes import widened
from detframe.ops.compacting import drops_padding
from detframe.ops.exportable import is_exporting
from detframe.ops.operators import define

# The score of what does not count; scores are 0 or more
_NOTHING = -1.0
# Candidates that torchvision's NMS compares in one call on an accelerator, where it keeps a bit of every pair: 512 MiB
_AT_ONCE = 2**16
# The best of each image, among which those that stay are looked for first; and how many pairs of these there may be
_FOREMOST, _PAIRS = 1024, 2**24
# Looks at all of these, after which the host asks whether every one is settled
_ROUNDS = 12


def best_of_images(scores: Tensor, image: Tensor, num_images: int, keep: int) -> tuple[Tensor, Tensor]:
    """The best candidates of each image, as `nms` gives them; of equal scores, the first row comes first.

    Args:
        scores: (M,), M at least 1; below 0 what does not count.
        image: int64 (M,).
    """
    order = scores.sort(descending=True, stable=True).indices
    sorted_image, by_image = image[order].sort(stable=True)
    order = order[by_image]
    ends = torch.searchsorted(sorted_image, torch.arange(num_images, device=image.device), right=True)[:, None]
    starts = torch.cat([ends.new_zeros((1, 1)), ends[:-1]])
    place = starts + torch.arange(keep, device=image.device)
    rows = order[place.clamp(max=len(order) - 1)]
    valid = (place < ends) & (scores[rows] >= 0)
    return torch.where(valid, rows, 0), valid


def _nms(
    boxes: Tensor, scores: Tensor, group: Tensor, image: Tensor, num_images: int, iou: float, keep: int
) -> tuple[Tensor, Tensor]:
    """Hard NMS within groups, then the best of each image.

    An operator of a fixed shape, in eager mode as well: inside of it, torchvision's NMS is where the host waits for an
    accelerator, once, for the number of boxes kept.

    Args:
        boxes: float32 (M, 4).
        scores: float32 (M,), at least 0; below 0 what does not count.
        group: int64 (M,), differs between images.
        image: int64 (M,).
        num_images: N.
        iou: what overlaps a better box of its group more than this goes.
        keep: how many stay of an image.

    Returns:
        The rows that stay, by falling score, int64 (N, keep), 0 where there is none, and which there are, bool (N,
        keep); of equal scores, the first row comes first.
    """
    # in double precision, since the boxes of each group are moved to a place of their own: far out, float32 has too few
    # digits left for their overlaps, which would then depend on how many images and boxes come along
    if 0 < len(scores) <= _AT_ONCE and not drops_padding(boxes.device):
        apart = widened(torch.where(scores[:, None] >= 0, boxes, 0))
        apart = apart + (group * (apart.max() + 1))[:, None]
        kept = plain_nms(apart, scores.to(apart), iou)
        left = torch.full_like(scores, _NOTHING).index_put((kept,), scores[kept])
        return best_of_images(left, image, num_images, keep)
    there = (scores >= 0).nonzero().flatten()
    kept = there[batched_nms(widened(boxes[there]), widened(scores[there]), group[there], iou)].sort().values
    if not len(kept):
        rows = torch.zeros((num_images, keep), dtype=torch.int64, device=boxes.device)
        return rows, torch.zeros_like(rows, dtype=torch.bool)
    rows, valid = best_of_images(scores[kept], image[kept], num_images, keep)
    return torch.where(valid, kept[rows], 0), valid


def _shapes_of_nms(
    boxes: Tensor, scores: Tensor, group: Tensor, image: Tensor, num_images: int, iou: float, keep: int
) -> tuple[Tensor, Tensor]:
    shape = (num_images, keep)
    return group.new_empty(shape), group.new_empty(shape, dtype=torch.bool)


nms = define(
    "detframe::nms",
    "(Tensor boxes, Tensor scores, Tensor group, Tensor image, SymInt num_images, float iou, SymInt keep)"
    " -> (Tensor, Tensor)",
    _nms,
    _shapes_of_nms,
)


def counted_nms(
    boxes: Tensor, scores: Tensor, group: Tensor, image: Tensor, num_images: int, iou: float, keep: int
) -> tuple[Tensor, Tensor, list[int]]:
    """`nms`, and how many stay of each image: known on the host after one wait for an accelerator, which it is rarely
    more.

    The K best of each image are compared with one another. Whether one stays is settled by those that it overlaps and
    that are better, so each round settles at least one more of a chain of such. Where too few of the K stay and there
    are others, `nms` sees all of them.
    """
    most = min(len(scores), _FOREMOST, math.isqrt(_PAIRS // num_images))
    if keep < most or len(scores) <= most:
        rows, there = best_of_images(scores, image, num_images, most + 1)
        others, rows, there = there[:, most], rows[:, :most], there[:, :most]
        stays, counts, enough = _settled(_beaten(boxes[rows], group[rows], there, iou), there, others, keep)
        if enough:
            place = torch.where(stays, stays.cumsum(1) - 1, keep).clamp(max=keep)
            kept = torch.zeros((num_images, keep + 1), dtype=rows.dtype, device=rows.device)
            kept = kept.scatter(1, place, rows)[:, :keep]
            number = stays.sum(1, keepdim=True)
            valid = torch.arange(keep, device=rows.device) < number
            return torch.where(valid, kept, 0), valid, counts
    kept, valid = nms(boxes, scores, group, image, num_images, iou, keep)
    return kept, valid, valid.sum(1).numpy(force=True).tolist()


def _beaten(boxes: Tensor, group: Tensor, there: Tensor, iou: float) -> Tensor:
    """1 where a row would go if the column stayed, which is better, else 0: float32 (N, K, K)."""
    boxes = widened(boxes)  # as `nms`, which of two boxes that overlap by just so much goes
    start, end = torch.split(boxes, 2, -1)
    area = (end - start).prod(-1)
    low, high = torch.maximum(start[:, :, None], start[:, None]), torch.minimum(end[:, :, None], end[:, None])
    shared = (high - low).clamp_(min=0).prod(-1)
    overlaps = shared / (area[:, :, None] + area[:, None] - shared) > iou
    overlaps &= group[:, :, None] == group[:, None]
    return (overlaps & there[:, None]).float().tril_(-1)


def _settled(beaten: Tensor, there: Tensor, others: Tensor, keep: int) -> tuple[Tensor, list[int], bool]:
    """Which of the best rows stay, bool (N, K), how many of each image, and whether no other could be among them.

    Args:
        others: bool (N,), whether an image has candidates that are not among them.
    """
    one = beaten.new_ones((len(beaten), 1, 1))
    stays = one.expand(-1, beaten.shape[1], -1)
    while True:
        for _ in range(_ROUNDS):
            before, stays = stays, _next_round(one, beaten, stays)
        same = (stays == before).all().long()[None]
        found = (stays[..., 0] > 0) & there
        counts = found.sum(1)
        enough = (~others | (counts >= keep)).long()
        # the one wait for an accelerator
        told = torch.cat([same, enough, counts.clamp(max=keep)]).numpy(force=True)
        if told[0]:
            return found, told[1 + len(there) :].tolist(), bool(told[1 : 1 + len(there)].all())


def _next_round(one: Tensor, beaten: Tensor, stays: Tensor) -> Tensor:
    """1 for what no row beats that stayed in the round before, else 0: (N, K, 1)."""
    with torch.autocast(beaten.device.type, enabled=False):
        return torch.baddbmm(one, beaten, stays, alpha=-1).clamp_(min=0)


def nms_in_graph(
    boxes: Tensor, scores: Tensor, group: Tensor, image: Tensor, num_images: int, iou: float, keep: int
) -> tuple[Tensor, Tensor]:
    """`nms` in a graph, with what every exporter knows: the groups are moved apart, for one NMS of torchvision."""
    if is_exporting():
        whole: tuple[Tensor, Tensor] = nms(boxes, scores, group, image, num_images, iou, keep)
        return whole
    furthest = torch.cat([boxes.flatten(), boxes.new_zeros(1)]).max()
    kept = plain_nms(boxes + (group.to(boxes.dtype) * (furthest + 1))[:, None], scores, iou)
    left = torch.full_like(scores, _NOTHING).index_put((kept,), scores[kept])
    left = torch.where(image == torch.arange(num_images, device=image.device)[:, None], left, _NOTHING)
    # as many more as are kept, so that there are always enough
    best, rows = torch.cat([left, left.new_full((num_images, keep), _NOTHING)], 1).topk(keep, 1)
    valid = best > _NOTHING
    return torch.where(valid, rows, 0), valid
