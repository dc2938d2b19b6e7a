"""TEST.NMS: per class, class-agnostic, or soft, for every head that detects."""

from __future__ import annotations

import math

import pytest
import torch

from detframe.config.keys import all_keys
from detframe.errors import InvalidValueError
from detframe.modeling import build_detection_model
from detframe.modeling.proposals import LEAST_SOFT_SCORE, NMS, NMS_KINDS, Candidates
from detframe.ops import CONTINUOUS, BoxCoder
from detframe.ops.compacting import fixed_shapes
from tests.modeling.tiny import DENSE, make_images, tiny_config
from tests.ops.test_suppression import nwd_reference, overlap, soft_reference

HEADS = {
    "StandardROIHeads": {},
    "CascadeROIHeads": {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads"},
    "FCOS": {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.PRIOR_PROB": 0.3},
    "RetinaNet": {**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.PRIOR_PROB": 0.3},
}


def candidates(seed=0, images=2, per_image=50, classes=3):
    generator = torch.Generator().manual_seed(seed)
    count = images * per_image
    corner = torch.rand(count, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator) * 30], 1)
    scores = 0.01 + torch.rand(count, generator=generator) * 0.99
    labels = torch.randint(1, classes + 1, (count,), generator=generator)
    image = torch.arange(images).repeat_interleave(per_image)
    return Candidates(boxes, scores, labels, image, image * (classes + 1) + labels)


def hard_reference(found, image, iou, extent=0.0, per_class=True):
    """(box, score, label) of what greedy NMS leaves of an image, by falling score."""
    rows = [i for i in found.scores.argsort(descending=True).tolist() if found.image[i] == image]
    boxes = [[a, b, c + extent, d + extent] for a, b, c, d in found.boxes.tolist()]
    kept = []
    for i in rows:
        others = [j for j in kept if not per_class or found.labels[j] == found.labels[i]]
        if all(overlap(boxes[i], boxes[j]) <= iou for j in others):
            kept.append(i)
    return [(found.boxes[i].tolist(), float(found.scores[i]), int(found.labels[i])) for i in kept]


def left_of(proposals, image):
    keep = proposals.valid[image]
    rows = (proposals.boxes[image][keep], proposals.scores[image][keep], proposals.labels[image][keep])
    return list(zip(*(part.tolist() for part in rows), strict=True))


@pytest.mark.parametrize(("kind", "per_class"), [("class", True), ("agnostic", False)])
@pytest.mark.parametrize("pixel", [0.0, 1.0])
def test_hard(kind, per_class, pixel):
    found = candidates()
    kept = NMS(0.4, 30, BoxCoder(pixel=pixel), kind)(found, 2)
    for image in range(2):
        wanted = hard_reference(found, image, 0.4, pixel, per_class)[:30]
        assert [row[2] for row in left_of(kept, image)] == [row[2] for row in wanted]
        assert [row[:2] for row in left_of(kept, image)] == [row[:2] for row in wanted]


@pytest.mark.parametrize(("kind", "sigma"), [("soft", 0.5), ("soft", 0.2), ("soft_linear", 0.5)])
@pytest.mark.parametrize("keep", [8, 100])
def test_soft(kind, sigma, keep):
    found = candidates(1)

    def lower(iou):
        if kind == "soft":
            return math.exp(-(iou**2) / sigma)
        return 1 - iou if iou > 0.4 else 1.0

    lowered = soft_reference(found.boxes.tolist(), found.scores.double().tolist(), found.group.tolist(), lower)
    kept = NMS(0.4, keep, CONTINUOUS, kind, sigma)(found, 2)
    for image in range(2):
        rows = [i for i in range(100) if found.image[i] == image and lowered[i] >= LEAST_SOFT_SCORE]
        rows = sorted(rows, key=lambda i: -lowered[i])[:keep]
        got = left_of(kept, image)
        assert [row[2] for row in got] == [int(found.labels[i]) for i in rows]
        assert [row[0] for row in got] == [found.boxes[i].tolist() for i in rows]
        assert [row[1] for row in got] == pytest.approx([lowered[i] for i in rows])


@pytest.mark.parametrize("kind", NMS_KINDS)
def test_an_image_in_company(kind):
    together = candidates(images=5)
    kept = NMS(0.5, 20, kind=kind)(together, 6)
    assert not kept.valid[5].any()  # an image without candidates
    for image in range(5):
        own = together.image == image
        alone = Candidates(*(part[own] for part in together[:3]), together.image[own] * 0, together.labels[own])
        assert left_of(NMS(0.5, 20, kind=kind)(alone, 1), 0) == left_of(kept, image)
    none = torch.zeros(0, dtype=torch.int64)
    assert (
        NMS(0.5, 20, kind=kind)(Candidates(torch.zeros(0, 4), torch.zeros(0), none, none, none), 2).boxes.shape[0] == 2
    )


@pytest.mark.parametrize("kind", [*NMS_KINDS, "nwd"])
def test_as_an_accelerator_does_it(kind):
    """The same rows, of a number that no value decides, also where some candidates do not count."""
    found = candidates(3, images=3)
    settings = {"nwd_constant": 12.8} if kind == "nwd" else {"kind": kind}
    nms = NMS(0.5, 20, **settings)
    there = torch.arange(150) % 4 > 0
    alone = nms(Candidates(*(part[there] for part in found[:5])), 4)
    for masked in (found._replace(valid=there), found._replace(valid=there, boxes=found.boxes * there[:, None])):
        plain = nms(masked, 4)
        with fixed_shapes():
            fixed = nms(masked, 4)
        assert fixed.valid.shape == (4, 20)
        for image in range(4):
            assert left_of(fixed, image) == left_of(plain, image) == left_of(alone, image)
    with fixed_shapes():
        nothing = nms(found._replace(valid=there & False), 2)
    assert nothing.boxes.shape == (2, 20, 4)
    assert not nothing.valid.any()
    assert not nothing.boxes.any()


def test_candidates_without_finite_boxes_that_do_not_count():
    found = candidates(3)
    there = torch.arange(100) % 5 > 0
    broken = torch.where(there[:, None], found.boxes, torch.nan)
    with fixed_shapes():
        kept = NMS(0.5, 20)(found._replace(boxes=broken, valid=there), 2)
    for image in range(2):
        assert left_of(kept, image) == left_of(NMS(0.5, 20)(found._replace(valid=there), 2), image)


def test_the_kinds_are_those_of_the_key():
    assert tuple(all_keys()["TEST.NMS"].choices) == NMS_KINDS
    with pytest.raises(ValueError, match="NMS must be one of 'class', 'agnostic', 'soft', 'soft_linear', not 'hard'"):
        NMS(0.5, 10, kind="hard")


@pytest.mark.parametrize("head", HEADS)
def test_every_head_suppresses_as_the_config_says(head):
    images = make_images()
    small = {"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32, "TEST.NMS": "agnostic", "TEST.SOFT_NMS_SIGMA": 0.3}
    torch.manual_seed(0)
    model = build_detection_model(tiny_config({**HEADS[head], **small})).eval()
    if head == "FCOS":  # boxes of a pixel would not overlap
        torch.nn.init.constant_(model.rpn.head.regression_head.bbox_reg.bias, 3.0)
    kept = {}
    with torch.no_grad():
        for kind in NMS_KINDS:
            with model.with_nms(kind=kind):
                assert (model.nms.kind, model.nms.sigma) == (kind, 0.3)
                kept[kind] = model(images)
        for found, wanted in zip(model(images), kept["agnostic"], strict=True):  # as the config says
            assert all(torch.equal(found[key], wanted[key]) for key in ("boxes", "labels", "scores"))
    for a, b in (("agnostic", "class"), ("soft", "class"), ("soft_linear", "soft")):
        assert any(
            x["boxes"].shape != y["boxes"].shape or not torch.equal(x["boxes"], y["boxes"])
            for x, y in zip(kept[a], kept[b], strict=True)
        ), (a, b)
    for prediction in kept["agnostic"]:
        boxes = prediction["boxes"].tolist()
        assert len(boxes) and all(overlap(a, b) <= 0.6 + 1e-6 for i, a in enumerate(boxes) for b in boxes[:i])
    for prediction in kept["soft"]:
        assert prediction["scores"].tolist() == sorted(prediction["scores"].tolist(), reverse=True)


def test_proposals_of_a_dense_detector_stay_hard():
    keys = {"MODEL.BACKBONE.CONV_BODY": "R-18-FPN-RETINANET", "MODEL.RPN.NAME": "FCOS", "TEST.NMS": "soft"}
    model = build_detection_model(tiny_config(keys))
    assert model.rpn.nms.kind == "class" and model.nms is model.roi_heads.nms and model.nms.kind == "soft"


def test_proposals_have_no_other_nms():
    keys = {"MODEL.ROI_HEADS.NAME": ""}
    with pytest.raises(ValueError, match="cannot be 'soft': the model gives proposals, whose NMS is hard"):
        build_detection_model(tiny_config({**keys, "TEST.NMS": "soft"}))
    model = build_detection_model(tiny_config(keys))
    with (
        pytest.raises(ValueError, match="cannot be 'agnostic': the model gives proposals"),
        model.with_nms(kind="agnostic"),
    ):
        pass


def test_a_head_that_suppresses_in_its_own_way_is_named():
    model = build_detection_model(tiny_config({}))
    model.roi_heads.nms = None
    with pytest.raises(ValueError, match="has detections of StandardROIHeads, which has no attribute `nms`"):
        model.check(tiny_config({"TEST.NMS": "soft"}))


# ---------------------------------------------------------------------------------------------- by another measure
def far_small_boxes(image):
    """In each image two boxes of 4 pixels side by side, IoU 0, and one far off."""
    boxes = torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4], [40, 40, 44, 44]]).repeat(len(image), 1)
    image = torch.tensor(image).repeat_interleave(3)
    scores = torch.tensor([0.9, 0.8, 0.7]).repeat(len(image) // 3)
    return Candidates(boxes, scores, torch.ones_like(image), image, image * 4 + 1)


@pytest.mark.parametrize("pixel", [0.0, 1.0])
def test_nms_by_wasserstein_distance_drops_what_does_not_overlap(pixel):
    found = far_small_boxes([0, 1])
    kept = NMS(0.7, 30, BoxCoder(pixel=pixel), nwd_constant=12.8)(found, 2)  # exp(-4 / 12.8) = 0.73
    assert kept.scores[kept.valid].tolist() == [pytest.approx(0.9), pytest.approx(0.7)] * 2
    assert NMS(0.75, 30, BoxCoder(pixel=pixel), nwd_constant=12.8)(found, 2).valid.sum() == 6
    assert NMS(0.7, 30, BoxCoder(pixel=pixel))(found, 2).valid.sum() == 6


def test_soft_nms_knows_no_wasserstein_distance():
    with pytest.raises(InvalidValueError, match=r"'soft' lowers scores by IoU and knows no TEST.NMS_METRIC 'nwd'"):
        NMS(0.5, 10, kind="soft", nwd_constant=12.8)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_metric_of_proposals_and_that_of_detections(legacy):
    small = {"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16, "MODEL.LEGACY_BOXES": legacy}
    plain = build_detection_model(tiny_config(small))
    assert plain.rpn.proposing.nms_constant == plain.nms.nwd_constant == 0
    of_detections = build_detection_model(tiny_config({**small, "TEST.NMS_METRIC": "nwd"}))
    assert (of_detections.rpn.proposing.nms_constant, of_detections.nms.nwd_constant) == (0, 12.8)
    metric = {"MODEL.RPN.NMS_METRIC": "nwd", "MODEL.NWD_CONSTANT": 20.0, "MODEL.RPN.NMS_THRESH": 0.85}
    model = build_detection_model(tiny_config({**small, **metric})).eval()
    assert (model.rpn.proposing.nms_constant, model.nms.nwd_constant) == (20.0, 0)
    found = candidates(images=1)
    boxes, level = found.boxes[None], found.labels[None] - 1
    kept = model.rpn._nms(boxes, found.scores.logit()[None], level, model.rpn.proposing.test)
    rows = nwd_reference(found.boxes.tolist(), found.scores.tolist(), level[0].tolist(), 0.85, 20.0)
    assert len(rows) < 50
    expected = found.boxes[rows][found.scores[rows].argsort(descending=True)]
    torch.testing.assert_close(kept.boxes[0][kept.valid[0]], expected)


def test_proposals_of_a_dense_detector_have_no_metric_of_detections():
    cfg = tiny_config({**HEADS["FCOS"], "MODEL.ROI_HEADS.NAME": "StandardROIHeads", "TEST.NMS_METRIC": "nwd"})
    model = build_detection_model(cfg)
    assert (model.rpn.nms.nwd_constant, model.roi_heads.nms.nwd_constant) == (0, 12.8)
