"""Names of parameters in other programs' checkpoints, translated into detframe's.

A translator takes a state dict and returns one in detframe's names, order and layout, or None where the dict is not of
its kind. detframe's own names are torchvision's for every part that torchvision has, so most go through unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from detframe.compat.branch_names import detectron2_branch, torchvision_branches
from detframe.compat.caffe2_names import MERGED, caffe2_body, caffe2_merged_body, detectron2_body
from detframe.compat.dense_names import TORCHVISION_DENSE, detectron2_retinanet, torchvision_dense
from detframe.compat.detectron_names import DETECTRON, DETECTRON_MERGED, detectron, detectron_merged
from detframe.compat.maskrcnn_names import fcos, maskrcnn_benchmark

State = dict[str, Tensor]
DETECTRON2, TORCHVISION_DETECTOR, OWN = "detectron2", "torchvision detector", "detframe"
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
_CLASS_SCORES = r"roi_heads\.box_predictor\.(\d\.)?cls_score\."
_FPN_BLOCKS = {"lateral": "inner_blocks", "output": "layer_blocks"}


def translate(state: Mapping[str, Tensor]) -> tuple[str, State]:
    """The kind of a state dict and its content in detframe's names.

    Rows of anchors stay in the order of the other program, see `anchor_order`.
    """
    cleaned = without_wrappers(state)
    for kind, translator in TRANSLATORS.items():
        out = translator(cleaned)
        if out is not None:
            return kind, out
    return OWN, cleaned


def without_wrappers(state: Mapping[str, Tensor]) -> State:
    """Names without what DataParallel ("module."), torch.compile ("_orig_mod.") and an object around ("model.") add."""
    out = {_WRAPPERS.sub("", key): value for key, value in state.items()}
    while out and all(key.startswith("model.") for key in out):
        out = {_WRAPPERS.sub("", key.removeprefix("model.")): value for key, value in out.items()}
    return {key.replace("._orig_mod.", "."): value for key, value in out.items()}


def _detectron2(state: State) -> State | None:
    """detectron2 0.6: bottom_up.res2.0.conv1.norm, fpn_lateral2, proposal_generator.rpn_head, box_predictor.

    Its classes count from 0 with the background last; ours from 1 with the background first.
    """
    if not any(key.startswith(("backbone.bottom_up.", "proposal_generator.")) for key in state):
        return None
    levels = [int(m[1]) for key in state if (m := re.match(r"backbone\.fpn_lateral(\d)\.", key))]
    out = {}
    for key, value in detectron2_retinanet(state).items():
        name = _detectron2_name(key, min(levels, default=2))
        if name is None:
            continue
        out[name] = _background_first(value) if re.match(_CLASS_SCORES, name) else value
    return out


def _detectron2_body_alone(state: State) -> State | None:
    body = detectron2_body(state)
    return None if body is None else _detectron2(body)


def _detectron2_name(key: str, first_level: int) -> str | None:
    if key.startswith(("pixel_", "anchor_generator.", "proposal_generator.anchor_generator")):
        return None
    key = _detectron2_body(key)
    key = re.sub(
        r"^backbone\.fpn_(lateral|output)(\d)\.",
        lambda m: f"backbone.fpn.{_FPN_BLOCKS[m[1]]}.{int(m[2]) - first_level}.0.",
        key,
    )
    key = key.replace("backbone.top_block.", "backbone.fpn.extra_blocks.")
    key = key.replace(".0.norm.", ".1.")
    key = re.sub(r"^proposal_generator\.rpn_head\.conv\.conv(\d)\.", r"rpn.head.conv.\1.0.", key)
    key = key.replace("proposal_generator.rpn_head.conv.", "rpn.head.conv.0.0.")
    key = key.replace("proposal_generator.rpn_head.objectness_logits.", "rpn.head.cls_logits.")
    key = key.replace("proposal_generator.rpn_head.anchor_deltas.", "rpn.head.bbox_pred.")
    return detectron2_branch(key)


def _detectron2_body(key: str) -> str:
    # without a pyramid the body is the backbone itself, and in a C4 detector its last stage stands on the regions
    key = re.sub(r"^backbone\.(stem|res\d)\.", r"backbone.bottom_up.\1.", key)
    key = key.replace("roi_heads.res5.", "backbone.bottom_up.res5.")
    key = key.replace("backbone.bottom_up.stem.conv1.norm.", "backbone.body.bn1.")
    key = key.replace("backbone.bottom_up.stem.conv1.", "backbone.body.conv1.")
    key = re.sub(r"^backbone\.bottom_up\.res(\d)\.", lambda m: f"backbone.body.layer{int(m[1]) - 1}.", key)
    key = key.replace(".shortcut.norm.", ".downsample.1.").replace(".shortcut.", ".downsample.0.")
    key = key.replace(".conv2_offset.", ".conv2.offset.")
    return re.sub(r"^(backbone\.body\..+)\.conv(\d)\.norm\.", r"\1.bn\2.", key)


def _background_first(value: Tensor) -> Tensor:
    return torch.cat([value[-1:], value[:-1]])


def _torchvision_detector(state: State) -> State | None:
    """torchvision's Faster R-CNN: the same names, but box deltas of the background too, which we do not have."""
    weight = state.get("roi_heads.box_predictor.bbox_pred.weight")
    score = state.get("roi_heads.box_predictor.cls_score.weight")
    if weight is None or score is None or len(weight) != 4 * len(score):
        return None
    out = dict(state)
    for name in ("weight", "bias"):
        key = f"roi_heads.box_predictor.bbox_pred.{name}"
        out[key] = state[key][4:]
    return _older_torchvision(torchvision_branches(out))


def _torchvision_dense(state: State) -> State | None:
    out = torchvision_dense(state)
    return None if out is None else _older_torchvision(out)


def _older_torchvision(state: State) -> State:
    """Names of torchvision before 0.13, which published weights still use."""
    out = {}
    for key, value in state.items():
        key = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2", key)
        key = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", key)
        out[key] = value
    return out


def _classifier(state: State) -> State | None:
    """A torchvision ResNet or MobileNetV2 trained for classification: the body alone."""
    if "conv1.weight" in state and any(key.startswith("layer1.0.") for key in state):
        beyond: tuple[str, ...] = ("fc.",)
    elif "features.2.conv.0.0.weight" in state:
        beyond = ("features.18.", "classifier.")  # a 1x1 convolution to 1280 channels, and what stands on it
    else:
        return None
    return {f"backbone.body.{key}": value for key, value in state.items() if not key.startswith(beyond)}


TRANSLATORS: dict[str, Callable[[State], State | None]] = {
    "FCOS": fcos,
    "maskrcnn-benchmark": maskrcnn_benchmark,
    DETECTRON2: _detectron2,
    TORCHVISION_DETECTOR: _torchvision_detector,
    TORCHVISION_DENSE: _torchvision_dense,
    "torchvision classifier": _classifier,
    "detectron2 body": _detectron2_body_alone,
    DETECTRON_MERGED: detectron_merged,
    DETECTRON: detectron,
    MERGED: caffe2_merged_body,
    "Caffe2 body": caffe2_body,
}
