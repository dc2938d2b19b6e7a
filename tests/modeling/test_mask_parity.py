"""Mask and Keypoint R-CNN with the weights of torchvision and detectron2 compute what those compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection import (
    keypointrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)

from detframe.compat import load_weights
from detframe.config import get_cfg
from detframe.modeling import build_detection_model
from tests.modeling.parity import assert_same_detections, reference, reference_batch, reference_state
from tests.modeling.test_torchvision_parity import EVERYTHING, NAMES, SIZES, V2_PROPOSALS, _shake

D2_LOSSES = {
    "loss_rpn_cls": "loss_rpn_cls",
    "loss_rpn_box": "loss_rpn_loc",
    "loss_roi_cls": "loss_cls",
    "loss_roi_box": "loss_box_reg",
    "loss_mask": "loss_mask",
}


def ellipses(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The ellipses that fill the boxes, cut at pixel centres: bool (N, H, W)."""
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
    x1, y1, x2, y2 = (v[:, None, None] for v in boxes.unbind(1))
    return ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 <= 1


# ------------------------------------------------------------------------------------------------ detectron2
@pytest.fixture(scope="module")
def detectron2():
    ref, arrays = reference("d2_mask_rcnn_R_50_FPN")
    cfg = get_cfg()
    cfg.merge_from_file("configs/Base-Faster-RCNN-FPN-detectron2.yaml")
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 80, "MODEL.DEVICE", "cpu", "MODEL.MASK_ON", True])
    cfg.merge_from_list(["MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", 0])
    cfg.merge_from_list(["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10**6, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 10**6])
    model = build_detection_model(cfg)
    report = load_weights(model, reference_state(ref))
    assert report.kind == "detectron2" and len(report.loaded) == len(ref["state"])
    assert not (report.missing or report.unused or report.reinitialised)
    return ref, arrays, model


def test_losses_of_detectron2(detectron2):
    ref, _, model = detectron2
    images, targets = reference_batch(ref)
    for image, target in zip(images, targets, strict=True):
        target["masks"] = ellipses(target["boxes"], *image.shape[-2:])
    losses = model.train()(images, targets)
    assert set(losses) == set(D2_LOSSES)
    for ours, theirs in D2_LOSSES.items():
        assert losses[ours].item() == pytest.approx(ref["losses"][theirs], rel=1e-4), ours


def test_masks_of_detectron2(detectron2):
    ref, arrays, model = detectron2
    images, _ = reference_batch(ref)
    with torch.inference_mode():
        predictions = model.eval()(images)
    for i, (image, prediction) in enumerate(zip(images, predictions, strict=True)):
        boxes, scores, classes = (torch.from_numpy(arrays[f"det{i}.{k}"]) for k in ("boxes", "scores", "classes"))
        assert_same_detections(prediction, boxes, classes.long() + 1, scores, atol=1e-4)
        height, width = image.shape[-2:]
        wanted = np.unpackbits(arrays[f"det{i}.mask0"], axis=-1)[..., :width].astype(bool)
        masks = prediction["masks"][:, 0] >= 0.5
        assert masks.shape[1:] == (height, width)
        for row in range(5):
            ours = int((prediction["boxes"] - boxes[row]).abs().sum(1).argmin())
            assert int((masks[ours].numpy() != wanted[row]).sum()) <= 2
        nearest = [int((prediction["boxes"] - box).abs().sum(1).argmin()) for box in boxes]
        areas = masks[nearest].sum((1, 2)).numpy()
        assert np.abs(areas - arrays[f"det{i}.mask_area"]).max() <= 3


# ------------------------------------------------------------------------------------------------ torchvision
def pair_of(builder, seed, *opts, config="", proposals=(2000, 1000)):
    torch.manual_seed(seed)
    theirs = builder(
        weights=None,
        weights_backbone=None,
        min_size=1,
        max_size=10**5,
        rpn_batch_size_per_image=EVERYTHING,
        box_batch_size_per_image=EVERYTHING,
        rpn_post_nms_top_n_train=proposals[0],
        rpn_post_nms_top_n_test=proposals[1],
        **({"num_classes": 6} if builder is not keypointrcnn_resnet50_fpn else {"num_classes": 2, "num_keypoints": 5}),
    )
    with torch.no_grad():
        _shake(theirs)
    theirs = theirs.to(memory_format=torch.channels_last)
    if builder is keypointrcnn_resnet50_fpn:  # its loss views the maps
        theirs.roi_heads.keypoint_predictor.register_forward_hook(lambda _m, _a, out: out.contiguous())
    theirs.transform.resize = lambda image, target: (image, target)
    cfg = get_cfg()
    if config:
        cfg.merge_from_file(config)
    for phase, count in zip(("TRAIN", "TEST"), proposals, strict=True):
        cfg.merge_from_list([f"MODEL.RPN.POST_NMS_TOP_N_{phase}", count])
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0])
    cfg.merge_from_list(["MODEL.RPN.BATCH_SIZE_PER_IMAGE", EVERYTHING, *opts])
    cfg.merge_from_list(["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", EVERYTHING])
    ours = build_detection_model(cfg)
    report = load_weights(ours, theirs.state_dict())
    assert not (report.missing or report.unused or report.reinitialised), report.table()
    return theirs, ours


@pytest.fixture(scope="module", params=[0, 1, "v2"])
def masks(request):
    if request.param == "v2":
        config = "configs/mask_rcnn/mask_rcnn_R_50_FPN_v2_400ep.yaml"
        proposals = (V2_PROPOSALS, V2_PROPOSALS)
        return pair_of(maskrcnn_resnet50_fpn_v2, 2, "MODEL.NUM_CLASSES", 5, config=config, proposals=proposals)
    return pair_of(
        maskrcnn_resnet50_fpn,
        request.param,
        *("MODEL.NUM_CLASSES", 5, "MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.TARGET_MODE", "soft"),
    )


@pytest.fixture(scope="module", params=[0, 1])
def keypoints(request):
    return pair_of(
        keypointrcnn_resnet50_fpn,
        request.param,
        *("MODEL.NUM_CLASSES", 1, "MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 5),
    )


def batch(labels):
    generator = torch.Generator().manual_seed(3)
    images = [torch.rand(3, *size, generator=generator) for size in SIZES]
    boxes = torch.tensor([[10.0, 20, 90, 100], [100, 30, 180, 145], [5, 5, 30, 25]])
    points = boxes[:, None, :2] + torch.rand(3, 5, 2, generator=generator) * (boxes[:, None, 2:] - boxes[:, None, :2])
    visible = torch.tensor([[2.0, 1, 0, 2, 2], [0, 0, 0, 0, 0], [2, 2, 2, 1, 0]])
    points[0, 0] = boxes[0, 2:]
    full = {
        "boxes": boxes,
        "labels": torch.tensor(labels),
        "masks": ellipses(boxes, *SIZES[0]).to(torch.uint8),
        "keypoints": torch.cat([points, visible[..., None]], 2),
    }
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, *SIZES[1], dtype=torch.uint8),
        "keypoints": torch.zeros(0, 5, 3),
    }
    return images, [full, empty]


def assert_same_losses(pair, labels, more):
    theirs, ours = pair
    for model in pair:
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    images, targets = batch(labels)
    with torch.no_grad():
        expected, actual = theirs(images, targets), ours(images, targets)
    names = {**NAMES, **more}
    assert set(actual) == set(names)
    for mine, their in names.items():
        assert actual[mine].item() == pytest.approx(expected[their].item(), rel=1e-4), mine


def test_mask_losses_of_torchvision(masks):
    assert_same_losses(masks, [1, 5, 3], {"loss_mask": "loss_mask"})


def test_keypoint_losses_of_torchvision(keypoints):
    assert_same_losses(keypoints, [1, 1, 1], {"loss_keypoint": "loss_keypoint"})


def detections(pair, **options):
    theirs, ours = pair
    images, _ = batch([1, 1, 1])
    with torch.inference_mode():
        return list(zip(theirs.eval()(images), ours.eval()(images, **options), strict=True))


def matched(expected, actual):
    """Our row of each of their detections."""
    distance = (actual["boxes"][None] - expected["boxes"][:, None]).abs().sum(2)
    return (distance + 1e3 * (actual["labels"][None] != expected["labels"][:, None])).argmin(1)


def test_masks_of_torchvision(masks):
    """Probabilities on the boxes, to 1e-4. How they are pasted is compared in tests/ops/test_mask_paste.py."""
    theirs = masks[0]
    seen = []
    hook = theirs.roi_heads.mask_predictor.register_forward_hook(lambda _m, _a, out: seen.append(out))
    both = detections(masks, paste_masks=False)
    hook.remove()
    start = 0
    for expected, actual in both:
        assert_same_detections(actual, expected["boxes"], expected["labels"], expected["scores"], atol=1e-4)
        rows, count = matched(expected, actual), len(expected["labels"])
        logits = seen[0][start : start + count]
        start += count
        probs = logits[torch.arange(count), expected["labels"]].sigmoid()
        torch.testing.assert_close(actual["masks"].probs[rows], probs, rtol=1e-4, atol=1e-4)


def test_keypoints_of_torchvision(keypoints):
    for expected, actual in detections(keypoints):
        assert_same_detections(actual, expected["boxes"], expected["labels"], expected["scores"], atol=1e-4)
        rows = matched(expected, actual)
        # a pixel of a heatmap may win by less than rounding
        distance = (actual["keypoints"][rows] - expected["keypoints"]).abs()
        assert (distance < 1e-3).float().mean() > 0.99
        assert torch.equal(actual["keypoints"][..., 2], torch.ones_like(actual["keypoints"][..., 2]))
