"""Names of the branches on regions in other programs' checkpoints, in detframe's.

Facts: the keys of torchvision's and detectron2's checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

_Table = tuple[tuple[str, Callable[[re.Match[str]], str]], ...]
# torchvision's and detectron2's name -> ours
_TORCHVISION: _Table = (
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"roi_heads.mask.head.{int(m[1]) - 1}.0."),  # before 0.13
    (r"roi_heads\.mask_head\.", lambda m: "roi_heads.mask.head."),
    (r"roi_heads\.mask_predictor\.", lambda m: "roi_heads.mask.predictor."),
    (r"roi_heads\.keypoint_head\.", lambda m: "roi_heads.keypoint.head."),
    (r"roi_heads\.keypoint_predictor\.", lambda m: "roi_heads.keypoint.predictor."),
)
# PointRend's heads stood beside the mask head before they stood in it; its layers were "coarse_mask_fc1" before they
# were "fc1"
_COARSE, _POINT = (rf"roi_heads\.(?:mask_head\.{kind}_head|mask_{kind}_head)\." for kind in ("coarse", "point"))
_DETECTRON2: _Table = (
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.norm\.", lambda m: f"roi_heads.mask.head.{int(m[1]) - 1}.1."),
    (r"roi_heads\.mask_head\.mask_fcn(\d)\.", lambda m: f"roi_heads.mask.head.{int(m[1]) - 1}.0."),
    (rf"{_COARSE}reduce_spatial_dim_conv\.", lambda m: "roi_heads.mask.coarse.reduce.0."),
    (rf"{_COARSE}(?:coarse_mask_)?fc(\d+)\.", lambda m: f"roi_heads.mask.coarse.fcs.{int(m[1]) - 1}."),
    (rf"{_COARSE}prediction\.", lambda m: "roi_heads.mask.coarse.prediction."),
    (rf"{_POINT}fc(\d+)\.", lambda m: f"roi_heads.mask.point_head.fcs.{int(m[1]) - 1}."),
    (rf"{_POINT}predictor\.", lambda m: "roi_heads.mask.point_head.predictor."),
    (r"roi_heads\.mask_head\.deconv\.", lambda m: "roi_heads.mask.predictor.conv5_mask."),
    (r"roi_heads\.mask_head\.predictor\.", lambda m: "roi_heads.mask.predictor.mask_fcn_logits."),
    (r"roi_heads\.keypoint_head\.conv_fcn(\d)\.", lambda m: f"roi_heads.keypoint.head.{2 * int(m[1]) - 2}."),
    (r"roi_heads\.keypoint_head\.score_lowres\.", lambda m: "roi_heads.keypoint.predictor.kps_score_lowres."),
    # in a cascade a stage's number stands before the layer
    (r"(roi_heads\.box_head\.(?:\d\.)?)conv(\d)\.norm\.", lambda m: f"{m[1]}convs.{int(m[2]) - 1}.1."),
    (r"(roi_heads\.box_head\.(?:\d\.)?)conv(\d)\.", lambda m: f"{m[1]}convs.{int(m[2]) - 1}.0."),
    (r"(roi_heads\.box_head\.(?:\d\.)?)fc(\d)\.", lambda m: f"{m[1]}fc{int(m[2]) + 5}."),
)


def detectron2_branch(key: str) -> str:
    """A parameter of detectron2's box head, mask head or keypoint head; others as they are."""
    return _renamed(key, _DETECTRON2)


def torchvision_branches(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names; of its masks, one a class, that of the background, which it never uses, is left out."""
    out = {_renamed(key, _TORCHVISION): value for key, value in _torchvision_box_head(state).items()}
    classes = out.get("roi_heads.box_predictor.cls_score.weight")
    for name in ("weight", "bias"):
        key = f"roi_heads.mask.predictor.mask_fcn_logits.{name}"
        if key in out and classes is not None and len(out[key]) == len(classes):
            out[key] = out[key][1:]
    return out


def _torchvision_box_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A box head with convolutions under our names: there it is a row of blocks, Flatten, linear layers and ReLUs."""
    block = r"roi_heads\.box_head\.(\d+)\.([01])\."
    num_conv = len({m[1] for key in state if (m := re.match(block, key))})
    rules: _Table = (
        (block, lambda m: f"roi_heads.box_head.convs.{m[1]}.{m[2]}."),
        (
            r"roi_heads\.box_head\.(\d+)\.(?=weight|bias)",
            lambda m: f"roi_heads.box_head.fc{6 + (int(m[1]) - num_conv - 1) // 2}.",
        ),
    )
    return {_renamed(key, rules): value for key, value in state.items()}


def _renamed(key: str, table: _Table) -> str:
    for pattern, name in table:
        renamed = re.sub(rf"^{pattern}", name, key)
        if renamed != key:
            return renamed
    return key
