"""Regions of a training image in which no background is learned, in every head, beside plain Python."""

from __future__ import annotations

import pytest
import torch

from detframe.errors import InvalidTypeError, InvalidValueError
from detframe.modeling import build_detection_model
from detframe.modeling.ground_truth import pack_targets
from detframe.modeling.proposals import Proposals
from detframe.modeling.rpn import FCOS, AnchorRPN, RetinaNet
from detframe.modeling.rpn.fcos_head import HeadOutputs
from detframe.structures import validate_target
from tests.modeling.test_assigners import batch, head_of, maps
from tests.modeling.tiny import DENSE, EMPTY, FULL, make_images, make_target, tiny_config
from tests.ops.test_ignoring import lying_in

CPU = torch.device("cpu")
OBJECTS = [[4.0, 4, 40, 40], [60, 10, 76, 30], [74, 36, 90, 60]]
REGIONS = torch.tensor([[30.0, 6, 64, 50], [70, 30, 96, 64]])
SIZES = ("MODEL.RPN.ANCHOR_SIZES", ((16, 32),), "MODEL.RETINANET.ANCHOR_SIZES", ((16, 32),))
TWO_STAGE = {"MODEL.RPN.POST_NMS_TOP_N_TRAIN": 30, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16}
MODELS = {
    "standard": TWO_STAGE,
    "cascade": {**TWO_STAGE, "MODEL.ROI_HEADS.NAME": "CascadeROIHeads"},
    "RetinaNet": {**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.NUM_CONVS": 1},
    "FCOS": {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.NUM_CONVS": 1},
}


def truths():
    """Two images, the second without objects and without regions: ground truth with and without regions."""
    plain = make_target(OBJECTS, [1, 2, 3], seed=1)
    targets = [{**plain, "ignore_boxes": REGIONS}, EMPTY]
    return pack_targets(targets, 3, CPU), pack_targets([plain, EMPTY], 3, CPU)


def chosen(sampled, which):
    """(image, anchor) of the sampled rows that a mask (N, S) names."""
    return {(image, int(sampled.anchor[image, row])) for image, row in which.nonzero().tolist()}


# ------------------------------------------------------------------ the heads
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("assigner", ["iou", "nwd"])
def test_the_rpn_samples_no_background_there(assigner, legacy):
    many = ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 5000, "MODEL.RPN.POSITIVE_FRACTION", 1.0, "MODEL.LEGACY_BOXES", legacy)
    head = head_of(AnchorRPN, "MODEL.RPN.ASSIGNER", assigner, *SIZES, *many)
    ignoring, plain = truths()
    anchors = head.anchors(maps(), batch())
    sampled, before = (head._sample(anchors, batch(), truth) for truth in (ignoring, plain))
    inside = lying_in(head.coder.extend(torch.cat(anchors)), REGIONS)
    positive, every = chosen(before, before.positive), chosen(before, before.valid)
    left_out = {(0, anchor) for anchor, lies in enumerate(inside) if lies} - positive
    expected = every - left_out
    assert chosen(sampled, sampled.valid) == expected
    assert chosen(sampled, sampled.positive) == positive
    assert len(positive) < len(expected) < len(every) and any(inside[a] for i, a in positive if i == 0)


def class_gradients(head, truth):
    """What the class loss of a dense head says to each anchor or location, (N, A, K)."""
    levels = maps()
    if isinstance(head, FCOS):
        shapes = [m.shape[-2] * m.shape[-1] for m in levels]
        logits = [torch.zeros(2, a, 3, requires_grad=True) for a in shapes]
        outputs = HeadOutputs(logits, torch.zeros(2, sum(shapes), 4), torch.zeros(2, sum(shapes)))
        losses = head._losses(head._locations(levels, batch()), outputs, truth)
        loss = losses["loss_fcos_cls"]
    else:
        anchors = head.anchors(levels, batch())
        logits = [torch.zeros(2, len(a), 3, requires_grad=True) for a in anchors]
        deltas = [torch.zeros(2, len(a), 4) for a in anchors]
        losses = head._losses(torch.cat(anchors), head._assign(anchors, truth), logits, deltas)
        loss = losses["loss_retinanet_cls"]
    gradients = torch.cat(torch.autograd.grad(loss, logits), 1)
    return gradients, {key: float(value.detach()) for key, value in losses.items()}


@pytest.mark.parametrize("normalizer", ["batch", "image", "detectron"])
def test_retinanet_learns_nothing_from_background_there(normalizer):
    head = head_of(RetinaNet, *SIZES, "MODEL.RETINANET.LOSS_NORMALIZER", normalizer)
    ignoring, plain = truths()
    anchors = head.anchors(maps(), batch())
    background = head._assign(anchors, plain).labels[0] == 0
    left_out = torch.tensor(lying_in(torch.cat(anchors), REGIONS)) & background
    assert 0 < left_out.sum() < background.sum()
    with_regions, losses = class_gradients(head, ignoring)
    without, before = class_gradients(head, plain)
    assert not with_regions[0, left_out].any() and without[0, left_out].any()
    without[0, left_out] = 0
    torch.testing.assert_close(with_regions, without)  # the others count as before: the normalisers are the same
    assert losses["loss_retinanet_box"] == before["loss_retinanet_box"]


@pytest.mark.parametrize("assigner", ["iou", "nwd"])
def test_fcos_learns_nothing_from_background_there(assigner):
    head = head_of(FCOS, "MODEL.RPN.ASSIGNER", assigner)
    ignoring, plain = truths()
    locations = head._locations(maps(), batch())
    assigned = head._assign(locations, [m.shape[-2] * m.shape[-1] for m in maps()], plain)[0]
    inside = [any(x1 < x < x2 and y1 < y < y2 for x1, y1, x2, y2 in REGIONS.tolist()) for x, y in locations.xy.tolist()]
    left_out = torch.tensor(inside) & (assigned < 0)
    assert left_out.any() and (torch.tensor(inside) & (assigned >= 0)).any()
    with_regions, losses = class_gradients(head, ignoring)
    without, before = class_gradients(head, plain)
    assert not with_regions[0, left_out].any() and without[0, left_out].any()
    without[0, left_out] = 0
    torch.testing.assert_close(with_regions, without)
    assert [losses[k] for k in ("loss_fcos_box", "loss_fcos_quality")] == [
        before[k] for k in ("loss_fcos_box", "loss_fcos_quality")
    ]


def some_proposals():
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(150, 2, generator=generator) * torch.tensor([80.0, 50])
    boxes = torch.cat([corners, corners + 4 + torch.rand(150, 2, generator=generator) * 20], 1)
    boxes = torch.cat([boxes, torch.tensor(OBJECTS) + 1]).expand(2, -1, 4)
    ones = torch.ones(boxes.shape[:2])
    return Proposals(boxes, ones, ones.long(), ones.bool())


def listed(regions):
    rows = zip(regions.image.tolist(), regions.labels.tolist(), regions.boxes.tolist(), strict=True)
    return sorted((image, label, box) for image, label, box in rows)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["standard", "cascade"])
def test_roi_heads_sample_no_background_there(name, legacy):
    many = ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 400, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0)
    model = build_detection_model(tiny_config(MODELS[name], *many, "MODEL.LEGACY_BOXES", legacy))
    heads, (ignoring, plain) = model.roi_heads, truths()
    sampled, before = (heads._sample(some_proposals(), truth) for truth in (ignoring, plain))
    inside = lying_in(heads.coder.extend(before.boxes), REGIONS)
    expected = before.where((before.labels > 0) | (before.image == 1) | ~torch.tensor(inside))
    assert listed(sampled) == listed(expected)
    assert 0 < len(before.labels) - len(sampled.labels) < len(before.labels) and (sampled.labels > 0).any()
    if name == "cascade":  # the next stage, whose boxes stay where they are
        nowhere = torch.zeros(len(before.labels), 1, 4)
        second, plainly = (heads._next_regions(batch(), before, nowhere, 1, truth) for truth in (ignoring, plain))
        inside = lying_in(heads.coder.extend(plainly.boxes), REGIONS)
        expected = plainly.where((plainly.labels > 0) | (plainly.image == 1) | ~torch.tensor(inside))
        assert listed(second) == listed(expected) and len(second.labels) < len(plainly.labels)


# ------------------------------------------------------------------ models
@pytest.mark.parametrize("name", MODELS)
def test_images_that_are_all_ignored_have_finite_losses(name):
    """Nothing to learn from in one image, or in all: the same losses, and a gradient for every parameter."""
    torch.manual_seed(0)
    model = build_detection_model(tiny_config(MODELS[name])).train()
    everything = torch.tensor([[-900.0, -900, 900, 900]])  # also what hangs over the border
    ignored = {**EMPTY, "ignore_boxes": everything}
    keys = set(model(make_images(), [FULL, EMPTY]))
    for targets in ([FULL, ignored], [ignored, ignored], [{**FULL, "ignore_boxes": everything}, EMPTY]):
        model.zero_grad()
        losses = model(make_images(), targets)
        assert set(losses) == keys
        assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not any(loss.detach().any() for loss in model(make_images(), [ignored, ignored]).values())


def test_no_region_changes_nothing():
    model = build_detection_model(tiny_config(MODELS["RetinaNet"])).train()
    plain = model(make_images(), [FULL, EMPTY])
    none = model(make_images(), [{**t, "ignore_boxes": torch.zeros(0, 4)} for t in (FULL, EMPTY)])
    outside = model(make_images(), [{**FULL, "ignore_boxes": torch.tensor([[88.0, 68, 89, 69]])}, EMPTY])
    assert plain == none == outside


# ------------------------------------------------------------------ targets
def crowded(**more):
    crowd = torch.tensor([0, 0, 0, 1]).bool()
    return make_target([*OBJECTS, [40.0, 40, 90, 70]], [1, 2, 3, 1], seed=1, iscrowd=crowd, **more)


@pytest.mark.parametrize(("key", "ignored"), [("off", False), ("cut", False), ("crowd", True), ("all", True)])
def test_crowd_rows_of_targets_from_elsewhere(key, ignored):
    model = build_detection_model(tiny_config(MODELS["RetinaNet"], "MODEL.IGNORE_REGIONS", key)).train()
    with_crowd, plain = (model(make_images(), [t, EMPTY]) for t in (crowded(), make_target(OBJECTS, [1, 2, 3], seed=1)))
    assert (with_crowd["loss_retinanet_cls"] < plain["loss_retinanet_cls"]) == ignored
    assert ignored or with_crowd == plain
    told = model(make_images(), [crowded(ignore_boxes=torch.zeros(0, 4)), EMPTY])
    assert told == plain  # what a target says comes first


def test_packed_regions():
    assert pack_targets([crowded(), EMPTY], 3, CPU).ignored is None
    crowds = pack_targets([EMPTY, crowded()], 3, CPU, ignore_crowds=True).ignored
    assert crowds is not None and crowds.tolist() == [[[0, 0, 0, 0]], [[40, 40, 90, 70]]]
    told = pack_targets([crowded(ignore_boxes=REGIONS.double())], 3, CPU, ignore_crowds=True).ignored
    assert told is not None and torch.equal(told, REGIONS[None]) and told.dtype == torch.float32


@pytest.mark.parametrize(
    ("boxes", "error", "says"),
    [
        ([[1, 1, 2, 2]], InvalidTypeError, "ignore_boxes must be a tensor, not a list"),
        (torch.zeros(2, 3), InvalidValueError, r"ignore_boxes must have shape \(I, 4\), not \(2, 3\)"),
        (torch.tensor([[5.0, 5, 5, 9]]), InvalidValueError, r"ignore_boxes: box \[5.0, 5.0, 5.0, 9.0\] has no area"),
        (torch.tensor([[99.0, 5, 120, 9]]), InvalidValueError, "ignore_boxes: box .* lies outside of the image"),
        (torch.tensor([[5.0, 5, float("nan"), 9]]), InvalidValueError, "ignore_boxes: box .* has no area"),
    ],
)
def test_wrong_regions_are_named(boxes, error, says):
    with pytest.raises(error, match=says):
        validate_target({**EMPTY, "image_id": 7, "ignore_boxes": boxes}, 3, (70, 90))
