"""Detectors and bodies with random weights, and their state dicts under another program's names, which a test lists."""

from __future__ import annotations

import pickle

import torch

from detframe.config import get_cfg
from detframe.modeling import build_detection_model
from tests.modeling.tiny import DENSE, tiny_config

C4 = (
    "MODEL.BACKBONE.CONV_BODY", "R-18-C4", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads",
    "MODEL.RPN.ANCHOR_SIZES", ((32, 64, 128, 256, 512),),
)  # fmt: skip
RETINANET = tuple(word for pair in {**DENSE, "MODEL.RPN.NAME": "RetinaNet"}.items() for word in pair)
FPN_GN = ("MODEL.FPN.NORM", "GN", "MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NORM", "GN")


def random_model(*opts):
    """A tiny detector in which every tensor is random."""
    model = build_detection_model(tiny_config({"MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16}, *opts))
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.5)
    return model


def renamed(model, modules, background=False):
    """The model's state dict under the names of `modules` (theirs -> ours, longest first).

    Args:
        background: with rows of the background in front of box deltas and masks.
    """
    out = {}
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    for name, value in state.items():
        if name in ("rpn.loss_normalizer",):
            continue
        theirs, ours = next((pair for pair in modules.items() if name.startswith(pair[1] + ".")), ("", ""))
        assert theirs, f"the test names no counterpart of {name}"
        if background and ".box_predictor.bbox_pred." in name:
            value = torch.cat([torch.rand(4, *value.shape[1:]), value])
        if background and ".mask_fcn_logits." in name:
            value = torch.cat([torch.rand(1, *value.shape[1:]), value])
        out[theirs + name.removeprefix(ours)] = value.clone()
    return out


def assert_same(model, other, report, kind):
    """Everything was loaded, bit for bit."""
    assert report.kind == kind
    left = [name for name in report.missing if name != "rpn.loss_normalizer"]
    assert not (left or report.unused or report.reinitialised), report.table()
    for name, value in model.state_dict().items():
        if "num_batches" not in name and name != "rpn.loss_normalizer":
            assert torch.equal(other.state_dict()[name], value), name


def body_model(body="R-50-FPN", norm="FrozenBN", *overrides):
    """A detector on a ResNet of its full width, with a narrow rest."""
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.CONV_BODY", body, "MODEL.NUM_CLASSES", 2, "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(["MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16])
    cfg.merge_from_list(["MODEL.RESNETS.STEM_OUT_CHANNELS", 16, "MODEL.RESNETS.NORM", norm, *overrides])
    return build_detection_model(cfg)


def random_body(model):
    """The weights of the body, all random."""
    torch.manual_seed(1)
    state = {k: v for k, v in model.state_dict().items() if k.startswith("backbone.body.")}
    return {k: torch.rand(v.shape) + 0.5 for k, v in state.items()}


def save_pickle(path, state, **beside):
    """Write a state dict as Caffe2 and detectron2 do; returns the path."""
    path.write_bytes(pickle.dumps({**beside, **state}, protocol=2))
    return path


def assert_only_the_rest_is_missing(report):
    """The body was filled, and there is nothing else in the file."""
    assert all(name.startswith(("backbone.fpn.", "rpn.", "roi_heads.")) for name in report.missing)
    assert not report.reinitialised
