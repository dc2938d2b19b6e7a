"""Weights go to torchvision and detectron2 and come back bit for bit."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import detection

from detframe.compat import load_weights
from detframe.compat.export import to_detectron2, to_torchvision
from detframe.config import get_cfg
from detframe.modeling import build_detection_model
from tests.compat.test_parts import POINT
from tests.modeling.parity import reference, reference_state
from tests.modeling.tiny import DENSE, tiny_config


def model_of(*opts, base=""):
    cfg = get_cfg()
    if base:
        cfg.merge_from_file(base)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *opts])
    return build_detection_model(cfg)


TORCHVISION = {
    "fasterrcnn_resnet50_fpn": ("", ("MODEL.NUM_CLASSES", 5)),
    "maskrcnn_resnet50_fpn": ("", ("MODEL.NUM_CLASSES", 5, "MODEL.MASK_ON", True)),
    "keypointrcnn_resnet50_fpn": (
        "",
        ("MODEL.NUM_CLASSES", 1, "MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 17),
    ),
    "retinanet_resnet50_fpn": ("configs/Base-RetinaNet-torchvision.yaml", ("MODEL.NUM_CLASSES", 5)),
    "fasterrcnn_resnet50_fpn_v2": (
        "configs/faster_rcnn/faster_rcnn_R_50_FPN_v2_400ep.yaml",
        ("MODEL.NUM_CLASSES", 5),
    ),
    "maskrcnn_resnet50_fpn_v2": ("configs/mask_rcnn/mask_rcnn_R_50_FPN_v2_400ep.yaml", ("MODEL.NUM_CLASSES", 5)),
    "retinanet_resnet50_fpn_v2": ("configs/retinanet/retinanet_R_50_FPN_v2_26ep.yaml", ("MODEL.NUM_CLASSES", 5)),
    "fcos_resnet50_fpn": ("configs/Base-FCOS-torchvision.yaml", ("MODEL.NUM_CLASSES", 5)),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_and_back(name):
    base, opts = TORCHVISION[name]
    classes = 2 if name.startswith("keypoint") else 6
    theirs = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=classes)
    original = {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in theirs.state_dict().items()}
    ours = model_of(*opts, "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, base=base)
    load_weights(ours, original)
    exported = to_torchvision(ours.state_dict(), like=original)
    assert set(exported) == set(original)
    assert [key for key in original if not torch.equal(exported[key], original[key]) and "num_batches" not in key] == []
    theirs.load_state_dict(to_torchvision(ours.state_dict()))
    again = model_of(*opts, "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, base=base)
    load_weights(again, theirs.state_dict())
    for key, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


@pytest.mark.parametrize(
    "name, base, opts",
    [
        ("d2_faster_rcnn_R_50_FPN", "configs/Base-Faster-RCNN-FPN-detectron2.yaml", ()),
        ("d2_mask_rcnn_R_50_FPN", "configs/Base-Faster-RCNN-FPN-detectron2.yaml", ("MODEL.MASK_ON", True)),
        ("d2_retinanet_R_50_FPN", "configs/Base-RetinaNet-detectron2.yaml", ()),
    ],
)
def test_detectron2_and_back(name, base, opts):
    original = reference_state(reference(name)[0])
    ours = model_of("MODEL.NUM_CLASSES", 80, *opts, base=base)
    load_weights(ours, original)
    exported = to_detectron2(ours)
    assert set(exported) == set(original)
    assert [key for key in original if not torch.equal(exported[key], original[key])] == []


C4 = ("MODEL.BACKBONE.CONV_BODY", "R-18-C4", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads")
C4 += ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14, "MODEL.RPN.ANCHOR_SIZES", ((32, 64),))


CONVS = ("MODEL.ROI_BOX_HEAD.NUM_CONV", 2, "MODEL.ROI_BOX_HEAD.CONV_DIM", 12, "MODEL.ROI_BOX_HEAD.NORM", "GN")


DEFORMABLE = ("MODEL.RESNETS.STAGE_WITH_DCN", (False, False, True, True))


@pytest.mark.parametrize(
    "opts",
    [
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.MASK_ON", True),
        (*CONVS, "MODEL.RPN.CONV_DEPTH", 2),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads", *CONVS),
        ("MODEL.ROI_HEADS.NAME", ""),
        ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 4),
        ("MODEL.FPN.NORM", "GN", "MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NORM", "GN"),
        C4,
        DEFORMABLE,
        POINT,
    ],
    ids=[
        "cascade with masks", "box convolutions", "cascade with convolutions", "RPN", "keypoints", "GN", "C4",
        "deformable", "PointRend",
    ],
)  # fmt: skip
def test_what_we_train_goes_to_detectron2_and_back(opts):
    torch.manual_seed(0)
    ours, again = (build_detection_model(tiny_config({}, *opts)) for _ in range(2))
    report = load_weights(again, to_detectron2(ours))
    assert report.kind == "detectron2" and not (report.missing or report.unused or report.reinitialised), report.table()
    for key, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_what_they_have_no_place_for():
    levels = ("MODEL.RPN.IN_FEATURES", ("p2", "p3", "p4", "p5", "p6"))
    opts = ("MODEL.BACKBONE.CONV_BODY", "R-18-EFPN", "MODEL.EFPN.WIDTH", 8)
    efpn = build_detection_model(tiny_config({}, *opts, *levels))
    with pytest.raises(ValueError, match=r"detectron2 has no place for these weights: backbone\.extension"):
        to_detectron2(efpn)
    normed = build_detection_model(tiny_config({}, "MODEL.ROI_BOX_HEAD.FC_NORM", "GN"))
    for convert, source in ((to_detectron2, normed), (to_torchvision, normed.state_dict())):
        with pytest.raises(ValueError, match=r"has no place for these weights: roi_heads\.box_head\.fc\d\.[01]"):
            convert(source)
    cascade = build_detection_model(tiny_config({}, "MODEL.ROI_HEADS.NAME", "CascadeROIHeads"))
    with pytest.raises(ValueError, match=r"torchvision has no place for these weights: roi_heads\.box_head\.0\.fc6"):
        to_torchvision(cascade.state_dict())


def test_what_detectron2_calls_the_layers_of_a_box_head():
    ours = build_detection_model(tiny_config({}, "MODEL.ROI_HEADS.NAME", "CascadeROIHeads", *CONVS))
    keys = {key for key in to_detectron2(ours) if key.startswith("roi_heads.box_head.2.")}
    conv = {f"roi_heads.box_head.2.conv{i}.{name}" for i in (1, 2) for name in ("weight", "norm.weight", "norm.bias")}
    assert keys == conv | {f"roi_heads.box_head.2.fc{i}.{name}" for i in (1, 2) for name in ("weight", "bias")}


def test_what_detectron2_calls_offsets_and_the_layers_of_point_rend():
    deformable, point = (to_detectron2(build_detection_model(tiny_config({}, *opts))) for opts in (DEFORMABLE, POINT))
    offsets = {key for key in deformable if "offset" in key}
    stages = [f"backbone.bottom_up.res{stage}.{block}.conv2_offset" for stage in (4, 5) for block in (0, 1)]
    assert offsets == {f"{stage}.{name}" for stage in stages for name in ("weight", "bias")}
    head = "roi_heads.mask_head"
    assert {f"{head}.coarse_head.fc1.weight", f"{head}.coarse_head.prediction.bias"} <= point.keys()
    assert {f"{head}.coarse_head.reduce_spatial_dim_conv.weight", f"{head}.point_head.fc3.bias"} <= point.keys()


FCOS = {**DENSE, "MODEL.RPN.NAME": "FCOS"}


@pytest.mark.parametrize(
    "keys, opts, name",
    [
        ({}, DEFORMABLE, r"backbone\.body\.layer3\.0\.conv2\.offset\.weight"),
        ({}, ("MODEL.BACKBONE.CONV_BODY", "MNV2-FPN"), r"backbone\.body\.features\.0\.0\.weight"),
        ({}, ("MODEL.BACKBONE.CONV_BODY", "R-18-PAFPN"), r"backbone\.(fpn|pafpn)\."),
        ({}, ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True), r"roi_heads\.box_predictor\.bbox_pred\.weight"),
        (FCOS, (), r"rpn\.head\.scales"),
    ],
)
def test_what_torchvision_has_no_name_for(keys, opts, name):
    state = build_detection_model(tiny_config(keys, *opts)).state_dict()
    with pytest.raises(ValueError, match=rf"torchvision has no place for these weights: {name}"):
        to_torchvision(state)
