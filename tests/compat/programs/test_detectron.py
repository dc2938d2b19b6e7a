"""Detectron: bodies of Caffe2 and MSRA, and whole detectors, under the blob names of its published checkpoints."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detframe.compat import load_weights, translate
from tests.compat.models import (
    C4,
    FPN_GN,
    RETINANET,
    assert_only_the_rest_is_missing,
    body_model,
    random_body,
    random_model,
    save_pickle,
)

FPN = {
    "fpn_inner_res2_2_sum_lateral": "backbone.fpn.inner_blocks.0.0",
    "fpn_inner_res3_3_sum_lateral": "backbone.fpn.inner_blocks.1.0",
    "fpn_inner_res4_5_sum_lateral": "backbone.fpn.inner_blocks.2.0",
    "fpn_inner_res5_2_sum": "backbone.fpn.inner_blocks.3.0",
    "fpn_res2_2_sum": "backbone.fpn.layer_blocks.0.0",
    "fpn_res3_3_sum": "backbone.fpn.layer_blocks.1.0",
    "fpn_res4_5_sum": "backbone.fpn.layer_blocks.2.0",
    "fpn_res5_2_sum": "backbone.fpn.layer_blocks.3.0",
}
GN = {
    "fpn_inner_res2_2_sum_lateral_gn": "backbone.fpn.inner_blocks.0.1",
    "fpn_inner_res3_3_sum_lateral_gn": "backbone.fpn.inner_blocks.1.1",
    "fpn_inner_res4_22_sum_lateral_gn": "backbone.fpn.inner_blocks.2.1",
    "fpn_inner_res5_2_sum_gn": "backbone.fpn.inner_blocks.3.1",
    "fpn_res2_2_sum_gn": "backbone.fpn.layer_blocks.0.1",
    "fpn_res3_3_sum_gn": "backbone.fpn.layer_blocks.1.1",
    "fpn_res4_22_sum_gn": "backbone.fpn.layer_blocks.2.1",
    "fpn_res5_2_sum_gn": "backbone.fpn.layer_blocks.3.1",
    "_[mask]_fcn1_gn": "roi_heads.mask.head.0.1",
    "_[mask]_fcn2_gn": "roi_heads.mask.head.1.1",
    "_[mask]_fcn3_gn": "roi_heads.mask.head.2.1",
    "_[mask]_fcn4_gn": "roi_heads.mask.head.3.1",
}
RPN_FPN = {
    "conv_rpn_fpn2": "rpn.head.conv.0.0",
    "rpn_cls_logits_fpn2": "rpn.head.cls_logits",
    "rpn_bbox_pred_fpn2": "rpn.head.bbox_pred",
}
RPN = {
    "conv_rpn": "rpn.head.conv.0.0",
    "rpn_cls_logits": "rpn.head.cls_logits",
    "rpn_bbox_pred": "rpn.head.bbox_pred",
}
PREDICTOR = {
    "cls_score": "roi_heads.box_predictor.cls_score",
    "bbox_pred": "roi_heads.box_predictor.bbox_pred",
}
BOX = PREDICTOR | {"fc6": "roi_heads.box_head.fc6", "fc7": "roi_heads.box_head.fc7"}
MASK_PREDICTOR = {
    "conv5_mask": "roi_heads.mask.predictor.conv5_mask",
    "mask_fcn_logits": "roi_heads.mask.predictor.mask_fcn_logits",
}
MASK = MASK_PREDICTOR | {
    "_[mask]_fcn1": "roi_heads.mask.head.0.0",
    "_[mask]_fcn2": "roi_heads.mask.head.1.0",
    "_[mask]_fcn3": "roi_heads.mask.head.2.0",
    "_[mask]_fcn4": "roi_heads.mask.head.3.0",
}
KEYPOINT = {
    "conv_fcn1": "roi_heads.keypoint.head.0",
    "conv_fcn2": "roi_heads.keypoint.head.2",
    "conv_fcn3": "roi_heads.keypoint.head.4",
    "conv_fcn4": "roi_heads.keypoint.head.6",
    "conv_fcn5": "roi_heads.keypoint.head.8",
    "conv_fcn6": "roi_heads.keypoint.head.10",
    "conv_fcn7": "roi_heads.keypoint.head.12",
    "conv_fcn8": "roi_heads.keypoint.head.14",
    "kps_score_lowres": "roi_heads.keypoint.predictor.kps_score_lowres",
}
RETINANET_HEAD = {
    "fpn_inner_res3_3_sum_lateral": "backbone.fpn.inner_blocks.0.0",
    "fpn_inner_res4_5_sum_lateral": "backbone.fpn.inner_blocks.1.0",
    "fpn_inner_res5_2_sum": "backbone.fpn.inner_blocks.2.0",
    "fpn_res3_3_sum": "backbone.fpn.layer_blocks.0.0",
    "fpn_res4_5_sum": "backbone.fpn.layer_blocks.1.0",
    "fpn_res5_2_sum": "backbone.fpn.layer_blocks.2.0",
    "fpn_6": "backbone.fpn.extra_blocks.p6",
    "fpn_7": "backbone.fpn.extra_blocks.p7",
    "retnet_cls_conv_n0_fpn3": "rpn.head.classification_head.conv.0.0",
    "retnet_cls_conv_n1_fpn3": "rpn.head.classification_head.conv.1.0",
    "retnet_cls_conv_n2_fpn3": "rpn.head.classification_head.conv.2.0",
    "retnet_cls_conv_n3_fpn3": "rpn.head.classification_head.conv.3.0",
    "retnet_bbox_conv_n0_fpn3": "rpn.head.regression_head.conv.0.0",
    "retnet_bbox_conv_n1_fpn3": "rpn.head.regression_head.conv.1.0",
    "retnet_bbox_conv_n2_fpn3": "rpn.head.regression_head.conv.2.0",
    "retnet_bbox_conv_n3_fpn3": "rpn.head.regression_head.conv.3.0",
    "retnet_cls_pred_fpn3": "rpn.head.classification_head.cls_logits",
    "retnet_bbox_pred_fpn3": "rpn.head.regression_head.bbox_reg",
}
TWO_OCTAVES = ("MODEL.RETINANET.ANCHOR_SIZES", ((32.0, 45.0),))
DETECTORS = {
    "Faster R-CNN": ((), FPN | RPN_FPN | BOX),
    "class-agnostic boxes": (("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True), FPN | RPN_FPN | BOX),
    "Mask R-CNN": (("MODEL.MASK_ON", True), FPN | RPN_FPN | BOX | MASK),
    "one mask for all classes": (
        ("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
        FPN | RPN_FPN | BOX | MASK,
    ),
    "Keypoint R-CNN": (
        ("MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 17),
        FPN | RPN_FPN | BOX | KEYPOINT,
    ),
    "GN": (
        (*FPN_GN, "MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.STEM_OUT_CHANNELS", 32),
        FPN | GN | RPN_FPN | BOX | MASK,
    ),
    "C4": (C4, RPN | PREDICTOR),
    "C4 with masks": (
        (*C4, "MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NUM_CONV", 0),
        RPN | PREDICTOR | MASK_PREDICTOR,
    ),
    "RetinaNet": (RETINANET, RETINANET_HEAD),
    "RetinaNet of two sizes": ((*RETINANET, *TWO_OCTAVES), RETINANET_HEAD),
}


def caffe2_name(name, merged):
    """A parameter of the body as Caffe2 calls it; None for what it does not have."""
    name = name.removeprefix("backbone.body.")
    norm = {"weight": "_s", "bias": "_b", "running_mean": "_rm", "running_var": "_riv"}
    if name == "conv1.weight":
        return "conv1_w"
    *_, tensor = name.split(".")
    if tensor == "num_batches_tracked" or (merged and tensor.startswith("running")):
        return None
    if name.startswith("bn1."):
        return f"res_conv1_bn{norm[tensor]}"
    stage, block, member = re.match(r"layer(\d)\.(\d+)\.(downsample\.\d|conv\d|bn\d)\.", name).groups()
    branch = "branch1" if member.startswith("downsample") else f"branch2{'abc'[int(member[-1]) - 1]}"
    is_norm = member.startswith("bn") or member == "downsample.1"
    return f"res{int(stage) + 1}_{block}_{branch}{'_bn' + norm[tensor] if is_norm else '_w'}"


def blobs_of(model, heads, sizes):
    """The model's weights as Detectron writes them; batch norms merged."""
    out, theirs_of = {}, {ours: theirs for theirs, ours in heads.items()}
    for name, value in model.state_dict().items():
        module, _, ending = name.rpartition(".")
        value = value.numpy().copy()
        if name.startswith(("backbone.body.", "roi_heads.box_head.layer4.")):
            inside = "backbone.body." + name.removeprefix("backbone.body.").removeprefix("roi_heads.box_head.")
            gn = isinstance(model.get_submodule(module), nn.GroupNorm)
            blob = caffe2_name(inside, merged=True)
            blob = blob and (blob.replace("res_conv1_bn", "conv1_gn").replace("_bn_", "_gn_") if gn else blob)
        elif module in theirs_of:
            ending = {"weight": "s" if theirs_of[module].endswith("_gn") else "w", "bias": "b"}[ending]
            blob = f"{theirs_of[module]}_{ending}"
        else:
            assert name in ("rpn.loss_normalizer",) or "num_batches" in name, name
            continue
        if blob is None:
            continue
        if blob.startswith("bbox_pred_"):
            value = np.concatenate([np.ones_like(value[:4]), value])
        if blob.startswith("mask_fcn_logits_") and len(value) > 1:
            value = np.concatenate([np.ones_like(value[:1]), value])
        if blob.startswith(("retnet_cls_pred", "retnet_bbox_pred")):  # octaves outside, aspect ratios inside
            anchors = np.split(value, 3 * sizes)
            value = np.concatenate([anchors[ratio * sizes + size] for size in range(sizes) for ratio in range(3)])
        out[blob] = value
    return out


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_of_detectron(name, tmp_path):
    opts, heads = DETECTORS[name]
    source, model = random_model(*opts), random_model(*opts)
    blobs = blobs_of(source, heads, sizes=2 if "two sizes" in name else 3)
    extra = {f"{blob}_momentum": value for blob, value in blobs.items()} | {"lr": np.float32(0.02)}
    extra |= {"fc1000_w": np.ones(1), "fc1000_b": np.ones(1)}
    if name == "Keypoint R-CNN":  # the fixed filter of the enlargement
        extra |= {"kps_score_w": np.ones((17, 17, 4, 4)), "kps_score_b": np.ones(17)}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"blobs": {**blobs, **extra}, "cfg": "MODEL:\n  TYPE: generalized_rcnn\n"}, 2))
    report = load_weights(model, path)
    assert report.kind == ("Detectron detector" if name == "GN" else "Detectron detector, norms merged")
    left = [n for n in report.missing if n != "rpn.loss_normalizer"]
    assert not (left or report.unused or report.reinitialised), report.table()
    for key, value in source.state_dict().items():
        if ".running_" not in key and "num_batches" not in key and key != "rpn.loss_normalizer":
            assert torch.equal(model.state_dict()[key], value), key
        elif key.endswith("running_var"):
            module = model.get_submodule(key.rpartition(".")[0])
            assert torch.equal(module.running_var, torch.full_like(module.running_var, 1 - module.eps))


def test_convolutions_of_a_box_head():
    names = {"head_conv1_w": "0.0.weight", "head_conv1_gn_s": "0.1.weight", "head_conv4_gn_b": "3.1.bias"}
    state = {name: torch.zeros(1) for name in ("conv1_w", "conv1_gn_s", *names, "fc6_w")}
    kind, out = translate(state)
    assert kind == "Detectron detector"
    assert [name for name in out if ".convs." in name] == [f"roi_heads.box_head.convs.{n}" for n in names.values()]


def test_what_has_no_place_keeps_its_name():
    """Nothing is matched by a similar ending."""
    source = random_model()
    blobs = blobs_of(source, FPN | RPN_FPN | BOX, sizes=1)
    blobs |= {"_[mask]_res5_0_branch2a_w": np.ones(3), "my_conv_rpn_w": np.ones(2), "fc8_w": np.ones(2)}
    report = load_weights(random_model(), {name: torch.from_numpy(value) for name, value in blobs.items()})
    assert sorted(report.unused) == ["_[mask]_res5_0_branch2a_w", "fc8_w", "my_conv_rpn_w"]


# ---------------------------------------------------------------------------------------------- bodies
@pytest.mark.parametrize("body", ["R-50-FPN", "X-101-32x8d-FPN"])
def test_merged_norms_are_exact(body, tmp_path):
    model = body_model(body)
    wanted = random_body(model)
    blobs = {caffe2_name(k, True): v.numpy() for k, v in wanted.items() if caffe2_name(k, True)}
    blobs |= {"conv1_w_momentum": blobs["conv1_w"], "fc1000_w": blobs["conv1_w"], "pred_b": blobs["conv1_w"]}
    report = load_weights(model, save_pickle(tmp_path / "b.pkl", {"blobs": blobs, "cfg": "text"}))
    assert report.kind == "Caffe2 body, norms merged" and not report.unused
    assert_only_the_rest_is_missing(report)
    state = model.state_dict()
    for name, value in wanted.items():
        if ".running" not in name:
            assert torch.equal(state[name], value), name
    for name, module in model.backbone.body.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            x = torch.randn(1, module.weight.numel(), 2, 2)
            affine = x * module.weight.reshape(1, -1, 1, 1) + module.bias.reshape(1, -1, 1, 1)
            torch.testing.assert_close(module(x), affine, rtol=2e-7, atol=2e-7, msg=name)


@pytest.mark.parametrize("eps", [0.0, 1e-5, 1e-3])
def test_merged_norms_are_exact_for_any_eps(eps):
    model = body_model("R-50-FPN", "FrozenBN", "MODEL.RESNETS.NORM_EPS", eps)
    wanted = random_body(model)
    load_weights(model, {caffe2_name(k, True): v for k, v in wanted.items() if caffe2_name(k, True)})
    norm = model.backbone.body.layer3[1].bn2
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    torch.testing.assert_close(scale, wanted["backbone.body.layer3.1.bn2.weight"], rtol=2e-7, atol=0)


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_merged_norms_refuse_norms_with_statistics(norm):
    model = body_model("R-50-FPN", norm, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0)
    blobs = {caffe2_name(k, True): v for k, v in random_body(model).items() if caffe2_name(k, True)}
    with pytest.raises(ValueError, match=r"merged into affine maps.*MODEL\.RESNETS\.NORM FrozenBN"):
        load_weights(model, blobs)


@pytest.mark.parametrize("spelling", ["short", "long"])
def test_norms_with_statistics(spelling, tmp_path):
    model = body_model(norm="BN")
    wanted = random_body(model)
    blobs = {caffe2_name(k, False): v.numpy() for k, v in wanted.items() if caffe2_name(k, False)}
    if spelling == "long":
        words = {"_bn_s": "_bn_gamma", "_bn_b": "_bn_beta", "_bn_rm": "_bn_running_mean", "_bn_riv": "_bn_running_var"}
        blobs = {re.sub(r"_bn_\w+$", lambda m: words[m[0]], k): v for k, v in blobs.items()}
    report = load_weights(model, save_pickle(tmp_path / "b.pkl", {"model": blobs, "__author__": "Caffe2"}))
    assert report.kind == "Caffe2 body" and not report.unused
    assert_only_the_rest_is_missing(report)
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in wanted.items() if "num_batches" not in k)


def test_group_norm():
    model = body_model(norm="GN")
    wanted = random_body(model)
    blobs = {caffe2_name(k, False).replace("_bn_", "_gn_"): v for k, v in wanted.items()}
    blobs["conv1_gn_s"] = blobs.pop("res_conv1_gn_s")
    blobs["conv1_gn_b"] = blobs.pop("res_conv1_gn_b")
    report = load_weights(model, blobs)
    assert report.kind == "Caffe2 body" and not report.unused
    assert_only_the_rest_is_missing(report)
    assert isinstance(model.backbone.body.bn1, nn.Module)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in wanted.items())


def test_the_last_stage_of_a_c4_detector_is_in_its_head():
    wanted = random_body(body_model())
    blobs = {caffe2_name(k, True): v for k, v in wanted.items() if caffe2_name(k, True)}
    model = body_model(
        "R-50-C4", "FrozenBN", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.RPN.ANCHOR_SIZES", ((32,),)
    )
    assert not load_weights(model, blobs).unused
    norm = model.get_submodule("roi_heads.box_head.layer4.1.bn2")
    assert torch.equal(norm.weight, wanted["backbone.body.layer4.1.bn2.weight"])
    assert torch.equal(norm.running_var, torch.full_like(norm.running_var, 1 - norm.eps))


def test_another_depth_is_refused():
    blobs = {caffe2_name(k, True): v for k, v in random_body(body_model("R-50-FPN")).items() if caffe2_name(k, True)}
    with pytest.raises(ValueError, match=r"only .* of the backbone's values"):
        load_weights(body_model("R-101-FPN"), blobs)
