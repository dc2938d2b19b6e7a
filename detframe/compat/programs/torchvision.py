"""Checkpoints of torchvision: Faster, Mask and Keypoint R-CNN, RetinaNet, FCOS, and classifiers, for backbones.

Facts: the keys of its models and of the files that it publishes, some of which have names of before 0.13. detframe has
its names for most. Classes count from 1 with the background first, as ours, but box deltas and masks have rows for the
background too, and a dense detector has a class 0 that never sees an object. Anchors run over the sizes fastest.

Legend: T anchors of a cell, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from detframe.compat.renaming import MASKS, PREDICTOR, Pair, Renaming, State, without_background
from detframe.compat.report import training_only

_CLASSIFIER = "torchvision classifier"
_DELTAS = f"{PREDICTOR}bbox_pred."
_CLS, _BOX = "rpn.head.classification_head.cls_logits.", "rpn.head.regression_head.bbox_reg."
# A score that the class which torchvision never uses cannot reach
_NEVER = -1e4
_TOWER = "head.{t=classification|regression}_head"
_PAIRS: tuple[Pair, ...] = (
    ("backbone.body.{o=conv1|bn1}.", "backbone.body.{o}."),
    ("backbone.body.layer{s}.{b}.{o=bn1|bn2|bn3|downsample}.", "backbone.body.layer{s}.{b}.{o}."),
    ("backbone.body.layer{s}.{b}.conv{c}.weight", "backbone.body.layer{s}.{b}.conv{c}.weight"),
    ("backbone.fpn.{k=inner|layer}_blocks.{i}.{m}.", "backbone.fpn.{k}_blocks.{i}.{m}."),
    ("backbone.fpn.{k=inner|layer}_blocks.{i}.{p=weight|bias}", "backbone.fpn.{k}_blocks.{i}.0.{p}"),  # before 0.13
    ("backbone.fpn.extra_blocks.", "backbone.fpn.extra_blocks."),
    (f"{_TOWER}.conv.{{i}}.{{m}}.", f"rpn.{_TOWER}.conv.{{i}}.{{m}}."),
    (f"{_TOWER}.conv.$row.{{p=weight|bias}}", f"rpn.{_TOWER}.conv.$place.{{p}}"),
    (f"{_TOWER}.{{o=cls_logits|bbox_reg|bbox_ctrness}}.", f"rpn.{_TOWER}.{{o}}."),
    ("rpn.head.conv.{i}.{m}.", "rpn.head.conv.{i}.{m}."),
    ("rpn.head.conv.{p=weight|bias}", "rpn.head.conv.0.0.{p}"),  # before 0.13
    ("rpn.head.{o=cls_logits|bbox_pred}.", "rpn.head.{o}."),
    ("roi_heads.box_head.{i}.{m=0|1}.", "roi_heads.box_head.convs.{i}.{m}."),
    ("roi_heads.box_head.$linear.{p=weight|bias}", "roi_heads.box_head.fc{i}.{p}"),
    (f"{PREDICTOR}{{o=cls_score|bbox_pred}}.", f"{PREDICTOR}{{o}}."),
    ("roi_heads.mask_head.{i}.", "roi_heads.mask.head.{i}."),
    ("roi_heads.mask_head.mask_fcn{i}.", "roi_heads.mask.head.{i-1}.0."),  # before 0.13
    ("roi_heads.mask_predictor.", "roi_heads.mask.predictor."),
    ("roi_heads.keypoint_head.", "roi_heads.keypoint.head."),
    ("roi_heads.keypoint_predictor.", "roi_heads.keypoint.predictor."),
)


def recognise(state: State) -> str:
    """An R-CNN by the box deltas of the background, which we do not have; a classifier by its first layers."""
    deltas, scores = state.get(f"{_DELTAS}weight"), state.get(f"{PREDICTOR}cls_score.weight")
    if deltas is not None and scores is not None and len(deltas) == 4 * len(scores):
        return "torchvision detector"
    if _CLS.removeprefix("rpn.") + "weight" in state:
        return "torchvision dense detector"
    return _CLASSIFIER if _beyond_the_body(state) else ""


def read(state: State, model: nn.Module | None) -> State:
    """A detector or a backbone in our names."""
    if recognise(state) == _CLASSIFIER:
        beyond = _beyond_the_body(state)
        return {f"backbone.body.{name}": value for name, value in state.items() if not name.startswith(beyond)}
    # a part of a dense head that torchvision's do not have is still one of a dense head
    out = without_background(_renaming(state, ("head.", "rpn.head.")).read(state))
    return out if model is None else without_unused_class(out, model.state_dict())


def write(model: nn.Module) -> State:
    """The state dict of torchvision's detector of the same kind; its outputs that are never used are zero."""
    return written(model.state_dict())


def written(state: Mapping[str, Tensor], like: Mapping[str, Tensor] | None = None) -> State:
    """A state dict of ours as torchvision's; outputs that it never uses as in `like`, a state dict of its own."""
    renaming = _renaming(state)
    out: State = {}
    for name, value in state.items():
        if training_only(name):
            continue
        # what torchvision has no place for gives nothing
        for theirs in renaming.write({name: value}):
            groups = _groups_with_unused_row(name, value, state)
            out[theirs] = _with_unused_rows(name, value, groups, None if like is None else like.get(theirs))
    return out


def without_unused_class(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> State:
    """A dense detector's class outputs without column 0 of each anchor, where the model has one class less.

    torchvision counts labels from 0 and data sets from 1, so that its column 0 never sees an object. A model trained on
    labels from 0 has as many columns as ours and stays as it is.
    """
    out = dict(state)
    for name in (f"{_CLS}weight", f"{_CLS}bias"):
        anchors = len(state.get(f"{_BOX}weight", ())) // 4
        if name in state and name in target and len(state[name]) == len(target[name]) + anchors:
            out[name] = state[name].unflatten(0, (anchors, -1))[:, 1:].flatten(0, 1)
    return out


def _renaming(state: Mapping[str, Tensor], *more: Pair) -> Renaming:
    """The pairs of a state dict of either, and more after them."""
    # RetinaNet before 0.13: convolutions and ReLUs in one row; FCOS: these and norms in one row, here too
    in_a_row = any(".bbox_ctrness." in name for name in state)
    # a box head with convolutions is one row: the blocks, Flatten, then linear layers and ReLUs in turn
    block = r"roi_heads\.box_head\.(?:convs\.)?(\d+)\.[01]\."
    blocks = len({m[1] for name in state if (m := re.match(block, name))})
    return Renaming(
        (*_PAIRS, *more),
        row="{i}" if in_a_row else "{2*i}",
        place="{i}" if in_a_row else "{i}.0",
        linear=f"{{2*i{blocks + 1 - 2 * 6:+d}}}" if blocks else "fc{i}",
    )


def _beyond_the_body(state: State) -> tuple[str, ...]:
    """How the layers after the backbone of a ResNet or a MobileNetV2 begin; none where it is no classifier of these."""
    if "conv1.weight" in state and any(name.startswith("layer1.0.") for name in state):
        return ("fc.",)
    # a 1x1 convolution to 1280 channels, and what stands on it
    return ("features.18.", "classifier.") if "features.2.conv.0.0.weight" in state else ()


def _groups_with_unused_row(name: str, value: Tensor, state: Mapping[str, Tensor]) -> int:
    """In how many groups of rows torchvision has one in front that it never uses; 0: in none."""
    if name.startswith(_CLS):
        return len(state[f"{_BOX}weight"]) // 4
    several = name.startswith(MASKS) and len(value) > 1
    return int(name.startswith(_DELTAS) or several)


def _with_unused_rows(name: str, value: Tensor, groups: int, like: Tensor | None) -> Tensor:
    if not groups:
        return value
    ours = value.unflatten(0, (groups, -1))
    shape = (groups, 4 if name.startswith(_DELTAS) else 1, *ours.shape[2:])
    rows = value.new_full(shape, _NEVER if name == f"{_CLS}bias" else 0.0)
    if like is not None:
        rows = like.unflatten(0, (groups, -1))[:, : shape[1]].to(value)
    return torch.cat([rows, ours], 1).flatten(0, 1)
