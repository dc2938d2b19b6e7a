"""Checkpoints of Detectron, and of the backbones that Caffe2 and MSRA trained.

Facts: the blobs of the published checkpoints (conv1_w, res_conv1_bn_s, res2_0_branch2a_w, res2_0_branch1_bn_b). Classes
count from 1 with the background first, as ours; box deltas and masks have rows for the background too. The anchors of
RetinaNet run over the aspect ratios fastest. What the levels of a pyramid share is called after the finest.
"""

from __future__ import annotations

import re

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detframe.compat.renaming import (
    DENSE_OUTPUTS,
    Pair,
    Renaming,
    State,
    anchor_grid,
    lowest_number,
    res5_where_it_stands,
    sizes_fastest,
    without_background,
)
from detframe.errors import InvalidValueError

# (whole detector, norms merged) -> kind
_KINDS = {
    (True, True): "Detectron detector, norms merged",
    (True, False): "Detectron detector",
    (False, True): "Caffe2 body, norms merged",
    (False, False): "Caffe2 body",
}
_HEADS = re.compile(r"conv_rpn_|rpn_cls_logits_|retnet_|fc6_w$|cls_score_w$")
_NO_WEIGHTS = re.compile(r".*_momentum|(pred|fc1000|linear)_[wb]|lr")
_ENDING = "_{p=w|b}", ".{p=weight|bias}"
_GROUP_NORM = "_gn_{p=s|b}", ".{p=weight|bias}"
# _s and _b are those of group norms and of merged batch norms
_NORM = (
    "_{k=bn|gn}_{p=s|gamma|b|beta|rm|running_mean|riv|running_var}",
    ".{p=weight|weight|bias|bias|running_mean|running_mean|running_var|running_var}",
)


def _convolutions(theirs: str, ours: str) -> tuple[Pair, ...]:
    """A convolution, and beside it, where there is one, its group norm; {} of ours is 0 and 1."""
    plain, norm = ours.replace("{}", "0"), ours.replace("{}", "1")
    return ((theirs + _ENDING[0], plain + _ENDING[1]), (theirs + _GROUP_NORM[0], norm + _GROUP_NORM[1]))


_BLOCK, _OUR_BLOCK = "res{s}_{b}", "backbone.body.layer{s-1}.{b}"
_BODY: tuple[Pair, ...] = (
    ("conv1" + _ENDING[0], "backbone.body.conv1" + _ENDING[1]),
    ("conv1" + _NORM[0], "backbone.body.bn1" + _NORM[1]),
    ("res_conv1" + _NORM[0], "backbone.body.bn1" + _NORM[1]),
    (_BLOCK + "_branch2{c=a|b|c}" + _ENDING[0], _OUR_BLOCK + ".conv{c=1|2|3}" + _ENDING[1]),
    (_BLOCK + "_branch2{c=a|b|c}" + _NORM[0], _OUR_BLOCK + ".bn{c=1|2|3}" + _NORM[1]),
    (_BLOCK + "_branch1" + _ENDING[0], _OUR_BLOCK + ".downsample.0" + _ENDING[1]),
    (_BLOCK + "_branch1" + _NORM[0], _OUR_BLOCK + ".downsample.1" + _NORM[1]),
)
_RPN = {"conv_rpn": "conv.0.0", "rpn_cls_logits": "cls_logits", "rpn_bbox_pred": "bbox_pred"}
_OUTPUTS = {"cls": "classification_head.cls_logits", "bbox": "regression_head.bbox_reg"}
_DETECTOR: tuple[Pair, ...] = (
    # the top of a pyramid has no map above it, so that its convolution is no lateral one
    *_convolutions("fpn_inner_res{l}_{n}_sum_lateral", "backbone.fpn.inner_blocks.{l-$first}.{}"),
    *_convolutions("fpn_inner_res{l}_{n}_sum", "backbone.fpn.inner_blocks.{l-$first}.{}"),
    *_convolutions("fpn_res{l}_{n}_sum", "backbone.fpn.layer_blocks.{l-$first}.{}"),
    ("fpn_{l=6|7}" + _ENDING[0], "backbone.fpn.extra_blocks.p{l}" + _ENDING[1]),
    *((f"{a}{on}{_ENDING[0]}", f"rpn.head.{b}{_ENDING[1]}") for a, b in _RPN.items() for on in ("", "_fpn{l}")),
    (
        "retnet_{t=cls|bbox}_conv_n{i}_fpn{l}" + _ENDING[0],
        "rpn.head.{t=classification|regression}_head.conv.{i}.0" + _ENDING[1],
    ),
    *((f"retnet_{a}_pred_fpn{{l}}{_ENDING[0]}", f"rpn.head.{b}{_ENDING[1]}") for a, b in _OUTPUTS.items()),
    ("fc{i=6|7}" + _ENDING[0], "roi_heads.box_head.fc{i}" + _ENDING[1]),
    *_convolutions("head_conv{i}", "roi_heads.box_head.convs.{i-1}.{}"),
    ("{o=cls_score|bbox_pred}" + _ENDING[0], "roi_heads.box_predictor.{o}" + _ENDING[1]),
    *_convolutions("_[mask]_fcn{i}", "roi_heads.mask.head.{i-1}.{}"),
    ("{o=conv5_mask|mask_fcn_logits}" + _ENDING[0], "roi_heads.mask.predictor.{o}" + _ENDING[1]),
    ("conv_fcn{i}" + _ENDING[0], "roi_heads.keypoint.head.{2*i-2}" + _ENDING[1]),
    ("kps_score_lowres" + _ENDING[0], "roi_heads.keypoint.predictor.kps_score_lowres" + _ENDING[1]),
)


def recognise(state: State) -> str:
    """The backbone's first blob, and one of a detector's heads."""
    if "conv1_w" not in state:
        return ""
    return _KINDS[any(_HEADS.match(name) for name in state), _is_merged(state)]


def read(state: State, model: nn.Module | None) -> State:
    """A backbone, or a Faster, Mask or Keypoint R-CNN or a RetinaNet, in our names."""
    first = lowest_number(state, r"fpn_inner_res(\d)_", default=2)
    kept = {name: value for name, value in state.items() if not _is_no_weight(name, state)}
    out = without_background(Renaming((*_BODY, *_DETECTOR), first=first).read(kept))
    out = sizes_fastest(out, anchor_grid(model), DENSE_OUTPUTS)
    return _with_statistics(out, model) if _is_merged(state) else out


def _is_no_weight(name: str, state: State) -> bool:
    """Of the training, of the classifier, and the fixed filter that enlarges keypoint maps."""
    fixed = name in ("kps_score_w", "kps_score_b") and "kps_score_lowres_w" in state
    return fixed or _NO_WEIGHTS.fullmatch(name) is not None


def _is_merged(state: State) -> bool:
    """Whether the statistics of the batch norms are merged into scale and shift."""
    has_statistics = any(name.endswith(("_bn_rm", "_bn_riv", "_bn_running_mean", "_bn_running_var")) for name in state)
    return not has_statistics and any(name.endswith(("_bn_s", "_bn_gamma")) for name in state)


def _with_statistics(state: State, model: nn.Module | None) -> State:
    """Merged norms with a mean of 0 and a variance of 1; of a model, 1 - eps, so that scale / sqrt(variance + eps) is
    the scale itself.

    Raises:
        ValueError: a norm of the model computes statistics; with those of a batch, the merged maps are wrong.
    """
    out = dict(state)
    for name in [name for name in state if re.search(r"\.(?:bn\d|downsample\.1)\.weight$", name)]:
        out.setdefault(name.replace(".weight", ".running_mean"), torch.zeros_like(out[name]))
        out.setdefault(name.replace(".weight", ".running_var"), torch.ones_like(out[name]))
    if model is None:
        return out
    out = res5_where_it_stands(out, model.state_dict())
    for name, module in model.named_modules():
        key = f"{name}.running_var"
        if key not in out:
            continue
        if not isinstance(module, FrozenBatchNorm2d):
            raise InvalidValueError(
                f"the norms of these weights are merged into affine maps, but {name} of the model is a "
                f"{type(module).__name__} that computes its own statistics; set MODEL.RESNETS.NORM FrozenBN"
            )
        out[key] = torch.full_like(out[key], 1.0 - module.eps)
    return out
