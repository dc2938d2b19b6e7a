"""Soft-NMS and weighted boxes fusion, against the papers' pseudo code in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from detframe.ops import soft_scores, suppression, weighted_boxes
from detframe.ops.suppression import nwd_nms


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    return inter / union if union > 0 else 0.0


def soft_reference(boxes, scores, group, lower):
    """Figure 2 of Soft-NMS, for each group by itself."""
    out = [0.0] * len(boxes)
    for number in set(group):
        left = {i: scores[i] for i in range(len(boxes)) if group[i] == number}
        while left:
            best = max(left, key=lambda i: (left[i], -i))
            out[best] = left.pop(best)
            for i in left:
                left[i] *= lower(overlap(boxes[best], boxes[i]))
    return out


def fusion_reference(boxes, scores, group, iou, models):
    """Section 3 of weighted boxes fusion, for each group by itself: (box, score, members) of every fused box."""
    out = []
    for number in sorted(set(group)):
        clusters = []
        for i in sorted((i for i in range(len(boxes)) if group[i] == number), key=lambda i: (-scores[i], i)):
            fused = [fuse(boxes, scores, cluster) for cluster in clusters]
            best = max(range(len(fused)), key=lambda j: overlap(fused[j], boxes[i]), default=None)
            if best is not None and overlap(fused[best], boxes[i]) > iou:
                clusters[best].append(i)
            else:
                clusters.append([i])
        for cluster in clusters:
            mean = sum(scores[i] for i in cluster) / len(cluster)
            out.append((fuse(boxes, scores, cluster), mean * min(len(cluster), models) / models, cluster))
    return out


def fuse(boxes, scores, cluster):
    total = sum(scores[i] for i in cluster)
    return [sum(scores[i] * boxes[i][k] for i in cluster) / total for k in range(4)]


def crowd(count, groups, seed):
    """Boxes that overlap in many ways, in groups of different sizes whose members stand in no order."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 40
    boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * 30], 1)
    scores = (torch.rand(count, generator=generator, dtype=torch.float64) * 20).ceil() / 20  # some are equal
    group = (torch.rand(count, generator=generator) ** 2 * groups).long() * 7
    return boxes, scores, group


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("sigma", "linear_from"), [(0.5, None), (0.1, None), (0.5, 0.3), (0.5, 0.0)])
def test_soft_nms(sigma, linear_from, seed):
    boxes, scores, group = crowd(60, 4, seed)

    def lower(iou):
        if linear_from is None:
            return math.exp(-(iou**2) / sigma)
        return 1 - iou if iou > linear_from else 1.0

    found = soft_scores(boxes, scores, group, sigma=sigma, linear_from=linear_from, most=100)
    wanted = soft_reference(boxes.tolist(), scores.tolist(), group.tolist(), lower)
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)
    # the best few of a group are the same when no more are asked for
    few = soft_scores(boxes, scores, group, sigma=sigma, linear_from=linear_from, most=5)
    for number in group.unique():
        of_group = found[group == number].sort(descending=True).values[:5]
        assert few[group == number].sort(descending=True).values[:5].tolist() == pytest.approx(of_group.tolist())
        assert (few[group == number] > 0).sum() <= 5


def test_soft_nms_of_the_same_box_twice_and_of_none():
    box = torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1)
    scores = torch.tensor([0.5, 0.5, 0.4])
    together = torch.zeros(3, dtype=torch.int64)
    assert soft_scores(box, scores, together, linear_from=0.5, most=9).tolist() == pytest.approx([0.5, 0, 0])
    e = math.exp(-2.0)
    assert soft_scores(box, scores, together, most=9).tolist() == pytest.approx([0.5, 0.5 * e, 0.4 * e * e])
    assert torch.equal(soft_scores(box, scores, torch.arange(3), most=9), scores)  # groups leave each other alone
    assert soft_scores(box[:0], scores[:0], together[:0], most=9).shape == (0,)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("iou", "models"), [(0.55, 3), (0.3, 2), (0.0, 1), (1.0, 4)])
def test_weighted_boxes(iou, models, seed):
    boxes, scores, group = crowd(60, 3, seed)
    found, found_scores, first = weighted_boxes(boxes, scores, group, iou=iou, models=models)
    wanted = fusion_reference(boxes.tolist(), scores.tolist(), group.tolist(), iou, models)
    rows = {cluster[0]: (box, score) for box, score, cluster in wanted}
    assert sorted(first.tolist()) == sorted(rows)
    for box, score, row in zip(found.tolist(), found_scores.tolist(), first.tolist(), strict=True):
        assert [*box, score] == pytest.approx([*rows[row][0], rows[row][1]], abs=1e-9)


def test_weighted_boxes_by_hand():
    """The paper's equations 1 to 5: two of three models found a box, one of them another one."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]])
    found, scores, first = weighted_boxes(
        boxes, torch.tensor([0.9, 0.6, 0.3]), torch.zeros(3, dtype=torch.int64), iou=0.5, models=3
    )
    assert found.flatten().tolist() == pytest.approx([0.8, 0, 10.8, 10, 50, 50, 60, 60])
    assert scores.tolist() == pytest.approx([0.75 * 2 / 3, 0.3 / 3]) and first.tolist() == [0, 2]
    empty = weighted_boxes(boxes[:0], scores[:0], first[:0], iou=0.5, models=3)
    assert [part.shape for part in empty] == [(0, 4), (0,), (0,)]


# ---------------------------------------------------------------------------------------------- Wasserstein distance
def nwd(a, b, constant):
    centre = sum(((a[i] + a[i + 2]) / 2 - (b[i] + b[i + 2]) / 2) ** 2 for i in (0, 1))
    side = sum(((a[i + 2] - a[i]) - (b[i + 2] - b[i])) ** 2 for i in (0, 1))
    return math.exp(-math.sqrt(centre + side / 4) / constant)


def nwd_reference(boxes, scores, group, threshold, constant):
    """Greedy NMS as the paper has it, one box after the other."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(group[i] != group[j] or nwd(boxes[i], boxes[j], constant) <= threshold for j in kept):
            kept.append(i)
    return sorted(kept)


@pytest.mark.parametrize("pairs", [1, 400, 2**20])
@pytest.mark.parametrize(("threshold", "constant"), [(0.85, 12.8), (0.5, 12.8), (0.85, 60.0), (0.0, 5.0), (1.0, 5.0)])
def test_nwd_nms_is_greedy(monkeypatch, pairs, threshold, constant):
    """Whatever the number of pairs that are looked at together; scores with many ties."""
    monkeypatch.setattr(suppression, "CACHE_PAIRS", pairs)
    for seed in range(3):
        boxes, _, group = crowd(60, 4, seed)
        scores = torch.randint(1, 9, (60,), generator=torch.Generator().manual_seed(seed)) / 9
        kept = nwd_nms(boxes, scores, group, threshold, constant).nonzero().flatten()
        expected = nwd_reference(boxes.tolist(), scores.tolist(), group.tolist(), threshold, constant)
        assert kept.tolist() == expected


def test_nwd_nms_of_a_chain():
    """Each box would drop the next one alone: every second stays."""
    x = torch.arange(9) * 2.0
    boxes = torch.stack([x, x * 0, x + 10, x * 0 + 10], 1)
    scores, group = torch.arange(9, 0, -1) / 10, torch.zeros(9, dtype=torch.int64)
    kept = nwd_nms(boxes, scores, group, 0.8, 10.0).nonzero().flatten()
    assert kept.tolist() == [0, 2, 4, 6, 8]  # exp(-2 / 10) = 0.82, exp(-4 / 10) = 0.67


def test_nwd_nms_of_nothing():
    none = torch.zeros(0)
    assert nwd_nms(torch.zeros(0, 4), none, none.long(), 0.5, 10.0).tolist() == []
