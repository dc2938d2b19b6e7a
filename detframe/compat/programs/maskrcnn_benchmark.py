"""Checkpoints of maskrcnn-benchmark, and of FCOS, which grew out of it.

Facts: the keys of their checkpoints. Classes count from 1 with the background first, as ours, but box deltas and masks
have rows for the background too. Anchors run over the sizes fastest, as ours. What a pyramid shares counts from 1.
"""

from __future__ import annotations

import re

import torch
from torch import nn

from detframe.compat.renaming import Pair, Renaming, State, lowest_number, without_background

_FCOS = "FCOS"
_BELOW_HEADS: tuple[Pair, ...] = (
    ("backbone.body.stem.", "backbone.body."),
    # a deformable convolution is a pair "offset" and "conv" there, and a convolution with an "offset" here
    ("backbone.body.layer{s}.{b}.conv2.conv.{p=weight|bias}", "backbone.body.layer{s}.{b}.conv2.{p}"),
    # FCOS numbers convolution, norm and ReLU6 of a block of MobileNetV2 in one list; here they are one member, but for
    # the last. The first block has no convolution to more channels
    ("backbone.body.features.1.conv.{m=3|4}.", "backbone.body.features.1.conv.{m=1|2}."),
    ("backbone.body.features.{b}.conv.{m=6|7}.", "backbone.body.features.{b}.conv.{m=2|3}."),
    ("backbone.body.features.{b}.conv.{3*i}.", "backbone.body.features.{b}.conv.{i}.0."),
    ("backbone.body.features.{b}.conv.{3*i+1}.", "backbone.body.features.{b}.conv.{i}.1."),
    # with a norm or a ReLU the convolution is the first of a row
    ("backbone.fpn.fpn_{k=inner|layer}{l}.{m=0|1}.", "backbone.fpn.{k}_blocks.{l-$first}.{m}."),
    ("backbone.fpn.fpn_{k=inner|layer}{l}.", "backbone.fpn.{k}_blocks.{l-$first}.0."),
    ("backbone.fpn.top_blocks.", "backbone.fpn.extra_blocks."),
)
_TOWER, _OUR_TOWER = "rpn.head.{t=cls|bbox}_tower", "rpn.head.{t=classification|regression}_head.conv"
_FCOS_TOWERS: tuple[Pair, ...] = (
    (_TOWER + ".{i}.conv.{p=weight|bias}", _OUR_TOWER + ".{i}.{p}"),
    (_TOWER + ".", _OUR_TOWER + "."),
)
# convolutions and ReLUs in one row there, blocks here
_RETINANET_TOWERS: tuple[Pair, ...] = ((_TOWER + ".{2*i}.{p=weight|bias}", _OUR_TOWER + ".{i}.0.{p}"),)
_DENSE: tuple[Pair, ...] = (
    ("rpn.head.cls_logits.", "rpn.head.classification_head.cls_logits."),
    ("rpn.head.bbox_pred.", "rpn.head.regression_head.bbox_reg."),
    ("rpn.head.centerness.", "rpn.head.regression_head.bbox_ctrness."),
)
_BOX = "roi_heads.box.feature_extractor"
_RCNN: tuple[Pair, ...] = (
    ("rpn.head.conv.", "rpn.head.conv.0.0."),
    (_BOX + ".fc{i}.", "roi_heads.box_head.fc{i}."),
    (_BOX + ".xconvs.{$members*i}.", "roi_heads.box_head.convs.{i}.0."),
    (_BOX + ".xconvs.{$members*i+1}.", "roi_heads.box_head.convs.{i}.1."),
    (_BOX + ".head.layer4.{b}.conv2.conv.{p=weight|bias}", "roi_heads.box_head.layer4.{b}.conv2.{p}"),
    (_BOX + ".head.layer4.", "roi_heads.box_head.layer4."),
    ("roi_heads.box.predictor.", "roi_heads.box_predictor."),
    ("roi_heads.mask.feature_extractor.mask_fcn{i}.{m=0|1}.", "roi_heads.mask.head.{i-1}.{m}."),
    ("roi_heads.mask.feature_extractor.mask_fcn{i}.", "roi_heads.mask.head.{i-1}.0."),
    ("roi_heads.keypoint.feature_extractor.conv_fcn{i}.", "roi_heads.keypoint.head.{2*i-2}."),
)
_RES5 = ".feature_extractor.head.layer4."
_SCALES = "rpn.head.scales"


def recognise(state: State) -> str:
    """Both have a stem and levels of the pyramid by these names; the centerness tells them apart."""
    if not any(name.startswith(("backbone.body.stem.", "backbone.fpn.fpn_inner")) for name in state):
        return ""
    return _FCOS if "rpn.head.centerness.weight" in state else "maskrcnn-benchmark"


def read(state: State, model: nn.Module | None) -> State:
    """An FCOS, a Faster, Mask or Keypoint R-CNN, an RPN or a RetinaNet in our names."""
    kept = {name: v for name, v in state.items() if not name.startswith((f"{_SCALES}.", "rpn.anchor_generator."))}
    # modules of a convolution in the row of a box head: it, its norm, where there is one, and its ReLU
    members = 3 if f"{_BOX}.xconvs.1.weight" in state else 2
    first = lowest_number(state, r"backbone\.fpn\.fpn_inner(\d)\.", default=1)
    renaming = Renaming((*_BELOW_HEADS, *_heads(state)), first=first, members=members)
    out = without_background(renaming.read(_without_copies(kept)))
    scales = {int(name.split(".")[3]): value for name, value in state.items() if name.startswith(f"{_SCALES}.")}
    return {**out, _SCALES: torch.cat([scales[i].reshape(1) for i in sorted(scales)])} if scales else out


def _heads(state: State) -> tuple[Pair, ...]:
    if recognise(state) == _FCOS:
        return (*_FCOS_TOWERS, *_DENSE)
    dense = any(name.startswith("rpn.head.cls_tower.") for name in state)
    return (*_RETINANET_TOWERS, *_DENSE) if dense else _RCNN


def _without_copies(state: State) -> State:
    """A mask or keypoint branch that shares res5 with the box branch lists the same tensors again."""
    out = {}
    for key, value in state.items():
        first = re.sub(r"^roi_heads\.\w+", "roi_heads.box", key)
        same = _RES5 in key and first != key and first in state and torch.equal(state[first], value)
        if not same:
            out[key] = value
    return out
