"""The loss of the keypoint branch alone, against cross entropies that are summed one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from detframe.errors import InvalidValueError
from detframe.modeling.ground_truth import GroundTruth
from detframe.modeling.proposals import Regions
from detframe.modeling.roi_heads.keypoint import KeypointBranch
from tests.modeling.tiny import tiny_config

P, SIDE = 3, 8  # keypoints, cells along a side of a heatmap


class Maps(nn.Module):
    """In place of the pooler: a feature for each RoI that follows from its box."""

    def forward(self, features, boxes, image):
        weights = torch.linspace(-1, 1, 4 * 2 * 2 * 4).reshape(4, 4, 2, 2)
        return torch.einsum("rb,bchw->rchw", boxes / 10, weights)


def branch(*opts) -> KeypointBranch:
    torch.manual_seed(0)
    keys = ("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", P, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (4,))
    made = KeypointBranch.from_config(tiny_config({}, *keys, *opts), 4, {"p2": 4})
    made.pooler = Maps()
    return made


@pytest.fixture
def gt() -> GroundTruth:
    """Two images; of the first one's objects the second has one keypoint that is seen, the other image has none."""
    points = [[[1.0, 1, 2], [9, 9, 1], [10, 4, 2]], [[5.0, 5, 0], [12, 14, 2], [99, 99, 2]]]
    keypoints = torch.zeros(2, 2, P, 3)
    keypoints[0] = torch.tensor(points)
    boxes = torch.zeros(2, 2, 4)
    boxes[0] = torch.tensor([[0.0, 0, 10, 10], [4, 4, 20, 20]])
    valid = torch.tensor([[True, True], [False, False]])
    return GroundTruth(boxes, valid.long(), valid, torch.zeros(2, dtype=torch.int64), keypoints=keypoints)


@pytest.fixture
def regions() -> Regions:
    """Three RoIs of the first image."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 4, 20, 20], [2, 2, 11, 11]])
    image = torch.zeros(3, dtype=torch.int64)
    return Regions(boxes, torch.ones(3, dtype=torch.int64), image, boxes, torch.tensor([0, 1, 0]))


def summed(made: KeypointBranch, gt: GroundTruth, regions: Regions) -> tuple[float, int]:
    """The sum of the cross entropies of all keypoints that are seen and in their box, and how many those are."""
    total, count = 0.0, 0
    logits = made.heatmaps({}, regions.boxes, regions.image).tolist()
    rows = zip(regions.boxes.tolist(), regions.image.tolist(), regions.gt_index.tolist(), logits, strict=True)
    for (x1, y1, x2, y2), image, index, maps in rows:
        for (x, y, seen), cells in zip(gt.keypoints[image, index].tolist(), maps, strict=True):
            if seen and x1 <= x <= x2 and y1 <= y <= y2:
                column = min(int((x - x1) * SIDE / (x2 - x1)), SIDE - 1)
                row = min(int((y - y1) * SIDE / (y2 - y1)), SIDE - 1)
                total += math.log(sum(math.exp(v) for line in cells for v in line)) - cells[row][column]
                count += 1
    return total, count


def test_the_loss_is_divided_by_what_the_config_says(gt: GroundTruth, regions: Regions):
    static = branch("MODEL.ROI_KEYPOINT_HEAD.NORMALIZER", "static")
    total, count = summed(static, gt, regions)
    assert count == 6
    whole = P * 2 * static_rois()  # as if all keypoints of all RoIs that may be foreground were seen, in two images
    assert static.losses({}, regions, gt)["loss_keypoint"].item() == pytest.approx(total / whole, rel=1e-5)
    visible = branch("MODEL.ROI_KEYPOINT_HEAD.NORMALIZER", "visible", "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT", 3.0)
    assert visible.losses({}, regions, gt)["loss_keypoint"].item() == pytest.approx(3 * total / count, rel=1e-5)


def static_rois() -> float:
    keys = tiny_config({}).MODEL.ROI_HEADS
    return keys.BATCH_SIZE_PER_IMAGE * keys.POSITIVE_FRACTION


@pytest.mark.parametrize("normalizer", ["static", "visible"])
def test_rows_that_are_no_rois_change_nothing(gt: GroundTruth, regions: Regions, normalizer: str):
    made = branch("MODEL.ROI_KEYPOINT_HEAD.NORMALIZER", normalizer)
    plain = made.losses({}, regions, gt)["loss_keypoint"]
    (wanted,) = torch.autograd.grad(plain, made.predictor.kps_score_lowres.weight)
    more = [torch.cat([rows, rows[:2]]) for rows in (regions.boxes, regions.image, regions.gt_index)]
    labels = torch.tensor([1, 1, 1, 0, -1])
    padded = replace(Regions(more[0], labels, more[1], more[0], more[2]), padded=True, foremost=5)
    loss = made.losses({}, padded, gt)["loss_keypoint"]
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(torch.autograd.grad(loss, made.predictor.kps_score_lowres.weight)[0], wanted)


@pytest.mark.parametrize("normalizer", ["static", "visible"])
def test_without_rois_the_loss_is_zero_and_so_is_its_gradient(gt: GroundTruth, regions: Regions, normalizer: str):
    made = branch("MODEL.ROI_KEYPOINT_HEAD.NORMALIZER", normalizer)
    loss = made.losses({}, regions.where(regions.labels > 1), gt)["loss_keypoint"]
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, made.predictor.kps_score_lowres.weight)[0].any()


def test_another_number_of_keypoints_than_the_model_has_is_told(gt: GroundTruth, regions: Regions):
    five = replace(gt, keypoints=torch.zeros(2, 2, 5, 3))
    with pytest.raises(InvalidValueError) as caught:
        branch().losses({}, regions, five)
    assert str(caught.value) == (
        "the targets have 5 keypoints an object, the model has 3: build it with MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS 5"
    )
    with pytest.raises(InvalidValueError, match=r"MODEL\.KEYPOINT_ON trains on keypoints, and the targets have none"):
        branch().losses({}, regions, replace(gt, keypoints=None))
