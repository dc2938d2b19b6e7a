"""What the dense detectors share: from scores at every location of a pyramid to detections.

Legend: N images, A locations or anchors over all levels, K classes, M candidates of an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from detframe.modeling.proposals import NMS, Candidates, Proposals
from detframe.ops.exportable import is_traced, smaller


class Pairs(NamedTuple):
    """Pairs of a location, or an anchor, and a class; as many for each image, whatever their scores are."""

    row: Tensor  # int64 (N, M), location or anchor among those of all levels
    label: Tensor  # int64 (N, M), 1..K
    score: Tensor  # float32 (N, M); below 0 where the pair does not count


class Scoring(Protocol):
    """Scores of pairs, which do not fall as their logits grow."""

    def __call__(self, logits: Tensor, rows: Tensor | None) -> Tensor:
        """Float32 (N, R, C), below 0 for pairs that do not count.

        Args:
            logits: (N, R, C).
            rows: int64 (N, R), of which locations or anchors they are; None: of all of them.
        """


def plain_scores(threshold: float) -> Scoring:
    """Sigmoids; those that are not above the threshold do not count."""

    def scores_of(logits: Tensor, rows: Tensor | None) -> Tensor:
        scores = logits.float().sigmoid()
        return torch.where(scores > threshold, scores, -1.0)

    return scores_of


def best_pairs(logits: Sequence[Tensor], keep: int, scoring: Scoring) -> Pairs:
    """The `keep` best (location, class) pairs of each image on each level, or all.

    Only the rows of logits that can have one of them are looked at as a whole: each of the best pairs is of one of as
    many locations, namely of those whose best pairs are best.

    Args:
        logits: (N, A_level, K) of each level.
    """
    num_classes = logits[0].shape[2]
    candidates, rows = _candidate_rows(logits, keep, scoring)
    levels = torch.split(scoring(torch.cat(candidates, 1), torch.cat(rows, 1)), [x.shape[1] for x in rows], 1)
    found = [level.flatten(1).topk(smaller(keep, level.shape[1] * num_classes), 1) for level in levels]
    index = torch.cat([best.indices for best in found], 1)
    row = torch.cat(
        [of_level.gather(1, best.indices // num_classes) for of_level, best in zip(rows, found, strict=True)], 1
    )
    return Pairs(row, index % num_classes + 1, torch.cat([best.values for best in found], 1))


def _candidate_rows(logits: Sequence[Tensor], keep: int, scoring: Scoring) -> tuple[list[Tensor], list[Tensor]]:
    """Of each level the logits (N, R, K) that can have one of the best pairs, and int64 (N, R), where they stand among
    those of all levels."""
    lengths = [level.shape[1] for level in logits]
    every = torch.arange(sum(lengths), device=logits[0].device).expand(logits[0].shape[0], -1)
    rows = list(torch.split(every, lengths, 1))
    chosen = list(logits)
    # in a graph, lengths may be symbols, and as it has one path whatever they are, that of large levels
    large = [i for i, length in enumerate(lengths) if is_traced() or length > keep]
    if not large:
        return chosen, rows
    best = scoring(torch.cat([level.amax(-1, keepdim=True) for level in logits], 1), None)[..., 0]
    of_levels = torch.split(best, lengths, 1)
    for i in large:
        at = of_levels[i].topk(smaller(keep, lengths[i]), 1).indices
        chosen[i] = rows_of(logits[i], at)
        rows[i] = rows[i].gather(1, at)
    return chosen, rows


def detections(pairs: Pairs, boxes: Tensor, num_classes: int, nms: NMS) -> Proposals:
    """NMS of the pairs of all levels together, within an image and a class; keep the best of each image.

    Args:
        boxes: (N, M, 4) of the pairs.
    """
    num_images = boxes.shape[0]
    image = torch.arange(num_images, device=boxes.device)[:, None].expand_as(pairs.label)
    group = image * (num_classes + 1) + pairs.label
    valid = (pairs.score >= 0).flatten()
    parts = [x.flatten(0, 1) for x in (boxes, pairs.score, pairs.label, image, group)]
    if not is_traced():
        return nms(Candidates(*parts)._replace(valid=valid), num_images)
    there = valid.nonzero().flatten()  # runtimes compare whatever they are given
    return nms(Candidates(*(x[there] for x in parts)), num_images)


def rows_of(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (N, S) of each image: (N, S, C) of (N, P, C)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def class_prior_bias(prior: float) -> float:
    """The bias at which a sigmoid gives `prior`, so that training starts calm (RetinaNet, arXiv:1708.02002, 4.1)."""
    return -math.log((1 - prior) / prior)
