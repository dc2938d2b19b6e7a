"""RetinaNet with the weights of detectron2's and torchvision's models computes what they compute."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from detframe.compat import load_weights
from detframe.config import get_cfg
from detframe.modeling import build_detection_model
from tests.modeling.parity import (
    assert_golden_detections,
    assert_golden_features,
    assert_same_detections,
    reference,
    reference_batch,
    reference_state,
)


# ---------------------------------------------------------------- detectron2
@pytest.fixture(scope="module")
def detectron2():
    ref, arrays = reference("d2_retinanet_R_50_FPN")
    cfg = get_cfg()
    cfg.merge_from_file("configs/Base-RetinaNet-detectron2.yaml")
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 80, "MODEL.DEVICE", "cpu"])
    model = build_detection_model(cfg)
    return ref, arrays, model, load_weights(model, reference_state(ref))


def test_every_weight_of_detectron2_finds_its_place(detectron2):
    ref, _, _, report = detectron2
    assert report.kind == "detectron2"
    assert len(report.loaded) == len(ref["state"])
    # detectron2 does not save its moving average; ours starts where its does
    assert report.missing == ["rpn.loss_normalizer"]
    assert not (report.unused or report.reinitialised)


def test_losses_of_detectron2(detectron2):
    ref, _, model, _ = detectron2
    model.train()
    with torch.no_grad():
        losses = model(*reference_batch(ref))
    assert losses["loss_retinanet_cls"].item() == pytest.approx(ref["losses"]["loss_cls"], rel=1e-4)
    assert losses["loss_retinanet_box"].item() == pytest.approx(ref["losses"]["loss_box_reg"], rel=1e-4)


def test_detections_of_detectron2(detectron2):
    ref, arrays, model, _ = detectron2
    assert_golden_features(model, ref, arrays, [f"p{i}" for i in range(3, 8)])
    assert_golden_detections(model, ref, arrays)


# ---------------------------------------------------------------- torchvision
NUM_CLASSES = 5
SIZES = [(150, 256), (160, 220)]  # P6 and P7 have three and two rows over 160 pixels
V2_CONFIG = "configs/retinanet/retinanet_R_50_FPN_v2_26ep.yaml"


def _shake(model: torch.nn.Module) -> None:
    """Random statistics, affine maps and output layers, large enough that every part matters."""
    for module in model.modules():
        if hasattr(module, "running_var"):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.7, 1.3)
            module.weight.data.uniform_(0.4, 0.8)
            module.bias.data.normal_(0, 0.1)
        elif isinstance(module, torch.nn.GroupNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    for head in (model.head.classification_head, model.head.regression_head):
        for block in head.conv:
            torch.nn.init.kaiming_normal_(block[0].weight)
    # most scores below the threshold, few near it
    model.head.classification_head.cls_logits.weight.data.normal_(0, 0.04)
    model.head.regression_head.bbox_reg.weight.data.normal_(0, 0.003)


@pytest.fixture(scope="module", params=["v1", "v1, column 0 unused", "v2"])
def torchvision(request):
    torch.manual_seed(len(request.param))
    unused = "unused" in request.param
    build = retinanet_resnet50_fpn_v2 if request.param == "v2" else retinanet_resnet50_fpn
    theirs = build(
        weights=None, weights_backbone=None, num_classes=NUM_CLASSES + unused, min_size=1, max_size=10**5
    )  # fmt: skip
    with torch.no_grad():
        _shake(theirs)
        if unused:
            # a class that never occurs is never found, and costs nothing
            theirs.head.classification_head.cls_logits.weight.unflatten(0, (9, -1))[:, 0] = 0
            theirs.head.classification_head.cls_logits.bias.unflatten(0, (9, -1))[:, 0] = -50
    # the same memory format, hence the same convolution kernels: batch statistics of small maps magnify every rounding
    theirs = theirs.to(memory_format=torch.channels_last)
    # torchvision rescales to min_size; a transform that finds every image of the right size already does nothing
    theirs.transform.resize = lambda image, target: (image, target)
    cfg = get_cfg()
    cfg.merge_from_file(V2_CONFIG if request.param == "v2" else "configs/Base-RetinaNet-torchvision.yaml")
    cfg.merge_from_list(["MODEL.NUM_CLASSES", NUM_CLASSES, "MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN"])
    cfg.merge_from_list(["MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0])
    ours = build_detection_model(cfg)
    report = load_weights(ours, theirs.state_dict())
    assert report.kind == "torchvision dense detector"
    assert not (report.missing or report.unused or report.reinitialised)
    return theirs, ours, int(not unused)


def _batch(shift: int):
    """Images, targets with labels from 1, and the same with labels as torchvision counts them."""
    generator = torch.Generator().manual_seed(3)
    images = [torch.rand(3, *size, generator=generator) for size in SIZES]
    boxes = torch.tensor([[10.0, 20, 90, 100], [100, 30, 180, 145], [5, 5, 30, 25], [60, 60, 200, 140]])
    labels = torch.tensor([1, 5, 3, 2])
    targets = [{"boxes": boxes, "labels": labels}, {"boxes": torch.zeros(0, 4), "labels": labels[:0]}]
    return images, targets, [{**target, "labels": target["labels"] - shift} for target in targets]


def _freeze_statistics(*models: torch.nn.Module) -> None:
    for model in models:
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()


def test_losses_and_gradients_of_torchvision(torchvision):
    theirs, ours, shift = torchvision
    _freeze_statistics(theirs, ours)
    images, targets, shifted = _batch(shift)
    expected, actual = theirs(images, shifted), ours(images, targets)
    for name, reference_name in (("cls", "classification"), ("box", "bbox_regression")):
        loss = actual[f"loss_retinanet_{name}"].item()
        assert loss == pytest.approx(expected[reference_name].item(), rel=1e-4, abs=1e-6), name
    for model, losses in ((theirs, expected), (ours, actual)):
        model.zero_grad()
        sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        gradient = gradients[name.removeprefix("rpn.")]
        if "cls_logits" in name and shift == 0:
            gradient = gradient.unflatten(0, (9, -1))[:, 1:].flatten(0, 1)
        error = (parameter.grad - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert error < 0.02, f"{name}: {error:.4f}"


def test_detections_of_torchvision(torchvision):
    theirs, ours, shift = torchvision
    images, _, _ = _batch(shift)
    theirs.eval()
    ours.eval()
    with torch.inference_mode():
        expected, actual = theirs(images), ours(images)
    for one, other in zip(actual, expected, strict=True):
        assert_same_detections(one, other["boxes"], other["labels"] + shift, other["scores"], atol=1e-4)
