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


def test_data_parallel_prefix(model):
    state = {f"module.{k}": v for k, v in model.state_dict().items()}
    assert not load_weights(_model(), state).missing


def test_no_state_dict():
    with pytest.raises(ValueError, match="holds no tensors"):
        load_weights(_model(), {"epoch": "three"})


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
