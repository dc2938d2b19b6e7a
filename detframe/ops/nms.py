"""NMS of a whole batch as one operator, and the best of each image.

Legend: N images, M candidates over all images.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms
from torchvision.ops import nms as plain_nms

from detframe.ops.compacting import drops_padding
from detframe.ops.exportable import is_exporting
from detframe.ops.operators import define

# The score of what does not count; scores are 0 or more
_NOTHING = -1.0
# Candidates that torchvision's NMS compares in one call on an accelerator, where it keeps a bit of every pair: 512 MiB
_AT_ONCE = 2**16


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
        apart = torch.where(scores[:, None] >= 0, boxes, 0).double()
        apart = apart + (group * (apart.max() + 1))[:, None]
        kept = plain_nms(apart, scores.double(), iou)
        left = torch.full_like(scores, _NOTHING).index_put((kept,), scores[kept])
        return best_of_images(left, image, num_images, keep)
    there = (scores >= 0).nonzero().flatten()
    kept = there[batched_nms(boxes[there].double(), scores[there].double(), group[there], iou)].sort().values
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
