"""Task alignment learning against plain Python; padding, chunks, and objects that get nothing."""

from __future__ import annotations

import pytest
import torch

from detframe.ops import assigning
from detframe.ops.alignment import Predicted, TaskAlignment

RULE = TaskAlignment(alpha=1.0, beta=6.0, count=4)


def scene(images=2, objects=5, locations=150, classes=3, seed=0):
    """Objects, and locations whose boxes lie around them."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*size):
        return torch.rand(*size, generator=generator)

    corner = rand(images, objects, 2) * 40
    boxes = torch.cat([corner, corner + 10 + rand(images, objects, 2) * 30], 2)
    labels = torch.randint(1, classes + 1, (images, objects), generator=generator)
    valid = torch.arange(objects) < torch.tensor([[objects], [2]])[:images]
    xy = rand(locations, 2) * 70
    distance = rand(images, locations, 4) * 25
    predicted = torch.cat([xy - distance[..., :2], xy + distance[..., 2:]], 2)
    return boxes, labels, valid, Predicted(predicted, rand(images, locations, classes)), xy


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - width * height
    return width * height / union


def plain(rule, boxes, labels, valid, predicted, xy):
    """For each image, the object of each location (None: it has none) and the score that is wanted."""
    out = []
    for image in range(len(boxes)):
        metric, overlap, takers = {}, {}, {}
        rows = [row for row in range(boxes.shape[1]) if valid[image, row]]
        for row in rows:
            box, label = boxes[image, row].tolist(), int(labels[image, row]) - 1
            for at, (x, y) in enumerate(xy.tolist()):
                overlap[row, at] = iou(box, predicted.boxes[image, at].tolist())
                score = float(predicted.scores[image, at, label])
                metric[row, at] = score**rule.alpha * overlap[row, at] ** rule.beta
                if not (box[0] < x < box[2] and box[1] < y < box[3]):
                    metric[row, at] = 0.0
            best = sorted(range(len(xy)), key=lambda at, row=row: -metric[row, at])[: rule.count]
            for at in best:
                if metric[row, at] > 0:
                    takers.setdefault(at, []).append(row)
        owner = {at: max(of, key=lambda row, at=at: overlap[row, at]) for at, of in takers.items()}
        target = {}
        for at, row in owner.items():
            own = [other for other, theirs in owner.items() if theirs == row]
            target[at] = metric[row, at] / max(metric[row, o] for o in own) * max(overlap[row, o] for o in own)
        out.append((owner, target))
    return out


@pytest.mark.parametrize("rule", [RULE, TaskAlignment(0.5, 2.0, 13)], ids=["paper", "other powers"])
@pytest.mark.parametrize("seed", [0, 1])
def test_against_plain_python(rule, seed):
    given = scene(seed=seed)
    found, contested = rule(*given), 0
    for image, (owner, target) in enumerate(plain(rule, *given)):
        assert found.found[image].nonzero().flatten().tolist() == sorted(owner)
        for at, row in owner.items():
            assert found.gt_index[image, at] == row
            assert float(found.target[image, at]) == pytest.approx(target[at], rel=1e-4)
        contested += len(owner) < rule.count * int(given[2][image].sum())
    assert contested and not found.target[~found.found].any()
    # the largest of an object is its largest overlap
    assert (found.target <= 1).all() and float(found.target.amax()) > 0.3


def test_parts_and_padding_change_nothing(monkeypatch):
    boxes, labels, valid, predicted, xy = scene(locations=700)
    whole = RULE(boxes, labels, valid, predicted, xy)
    monkeypatch.setattr(assigning, "CACHE_PAIRS", 1)
    for a, b in zip(whole, RULE(boxes, labels, valid, predicted, xy), strict=True):
        assert torch.equal(a, b)
    alone = RULE(boxes[1:, :2], labels[1:, :2], valid[1:, :2], Predicted(*(x[1:] for x in predicted)), xy)
    assert torch.equal(whole.found[1:], alone.found) and torch.equal(whole.target[1:], alone.target)


def test_without_objects_nothing_is_found():
    boxes, labels, valid, predicted, xy = scene()
    found = RULE(boxes, labels, torch.zeros_like(valid), predicted, xy)
    assert not found.found.any() and not found.target.any() and not found.gt_index.any()


def test_an_object_between_the_locations_gets_none():
    boxes = torch.tensor([[[10.2, 10.2, 11.8, 11.8], [0.0, 0, 30, 30]]])
    xy = torch.tensor([[10.0, 10], [12, 12]])
    predicted = Predicted(torch.tensor([[[9.0, 9, 12, 12], [0.0, 0, 30, 30]]]), torch.full((1, 2, 1), 0.5))
    found = RULE(boxes, torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool), predicted, xy)
    assert found.found.all() and (found.gt_index == 1).all()
    assert found.target[0, 1] == pytest.approx(1.0)


def test_a_location_whose_score_is_0_gets_no_object():
    """However well its box lies: t is 0 then, and so is that of a box which does not touch the object."""
    boxes, xy = torch.tensor([[[0.0, 0, 30, 30]]]), torch.tensor([[10.0, 10], [12, 12], [14, 14]])
    theirs = torch.tensor([[[0.0, 0, 30, 30], [0, 0, 30, 20], [40, 40, 50, 50]]])
    predicted = Predicted(theirs, torch.tensor([[[0.0], [0.5], [0.5]]]))
    found = RULE(boxes, torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool), predicted, xy)
    assert found.found.tolist() == [[False, True, False]]
