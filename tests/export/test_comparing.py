"""Which detections of a file and of PyTorch are the same, and which differences say nothing against a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detframe.export.comparing import Tally, iou, pair
from detframe.export.explaining import AT_THRESHOLD, LAST, ROUNDING, Limits, differences
from detframe.export.reference import Reference
from detframe.structures import BoxMasks

LIMITS = Limits(near=1e-3, score=0.05, most=4)


def found(boxes, scores, labels=None, **more):
    count = len(boxes)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor([1] * count if labels is None else labels, dtype=torch.int64),
        **more,
    }


A, B, C = [0.0, 0, 40, 40], [50.0, 50, 90, 90], [200.0, 10, 260, 70]


def moved(box, pixels):
    return [value + pixels for value in box]


def reasons(pytorch, file, rounded=()):
    pairs = pair(pytorch, file)
    return [one.reason for one in differences("a.jpg", pytorch, file, pairs, LIMITS, lambda: list(rounded))]


def test_iou_of_boxes():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [3, 3, 3, 3]], dtype=float)
    np.testing.assert_allclose(iou(boxes, boxes), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]])


def test_the_order_of_rows_plays_no_part():
    pairs = pair(found([A, B, C], [0.9, 0.8, 0.8]), found([A, C, B], [0.9, 0.8, 0.8]))
    assert dict(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == {0: 0, 1: 2, 2: 1}
    assert not pairs.beyond(0.0).any() and not len(pairs.only_first) and not len(pairs.only_second)


def test_boxes_clipped_to_a_line_have_their_partner_though_they_differ_in_the_last_digit():
    lines = [[2.2, 197.0, 34.6, 197.0], [330.0, 8.6, 330.0, 46.3], [0.0, 0.0, 0.0, 0.0]]
    pairs = pair(found(lines, [0.9, 0.8, 0.7]), found([moved(lines[1], 1e-4), lines[2], lines[0]], [0.8, 0.7, 0.9]))
    assert dict(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == {0: 2, 1: 0, 2: 1}
    assert not pairs.beyond(1e-3).any() and pairs.beyond(1e-5).any()


def test_of_equal_boxes_those_of_equal_scores_are_one():
    pairs = pair(found([A, A], [0.9, 0.3]), found([A, A], [0.3, 0.9]))
    assert dict(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == {0: 1, 1: 0}


def test_classes_and_places_that_differ_have_no_partner():
    pairs = pair(found([A, B], [0.9, 0.8], [1, 2]), found([A, C], [0.9, 0.8], [2, 2]))
    assert not len(pairs.first) and pairs.only_first.tolist() == [0, 1] and pairs.only_second.tolist() == [0, 1]


def test_differences_are_the_largest_of_each_kind():
    masks = torch.full((1, 4, 4), 0.5)
    points = torch.tensor([[[1.0, 2.0, 7.0]]])
    first = found([A], [0.9], masks=BoxMasks(masks, torch.tensor([A]), (50, 50)), keypoints=points)
    other = points + torch.tensor([0.5, 0.25, 3.0])
    second = found([moved(A, 2)], [0.8], masks=BoxMasks(masks + 0.125, torch.tensor([A]), (50, 50)), keypoints=other)
    pairs = pair(first, second)
    sizes = {kind: float(values[0]) for kind, values in pairs.difference.items()}
    assert sizes == pytest.approx({"boxes": 2.0, "scores": 0.1, "masks": 0.125, "keypoints": 0.5})


def test_masks_are_compared_in_the_mean_of_their_cells():
    masks = torch.zeros(1, 10, 10)
    other = masks.clone()
    other[0, 0, :2] = 0.5
    a, b = (found([A], [0.9], masks=BoxMasks(one, torch.tensor([A]), (50, 50))) for one in (masks, other))
    assert pair(a, b).difference["masks"] == pytest.approx([0.01])


def test_what_only_one_of_them_has_differs():
    pairs = pair(found([A], [0.9], keypoints=torch.zeros(1, 1, 3)), found([A], [0.9]))
    assert pairs.difference["keypoints"].tolist() == [np.inf] and pairs.beyond(1e9).tolist() == [True]


def test_numbers_that_are_none_differ():
    nothing = pair(found([A], [0.9]), found([[np.nan] * 4], [0.9]))
    assert nothing.only_first.tolist() == [0] and nothing.only_second.tolist() == [0]
    assert pair(found([A], [0.9]), found([A], [np.nan])).beyond(1.0).tolist() == [True]


def test_nothing_found_by_either():
    pairs = pair(found([], []), found([], []))
    assert not len(pairs.first) and not len(pairs.only_first)
    assert reasons(found([], []), found([], [])) == []


# ---------------------------------------------------------------------------------------------- reasons
def test_a_box_that_moved_counts():
    assert reasons(found([A], [0.9]), found([moved(A, 2)], [0.9]), [found([A], [0.9])] * 3) == [""]


def test_a_box_that_moves_in_pytorch_too_does_not():
    rounded = [found([A], [0.9]), found([moved(A, 1.5)], [0.9])]
    assert reasons(found([A], [0.9]), found([moved(A, 2)], [0.9]), rounded) == [ROUNDING]


def test_a_detection_that_is_lost_counts():
    assert reasons(found([A, B], [0.9, 0.8]), found([A], [0.9]), [found([A, B], [0.9, 0.8])]) == [""]


def test_a_detection_that_pytorch_loses_too_does_not():
    assert reasons(found([A, B], [0.9, 0.8]), found([A], [0.9]), [found([A], [0.9])]) == [ROUNDING]


def test_a_detection_that_only_the_file_has():
    assert reasons(found([A], [0.9]), found([A, B], [0.9, 0.8]), [found([A], [0.9])]) == [""]
    assert reasons(found([A], [0.9]), found([A, B], [0.9, 0.8]), [found([A, B], [0.9, 0.8])]) == [ROUNDING]


def test_at_the_threshold_detections_come_and_go():
    assert reasons(found([A, B], [0.9, 0.0505]), found([A], [0.9])) == [AT_THRESHOLD]
    assert reasons(found([A], [0.9]), found([A, B], [0.9, 0.052]), [found([A], [0.9])]) == [""]


def test_at_the_end_of_a_full_list_too():
    others = [[300.0 + 50 * i, 0, 340 + 50 * i, 40] for i in range(3)]
    full = found([*others, A], [0.9, 0.8, 0.7, 0.4])
    other = found([*others, B], [0.9, 0.8, 0.7, 0.4002])
    assert reasons(full, other) == [LAST, LAST]


def test_a_tally_knows_its_worst_image():
    tally = Tally("a check")
    for name, by in (("a", 0.5), ("b", 3.0), ("c", 1.0)):
        tally.add(name, (1, 1), pair(found([A], [0.9]), found([moved(A, by)], [0.9])))
    assert tally.worst["boxes"] == pytest.approx(3.0) and tally.worst_image["boxes"] == "b"
    assert (tally.images, tally.pytorch, tally.file, tally.matched) == (3, 3, 3, 3)


def test_pytorch_rounds_otherwise_in_float64_too_and_is_what_it_was(tiny_model, caplog) -> None:
    model, _ = tiny_model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.full((3, 64, 96), 90, dtype=torch.uint8)
    found = Reference(model).rounded_otherwise([image], (64, 96))
    assert [one["boxes"].dtype for (one,) in found] == [torch.float32] * 7 + [torch.float64]

    def refuse(module: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if given[0].dtype == torch.float64:
            raise RuntimeError("expected scalar type Float but found Double")

    hook = model.backbone.register_forward_pre_hook(refuse)
    try:
        with caplog.at_level("INFO"):
            assert len(Reference(model).rounded_otherwise([image], (64, 96))) == 7
    finally:
        hook.remove()
    assert "does not compute in float64 (expected scalar type Float but found Double)" in caplog.text
    after = model.state_dict()
    assert all(after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items())
