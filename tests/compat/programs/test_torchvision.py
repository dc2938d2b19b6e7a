"""torchvision: names and layout of its RetinaNet, of any age."""

from __future__ import annotations

import re

import pytest
import torch

from detframe.compat import load_weights
from detframe.config import get_cfg
from detframe.modeling import build_detection_model


def _model(classes: int = 3):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.CONV_BODY", "R-18-FPN-RETINANET", "MODEL.NUM_CLASSES", classes])
    cfg.merge_from_list(["MODEL.FPN.OUT_CHANNELS", 16, "MODEL.DEVICE", "cpu", "MODEL.RPN.NAME", "RetinaNet"])
    cfg.merge_from_list(["MODEL.ROI_HEADS.NAME", ""])
    return build_detection_model(cfg)


def _as_torchvision(model, published: bool):
    """A state dict under torchvision's names: today's, or those of the files that it publishes."""
    out = {}
    for key, value in model.state_dict().items():
        key = key.removeprefix("rpn.")
        if published:
            key = re.sub(r"(_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.", key)
            key = re.sub(r"(inner_blocks|layer_blocks)\.(\d)\.0\.", r"\1.\2.", key)
        out[key] = value
    return out


@pytest.mark.parametrize("published", [False, True])
def test_torchvision_of_any_age(published):
    source, model = _model(), _model()
    state = _as_torchvision(source, published)
    assert ("head.classification_head.conv.6.weight" in state) == published
    report = load_weights(model, state)
    assert report.kind == "torchvision dense detector"
    assert not (report.missing or report.unused or report.reinitialised)
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_the_column_that_torchvision_never_uses_is_left_out():
    source, model = _model(classes=4), _model(classes=3)
    report = load_weights(model, _as_torchvision(source, False))
    assert not (report.missing or report.unused or report.reinitialised)
    theirs = source.rpn.head.classification_head.cls_logits.weight.unflatten(0, (9, 4))
    ours = model.rpn.head.classification_head.cls_logits.weight.unflatten(0, (9, 3))
    assert torch.equal(ours, theirs[:, 1:])


@pytest.mark.parametrize("classes", [2, 5])
def test_another_number_of_classes_reinitialises_the_class_outputs(classes):
    report = load_weights(_model(), _as_torchvision(_model(classes), False))
    assert len(report.reinitialised) == 2 and all("cls_logits" in line for line in report.reinitialised)


def test_a_checkpoint_of_ours_with_one_class_more_is_not_taken_for_torchvisions():
    report = load_weights(_model(), _model(classes=4).state_dict())
    assert report.kind == "detframe" and len(report.reinitialised) == 2
