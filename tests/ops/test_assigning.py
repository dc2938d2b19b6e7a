"""Assigners against plain Python written from the formulas of the papers, on random data and on ties."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from detframe.ops import Matching, assigning
from detframe.ops.assigning import (
    BLOCK,
    Assigner,
    assign_by_distance,
    assign_by_fields,
    assign_by_statistics,
    field_divergence,
    first_of_largest,
    most_suitable,
    normalized_wasserstein,
    scaled,
    wasserstein_squared,
)
from tests.ops.matches import positives_of_objects

# strides and sides of the anchors of the levels of a 96 x 64 image, one or more in a cell
LEVELS = {1: [(4, [16]), (8, [32]), (16, [64])], 3: [(8, [12, 16, 24]), (16, [24, 32, 48])]}


def grid(levels):
    """Anchors around the middles of cells."""
    out = []
    for stride, sides in levels:
        y, x = torch.meshgrid(torch.arange(64 // stride), torch.arange(96 // stride), indexing="ij")
        centre = torch.stack([x, y], -1).reshape(-1, 1, 2) * stride + stride / 2
        half = torch.tensor(sides)[:, None] / 2
        out.append(torch.cat([centre - half, centre + half], -1).reshape(-1, 4))
    return out


def objects(seed, whole):
    """(3, 7, 4) boxes, of which the images have 7, 3 and 0; whole: on whole pixels, two of them twice, so that much is
    equal."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(3, 7, 2, generator=generator) * torch.tensor([96, 64])
    half = torch.exp(torch.rand(3, 7, 2, generator=generator) * 3) + 1
    boxes = torch.cat([centre - half, centre + half], -1)
    if whole:
        boxes = (boxes / 4).round() * 4 + torch.tensor([0, 0, 4, 4])
        boxes[0, 5:] = boxes[0, :2]
    valid = torch.arange(7) < torch.tensor([[7], [3], [0]])
    return boxes * valid[..., None], valid


# ---------------------------------------------------------------------------------------------- plain Python
def centre_sides(box):
    x1, y1, x2, y2 = box
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def plain_wasserstein(box, other):
    (cx, cy, w, h), (dx, dy, v, g) = centre_sides(box), centre_sides(other)
    return (cx - dx) ** 2 + (cy - dy) ** 2 + ((w - v) ** 2 + (h - g) ** 2) / 4


def plain_divergence(box, field, shrink=1.0):
    (gx, gy, wg, hg), (rx, ry, wr, hr) = centre_sides(box), centre_sides(field)
    wr, hr = wr * shrink, hr * shrink
    shift = 4 * (rx - gx) ** 2 / wg**2 + 4 * (ry - gy) ** 2 / hg**2
    shape = wr**2 / wg**2 + hr**2 / hg**2 + math.log(wg**2 / wr**2) + math.log(hg**2 / hr**2)
    return (shape + shift - 2) / 2


def plain_iou(box, other):
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    inner = max(width, 0) * max(height, 0)
    area = (box[2] - box[0]) * (box[3] - box[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return inner / (area - inner)


def plain_owners(wanted, num_anchors):
    """wanted: of each object (anchor, how well it suits). The first object of those that an anchor suits best."""
    owner, best = [-1] * num_anchors, [-math.inf] * num_anchors
    for row, pairs in enumerate(wanted):
        for anchor, suits in pairs:
            if suits > best[anchor]:
                owner[anchor], best[anchor] = row, suits
    return owner


def plain_best(box, anchors, suits, count, usable):
    scores = [(suits(box, anchor), i) for i, anchor in enumerate(anchors) if usable[i]]
    return [(i, score) for score, i in sorted(scores, key=lambda pair: (-pair[0], pair[1]))[:count]]


def plain_nwd(boxes, levels, usable, count):
    anchors = [a for level in levels for a in level]
    suits = lambda box, anchor: -plain_wasserstein(box, anchor)  # noqa: E731
    return plain_owners([plain_best(box, anchors, suits, count, usable) for box in boxes], len(anchors))


def plain_rfla(boxes, levels, usable, counts, shrink):
    fields = [a for level in levels for a in level]
    suits = lambda box, field: 1 / (1 + plain_divergence(box, field))  # noqa: E731
    first = plain_owners([plain_best(box, fields, suits, counts[0], usable) for box in boxes], len(fields))
    left = [free and owner < 0 for free, owner in zip(usable, first, strict=True)]
    suits = lambda box, field: 1 / (1 + plain_divergence(box, field, shrink))  # noqa: E731
    second = plain_owners([plain_best(box, fields, suits, counts[1], left) for box in boxes], len(fields))
    return [a if a >= 0 else b for a, b in zip(first, second, strict=True)]


def plain_atss(boxes, levels, usable, count, per_cell):
    def nearness(box, anchor):
        (cx, cy, *_), (dx, dy, *_) = centre_sides(box), centre_sides(anchor)
        return -((cx - dx) ** 2 + (cy - dy) ** 2)

    wanted, start = [], 0
    for box in boxes:
        near, start = [], 0
        for level in levels:
            free = usable[start : start + len(level)]
            cells = [any(free[i : i + per_cell]) for i in range(0, len(level), per_cell)]
            for cell, _ in plain_best(box, level[::per_cell], nearness, count, cells):
                rows = range(cell * per_cell, (cell + 1) * per_cell)
                near += [(start + i, level[i]) for i in rows if free[i]]
            start += len(level)
        ious = [plain_iou(box, anchor) for _, anchor in near]
        threshold = statistics.mean(ious) + (statistics.stdev(ious) if len(ious) > 1 else 0) if ious else 0
        inside = [
            box[0] < centre_sides(anchor)[0] < box[2] and box[1] < centre_sides(anchor)[1] < box[3]
            for _, anchor in near
        ]
        rows = zip(near, ious, inside, strict=True)
        wanted.append([(i, iou) for (i, _), iou, there in rows if there and iou >= threshold - 1e-9])
    return plain_owners(wanted, sum(len(level) for level in levels))


def rule(kind, **more):
    return Assigner(kind, Matching(0.7, 0.3), **{"atss_k": 9, "nwd_k": 2, "rfla_k": (3, 1), "rfla_shrink": 0.9, **more})


PLAIN = {
    "nwd": lambda boxes, levels, usable, per_cell: plain_nwd(boxes, levels, usable, 2),
    "rfla": lambda boxes, levels, usable, per_cell: plain_rfla(boxes, levels, usable, (3, 1), 0.9),
    "atss": lambda boxes, levels, usable, per_cell: plain_atss(boxes, levels, usable, 9, per_cell),
}


@pytest.mark.parametrize("some", [False, True], ids=["all", "some usable"])
@pytest.mark.parametrize("whole", [False, True], ids=["random", "ties"])
@pytest.mark.parametrize(("kind", "per_cell"), [("nwd", 1), ("nwd", 3), ("atss", 1), ("atss", 3), ("rfla", 1)])
def test_as_plain_python(kind, per_cell, whole, some):
    levels = grid(LEVELS[per_cell])
    total = sum(map(len, levels))
    for seed in range(2):
        gt, valid = objects(seed, whole)
        usable = torch.rand(3, total, generator=torch.Generator().manual_seed(seed)) < 0.4 if some else None
        matches = rule(kind)(gt, valid, levels, per_cell, usable)
        for i, rows in enumerate(valid):
            allowed = [True] * total if usable is None else usable[i].tolist()
            boxes, plain_levels = gt[i][rows].tolist(), [level.tolist() for level in levels]
            expected = PLAIN[kind](boxes, plain_levels, allowed, per_cell)
            found = torch.where(matches.label[i] > 0, matches.gt_index[i], -1).tolist()
            assert found == expected
            for anchor, row in enumerate(expected):
                iou = plain_iou(boxes[row], torch.cat(levels)[anchor].tolist()) if row >= 0 else 0
                assert float(matches.iou[i, anchor]) == pytest.approx(iou, abs=1e-5)


# ---------------------------------------------------------------------------------------------- formulas
def test_distances_as_their_formulas():
    gt, _ = objects(0, whole=False)
    boxes, others = gt[0], torch.cat(grid(LEVELS[3]))[::17]
    squared = wasserstein_squared(boxes[:, None], others)
    nwd = normalized_wasserstein(boxes[:, None], others, 12.7)
    divergence = field_divergence(boxes[:, None], others)
    for i, box in enumerate(boxes.tolist()):
        for j, other in enumerate(others.tolist()):
            assert float(squared[i, j]) == pytest.approx(plain_wasserstein(box, other), rel=1e-4)
            assert float(nwd[i, j]) == pytest.approx(
                math.exp(-math.sqrt(plain_wasserstein(box, other)) / 12.7), rel=1e-4
            )
            assert float(divergence[i, j]) == pytest.approx(plain_divergence(box, other), rel=1e-3, abs=1e-4)


def test_by_hand():
    box = torch.tensor([10.0, 10, 20, 30])
    moved = torch.tensor([13.0, 14, 23, 34])
    assert float(wasserstein_squared(box, moved)) == 25  # 3-4-5
    assert float(normalized_wasserstein(box, moved, 5.0)) == pytest.approx(math.exp(-1))
    assert float(normalized_wasserstein(box, box, 5.0)) == pytest.approx(1)
    assert float(field_divergence(box, box)) == pytest.approx(0)
    # 4 * 3^2 / 10^2 + 4 * 4^2 / 20^2, halved
    assert float(field_divergence(box, moved)) == pytest.approx((0.36 + 0.16) / 2)
    assert scaled(box, 0.5).tolist() == [12.5, 15, 17.5, 25]


def test_the_gradient_of_nwd_is_finite_where_boxes_are_equal():
    box = torch.tensor([[10.0, 10, 20, 30]], requires_grad=True)
    loss = 1 - normalized_wasserstein(box, box.detach(), 12.8)
    assert torch.isfinite(torch.autograd.grad(loss.sum(), box)[0]).all()


@pytest.mark.parametrize("count", [1, 3, 27])
@pytest.mark.parametrize("length", [1, 20, 64 * 3, 1000, 64 * 20])
def test_first_of_largest_is_a_stable_sort(length, count):
    values = torch.randint(0, 9, (2, 3, length), generator=torch.Generator().manual_seed(0)).float()
    values[0, 0] = -math.inf
    found, index = first_of_largest(values, count)
    expected, place = values.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(found, expected[..., :count]) and torch.equal(index, place[..., :count])


# ---------------------------------------------------------------------------------------------- properties
def far_apart():
    """Objects that want no anchor in common: 20 x 20 in the middle of every 96 pixels."""
    corner = (
        torch.stack(torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij"), -1).reshape(1, -1, 2) * 96 + 38
    )
    boxes = torch.cat([corner, corner + 20], -1).float()
    y, x = torch.meshgrid(torch.arange(36), torch.arange(36), indexing="ij")
    centre = torch.stack([x, y], -1).reshape(-1, 2) * 8.0 + 3
    return boxes, torch.ones(1, 9, dtype=torch.bool), torch.cat([centre - 8, centre + 8], 1)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_nwd_every_object_gets_as_many_as_it_is_to(count):
    boxes, valid, anchors = far_apart()
    assert (positives_of_objects(assign_by_distance(boxes, valid, anchors, count), 9) == count).all()


@pytest.mark.parametrize("counts", [(3, 1), (1, 0), (2, 4)])
def test_rfla_every_object_gets_as_many_as_it_is_to(counts):
    boxes, valid, anchors = far_apart()
    matches = assign_by_fields(boxes, valid, anchors, counts, 0.9)
    assert (positives_of_objects(matches, 9) == sum(counts)).all()


@pytest.mark.parametrize("kind", ["nwd", "rfla"])
def test_an_object_that_overlaps_no_anchor_is_found_by_some(kind):
    anchors = [torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [16, 0, 24, 8], [24, 0, 32, 8], [32, 0, 40, 8]])]
    far = torch.tensor([[[5000.0, 5000, 5002, 5002], [6000, 0, 6001, 1]]])
    matches = rule(kind)(far, torch.ones(1, 2, dtype=torch.bool), anchors)
    assert (matches.label > 0).any() and not matches.iou.any()


def test_rfla_the_second_round_is_of_what_is_left_though_another_object_took_it():
    """Both objects want the fields 0 to 2 first; with their fields smaller, both want 3, which the nearer one gets."""
    fields = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [16, 0, 24, 8], [24, 0, 32, 8], [100, 0, 108, 8]])
    boxes = torch.tensor([[[8.0, 0, 16, 8], [9, 0, 17, 8]]])
    matches = assign_by_fields(boxes, torch.ones(1, 2, dtype=torch.bool), fields, (3, 1), 0.9)
    assert matches.label.tolist() == [[1, 1, 1, 1, 0]]
    assert matches.gt_index[0, :4].tolist() == [0, 0, 1, 1]


def test_atss_takes_equal_overlaps_and_leaves_what_stands_out_of_nothing():
    """Anchors of a tenth all inside of an object overlap it equally, by their mean: all are positive."""
    anchors = [torch.tensor([[10.0 * i, 40, 10.0 * i + 10, 50] for i in range(1, 10)])]
    boxes = torch.tensor([[[0.0, 0, 100, 100], [300, 300, 310, 310]]])
    matches = assign_by_statistics(boxes, torch.ones(1, 2, dtype=torch.bool), anchors, 9)
    assert matches.label.tolist() == [[1] * 9] and positives_of_objects(matches, 2).tolist() == [[9, 0]]


def test_atss_a_single_candidate_is_its_own_mean():
    boxes = torch.tensor([[[0.0, 0, 10, 10]]])
    matches = assign_by_statistics(boxes, torch.ones(1, 1, dtype=torch.bool), [torch.tensor([[1.0, 1, 9, 12]])], 9)
    assert matches.label.tolist() == [[1]]


@pytest.mark.parametrize("kind", ["nwd", "atss", "rfla"])
def test_nothing_depends_on_chunks_or_padding(kind, monkeypatch):
    levels = grid(LEVELS[1])
    gt, valid = objects(5, whole=True)
    whole = rule(kind)(gt, valid, levels)
    monkeypatch.setattr("detframe.ops.assigning.CACHE_PAIRS", 1)  # blocks of 64
    assert all(torch.equal(a, b) for a, b in zip(whole, rule(kind)(gt, valid, levels), strict=True))
    alone = rule(kind)(gt[1:, :3], valid[1:, :3], levels)
    assert all(torch.equal(a[1:], b) for a, b in zip(whole, alone, strict=True))


@pytest.mark.parametrize("kind", ["iou", "nwd", "atss", "rfla"])
def test_without_objects_all_is_background(kind):
    levels = grid(LEVELS[1])
    matches = rule(kind)(torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.bool), levels)
    assert matches.label.shape == (2, sum(map(len, levels)))
    assert not matches.label.any() and not matches.iou.any() and not matches.gt_index.any()
    assert not positives_of_objects(matches, 1).any()


@pytest.mark.parametrize("kind", ["nwd", "atss", "rfla"])
def test_nothing_usable_makes_no_positive(kind):
    levels = grid(LEVELS[1])
    gt, valid = objects(0, whole=False)
    usable = torch.zeros(3, sum(map(len, levels)), dtype=torch.bool)
    assert not rule(kind)(gt, valid, levels, usable=usable).label.any()


@pytest.mark.parametrize("kind", ["nwd", "atss", "rfla"])
def test_fewer_anchors_than_an_object_is_to_get(kind):
    anchors = [torch.tensor([[0.0, 0, 8, 8]])]
    matches = rule(kind, nwd_k=5)(torch.tensor([[[1.0, 1, 7, 7]]]), torch.tensor([[True]]), anchors)
    assert matches.label.tolist() == [[1]]


@pytest.mark.parametrize("kind", ["iou", "nwd", "atss", "rfla"])
def test_no_value_decides_a_shape(kind):
    """On tensors without values, which any question about one would be an error of."""
    levels = [level.to("meta") for level in grid(LEVELS[1])]
    gt, valid = (t.to("meta") for t in objects(0, whole=False))
    usable = torch.ones(3, sum(map(len, levels)), dtype=torch.bool, device="meta")
    matches = rule(kind)(gt, valid, levels, usable=usable)
    assert [tuple(t.shape) for t in matches] == [(3, len(usable[0]))] * 3
    assert [t.dtype for t in matches] == [torch.int64, torch.int8, torch.float32]


def test_what_is_kept_of_the_parts_does_not_grow_with_their_number(monkeypatch):
    kept = []

    def best(suits, anchor, count, own=assigning._best):
        kept.append(
            [(part.untyped_storage().nbytes(), part.numel() * part.element_size()) for part in (*suits, *anchor)]
        )
        return own(suits, anchor, count)

    monkeypatch.setattr(assigning, "CACHE_PAIRS", 64 * 256)
    monkeypatch.setattr(assigning, "_best", best)
    suits = torch.rand(1, 60, 64 * 1000, generator=torch.Generator().manual_seed(0))
    wanted = most_suitable(lambda rows: suits[..., rows], suits.shape[-1], torch.ones(1, 60, dtype=torch.bool), 2)
    assert wanted.suits.equal(suits.topk(2).values) and wanted.anchor.equal(suits.topk(2).indices)
    assert len(kept) > 2 and all(len(parts) <= 2 * BLOCK for parts in kept)
    assert all(stored <= shown for parts in kept for stored, shown in parts)  # no part of something larger
