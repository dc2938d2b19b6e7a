"""FCOS: assignment by hand, losses by hand, the contract of a detector, every choice of a key."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from detframe.config import validate
from detframe.modeling import build_detection_model
from detframe.ops.boxes import LocationMatching, Locations, assign_locations, boxes_at, centerness, distances
from detframe.ops.losses import distance_iou_loss
from tests.modeling.tiny import DENSE, EMPTY, FULL, assert_finds_what_it_learned, make_images, tiny_config

KEYS = {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.NUM_CONVS": 2, "MODEL.FCOS.INFERENCE_TH": 0.001}


def _cfg(*opts):
    return tiny_config(KEYS, *opts)


def _level(stride=8, size=8, low=0.0, high=64.0):
    place = torch.arange(size) * stride + stride // 2
    y, x = torch.meshgrid(place, place, indexing="ij")
    xy = torch.stack([x, y], -1).reshape(-1, 2).float()
    full = torch.ones(len(xy))
    return Locations(xy, full * stride, full * low, full * high)


def test_distances_and_boxes_are_inverse():
    xy, box = torch.tensor([[10.0, 20]]), torch.tensor([[4.0, 5, 30, 40]])
    assert distances(xy, box).tolist() == [[6, 15, 20, 20]]
    assert torch.equal(boxes_at(xy, distances(xy, box)), box)


def test_centerness_by_hand():
    values = centerness(torch.tensor([[5.0, 5, 5, 5], [1, 4, 4, 4], [0, 3, 6, 3]]))
    torch.testing.assert_close(values, torch.tensor([1.0, 0.5, 0.0]))


def test_the_smallest_box_wins_inside_and_nothing_outside():
    boxes = torch.tensor([[[0.0, 0, 60, 60], [8, 8, 32, 32]]])
    index = assign_locations(boxes, torch.tensor([[True, True]]), _level(), LocationMatching(0.0, True))[0].reshape(
        8, 8
    )
    expected = torch.full((8, 8), -1)
    expected[:7, :7] = 0
    expected[7, :] = expected[:, 7] = -1  # the centre of the last cell is at 60, on the side of the box
    expected[1:4, 1:4] = 1
    assert torch.equal(index, expected)


def test_center_sampling_keeps_to_the_middle():
    boxes = torch.tensor([[[0.0, 0, 64, 64]]])
    index = assign_locations(boxes, torch.tensor([[True]]), _level(), LocationMatching(1.5, True))[0].reshape(8, 8)
    assert (index >= 0).nonzero().unique().tolist() == [3, 4]  # 28 and 36 lie 4 from the centre, 20 and 44 lie 12


@pytest.mark.parametrize(("inclusive", "found"), [(True, True), (False, False)])
def test_the_bounds_of_a_range(inclusive, found):
    box = torch.tensor([[[0.0, 0, 68, 68]]])  # from (4, 4) the largest distance is 64
    level = _level(size=1)
    index = assign_locations(box, torch.tensor([[True]]), level, LocationMatching(0.0, inclusive))
    assert bool(index[0, 0] >= 0) is found


def test_chunks_and_padding_change_nothing():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 30, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 4 + torch.rand(2, 30, 2, generator=generator) * 30], 2)
    valid = torch.arange(30) < torch.tensor([[30], [7]])
    whole = assign_locations(boxes, valid, _level(), LocationMatching(1.5, True))
    assert torch.equal(whole, assign_locations(boxes, valid, _level(), LocationMatching(1.5, True), max_pairs=100))
    alone = assign_locations(boxes[1:, :7], valid[1:, :7], _level(), LocationMatching(1.5, True))
    assert torch.equal(whole[1:], alone)
    none = assign_locations(boxes[:, :1], torch.zeros_like(valid[:, :1]), _level(), LocationMatching(0.0, True))
    assert (none == -1).all()


def test_box_losses_by_hand_and_against_torchvision():
    pred, target = torch.tensor([[2.0, 2, 2, 2]]), torch.tensor([[2.0, 2, 4, 2]])  # 16 of 24
    assert distance_iou_loss(pred, target, "linear_iou", 0.0).item() == pytest.approx(1 - 16 / 24)
    assert distance_iou_loss(pred, target, "iou", 1.0).item() == pytest.approx(-torch.tensor(17 / 25).log().item())
    generator = torch.Generator().manual_seed(1)
    pred, target = torch.rand(50, 4, generator=generator) * 30, torch.rand(50, 4, generator=generator) * 30
    xy = torch.zeros(50, 2)
    expected = generalized_box_iou_loss(boxes_at(xy, pred), boxes_at(xy, target))
    torch.testing.assert_close(distance_iou_loss(pred, target, "giou", 0.0), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match=r"eiou.*known: iou, linear_iou, giou, diou, ciou"):
        distance_iou_loss(pred, target, "eiou", 0.0)


def test_a_box_that_overlaps_nothing_has_a_finite_loss_and_gradient():
    pred = torch.zeros(1, 4, requires_grad=True)
    for kind in ("iou", "linear_iou", "giou", "diou", "ciou"):
        loss = distance_iou_loss(pred, torch.full((1, 4), 5.0), kind, 0.0).sum()
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, pred)[0]).all()


@pytest.mark.parametrize("targets", [[FULL, FULL], [FULL, EMPTY], [EMPTY, EMPTY]], ids=["full", "half", "empty"])
@pytest.mark.parametrize(
    "opts",
    [
        [],
        ["MODEL.FCOS.NORM_REG_TARGETS", True, "MODEL.FCOS.IOU_LOSS_TYPE", "giou", "MODEL.FCOS.CENTERNESS_ON_REG", True],
        ["MODEL.FCOS.BOX_QUALITY", "iou", "MODEL.FCOS.IOU_LOSS_TYPE", "linear_iou", "MODEL.FCOS.USE_SCALE", False],
        ["MODEL.FCOS.USE_DCN_IN_TOWER", True, "MODEL.FPN.P6_FROM", "C5", "MODEL.FCOS.NORM", ""],
        ["MODEL.BACKBONE.CONV_BODY", "R-18-FPN", "MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5],
        ["MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16],
    ],
    ids=["plain", "improved", "iou quality", "deformable", "from P2", "two stages"],
)
def test_losses_are_finite_and_every_parameter_learns(targets, opts):
    torch.manual_seed(0)
    model = build_detection_model(_cfg(*opts))
    losses = model(make_images(), targets)
    assert {"loss_fcos_cls", "loss_fcos_box", "loss_fcos_quality"} <= set(losses)
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.inference_mode():
        first, second = model.eval()(make_images()), model(make_images())
    for a, b in zip(first, second, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert (a["scores"].diff() <= 0).all()


def test_predictions_keep_their_contract():
    model = build_detection_model(_cfg("TEST.DETECTIONS_PER_IMG", 9)).eval()
    with torch.inference_mode():
        predictions = model(make_images())
    for prediction, image in zip(predictions, make_images(), strict=True):
        assert len(prediction["boxes"]) == 9
        assert 1 <= prediction["labels"].min() and prediction["labels"].max() <= 3
        assert (prediction["boxes"] >= 0).all()
        assert (prediction["boxes"][:, 2] <= image.shape[2]).all() and (
            prediction["boxes"][:, 3] <= image.shape[1]
        ).all()


def test_the_threshold_may_count_centerness():
    low = build_detection_model(_cfg("MODEL.FCOS.INFERENCE_TH", 0.05, "MODEL.FCOS.THRESH_WITH_CTR", True)).eval()
    high = build_detection_model(_cfg("MODEL.FCOS.INFERENCE_TH", 0.05)).eval()
    high.load_state_dict(low.state_dict())
    with torch.inference_mode():
        many, none = low(make_images()), high(make_images())
    assert len(many[0]["boxes"]) > 0  # class scores of 0.01 with a quality of 0.5 combine to 0.07
    assert len(none[0]["boxes"]) == 0


def test_an_object_is_found_where_it_is():
    torch.manual_seed(0)
    opts = ["MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, "MODEL.RESNETS.NORM", "GN"]
    assert_finds_what_it_learned(build_detection_model(_cfg(*opts, "MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5)))


def test_size_ranges_that_do_not_fit_the_pyramid():
    with pytest.raises(ValueError, match=r"\(64, 128\) must be 4 rising sizes.*p3 \(stride 8\), p4"):
        build_detection_model(_cfg("MODEL.FCOS.SIZES_OF_INTEREST", (64, 128)))


@pytest.mark.parametrize(("key", "value"), [("BOX_QUALITY", "none"), ("NORM", "LN")])
def test_unknown_choices(key, value):
    with pytest.raises(ValueError, match=rf"MODEL\.FCOS\.{key} must be one of"):
        validate(_cfg(f"MODEL.FCOS.{key}", value))


PEAK = """
import resource, sys, torch
from detframe.config import get_cfg
from detframe.modeling import build_detection_model

count = int(sys.argv[1])
torch.set_num_threads(1)
cfg = get_cfg()
cfg.merge_from_file("configs/Base-FCOS-torchvision.yaml")
cfg.merge_from_list(["MODEL.NUM_CLASSES", 80, "MODEL.DEVICE", "cpu"])
corner = torch.rand(count, 2) * torch.tensor([600.0, 440.0])
boxes = torch.cat([corner, corner + 4 + torch.rand(count, 2) * 35], 1)
target = {"boxes": boxes, "labels": torch.randint(1, 81, (count,))}
sum(build_detection_model(cfg)([torch.rand(3, 480, 640)], [target]).values()).backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_two_thousand_objects_need_no_more_than_twice_the_memory_of_twenty():
    def peak(count):
        run = subprocess.run([sys.executable, "-c", PEAK, str(count)], capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert peak(2000) < 2 * peak(20)
