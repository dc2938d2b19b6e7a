"""Names of maskrcnn-benchmark, and of the FCOS repository for deformable convolutions and MobileNetV2."""

from __future__ import annotations

import pytest
import torch

from detframe.compat import load_weights, translate
from detframe.modeling.backbones import MobileNetV2
from tests.compat.models import C4, FPN_GN, RETINANET, assert_same, random_model, renamed

PYRAMID = {"backbone.fpn.fpn_inner2.weight": torch.zeros(1), "rpn.head.centerness.weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("backbone.body.layer3.0.conv2.conv.weight", "backbone.body.layer3.0.conv2.weight"),
        ("backbone.body.layer3.0.conv2.offset.weight", "backbone.body.layer3.0.conv2.offset.weight"),
        ("rpn.head.cls_tower.9.conv.weight", "rpn.head.classification_head.conv.9.weight"),
        ("rpn.head.cls_tower.9.offset.bias", "rpn.head.classification_head.conv.9.offset.bias"),
        ("rpn.head.bbox_tower.9.conv.bias", "rpn.head.regression_head.conv.9.bias"),
        ("rpn.head.bbox_tower.0.weight", "rpn.head.regression_head.conv.0.weight"),
    ],
)
def test_deformable_convolutions(theirs: str, ours: str):
    kind, state = translate({"module." + theirs: torch.zeros(1), **PYRAMID})
    assert kind == "FCOS" and ours in state and len(state) == 3


def _original_names() -> list[str]:
    """Parameters and buffers of the original's MobileNetV2 in order, each block's layers in one list."""

    def members(prefix: str, first: int) -> list[str]:
        norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return [f"{prefix}.{first}.weight", *(f"{prefix}.{first + 1}.{name}" for name in norm)]

    names = members("backbone.body.features.0", 0)
    for block in range(1, 18):
        for layer in range(2 if block == 1 else 3):
            names += members(f"backbone.body.features.{block}.conv", 3 * layer)
    return names


def test_mobilenet():
    ours = {f"backbone.body.{name}": value for name, value in MobileNetV2().state_dict().items()}
    theirs = dict(zip(_original_names(), ours.values(), strict=True))
    kind, state = translate({**theirs, **PYRAMID})
    del state["backbone.fpn.inner_blocks.0.0.weight"], state["rpn.head.regression_head.bbox_ctrness.weight"]
    assert kind == "FCOS" and list(state) == list(ours)
    assert all(state[name] is value for name, value in ours.items())


BODY = {"backbone.body.stem.conv1": "backbone.body.conv1", "backbone.body.stem.bn1": "backbone.body.bn1"}
BODY |= {f"backbone.body.layer{i}": f"backbone.body.layer{i}" for i in (1, 2, 3, 4)}
FPN = {
    "backbone.fpn.fpn_inner1": "backbone.fpn.inner_blocks.0.0",
    "backbone.fpn.fpn_inner2": "backbone.fpn.inner_blocks.1.0",
    "backbone.fpn.fpn_inner3": "backbone.fpn.inner_blocks.2.0",
    "backbone.fpn.fpn_inner4": "backbone.fpn.inner_blocks.3.0",
    "backbone.fpn.fpn_layer1": "backbone.fpn.layer_blocks.0.0",
    "backbone.fpn.fpn_layer2": "backbone.fpn.layer_blocks.1.0",
    "backbone.fpn.fpn_layer3": "backbone.fpn.layer_blocks.2.0",
    "backbone.fpn.fpn_layer4": "backbone.fpn.layer_blocks.3.0",
}
FPN_NORMS = {
    "backbone.fpn.fpn_inner1.0": "backbone.fpn.inner_blocks.0.0",
    "backbone.fpn.fpn_inner1.1": "backbone.fpn.inner_blocks.0.1",
    "backbone.fpn.fpn_inner2.0": "backbone.fpn.inner_blocks.1.0",
    "backbone.fpn.fpn_inner2.1": "backbone.fpn.inner_blocks.1.1",
    "backbone.fpn.fpn_inner3.0": "backbone.fpn.inner_blocks.2.0",
    "backbone.fpn.fpn_inner3.1": "backbone.fpn.inner_blocks.2.1",
    "backbone.fpn.fpn_inner4.0": "backbone.fpn.inner_blocks.3.0",
    "backbone.fpn.fpn_inner4.1": "backbone.fpn.inner_blocks.3.1",
    "backbone.fpn.fpn_layer1.0": "backbone.fpn.layer_blocks.0.0",
    "backbone.fpn.fpn_layer1.1": "backbone.fpn.layer_blocks.0.1",
    "backbone.fpn.fpn_layer2.0": "backbone.fpn.layer_blocks.1.0",
    "backbone.fpn.fpn_layer2.1": "backbone.fpn.layer_blocks.1.1",
    "backbone.fpn.fpn_layer3.0": "backbone.fpn.layer_blocks.2.0",
    "backbone.fpn.fpn_layer3.1": "backbone.fpn.layer_blocks.2.1",
    "backbone.fpn.fpn_layer4.0": "backbone.fpn.layer_blocks.3.0",
    "backbone.fpn.fpn_layer4.1": "backbone.fpn.layer_blocks.3.1",
    "roi_heads.mask.feature_extractor.mask_fcn1.0": "roi_heads.mask.head.0.0",
    "roi_heads.mask.feature_extractor.mask_fcn1.1": "roi_heads.mask.head.0.1",
    "roi_heads.mask.feature_extractor.mask_fcn2.0": "roi_heads.mask.head.1.0",
    "roi_heads.mask.feature_extractor.mask_fcn2.1": "roi_heads.mask.head.1.1",
    "roi_heads.mask.feature_extractor.mask_fcn3.0": "roi_heads.mask.head.2.0",
    "roi_heads.mask.feature_extractor.mask_fcn3.1": "roi_heads.mask.head.2.1",
    "roi_heads.mask.feature_extractor.mask_fcn4.0": "roi_heads.mask.head.3.0",
    "roi_heads.mask.feature_extractor.mask_fcn4.1": "roi_heads.mask.head.3.1",
}
RPN = {
    "rpn.head.conv": "rpn.head.conv.0.0",
    "rpn.head.cls_logits": "rpn.head.cls_logits",
    "rpn.head.bbox_pred": "rpn.head.bbox_pred",
}
PREDICTOR = {
    "roi_heads.box.predictor.cls_score": "roi_heads.box_predictor.cls_score",
    "roi_heads.box.predictor.bbox_pred": "roi_heads.box_predictor.bbox_pred",
}
BOX = PREDICTOR | {
    "roi_heads.box.feature_extractor.fc6": "roi_heads.box_head.fc6",
    "roi_heads.box.feature_extractor.fc7": "roi_heads.box_head.fc7",
}
MASK_PREDICTOR = {
    "roi_heads.mask.predictor.conv5_mask": "roi_heads.mask.predictor.conv5_mask",
    "roi_heads.mask.predictor.mask_fcn_logits": "roi_heads.mask.predictor.mask_fcn_logits",
}
MASK = MASK_PREDICTOR | {
    "roi_heads.mask.feature_extractor.mask_fcn1": "roi_heads.mask.head.0.0",
    "roi_heads.mask.feature_extractor.mask_fcn2": "roi_heads.mask.head.1.0",
    "roi_heads.mask.feature_extractor.mask_fcn3": "roi_heads.mask.head.2.0",
    "roi_heads.mask.feature_extractor.mask_fcn4": "roi_heads.mask.head.3.0",
}
KEYPOINT = {
    "roi_heads.keypoint.feature_extractor.conv_fcn1": "roi_heads.keypoint.head.0",
    "roi_heads.keypoint.feature_extractor.conv_fcn2": "roi_heads.keypoint.head.2",
    "roi_heads.keypoint.feature_extractor.conv_fcn3": "roi_heads.keypoint.head.4",
    "roi_heads.keypoint.feature_extractor.conv_fcn4": "roi_heads.keypoint.head.6",
    "roi_heads.keypoint.feature_extractor.conv_fcn5": "roi_heads.keypoint.head.8",
    "roi_heads.keypoint.feature_extractor.conv_fcn6": "roi_heads.keypoint.head.10",
    "roi_heads.keypoint.feature_extractor.conv_fcn7": "roi_heads.keypoint.head.12",
    "roi_heads.keypoint.feature_extractor.conv_fcn8": "roi_heads.keypoint.head.14",
    "roi_heads.keypoint.predictor.kps_score_lowres": "roi_heads.keypoint.predictor.kps_score_lowres",
}
RES5 = {"roi_heads.box.feature_extractor.head.layer4": "roi_heads.box_head.layer4"}
RETINANET_HEAD = {
    "backbone.fpn.fpn_inner2": "backbone.fpn.inner_blocks.0.0",
    "backbone.fpn.fpn_inner3": "backbone.fpn.inner_blocks.1.0",
    "backbone.fpn.fpn_inner4": "backbone.fpn.inner_blocks.2.0",
    "backbone.fpn.fpn_layer2": "backbone.fpn.layer_blocks.0.0",
    "backbone.fpn.fpn_layer3": "backbone.fpn.layer_blocks.1.0",
    "backbone.fpn.fpn_layer4": "backbone.fpn.layer_blocks.2.0",
    "backbone.fpn.top_blocks.p6": "backbone.fpn.extra_blocks.p6",
    "backbone.fpn.top_blocks.p7": "backbone.fpn.extra_blocks.p7",
    "rpn.head.cls_tower.0": "rpn.head.classification_head.conv.0.0",
    "rpn.head.cls_tower.2": "rpn.head.classification_head.conv.1.0",
    "rpn.head.cls_tower.4": "rpn.head.classification_head.conv.2.0",
    "rpn.head.cls_tower.6": "rpn.head.classification_head.conv.3.0",
    "rpn.head.bbox_tower.0": "rpn.head.regression_head.conv.0.0",
    "rpn.head.bbox_tower.2": "rpn.head.regression_head.conv.1.0",
    "rpn.head.bbox_tower.4": "rpn.head.regression_head.conv.2.0",
    "rpn.head.bbox_tower.6": "rpn.head.regression_head.conv.3.0",
    "rpn.head.cls_logits": "rpn.head.classification_head.cls_logits",
    "rpn.head.bbox_pred": "rpn.head.regression_head.bbox_reg",
}
DETECTORS = {
    "Faster R-CNN": ((), BODY | FPN | RPN | BOX),
    "class-agnostic boxes": (("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True), BODY | FPN | RPN | BOX),
    "one class": (("MODEL.NUM_CLASSES", 1, "MODEL.MASK_ON", True), BODY | FPN | RPN | BOX | MASK),
    "Mask R-CNN": (("MODEL.MASK_ON", True), BODY | FPN | RPN | BOX | MASK),
    "Mask R-CNN with GN": (FPN_GN, BODY | FPN_NORMS | RPN | BOX | MASK_PREDICTOR),
    "Keypoint R-CNN": (
        ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 17),
        BODY | FPN | RPN | BOX | KEYPOINT,
    ),
    "RPN alone": (("MODEL.ROI_HEADS.NAME", ""), BODY | FPN | RPN),
    "C4": (C4, BODY | RPN | RES5 | PREDICTOR),
    "C4 with masks": (
        (*C4, "MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NUM_CONV", 0),
        BODY | RPN | RES5 | PREDICTOR | MASK_PREDICTOR,
    ),
    "RetinaNet": (RETINANET, BODY | RETINANET_HEAD),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_of_maskrcnn_benchmark(name, tmp_path):
    opts, modules = DETECTORS[name]
    source, model = random_model(*opts), random_model(*opts)
    theirs = renamed(source, modules, background=True)
    theirs |= {f"rpn.anchor_generator.cell_anchors.{i}": torch.rand(3, 4) for i in range(5)}
    if name == "C4 with masks":  # the branches share res5, and list it twice
        shared = {k: v for k, v in theirs.items() if ".head.layer4." in k}
        theirs |= {k.replace("roi_heads.box.", "roi_heads.mask."): v for k, v in shared.items()}
    path = tmp_path / "model_final.pth"
    content = {"model": {f"module.{k}": v for k, v in theirs.items()}, "iteration": 90000}
    torch.save({**content, "optimizer": {"state": {0: theirs}}, "scheduler": {"milestones": [60000, 80000]}}, path)
    assert_same(source, model, load_weights(model, path), "maskrcnn-benchmark")


@pytest.mark.parametrize("members", [2, 3])
def test_convolutions_of_a_box_head(members):
    """Rows of convolution (, norm), ReLU: xconvs.0, .1 (, .2)."""
    names = ("weight", "bias") if members == 2 else ("weight",)
    theirs = {f"xconvs.{members * i}.{n}": f"convs.{i}.0.{n}" for i in range(4) for n in names}
    if members == 3:
        theirs |= {f"xconvs.{3 * i + 1}.{n}": f"convs.{i}.1.{n}" for i in range(4) for n in ("weight", "bias")}
    state = {f"roi_heads.box.feature_extractor.{name}": torch.zeros(1) for name in theirs}
    kind, out = translate({**state, "backbone.body.stem.conv1.weight": torch.zeros(1)})
    assert kind == "maskrcnn-benchmark"
    assert list(out)[:-1] == [f"roi_heads.box_head.{name}" for name in theirs.values()]
