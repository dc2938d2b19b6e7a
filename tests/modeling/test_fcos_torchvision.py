"""FCOS with the weights of torchvision's model, in any random state, computes what torchvision computes."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection import fcos_resnet50_fpn

from detframe.compat import load_weights
from detframe.config import get_cfg
from detframe.modeling import build_detection_model
from tests.modeling.parity import assert_same_detections

NAMES = {"loss_fcos_cls": "classification", "loss_fcos_box": "bbox_regression", "loss_fcos_quality": "bbox_ctrness"}
CLASSES = 6


def _shake(model: torch.nn.Module) -> None:
    """Random statistics, scales and output layers, large enough that every part matters."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.7, 1.3)
            module.weight.uniform_(0.4, 0.8)
    for tower in (model.head.classification_head.conv, model.head.regression_head.conv):
        for module in tower:
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
    model.head.regression_head.bbox_reg.bias.fill_(2.0)
    model.head.classification_head.cls_logits.bias.fill_(-2.0)
    model.head.classification_head.cls_logits.weight.normal_(0, 0.05)


@pytest.fixture(scope="module", params=[0, 1])
def pair(request):
    torch.manual_seed(request.param)
    theirs = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES, score_thresh=0.05)
    with torch.no_grad():
        _shake(theirs)
    theirs = theirs.to(memory_format=torch.channels_last)
    theirs.transform.resize = lambda image, target: (image, target)
    cfg = get_cfg()
    cfg.merge_from_file("configs/Base-FCOS-torchvision.yaml")
    # torchvision counts label 0 as a class, so its column i is our label i + 1
    cfg.merge_from_list(["MODEL.NUM_CLASSES", CLASSES, "MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN"])
    cfg.merge_from_list(["MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, "MODEL.FCOS.INFERENCE_TH", 0.05])
    ours = build_detection_model(cfg)
    report = load_weights(ours, theirs.state_dict())
    assert not (report.missing or report.unused or report.reinitialised)
    for model in (theirs, ours):
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    return theirs, ours


def _images():
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(3, *size, generator=generator) for size in ((150, 256), (160, 220))]


def test_losses(pair):
    theirs, ours = pair
    boxes = torch.tensor([[10.0, 20, 90, 100], [100, 30, 180, 145], [5, 5, 30, 25], [8, 16, 72, 48]])
    labels = torch.tensor([0, 5, 2, 3])
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    with torch.no_grad():
        expected = theirs(_images(), [{"boxes": boxes, "labels": labels}, empty])
        actual = ours(_images(), [{"boxes": boxes, "labels": labels + 1}, empty])
    assert set(actual) == set(NAMES)
    for name, reference_name in NAMES.items():
        assert actual[name].item() == pytest.approx(expected[reference_name].item(), rel=1e-4), name


def test_detections(pair):
    theirs, ours = pair
    theirs.eval()
    ours.eval()
    with torch.inference_mode():
        expected, actual = theirs(_images()), ours(_images())
    for one, other in zip(actual, expected, strict=True):
        assert_same_detections(one, other["boxes"], other["labels"] + 1, other["scores"], atol=1e-4)
