"""Names of maskrcnn-benchmark and of FCOS, which grew out of it, in detframe's.

Facts: the keys of their checkpoints (stem.conv1, fpn_inner1..4, fpn_layer1..4, top_blocks, cls_tower, scales.0.scale).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

_HEAD = {
    "rpn.head.cls_tower.": "rpn.head.classification_head.conv.",
    "rpn.head.bbox_tower.": "rpn.head.regression_head.conv.",
    "rpn.head.cls_logits.": "rpn.head.classification_head.cls_logits.",
    "rpn.head.bbox_pred.": "rpn.head.regression_head.bbox_reg.",
    "rpn.head.centerness.": "rpn.head.regression_head.bbox_ctrness.",
}


def maskrcnn_benchmark(state: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """A state dict of FCOS in our names; None where it is of another program."""
    if not any(key.startswith(("backbone.body.stem.", "backbone.fpn.fpn_inner")) for key in state):
        return None
    levels = [int(m[1]) for key in state if (m := re.match(r"backbone\.fpn\.fpn_inner(\d)\.weight", key))]
    first = min(levels, default=1)
    out = {_name(key, first): value for key, value in state.items() if not key.startswith("rpn.head.scales.")}
    scales = {int(key.split(".")[3]): value for key, value in state.items() if key.startswith("rpn.head.scales.")}
    if scales:
        out["rpn.head.scales"] = torch.cat([scales[i].reshape(1) for i in sorted(scales)])
    return out


def _name(key: str, first_level: int) -> str:
    key = key.replace("backbone.body.stem.", "backbone.body.")
    key = key.replace("backbone.fpn.top_blocks.", "backbone.fpn.extra_blocks.")
    key = re.sub(
        r"^backbone\.fpn\.fpn_(inner|layer)(\d)\.",
        lambda m: f"backbone.fpn.{m[1]}_blocks.{int(m[2]) - first_level}.0.",
        key,
    )
    key = re.sub(r"^backbone\.body\.features\.(\d+)\.conv\.(\d)\.", _mobilenet_member, key)
    # a deformable convolution is a pair "offset" and "conv" there, and a convolution with an "offset" here
    key = re.sub(r"(\.conv2|_tower\.\d+)\.conv\.(weight|bias)$", r"\1.\2", key)
    for theirs, ours in _HEAD.items():
        key = key.replace(theirs, ours)
    return key


def _mobilenet_member(match: re.Match[str]) -> str:
    """FCOS numbers convolution, norm and ReLU6 of a block in one list; here they are one member, but for the last."""
    block, (layer, member) = int(match[1]), divmod(int(match[2]), 3)
    activated = 1 if block == 1 else 2  # the first block has no convolution to more channels
    name = f"{layer}.{member}" if layer < activated else f"{activated + member}"
    return f"backbone.body.features.{block}.conv.{name}."
