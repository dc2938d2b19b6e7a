"""Names of the dense detectors of torchvision and detectron2 in detframe's, and their layouts.

Legend: T anchors of a cell, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

TORCHVISION_DENSE = "torchvision dense detector"
_CLS = "rpn.head.classification_head.cls_logits."
_BOX = "rpn.head.regression_head.bbox_reg."
_DETECTRON2 = {
    "head.cls_subnet.": "rpn.head.classification_head.conv.",
    "head.bbox_subnet.": "rpn.head.regression_head.conv.",
    "head.cls_score.": _CLS,
    "head.bbox_pred.": _BOX,
}


def torchvision_dense(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """torchvision's RetinaNet or FCOS: our names without "rpn."; None where the dict is of another program."""
    if "head.classification_head.cls_logits.weight" not in state:
        return None
    out = {re.sub(r"^head\.", "rpn.head.", key): value for key, value in state.items()}
    if any(".bbox_ctrness." in key for key in out):
        return out
    # RetinaNet before torchvision 0.13, as published: convolutions and ReLUs in one row
    return {block_of_pair(key): value for key, value in out.items()}


def block_of_pair(key: str) -> str:
    """The place of a convolution in a row of convolution, ReLU, convolution, ... as that of a block."""
    pattern = r"^(rpn\.head\.\w+_head\.conv)\.(\d+)\.(weight|bias)$"
    return re.sub(pattern, lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}", key)


def without_unused_class(state: dict[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision detector's class outputs without column 0 of each anchor, where the model has one class less.

    torchvision counts labels from 0 and data sets from 1, so that its column 0 never sees an object. A model trained on
    labels from 0 has as many columns as ours and stays as it is.
    """
    out = dict(state)
    anchors = len(state[f"{_BOX}weight"]) // 4
    for name in (f"{_CLS}weight", f"{_CLS}bias"):
        value = state[name]
        if name in target and len(value) == len(target[name]) + anchors:
            out[name] = value.unflatten(0, (anchors, -1))[:, 1:].flatten(0, 1)
    return out


def detectron2_retinanet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """detectron2's RetinaNet head in our names; other entries stay. For the order of its anchors see `anchor_order`."""
    if "head.bbox_pred.weight" not in state:
        return dict(state)
    out = {}
    for key, value in state.items():
        name = next((ours + key.removeprefix(d2) for d2, ours in _DETECTRON2.items() if key.startswith(d2)), key)
        out[block_of_pair(name)] = value
    return out
