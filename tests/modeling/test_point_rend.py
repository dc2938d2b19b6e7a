"""PointRend against a slow reference, written out point by point."""

import pytest
import torch
from torch.nn import functional as F

from detframe.modeling import build_detection_model
from detframe.modeling.ground_truth import pack_targets
from detframe.modeling.proposals import Regions
from tests.modeling.tiny import make_target, tiny_config
from tests.ops.test_points import bilinear

POINT_REND = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NAME": "PointRend",
    "MODEL.POINT_HEAD.FC_DIM": 12,
    "MODEL.POINT_HEAD.COARSE_FC_DIM": 20,
    "MODEL.POINT_HEAD.COARSE_SIDE": 3,
    "MODEL.POINT_HEAD.NUM_POINTS": 8,
    "MODEL.POINT_HEAD.SUBDIVISION_STEPS": 3,
    "MODEL.POINT_HEAD.SUBDIVISION_POINTS": 40,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
}
BOXES = torch.tensor([[3.0, 5, 40, 33], [10, 2, 25, 50], [0, 0, 60, 60]])
LABELS, IMAGE = torch.tensor([2, 1, 3]), torch.tensor([0, 0, 1])


@pytest.fixture(scope="module")
def branch():
    torch.manual_seed(0)
    branch = build_detection_model(tiny_config(POINT_REND)).roi_heads.mask
    with torch.no_grad():
        for layer in (branch.coarse.prediction, branch.point_head.predictor):
            layer.weight.normal_(0, 0.3)
    return branch


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(1)
    return {"p2": torch.randn(2, 16, 16, 16)}


def point_logit(branch, feature, coarse, box, label, x, y):
    """The point head's logit of one class at (x, y) of a box, from 0 to 1, by loops over channels."""
    px, py = float(box[0] + x * (box[2] - box[0])), float(box[1] + y * (box[3] - box[1]))
    fine = torch.tensor([bilinear(channel, px / 4, py / 4) for channel in feature])
    side = coarse.shape[-1]
    logits = torch.tensor([bilinear(channel, x * side, y * side) for channel in coarse])
    h = fine
    for fc in branch.point_head.fcs:
        h = F.relu(fc.weight[..., 0] @ torch.cat([h, logits]) + fc.bias)
    predictor = branch.point_head.predictor
    return float((predictor.weight[..., 0] @ torch.cat([h, logits]) + predictor.bias)[label - 1])


def coarse_maps(branch, feature, box):
    grid = torch.zeros(16, 6, 6)
    for row in range(6):
        for column in range(6):
            x = float(box[0] + (column + 0.5) / 6 * (box[2] - box[0])) / 4
            y = float(box[1] + (row + 0.5) / 6 * (box[3] - box[1])) / 4
            grid[:, row, column] = torch.tensor([bilinear(channel, x, y) for channel in feature])
    return branch.coarse(grid[None])[0]


@torch.no_grad()
def test_inference_equals_the_slow_reference(branch, features):
    """3x3 coarse: 6x6 is fewer than 40 points, so it is dense there; then 12x12 and 24x24 with 40 points each."""
    found = branch.predict(features, BOXES, LABELS, IMAGE)
    assert found.shape == (3, 24, 24)
    for r in range(3):
        feature, box, label = features["p2"][IMAGE[r]], BOXES[r], int(LABELS[r])
        coarse = coarse_maps(branch, feature, box)
        logits = torch.zeros(6, 6)
        for row in range(6):
            for column in range(6):
                place = ((column + 0.5) / 6, (row + 0.5) / 6)
                logits[row, column] = point_logit(branch, feature, coarse, box, label, *place)
        for side in (12, 24):
            logits = F.interpolate(logits[None, None], scale_factor=2.0, mode="bilinear")[0, 0]
            order = logits.abs().flatten().argsort(stable=True)[:40].tolist()
            for cell in order:
                row, column = divmod(cell, side)
                place = ((column + 0.5) / side, (row + 0.5) / side)
                logits[row, column] = point_logit(branch, feature, coarse, box, label, *place)
        torch.testing.assert_close(found[r], logits.sigmoid(), rtol=1e-3, atol=1e-4)


def test_training_points_are_the_least_certain_ones(branch):
    """Three quarters of the points are the least certain of three times as many; the rest lie anywhere."""
    coarse = torch.zeros(3, 3, 3)
    coarse[:, :, 0], coarse[:, :, 2] = -4.0, 4.0  # certain left and right, uncertain in the middle
    gt = pack_targets([make_target([[0.0, 0, 9, 9]], [1], seed=4), make_target([], [], seed=5)], 3, torch.device("cpu"))
    regions = Regions(BOXES, LABELS, IMAGE, BOXES, torch.zeros(3, dtype=torch.int64))
    points = branch._training_points(coarse, regions, gt)
    assert points.shape == (3, 8, 2) and points.min() >= 0 and points.max() < 1
    assert (points[:, :6, 0] - 0.5).abs().mean() < 0.6 * (points[:, 6:, 0] - 0.5).abs().mean() + 0.1
    assert torch.equal(points, branch._training_points(coarse, regions, gt))
    alone = Regions(BOXES[2:], LABELS[2:], IMAGE[2:] * 0, BOXES[2:], torch.zeros(1, dtype=torch.int64))
    other = pack_targets([make_target([], [], seed=5)], 3, torch.device("cpu"))
    assert torch.equal(points[2:], branch._training_points(coarse[2:], alone, other))
    assert not torch.equal(points[0], points[1])


@torch.no_grad()
def test_losses_equal_the_slow_reference(branch, features):
    masks = torch.zeros(2, 60, 64, dtype=torch.bool)
    masks[0, 8:30, 5:35], masks[1, 3:48, 12:20] = True, True
    targets = [make_target([[5.0, 8, 35, 30], [12, 3, 20, 48]], [2, 1], seed=4, masks=masks)]
    targets.append(make_target([[0.0, 0, 50, 50]], [3], seed=6, masks=torch.ones(1, 60, 64, dtype=torch.bool)))
    gt = pack_targets(targets, 3, torch.device("cpu"))
    regions = Regions(BOXES, LABELS, IMAGE, BOXES, torch.tensor([0, 1, 0]))
    found = branch.losses(features, regions, gt)
    maps = [coarse_maps(branch, features["p2"][IMAGE[r]], BOXES[r]) for r in range(3)]
    own = torch.stack([m[label - 1] for m, label in zip(maps, LABELS.tolist(), strict=True)])
    points = branch._training_points(own, regions, gt)
    total = 0.0
    for r in range(3):
        mask = targets[int(IMAGE[r])]["masks"][int(regions.gt_index[r])]
        for x, y in points[r].tolist():
            logit = point_logit(branch, features["p2"][IMAGE[r]], maps[r], BOXES[r], int(LABELS[r]), x, y)
            box = BOXES[r].tolist()
            truth = bilinear(mask.float(), box[0] + x * (box[2] - box[0]), box[1] + y * (box[3] - box[1]))
            total += float(F.binary_cross_entropy_with_logits(torch.tensor(logit), torch.tensor(truth)))
    assert float(found["loss_mask_point"]) == pytest.approx(total / 24, rel=1e-3)
    assert float(found["loss_mask"]) > 0


def test_a_map_that_is_not_there():
    with pytest.raises(ValueError, match="IN_FEATURE is 'p1'"):
        build_detection_model(tiny_config(POINT_REND, "MODEL.POINT_HEAD.IN_FEATURE", "p1"))
