"""ResNet bodies of Caffe2, MSRA and detectron2 in detframe's names."""

from __future__ import annotations

import pickle
import re

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detframe.compat import load_weights
from detframe.config import get_cfg
from detframe.modeling import build_detection_model


def _model(body="R-50-FPN", norm="FrozenBN", *overrides):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.CONV_BODY", body, "MODEL.NUM_CLASSES", 2, "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(["MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16])
    cfg.merge_from_list(["MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.NORM", norm, *overrides])
    return build_detection_model(cfg)


def _caffe2_name(name, merged):
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


def _detectron2_name(name):
    name = name.removeprefix("backbone.body.")
    name = re.sub(r"^conv1\.", "stem.conv1.", name)
    name = re.sub(r"^bn1\.", "stem.conv1.norm.", name)
    name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return re.sub(r"\.bn(\d)\.", r".conv\1.norm.", name)


def _random_body(model):
    torch.manual_seed(1)
    state = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.body.")}
    return {k: torch.rand(v.shape) + 0.5 for k, v in state.items()}


def _save(path, state, **beside):
    path.write_bytes(pickle.dumps({**beside, **state}, protocol=2))
    return path


def _only_the_rest_is_missing(report):
    assert all(name.startswith(("backbone.fpn.", "rpn.", "roi_heads.")) for name in report.missing)
    assert not report.reinitialised


@pytest.mark.parametrize("body", ["R-50-FPN", "X-101-32x8d-FPN"])
def test_merged_norms_are_exact(body, tmp_path):
    model = _model(body)
    wanted = _random_body(model)
    blobs = {_caffe2_name(k, True): v.numpy() for k, v in wanted.items() if _caffe2_name(k, True)}
    blobs |= {"conv1_w_momentum": blobs["conv1_w"], "fc1000_w": blobs["conv1_w"], "pred_b": blobs["conv1_w"]}
    report = load_weights(model, _save(tmp_path / "b.pkl", {"blobs": blobs, "cfg": "text"}))
    assert report.kind == "Caffe2 body, norms merged" and not report.unused
    _only_the_rest_is_missing(report)
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
    model = _model("R-50-FPN", "FrozenBN", "MODEL.RESNETS.NORM_EPS", eps)
    wanted = _random_body(model)
    load_weights(model, {_caffe2_name(k, True): v for k, v in wanted.items() if _caffe2_name(k, True)})
    norm = model.backbone.body.layer3[1].bn2
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    torch.testing.assert_close(scale, wanted["backbone.body.layer3.1.bn2.weight"], rtol=2e-7, atol=0)


@pytest.mark.parametrize("norm", ["BN", "SyncBN"])
def test_merged_norms_refuse_norms_with_statistics(norm):
    model = _model("R-50-FPN", norm, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0)
    blobs = {_caffe2_name(k, True): v for k, v in _random_body(model).items() if _caffe2_name(k, True)}
    with pytest.raises(ValueError, match=r"merged into affine maps.*MODEL\.RESNETS\.NORM FrozenBN"):
        load_weights(model, blobs)


@pytest.mark.parametrize("spelling", ["short", "long"])
def test_norms_with_statistics(spelling, tmp_path):
    model = _model(norm="BN")
    wanted = _random_body(model)
    blobs = {_caffe2_name(k, False): v.numpy() for k, v in wanted.items() if _caffe2_name(k, False)}
    if spelling == "long":
        words = {"_bn_s": "_bn_gamma", "_bn_b": "_bn_beta", "_bn_rm": "_bn_running_mean", "_bn_riv": "_bn_running_var"}
        blobs = {re.sub(r"_bn_\w+$", lambda m: words[m[0]], k): v for k, v in blobs.items()}
    report = load_weights(model, _save(tmp_path / "b.pkl", {"model": blobs, "__author__": "Caffe2"}))
    assert report.kind == "Caffe2 body" and not report.unused
    _only_the_rest_is_missing(report)
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in wanted.items() if "num_batches" not in k)


def test_group_norm():
    model = _model(norm="GN")
    wanted = _random_body(model)
    blobs = {_caffe2_name(k, False).replace("_bn_", "_gn_"): v for k, v in wanted.items()}
    blobs["conv1_gn_s"] = blobs.pop("res_conv1_gn_s")
    blobs["conv1_gn_b"] = blobs.pop("res_conv1_gn_b")
    report = load_weights(model, blobs)
    assert report.kind == "Caffe2 body" and not report.unused
    _only_the_rest_is_missing(report)
    assert isinstance(model.backbone.body.bn1, nn.Module)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in wanted.items())


@pytest.mark.parametrize("body", ["R-18-FPN", "R-50-FPN", "X-101-32x8d-FPN"])
def test_detectron2_body(body, tmp_path):
    model = _model(body)
    wanted = _random_body(model)
    theirs = {_detectron2_name(k): v.numpy() for k, v in wanted.items()} | {"stem.fc.weight": torch.ones(1).numpy()}
    report = load_weights(
        model, _save(tmp_path / "b.pkl", {"model": theirs, "__author__": "a", "matching_heuristics": 1})
    )
    assert report.kind == "detectron2 body" and not report.unused
    _only_the_rest_is_missing(report)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in wanted.items())


def test_the_last_stage_of_a_c4_detector_is_in_its_head():
    wanted = _random_body(_model())
    blobs = {_caffe2_name(k, True): v for k, v in wanted.items() if _caffe2_name(k, True)}
    model = _model("R-50-C4", "FrozenBN", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.RPN.ANCHOR_SIZES", ((32,),))
    assert not load_weights(model, blobs).unused
    norm = model.get_submodule("roi_heads.box_head.layer4.1.bn2")
    assert torch.equal(norm.weight, wanted["backbone.body.layer4.1.bn2.weight"])
    assert torch.equal(norm.running_var, torch.full_like(norm.running_var, 1 - norm.eps))


def test_another_depth_is_refused():
    blobs = {_caffe2_name(k, True): v for k, v in _random_body(_model("R-50-FPN")).items() if _caffe2_name(k, True)}
    with pytest.raises(ValueError, match=r"only .* of the backbone's values"):
        load_weights(_model("R-101-FPN"), blobs)
