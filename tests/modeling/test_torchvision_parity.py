"""Faster R-CNN with the weights of torchvision's model, in any random state, computes what torchvision computes."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2

from detframe.compat import load_weights, translate
from detframe.config import get_cfg
from detframe.modeling import build_detection_model
from tests.modeling.parity import assert_same_detections

NAMES = {
    "loss_rpn_cls": "loss_objectness",
    "loss_rpn_box": "loss_rpn_box_reg",
    "loss_roi_cls": "loss_classifier",
    "loss_roi_box": "loss_box_reg",
}
SIZES = [(150, 256), (160, 220)]  # P6 has three rows over 160 pixels
EVERYTHING = 10**6
V2_CONFIG = "configs/faster_rcnn/faster_rcnn_R_50_FPN_v2_400ep.yaml"
# convolutions on every region take their time
V2_PROPOSALS = 60


def _shake(model: torch.nn.Module) -> None:
    """Random statistics, affine maps and output layers, large enough that every part matters."""
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.7, 1.3)
            module.weight.data.uniform_(0.4, 0.8)
            module.bias.data.normal_(0, 0.1)
    for layer, scale in ((model.rpn.head.cls_logits, 0.02), (model.rpn.head.bbox_pred, 0.005)):
        layer.weight.data.normal_(0, scale)
    model.roi_heads.box_predictor.cls_score.weight.data.normal_(0, 0.05)
    model.roi_heads.box_predictor.bbox_pred.weight.data.normal_(0, 0.02)


@pytest.fixture(scope="module", params=[0, 1, "v2"])
def pair(request):
    second = request.param == "v2"
    torch.manual_seed(2 if second else request.param)
    theirs = (fasterrcnn_resnet50_fpn_v2 if second else fasterrcnn_resnet50_fpn)(
        weights=None,
        weights_backbone=None,
        num_classes=6,
        min_size=1,
        max_size=10**5,
        rpn_batch_size_per_image=EVERYTHING,
        box_batch_size_per_image=EVERYTHING,
        rpn_post_nms_top_n_train=V2_PROPOSALS if second else 2000,
        rpn_post_nms_top_n_test=V2_PROPOSALS if second else 1000,
    )
    with torch.no_grad():
        _shake(theirs)
    # the same memory format, hence the same convolution kernels: batch statistics of small maps magnify every rounding
    theirs = theirs.to(memory_format=torch.channels_last)
    # torchvision rescales to min_size; a transform that finds every image of the right size already does nothing
    theirs.transform.resize = lambda image, target: (image, target)
    cfg = get_cfg()
    if second:
        cfg.merge_from_file(V2_CONFIG)
        cfg.merge_from_list(["MODEL.RPN.POST_NMS_TOP_N_TRAIN", V2_PROPOSALS])
        cfg.merge_from_list(["MODEL.RPN.POST_NMS_TOP_N_TEST", V2_PROPOSALS])
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 5, "MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN"])
    cfg.merge_from_list(["MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0])
    cfg.merge_from_list(["MODEL.RPN.BATCH_SIZE_PER_IMAGE", EVERYTHING])
    cfg.merge_from_list(["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", EVERYTHING])
    ours = build_detection_model(cfg)
    report = load_weights(ours, theirs.state_dict())
    assert not (report.missing or report.unused or report.reinitialised)
    return theirs, ours


def _batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(3)
    images = [torch.rand(3, *size, generator=generator) for size in SIZES]
    targets = [
        {
            "boxes": torch.tensor([[10.0, 20, 90, 100], [100, 30, 180, 145], [5, 5, 30, 25]]),
            "labels": torch.tensor([1, 5, 3]),
        },
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    return images, targets


@pytest.mark.parametrize("mode", ["batch statistics", "frozen statistics"])
def test_losses(pair, mode):
    theirs, ours = pair
    for model in pair:
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train(mode == "batch statistics")
    images, targets = _batch()
    with torch.no_grad():
        expected, actual = theirs(images, targets), ours(images, targets)
    for name, reference_name in NAMES.items():
        assert actual[name].item() == pytest.approx(expected[reference_name].item(), rel=1e-4, abs=1e-6), name


def test_detections(pair):
    theirs, ours = pair
    images, _ = _batch()
    theirs.eval()
    ours.eval()
    with torch.inference_mode():
        expected, actual = theirs(images), ours(images)
    for ours_one, theirs_one in zip(actual, expected, strict=True):
        assert_same_detections(ours_one, theirs_one["boxes"], theirs_one["labels"], theirs_one["scores"], atol=1e-4)


def test_gradients(pair):
    """The same gradients too, so that training goes the same way; folding the norm must not change them."""
    theirs, ours = pair
    images, targets = _batch()
    for model in pair:
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        model.zero_grad()
        sum(model(images, targets).values()).backward()
    gradients = translate({name: parameter.grad for name, parameter in theirs.named_parameters()})[1]
    for name, parameter in ours.named_parameters():
        expected = gradients[name]
        error = (parameter.grad - expected).norm() / expected.norm().clamp(min=1e-6)
        assert error < 0.02, f"{name}: {error:.4f}"
