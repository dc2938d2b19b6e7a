"""What the dense detectors share: from scores at every location of a level to detections.

Legend: N images, A locations or anchors of a level, K classes, M candidates over all images and levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detframe.modeling.proposals import NMS, Candidates, Proposals
from detframe.ops.exportable import is_traced, smaller
from detframe.ops.ragged import places


class LevelCandidates(NamedTuple):
    """The best entries of a level."""

    image: Tensor  # int64 (M,)
    row: Tensor  # int64 (M,), location or anchor
    label: Tensor  # int64 (M,), 1..K
    score: Tensor  # float32 (M,)


def top_candidates(scores: Tensor, eligible: Tensor, keep: int) -> LevelCandidates:
    """The `keep` best (location, class) pairs of each image on one level.

    Args:
        scores: (N, A, K), at least 0.
        eligible: bool (N, A, K), which pairs count at all.
    """
    num_classes = scores.shape[2]
    ranked = torch.where(eligible, scores, -1.0).flatten(1)
    best, index = ranked.topk(smaller(keep, ranked.shape[1]), 1)
    image, column = (best >= 0).nonzero(as_tuple=True)
    index = index[image, column]
    return LevelCandidates(image, index // num_classes, index % num_classes + 1, best[image, column])


def best_above(logits: Tensor, threshold: float, keep: int) -> LevelCandidates:
    """The `keep` best (anchor, class) pairs of each image on one level, of those that score above the threshold.

    As `top_candidates`, from logits (N, A, K): what lies below the threshold, nearly everything, costs one comparison.
    """
    if is_traced():  # whatever the levels hold, the graph has one path
        all_scores = logits.float().sigmoid()
        return top_candidates(all_scores, all_scores > threshold, keep)
    num_classes = logits.shape[2]
    flat = logits.flatten(1)
    # a little below, so that rounding of the inverse loses nothing; the scores decide
    image, index = (flat > float(torch.logit(torch.tensor(threshold))) - 1e-2).nonzero(as_tuple=True)
    scores = flat[image, index].float().sigmoid()
    order = (scores > threshold).nonzero().flatten()
    order = order[scores[order].argsort(descending=True, stable=True)]
    order = order[image[order].argsort(stable=True)]
    order = order[places(image[order], len(logits)) < keep]
    index = index[order]
    return LevelCandidates(image[order], index // num_classes, index % num_classes + 1, scores[order])


def join_levels(
    candidates: Sequence[LevelCandidates], boxes: Sequence[Tensor], num_images: int, num_classes: int, nms: NMS
) -> Proposals:
    """NMS of the candidates of all levels together, within an image and a class; keep the best of each image.

    Args:
        candidates: a level each.
        boxes: (M_level, 4) of the candidates of each level, inside the images.
    """
    image, _, labels, scores = (torch.cat(parts) for parts in zip(*candidates, strict=True))
    group = image * (num_classes + 1) + labels
    return nms(Candidates(torch.cat(list(boxes)), scores, labels, image, group), num_images)


def class_prior_bias(prior: float) -> float:
    """The bias at which a sigmoid gives `prior`, so that training starts calm (RetinaNet, arXiv:1708.02002, 4.1)."""
    return -math.log((1 - prior) / prior)
