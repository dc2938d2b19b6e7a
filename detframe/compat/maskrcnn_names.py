"""Names of maskrcnn-benchmark and of FCOS, which grew out of it, in detframe's.

Facts: the keys of their checkpoints (stem.conv1, fpn_inner1..4, fpn_layer1..4, top_blocks, cls_tower, scales.0.scale;
roi_heads.box.feature_extractor, .predictor). Classes count from 1 with the background first, as ours, but box deltas
and masks have rows for the background too. Anchors run over the sizes fastest, as ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

State = dict[str, Tensor]
_DENSE = {
    "rpn.head.cls_tower.": "rpn.head.classification_head.conv.",
    "rpn.head.bbox_tower.": "rpn.head.regression_head.conv.",
    "rpn.head.cls_logits.": "rpn.head.classification_head.cls_logits.",
    "rpn.head.bbox_pred.": "rpn.head.regression_head.bbox_reg.",
    "rpn.head.centerness.": "rpn.head.regression_head.bbox_ctrness.",
}
_BOX, _MASK, _KEYPOINT = (rf"roi_heads\.{kind}\.feature_extractor\." for kind in ("box", "mask", "keypoint"))
_RCNN: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"rpn\.head\.conv\.", lambda m: "rpn.head.conv.0.0."),
    (rf"{_BOX}(fc\d)\.", lambda m: f"roi_heads.box_head.{m[1]}."),
    (rf"{_BOX}head\.layer4\.", lambda m: "roi_heads.box_head.layer4."),
    (r"roi_heads\.box\.predictor\.", lambda m: "roi_heads.box_predictor."),
    (rf"{_MASK}mask_fcn(\d)\.(?:([01])\.)?", lambda m: f"roi_heads.mask.head.{int(m[1]) - 1}.{m[2] or 0}."),
    (rf"{_KEYPOINT}conv_fcn(\d)\.", lambda m: f"roi_heads.keypoint.head.{2 * int(m[1]) - 2}."),
)
_RES5 = ".feature_extractor.head.layer4."


def fcos(state: State) -> State | None:
    """A state dict of FCOS in our names; None where it is of another program."""
    if not _is_family(state) or "rpn.head.centerness.weight" not in state:
        return None
    first = _first_level(state)
    out = {_dense(_below_heads(k, first)): v for k, v in state.items() if not k.startswith("rpn.head.scales.")}
    scales = {int(key.split(".")[3]): value for key, value in state.items() if key.startswith("rpn.head.scales.")}
    if scales:
        out["rpn.head.scales"] = torch.cat([scales[i].reshape(1) for i in sorted(scales)])
    return out


def maskrcnn_benchmark(state: State) -> State | None:
    """A Faster, Mask or Keypoint R-CNN, an RPN or a RetinaNet in our names; None where it is of another program."""
    if not _is_family(state):
        return None
    first, dense = _first_level(state), any(key.startswith("rpn.head.cls_tower.") for key in state)
    members = 3 if "roi_heads.box.feature_extractor.xconvs.1.weight" in state else 2
    rename = _retinanet if dense else partial(_rcnn, members=members)
    kept = {key: value for key, value in state.items() if not key.startswith("rpn.anchor_generator.")}
    out = {rename(_below_heads(key, first)): value for key, value in _without_copies(kept).items()}
    return without_background(out)


def without_background(state: State) -> State:
    """Box deltas and masks without the rows of the background, of a program that keeps them first.

    Class-agnostic deltas are those of background and foreground there; a single mask is class-agnostic.
    """
    out = dict(state)
    classes = state.get("roi_heads.box_predictor.cls_score.bias")
    for name in ("weight", "bias"):
        deltas, masks = f"roi_heads.box_predictor.bbox_pred.{name}", f"roi_heads.mask.predictor.mask_fcn_logits.{name}"
        if deltas in state:
            out[deltas] = state[deltas][4:]
        if masks in state and classes is not None and len(state[masks]) == len(classes):
            out[masks] = state[masks][1:]
    return out


def _is_family(state: State) -> bool:
    return any(key.startswith(("backbone.body.stem.", "backbone.fpn.fpn_inner")) for key in state)


def _first_level(state: State) -> int:
    levels = [int(m[1]) for key in state if (m := re.match(r"backbone\.fpn\.fpn_inner(\d)\.", key))]
    return min(levels, default=1)


def _without_copies(state: State) -> State:
    """A mask or keypoint branch that shares res5 with the box branch lists the same tensors again."""
    out = {}
    for key, value in state.items():
        first = re.sub(r"^roi_heads\.\w+", "roi_heads.box", key)
        same = _RES5 in key and first != key and first in state and torch.equal(state[first], value)
        if not same:
            out[key] = value
    return out


def _below_heads(key: str, first_level: int) -> str:
    key = key.replace("backbone.body.stem.", "backbone.body.")
    key = key.replace("backbone.fpn.top_blocks.", "backbone.fpn.extra_blocks.")
    # with a norm or a ReLU the convolution is the first of a row
    key = re.sub(
        r"^backbone\.fpn\.fpn_(inner|layer)(\d)\.(?:([01])\.)?",
        lambda m: f"backbone.fpn.{m[1]}_blocks.{int(m[2]) - first_level}.{m[3] or 0}.",
        key,
    )
    key = re.sub(r"^backbone\.body\.features\.(\d+)\.conv\.(\d)\.", _mobilenet_member, key)
    # a deformable convolution is a pair "offset" and "conv" there, and a convolution with an "offset" here
    return re.sub(r"(\.conv2|_tower\.\d+)\.conv\.(weight|bias)$", r"\1.\2", key)


def _dense(key: str) -> str:
    for theirs, ours in _DENSE.items():
        key = key.replace(theirs, ours)
    return key


def _retinanet(key: str) -> str:
    """Convolutions and ReLUs in one row there, blocks here."""
    return _dense(
        re.sub(r"^(rpn\.head\.\w+_tower)\.(\d)\.(weight|bias)$", lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}", key)
    )


def _rcnn(key: str, members: int) -> str:
    """`members`: modules of a convolution in the row of a box head, with its norm, where there is one, and its ReLU."""
    if match := re.match(rf"^{_BOX}xconvs\.(\d+)\.(\w+)$", key):
        block, member = divmod(int(match[1]), members)
        return f"roi_heads.box_head.convs.{block}.{member}.{match[2]}"
    for pattern, name in _RCNN:
        renamed = re.sub(rf"^{pattern}", name, key)
        if renamed != key:
            return renamed
    return key


def _mobilenet_member(match: re.Match[str]) -> str:
    """FCOS numbers convolution, norm and ReLU6 of a block in one list; here they are one member, but for the last."""
    block, (layer, member) = int(match[1]), divmod(int(match[2]), 3)
    activated = 1 if block == 1 else 2  # the first block has no convolution to more channels
    name = f"{layer}.{member}" if layer < activated else f"{activated + member}"
    return f"backbone.body.features.{block}.conv.{name}."
