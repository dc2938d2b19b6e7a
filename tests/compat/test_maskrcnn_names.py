"""Names of the FCOS repository's checkpoints for deformable convolutions and MobileNetV2."""

from __future__ import annotations

import pytest
import torch

from detframe.compat.names import translate
from detframe.modeling.backbones import MobileNetV2

PYRAMID = {"backbone.fpn.fpn_inner2.weight": torch.zeros(1), "rpn.head.centerness.weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("backbone.body.layer3.0.conv2.conv.weight", "backbone.body.layer3.0.conv2.weight"),
        ("backbone.body.layer3.0.conv2.offset.weight", "backbone.body.layer3.0.conv2.offset.weight"),
        ("rpn.head.cls_tower.9.conv.weight", "rpn.head.classification_head.conv.9.weight"),
        ("rpn.head.cls_tower.9.offset.bias", "rpn.head.classification_head.conv.9.offset.bias"),
        ("rpn.head.bbox_tower.9.conv.bias", "rpn.head.regression_head.conv.9.bias"),
        ("rpn.head.bbox_tower.0.weight", "rpn.head.regression_head.conv.0.weight"),
    ],
)
def test_deformable_convolutions(theirs: str, ours: str):
    kind, state = translate({"module." + theirs: torch.zeros(1), **PYRAMID})
    assert kind == "FCOS" and ours in state and len(state) == 3


def _original_names() -> list[str]:
    """Parameters and buffers of the original's MobileNetV2 in order, each block's layers in one list."""

    def members(prefix: str, first: int) -> list[str]:
        norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        return [f"{prefix}.{first}.weight", *(f"{prefix}.{first + 1}.{name}" for name in norm)]

    names = members("backbone.body.features.0", 0)
    for block in range(1, 18):
        for layer in range(2 if block == 1 else 3):
            names += members(f"backbone.body.features.{block}.conv", 3 * layer)
    return names


def test_mobilenet():
    ours = {f"backbone.body.{name}": value for name, value in MobileNetV2().state_dict().items()}
    theirs = dict(zip(_original_names(), ours.values(), strict=True))
    kind, state = translate({**theirs, **PYRAMID})
    del state["backbone.fpn.inner_blocks.0.0.weight"], state["rpn.head.regression_head.bbox_ctrness.weight"]
    assert kind == "FCOS" and list(state) == list(ours)
    assert all(state[name] is value for name, value in ours.items())
