"""NMS of a batch, as accelerators do it with one wait: the rows and numbers of the plain one."""

from __future__ import annotations

import pytest
import torch
import torchvision

from detframe.cli.counting import OperationCounter
from detframe.ops import nms as module
from detframe.ops.compacting import fixed_shapes
from detframe.ops.nms import counted_nms, nms


def candidates(number, images=3, side=60.0, seed=0):
    """Boxes that overlap much, scores of which many are equal and some do not count, and two groups an image."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator) * side
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(number, 2, generator=generator)], 1)
    scores = (torch.rand(number, generator=generator) * 50).floor() / 50 - 0.1
    image = torch.randint(images, (number,), generator=generator)
    return boxes, scores, 2 * image + torch.randint(2, (number,), generator=generator), image


def assert_same(found, wanted):
    rows, valid, counts = found
    assert torch.equal(valid, wanted[1]) and torch.equal(rows, wanted[0])
    assert counts == valid.sum(1).tolist()


@pytest.mark.parametrize(("number", "keep"), [(200, 20), (200, 200), (1, 1), (7, 3), (3000, 30)])
@pytest.mark.parametrize("iou", [0.1, 0.5, 0.9])
def test_the_rows_of_the_plain_one(number, keep, iou):
    asked = (*candidates(number), 3, iou, keep)
    assert_same(counted_nms(*asked), nms(*asked))
    with fixed_shapes():
        assert_same(counted_nms(*asked), nms(*asked))


def test_a_chain_longer_than_the_rounds():
    """Every box overlaps the next one alone, so that whether it stays is known when that of the one before is."""
    place = torch.arange(100.0)[:, None] * 6
    boxes = torch.cat([place, torch.zeros_like(place), place + 10, torch.full_like(place, 10)], 1)
    none = torch.zeros(100, dtype=torch.int64)
    asked = (boxes, torch.linspace(1, 0.5, 100), none, none, 1, 0.2, 100)
    rows, valid, counts = counted_nms(*asked)
    assert counts == [50] and rows[0, :50].tolist() == list(range(0, 100, 2))
    assert_same((rows, valid, counts), nms(*asked))


def test_where_too_few_of_the_best_stay_all_are_looked_at(monkeypatch):
    """The 40 best of the first image are one box, and the 41st is the second that stays."""
    monkeypatch.setattr(module, "_FOREMOST", 40)
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(60, 1)
    boxes[40:50] = torch.tensor([50.0, 0, 60, 10])
    image = torch.tensor([0] * 50 + [1] * 10)
    asked = (boxes, torch.linspace(1, 0.5, 60), image, image, 2, 0.5, 5)
    rows, valid, counts = counted_nms(*asked)
    assert counts == [2, 1] and rows[0, :2].tolist() == [0, 40] and rows[1, 0] == 50
    assert_same((rows, valid, counts), nms(*asked))


def test_an_image_without_candidates_and_boxes_without_area():
    boxes = torch.tensor([[0.0, 0, 10, 10], [3, 3, 3, 3], [3, 3, 3, 3], [0, 0, 10, 9]])
    none = torch.zeros(4, dtype=torch.int64)
    asked = (boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), none, none, 2, 0.5, 3)
    rows, valid, counts = counted_nms(*asked)
    assert counts == [3, 0] and rows[0].tolist() == [0, 1, 2] and not valid[1].any()
    assert_same((rows, valid, counts), nms(*asked))


def test_the_host_waits_once():
    asked = (*candidates(500), 3, 0.5, 20)
    with fixed_shapes(), OperationCounter() as counter:
        counted_nms(*asked)
    assert counter.waits == {"numpy": 1}


@pytest.mark.parametrize("score", [0.9, 0.1])
def test_boxes_that_overlap_by_just_the_threshold_stay(score):
    """Half of the first lies in the second, which is all of it: IoU 1/2. NMS drops what overlaps by more."""
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 4]])
    none = torch.zeros(2, dtype=torch.int64)
    for threshold, stay in ((0.5, 2), (0.49, 1)):
        asked = (boxes, torch.tensor([score, 0.5]), none, none, 1, threshold, 2)
        assert torchvision.ops.nms(*asked[:2], threshold).numel() == stay
        assert counted_nms(*asked)[2] == [stay]
        with fixed_shapes():
            found = counted_nms(*asked)
        assert found[2] == [stay]
        assert_same(found, nms(*asked))
