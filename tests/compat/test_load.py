"""load_weights: what is filled, what is not, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet18
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FasterRCNN

from detframe.compat import load_weights
from detframe.config import get_cfg
from detframe.modeling import build_detection_model
from tests.compat.models import RETINANET, random_model

RPN_ALONE = ("MODEL.ROI_HEADS.NAME", "")


def _model(body: str = "R-18-FPN", classes: int = 3):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.CONV_BODY", body, "MODEL.NUM_CLASSES", classes, "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(["MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32])
    return build_detection_model(cfg)


@pytest.fixture(scope="module")
def model():
    return _model()


def test_own_checkpoint_round_trip(model, tmp_path):
    torch.save({"model": model.state_dict(), "meta": {}}, tmp_path / "m.pth")
    other = _model()
    report = load_weights(other, tmp_path / "m.pth")
    assert not (report.missing or report.unused or report.reinitialised)
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_other_number_of_classes_reinitialises_the_last_layers_only(model):
    other = _model(classes=7)
    fresh = {k: v.clone() for k, v in other.state_dict().items()}
    report = load_weights(other, model.state_dict())
    assert len(report.reinitialised) == 4
    assert all("(number of classes)" in line for line in report.reinitialised)
    assert torch.equal(
        other.roi_heads.box_predictor.cls_score.weight, fresh["roi_heads.box_predictor.cls_score.weight"]
    )
    assert torch.equal(other.roi_heads.box_head.fc6.weight, model.roi_heads.box_head.fc6.weight)
    assert "reinitialised     4 tensors" in report.table()


def test_a_classifier_fills_the_body(model):
    torch.manual_seed(0)
    classifier = resnet18(weights=None)
    report = load_weights(model, classifier.state_dict())
    assert report.kind == "torchvision classifier"
    assert all(name.startswith(("backbone.fpn.", "rpn.", "roi_heads.")) for name in report.missing)
    assert not report.unused and not report.reinitialised
    assert torch.equal(model.backbone.body.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)


def test_torchvision_detector_of_other_width_classes_and_age():
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    theirs = FasterRCNN(backbone, num_classes=4)
    old = {}
    for key, value in theirs.state_dict().items():  # the names before torchvision 0.13
        key = key.replace("_blocks.0.0.", "_blocks.0.").replace("_blocks.1.0.", "_blocks.1.")
        key = key.replace("_blocks.2.0.", "_blocks.2.").replace("_blocks.3.0.", "_blocks.3.")
        old[key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = value
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.CONV_BODY", "R-18-FPN", "MODEL.NUM_CLASSES", 3, "MODEL.DEVICE", "cpu"])
    ours = build_detection_model(cfg)
    report = load_weights(ours, old)
    assert not (report.missing or report.unused or report.reinitialised)
    assert torch.equal(
        ours.roi_heads.box_predictor.bbox_pred.weight, theirs.roi_heads.box_predictor.bbox_pred.weight[4:]
    )


def test_another_architecture_is_refused_with_the_table(model):
    state = _model("R-50-FPN").state_dict()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError) as error:
        load_weights(model, state)
    for word in ("loaded", "reinitialised", "missing", "unused", "MODEL.BACKBONE.CONV_BODY", "ALLOW_PARTIAL_WEIGHTS"):
        assert word in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert load_weights(model, state, allow_partial=True).unused


TINY = ("MODEL.RESNETS.STEM_OUT_CHANNELS", 8)
FCOS, WIDE = (*RETINANET, "MODEL.RPN.NAME", "FCOS"), ("MODEL.BACKBONE.CONV_BODY", "W-50-2-FPN", *TINY)
R_34, R_50, R_101 = (("MODEL.BACKBONE.CONV_BODY", f"R-{depth}-FPN", *TINY) for depth in (34, 50, 101))
OTHER, DEEPER = r"another detector: none of .*MODEL\.RPN\.NAME", r"backbone .* is deeper: \d+ % .*CONV_BODY"
REFUSED = {
    "R-34 into R-18": (R_34, (), DEEPER),
    "R-101 into R-50": (R_101, R_50, DEEPER),
    "R-18 into R-34": ((), R_34, r"only \d+ % of the backbone's values"),
    "W-50-2 into R-50": (WIDE, R_50, r"only \d+ % of the backbone's values"),
    "FCOS into Faster R-CNN": (FCOS, (), OTHER),
    "Faster R-CNN into FCOS": ((), FCOS, OTHER),
    "Faster R-CNN into RetinaNet": ((), RETINANET, OTHER),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_fits_by_accident_is_refused_with_the_table_and_a_remedy(name):
    theirs, ours, message = REFUSED[name]
    state, model = random_model(*theirs).state_dict(), random_model(*ours)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        load_weights(model, state)
    for word in ("loaded", "reinitialised", "missing", "unused", "MODEL.ALLOW_PARTIAL_WEIGHTS True accepts it"):
        assert word in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    report = load_weights(model, state, allow_partial=True)
    assert report.loaded and (report.unused or report.missing or report.reinitialised)


@pytest.mark.parametrize("opts", [("MODEL.MASK_ON", True), ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"), RPN_ALONE])
def test_a_part_of_another_detector_is_a_start(opts):
    """Faster R-CNN for a mask branch or a cascade, an RPN for a Faster R-CNN and the other way."""
    plain, other = random_model(), random_model(*opts)
    assert load_weights(other, plain.state_dict()).loaded
    assert load_weights(plain, other.state_dict()).loaded


def test_a_classifier_fills_a_body_without_its_last_stage():
    opts = ("MODEL.RPN.ANCHOR_SIZES", ((32,),), "MODEL.RESNETS.STEM_OUT_CHANNELS", 64)
    model = random_model("MODEL.BACKBONE.CONV_BODY", "R-18-C4", *RPN_ALONE, *opts)
    report = load_weights(model, resnet18(weights=None).state_dict())
    assert all(name.startswith("backbone.body.layer4.") for name in report.unused)


def test_the_table_names_parts_where_names_are_many():
    model = random_model()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith(("backbone.fpn.", "rpn."))}
    table = load_weights(model, {**state, "my.own.layer.weight": torch.ones(3)}).table().splitlines()
    assert table[0] == "weights from a state dict (detframe)"
    assert "      backbone.fpn.inner_blocks: 8 tensors" in table
    assert "      backbone.fpn.layer_blocks: 8 tensors" in table
    assert "      rpn.head: 6 tensors" in table
    assert table[-1] == "      my.own.layer.weight"


def test_numbers_that_differ_are_named():
    keypoints = ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS")
    source = random_model(*keypoints, 17)
    report = load_weights(random_model(*keypoints, 5, "MODEL.RPN.ASPECT_RATIOS", (1.0,)), source.state_dict())
    numbers = {line.split(":")[0].rsplit(".", 1)[0]: line.rsplit("(", 1)[1] for line in report.reinitialised}
    assert numbers == {
        "rpn.head.cls_logits": "number of anchors)",
        "rpn.head.bbox_pred": "number of anchors)",
        "roi_heads.keypoint.predictor.kps_score_lowres": "number of keypoints)",
    }


def _c4_model():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.CONV_BODY", "R-18-C4", "MODEL.NUM_CLASSES", 3, "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(["MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.RPN.ANCHOR_SIZES", ((32, 64),)])
    return build_detection_model(cfg)


def test_a_classifier_fills_the_res5_head_of_a_c4_detector():
    classifier = resnet18(weights=None)
    model = _c4_model()
    report = load_weights(model, classifier.state_dict())
    head = model.roi_heads.box_head.layer4[1].conv2.weight
    assert torch.equal(head, classifier.layer4[1].conv2.weight)
    assert not any("layer" in name for name in [*report.missing, *report.unused])


def test_a_detectron2_c4_detector_finds_its_places():
    """Its body has no `bottom_up.`, its last stage is `roi_heads.res5.`, and its background is the last class."""
    ours = _c4_model()
    theirs = {}
    for name, value in ours.state_dict().items():
        name = name.replace("backbone.body.conv1.", "backbone.stem.conv1.")
        name = name.replace("backbone.body.bn1.", "backbone.stem.conv1.norm.")
        name = name.replace("roi_heads.box_head.layer4.", "roi_heads.res5.")
        for i in (1, 2, 3):
            name = name.replace(f"backbone.body.layer{i}.", f"backbone.res{i + 1}.")
        for i in (1, 2):
            name = name.replace(f".bn{i}.", f".conv{i}.norm.")
        name = name.replace(".downsample.1.", ".shortcut.norm.").replace(".downsample.0.", ".shortcut.")
        name = name.replace("rpn.head.conv.0.0.", "proposal_generator.rpn_head.conv.")
        name = name.replace("rpn.head.cls_logits.", "proposal_generator.rpn_head.objectness_logits.")
        name = name.replace("rpn.head.bbox_pred.", "proposal_generator.rpn_head.anchor_deltas.")
        if ".objectness_logits." in name or ".anchor_deltas." in name:
            value = value.unflatten(0, (6, -1))[[0, 2, 4, 1, 3, 5]].flatten(0, 1)  # 2 sizes, 3 aspect ratios
        theirs[name] = torch.cat([value[1:], value[:1]]) if ".cls_score." in name else value
    other = _c4_model()
    report = load_weights(other, theirs)
    assert not (report.missing or report.unused or report.reinitialised)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in other.state_dict().items())
