"""Test-time augmentation: views, the way back from them, merging, masks and keypoints of merged boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

from detframe.inference.augmentation import AugmentedModel, View, views_of
from detframe.modeling import GeneralizedRCNN, build_detection_model
from detframe.modeling.preprocessor import Preprocessor
from detframe.modeling.proposals import NMS, Candidates
from tests.inference.conftest import picture, tiny_cfg
from tests.modeling.test_nms_kinds import hard_reference
from tests.ops.test_suppression import fusion_reference, soft_reference

SMALL = {"MODEL.ROI_MASK_HEAD.CONV_DIM": 8, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (8,)}
DENSE = {"MODEL.BACKBONE.CONV_BODY": "R-18-FPN-RETINANET", "MODEL.ROI_HEADS.NAME": ""}
MODELS = {
    "rcnn": {},
    "legacy": {"MODEL.LEGACY_BOXES": True},
    "masks and keypoints": {
        **SMALL, "MODEL.MASK_ON": True, "MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
    },
    "legacy masks": {**SMALL, "MODEL.MASK_ON": True, "MODEL.LEGACY_BOXES": True},
    "fcos": {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.PRIOR_PROB": 0.3},
    "retinanet": {**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.PRIOR_PROB": 0.3},
}  # fmt: skip
PAIRS = [(0, 2)]


def settings(**aug):
    return {f"TEST.AUG.{key}": value for key, value in aug.items()}


def tiny(keys, **aug):
    cfg = tiny_cfg().changed({**keys, **settings(ENABLED=True, **aug)}.items())
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    with torch.no_grad():  # spread the scores, so that their order is not decided by float errors
        for parameter in (model.roi_heads or model.rpn).parameters():
            parameter.mul_(3 if model.roi_heads else 1.5)
    return model.eval(), cfg


def image_of(height, width, seed):
    return torch.from_numpy(picture(height, width, seed)).permute(2, 0, 1)


@torch.no_grad()
def augmented(keys, images, **aug):
    model, cfg = tiny(keys, **aug)
    return AugmentedModel(model, cfg, PAIRS)(images)


# ------------------------------------------------------------------ views
def test_views_of_a_config():
    def views(**aug):
        return [(v.min_size, v.max_size, v.mirrored) for v in views_of(tiny_cfg().changed(settings(**aug).items()))]

    plain = (96, 160)
    assert views() == [(*plain, None), (*plain, -1)]
    assert views(FLIP=False) == [(*plain, None)]
    assert views(FLIP=False, MIN_SIZES=(64, 0), MAX_SIZE=200, PLAIN=False) == [(64, 200, None), (0, 200, None)]
    both = {"MIN_SIZES": (64,), "VERTICAL_FLIP": True}
    of_64 = [(64, 4000, None), (64, 4000, -1), (64, 4000, -2)]
    assert views(**both) == [(*plain, None), (*plain, -1), (*plain, -2), *of_64]
    assert views(**both, FLIP_VIEWS="plain") == [(*plain, None), (*plain, -1), (*plain, -2), of_64[0]]
    assert views(**both, FLIP_VIEWS="sizes") == [(*plain, None), *of_64]


def test_a_view_resizes_and_mirrors_image_and_boxes():
    image = image_of(40, 60, 0)
    assert torch.equal(View(0, 0).of(image), image)
    left, upside = View(20, 0, -1), View(0, 0, -2)
    assert torch.equal(left.of(image), F.horizontal_flip(F.resize(image, [20, 30], antialias=True)))
    assert torch.equal(upside.of(image), F.vertical_flip(image))
    boxes = torch.tensor([[0.0, 2, 7, 11]])
    assert left.mirror(boxes, (20, 30)).tolist() == [[23, 2, 30, 11]]
    assert upside.mirror(boxes, (20, 30)).tolist() == [[0, 9, 7, 18]]
    for view in (View(0, 0), left, upside):
        assert torch.equal(view.mirror(view.mirror(boxes, (20, 30)), (20, 30)), boxes)


# ------------------------------------------------------------------ a detector whose answer is known
class Bright(nn.Module):
    """In place of an RPN: the box around what is bright, scored by the size of the view."""

    def __init__(self, scores):
        super().__init__()
        self.nms, self.scores, self.seen = NMS(0.5, 5), scores, []

    def forward(self, images, features, ground_truth, propose):
        boxes = []
        for pixels, (height, width) in zip(images.tensors, images.sizes_hw, strict=True):
            y, x = (pixels[0, :height, :width] > 127.5).nonzero(as_tuple=True)
            boxes.append(torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float())
        self.seen += images.sizes_hw
        boxes = torch.stack(boxes)
        scores = torch.tensor([self.scores[size_hw] for size_hw in images.sizes_hw])
        image = torch.arange(len(boxes))
        ones = torch.ones_like(image)
        return self.nms(Candidates(boxes, scores, ones, image, image), len(boxes)), {}


class Pixels(nn.Module):
    """In place of a backbone."""

    strides, out_channels = {"p": 1}, 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return {"p": x}


def bright(scores):
    return GeneralizedRCNN(
        preprocessor=Preprocessor((0.0,) * 3, (1.0,) * 3, False, 1, False), backbone=Pixels(), rpn=Bright(scores),
        roi_heads=None, num_classes=1, rpn_maps=["p"], roi_maps=[],
    ).eval()  # fmt: skip


@pytest.mark.parametrize(("merge", "score"), [("nms", 0.9), ("soft", 0.9), ("wbf", (0.9 + 0.8 + 0.4) / 3)])
def test_boxes_come_back_exactly(merge, score):
    """A rectangle is found in the image, its mirror images, and twice and half as large; merged, it is one again."""
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 8:24, 10:30] = 255
    scores = {(40, 60): 0.9, (80, 120): 0.8, (20, 30): 0.4}
    model = bright(scores)
    aug = {"MIN_SIZES": (80, 20), "VERTICAL_FLIP": True, "MERGE": merge}
    cfg = tiny_cfg().changed({"INPUT.MIN_SIZE_TEST": 0, "INPUT.MAX_SIZE_TEST": 0, **settings(**aug)}.items())
    with torch.no_grad():
        (found,) = AugmentedModel(model, cfg)([image])
    assert sorted(model.rpn.seen) == sorted([(40, 60), (80, 120), (20, 30)] * 3)
    assert found["boxes"][0].tolist() == pytest.approx([10, 8, 30, 24], abs=1e-5)
    assert found["labels"][0] == 1 and float(found["scores"][0]) == pytest.approx(score)
    # what soft-NMS leaves: of nine boxes in one place, each is lowered once for each that is taken before it
    rest = [0.9 * math.exp(-2), 0.9 * math.exp(-4), 0.8 * math.exp(-6)] if merge == "soft" else []
    assert found["scores"][1:].tolist() == pytest.approx(rest, rel=1e-3)


# ------------------------------------------------------------------ one view
@pytest.mark.parametrize("kind", MODELS)
def test_one_view_is_the_plain_prediction(kind):
    image = image_of(60, 90, 1)
    model, cfg = tiny(MODELS[kind], FLIP=False)
    view = View(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    with torch.no_grad():
        (found,) = AugmentedModel(model, cfg)([image], paste_masks=False)
        (plain,) = model([view.of(image)], paste_masks=False)
    from detframe.structures import rescale_prediction

    plain = rescale_prediction(plain, tuple(view.of(image).shape[1:]), (60, 90), model.pixel)
    assert len(found["scores"]) > 3 and found.keys() == plain.keys()
    for key in found.keys() - {"masks"}:
        assert torch.equal(found[key], plain[key])
    if "masks" in found:
        assert torch.equal(found["masks"].paste(), plain["masks"].paste())


@pytest.mark.parametrize("kind", ["masks and keypoints", "legacy masks"])
def test_the_same_view_twice_changes_nothing(kind):
    """Masks and keypoints are means over the views, of boxes that went to the view and back."""
    image = image_of(96, 120, 1)
    plain = augmented(MODELS[kind], [image], FLIP=False)[0]
    twice = augmented(MODELS[kind], [image], FLIP=False, MIN_SIZES=(96,), MAX_SIZE=160)[0]
    assert len(plain["scores"]) > 3
    for key, tolerance in (("boxes", 1e-4), ("scores", 1e-6), ("masks", 2e-3)):
        torch.testing.assert_close(twice[key], plain[key], rtol=0, atol=tolerance)
    if "keypoints" in plain:
        torch.testing.assert_close(twice["keypoints"], plain["keypoints"], rtol=0, atol=0.02)


# ------------------------------------------------------------------ mirrored
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("axis", [-1, -2])
def test_of_the_mirror_image_the_mirror_image_is_found(kind, axis):
    """With both views, an image and its mirror image are the same; a network alone does not see them so."""
    image = image_of(96, 120, 1)
    flips = {"FLIP": axis == -1, "VERTICAL_FLIP": axis == -2}
    one = augmented(MODELS[kind], [image], **flips)[0]
    other = augmented(MODELS[kind], [image.flip(axis)], **flips)[0]
    assert len(one["scores"]) == len(other["scores"]) > 3
    torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=1e-5)
    back = View(0, 0, axis).mirror(other["boxes"], (96, 120))
    close = (one["boxes"] - back).abs().amax(1) < 1e-2
    assert close.float().mean() >= 0.9  # rows of equal scores may change places
    if "masks" in one:
        assert (one["masks"] - other["masks"].flip(axis))[close].abs().mean() < 1e-3
    if "keypoints" in one:
        points = other["keypoints"][:, [2, 1, 0]].clone()
        place = {-1: 0, -2: 1}[axis]
        points[..., place] = (120, 96)[place] - points[..., place]
        away = (one["keypoints"] - points)[close].abs().amax(-1)
        assert (away < 0.1).float().mean() > 0.95  # but for equal peaks


# ------------------------------------------------------------------ merging
def by_hand(model, image, sizes, **nms):
    """What each of the views finds, in the coordinates of the image, by the formulas: boxes, scores, labels."""
    height, width = image.shape[1:]
    rows = []
    for size in sizes:
        small = F.resize(image, [size, size * width // height], antialias=True)
        for mirrored in (False, True):
            with torch.no_grad(), model.with_nms(**nms):
                (found,) = model([small.flip(-1) if mirrored else small])
            x1, y1, x2, y2 = found["boxes"].unbind(1)
            if mirrored:
                x1, x2 = small.shape[2] - x2, small.shape[2] - x1
            scale = height / size
            rows.append((torch.stack([x1, y1, x2, y2], 1) * scale, found["scores"], found["labels"]))
    return [torch.cat(parts) for parts in zip(*rows, strict=True)]


@pytest.mark.parametrize("kind", ["rcnn", "fcos"])
@pytest.mark.parametrize(("merge", "nms"), [
    ("nms", "class"), ("nms", "agnostic"), ("nms", "soft"), ("soft", "class"), ("wbf", "class"),
])  # fmt: skip
@pytest.mark.parametrize("per_view", [True, False])
def test_merging(kind, merge, nms, per_view):
    """Against plain Python, from what the views find by themselves."""
    image = image_of(80, 120, 2)
    keys = {**MODELS[kind], "TEST.NMS": nms, "INPUT.MIN_SIZE_TEST": 80, "INPUT.MAX_SIZE_TEST": 0}
    if kind == "fcos":
        keys["MODEL.FCOS.PRE_NMS_TOP_N"] = 40
    model, cfg = tiny(keys, MIN_SIZES=(160,), MERGE=merge, NMS_PER_VIEW=per_view)
    limits = {} if per_view else {"iou": 1.0, "keep": 10**6}
    of_view = {"kind": "agnostic" if nms == "agnostic" else "class", **limits}
    boxes, scores, labels = by_hand(model, image, (80, 160), **of_view)
    assert len(boxes) > 40
    found_by_hand = Candidates(boxes, scores, labels, torch.zeros_like(labels), labels)
    iou = model.nms.iou
    if "soft" in (merge, nms):
        lowered = soft_reference(
            boxes.tolist(), scores.double().tolist(), labels.tolist(), lambda overlap: math.exp(-(overlap**2) / 0.5)
        )
        wanted = [(boxes[i].tolist(), s, int(labels[i])) for i, s in enumerate(lowered) if s >= 0.001]
    elif merge == "wbf":
        rows = fusion_reference(boxes.double().tolist(), scores.double().tolist(), labels.tolist(), 0.55, 4)
        wanted = [(box, score, int(labels[cluster[0]])) for box, score, cluster in rows]
    else:
        wanted = hard_reference(found_by_hand, 0, iou, per_class=nms == "class")
    wanted = sorted(wanted, key=lambda row: -row[1])[: model.nms.keep]
    with torch.no_grad():
        (found,) = AugmentedModel(model, cfg)([image])
    assert model.nms.kind == nms and model.nms.keep == 20  # as before
    assert found["scores"].tolist() == pytest.approx([row[1] for row in wanted], abs=1e-4)
    same = [
        label == row[2] and box == pytest.approx(row[0], abs=0.01)
        for box, label, row in zip(found["boxes"].tolist(), found["labels"].tolist(), wanted, strict=True)
    ]
    assert sum(same) >= len(same) - 2  # but for rows of equal scores, which may change places


def test_images_of_a_batch_are_merged_by_themselves():
    images = [image_of(60, 90, seed) for seed in range(3)]
    together = augmented({}, images, MIN_SIZES=(64,), MERGE="wbf")
    for image, found in zip(images, together, strict=True):
        (alone,) = augmented({}, [image], MIN_SIZES=(64,), MERGE="wbf")
        assert found["labels"].shape == alone["labels"].shape
        torch.testing.assert_close(found["scores"], alone["scores"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("merge", ["nms", "soft", "wbf"])
def test_where_nothing_is_found(merge):
    keys = {**MODELS["masks and keypoints"], "MODEL.ROI_HEADS.SCORE_THRESH": 1.0}
    (found,) = augmented(keys, [image_of(60, 90, 0)], MERGE=merge)
    assert found["boxes"].shape == (0, 4) and found["masks"].shape == (0, 1, 60, 90)
    assert found["keypoints"].shape == (0, 3, 3)


# ------------------------------------------------------------------ what cannot be
def test_proposals_and_heads_of_one_s_own_are_refused_when_the_model_is_built(monkeypatch):
    with pytest.raises(ValueError, match=r"\(TEST.AUG\) merges detections: the model gives proposals"):
        tiny({"MODEL.ROI_HEADS.NAME": ""})
    from detframe.modeling.roi_heads.standard import StandardROIHeads

    monkeypatch.delattr(StandardROIHeads, "maps_of")
    tiny({})  # has boxes alone
    with pytest.raises(ValueError, match="StandardROIHeads has no method maps_of"):
        tiny(MODELS["legacy masks"])


def test_the_switches_are_put_back():
    model, cfg = tiny(MODELS["legacy masks"], NMS_PER_VIEW=False)
    before = model.nms
    with pytest.raises(ValueError, match="RGB tensor"), torch.no_grad():
        AugmentedModel(model, cfg)([torch.zeros(1, 20, 20)])
    assert model.nms == before and model.roi_heads.boxes_alone is False
