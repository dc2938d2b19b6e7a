"""Checkpoints of detectron2: Faster, Mask, Keypoint and Cascade R-CNN, RetinaNet, PointRend, and backbones alone.

Facts: the keys of detectron2 0.6 (bottom_up.res2.0.conv1.norm, fpn_lateral2, proposal_generator.rpn_head). Its classes
count from 0 with the background last; ours from 1 with the background first. Its anchors run over the ratios fastest.
"""

from __future__ import annotations

import re

from torch import nn

from detframe.compat.renaming import (
    DENSE_OUTPUTS,
    PREDICTOR,
    RPN_OUTPUTS,
    Pair,
    Renaming,
    State,
    anchor_grid,
    lowest_number,
    ratios_fastest,
    res5_in_the_body,
    sizes_fastest,
)
from detframe.compat.report import training_only

_BELOW_PYRAMID, _ALONE = "backbone.bottom_up", "backbone"
_CLASS_SCORES = re.compile(re.escape(PREDICTOR) + r"(\d\.)?cls_score\.")
_NO_WEIGHTS = ("pixel_", "anchor_generator.", "proposal_generator.anchor_generator")
_CLASSIFIER = ("linear.", "stem.fc.")
# in a C4 detector the last stage is the box head
_STAGES = (("$bottom.res{s}", "backbone.body.layer{s-1}"), ("roi_heads.res5", "roi_heads.box_head.layer4"))
_MEMBERS: tuple[Pair, ...] = (
    (".{b}.conv{c}.norm.", ".{b}.bn{c}."),
    (".{b}.conv2_offset.", ".{b}.conv2.offset."),
    (".{b}.conv{c}.", ".{b}.conv{c}."),
    (".{b}.shortcut.norm.", ".{b}.downsample.1."),
    (".{b}.shortcut.", ".{b}.downsample.0."),
)
_BOX_HEAD: tuple[Pair, ...] = (
    ("conv{i}.norm.", "convs.{i-1}.1."),
    ("conv{i}.", "convs.{i-1}.0."),
    ("fc{i}.{p=weight|bias}", "fc{i+5}.{p}"),
)
_PAIRS: tuple[Pair, ...] = (
    ("$bottom.stem.conv1.norm.", "backbone.body.bn1."),
    ("$bottom.stem.conv1.", "backbone.body.conv1."),
    *((theirs + a, ours + b) for theirs, ours in _STAGES for a, b in _MEMBERS),
    ("backbone.fpn_{k=lateral|output}{l}.norm.", "backbone.fpn.{k=inner|layer}_blocks.{l-$first}.1."),
    ("backbone.fpn_{k=lateral|output}{l}.", "backbone.fpn.{k=inner|layer}_blocks.{l-$first}.0."),
    ("backbone.top_block.", "backbone.fpn.extra_blocks."),
    ("proposal_generator.rpn_head.conv.$conv", "rpn.head.conv.$place"),
    ("proposal_generator.rpn_head.objectness_logits.", "rpn.head.cls_logits."),
    ("proposal_generator.rpn_head.anchor_deltas.", "rpn.head.bbox_pred."),
    # RetinaNet: convolutions and ReLUs in one row there, blocks here
    (
        "head.{t=cls|bbox}_subnet.{2*i}.{p=weight|bias}",
        "rpn.head.{t=classification|regression}_head.conv.{i}.0.{p}",
    ),
    ("head.cls_score.", "rpn.head.classification_head.cls_logits."),
    ("head.bbox_pred.", "rpn.head.regression_head.bbox_reg."),
    # in a cascade a stage's number stands before the layer
    *((f"roi_heads.box_head.{s}{a}", f"roi_heads.box_head.{s}{b}") for s in ("", "{s}.") for a, b in _BOX_HEAD),
    (PREDICTOR, PREDICTOR),
    ("roi_heads.mask_head.mask_fcn{i}.norm.", "roi_heads.mask.head.{i-1}.1."),
    ("roi_heads.mask_head.mask_fcn{i}.", "roi_heads.mask.head.{i-1}.0."),
    ("roi_heads.mask_head.deconv.", "roi_heads.mask.predictor.conv5_mask."),
    ("roi_heads.mask_head.predictor.", "roi_heads.mask.predictor.mask_fcn_logits."),
    ("roi_heads.keypoint_head.conv_fcn{i}.", "roi_heads.keypoint.head.{2*i-2}."),
    ("roi_heads.keypoint_head.score_lowres.", "roi_heads.keypoint.predictor.kps_score_lowres."),
)
# PointRend's heads stood beside the mask head before they stood in it; its layers were "coarse_mask_fc1" before they
# were "fc1"
_POINT_REND: tuple[Pair, ...] = tuple(
    (f"roi_heads.{theirs}", f"roi_heads.mask.{ours}")
    for coarse, point in (("mask_head.coarse_head", "mask_head.point_head"), ("mask_coarse_head", "mask_point_head"))
    for theirs, ours in (
        (f"{coarse}.reduce_spatial_dim_conv.", "coarse.reduce.0."),
        (f"{coarse}.fc{{i}}.", "coarse.fcs.{i-1}."),
        (f"{coarse}.coarse_mask_fc{{i}}.", "coarse.fcs.{i-1}."),
        (f"{coarse}.prediction.", "coarse.prediction."),
        (f"{point}.fc{{i}}.", "point_head.fcs.{i-1}."),
        (f"{point}.predictor.", "point_head.predictor."),
    )
)


def recognise(state: State) -> str:
    """A detector by where its backbone or its RPN stands; a backbone alone by its stem."""
    if any(name.startswith((f"{_BELOW_PYRAMID}.", "proposal_generator.")) for name in state):
        return "detectron2"
    return "detectron2 body" if "stem.conv1.weight" in state else ""


def read(state: State, model: nn.Module | None) -> State:
    """A detector or a backbone in our names."""
    if "stem.conv1.weight" in state:
        state = {f"{_ALONE}.{name}": v for name, v in state.items() if not name.startswith(_CLASSIFIER)}
    kept = {name: value for name, value in state.items() if not name.startswith(_NO_WEIGHTS)}
    alone = any(re.match(r"backbone\.(stem|res\d)\.", name) for name in kept)
    several = any(name.startswith("proposal_generator.rpn_head.conv.conv") for name in kept)
    first = lowest_number(kept, r"backbone\.fpn_lateral(\d)\.", default=2)
    out = res5_in_the_body(_renaming(first, alone, several).read(kept))
    out = {name: value.roll(1, 0) if _CLASS_SCORES.match(name) else value for name, value in out.items()}
    return sizes_fastest(out, anchor_grid(model), (*RPN_OUTPUTS, *DENSE_OUTPUTS))


def write(model: nn.Module) -> State:
    """The state dict of detectron2's detector of the same kind."""
    state = ratios_fastest(model.state_dict(), anchor_grid(model), (*RPN_OUTPUTS, *DENSE_OUTPUTS))
    kept = {
        name: value.roll(-1, 0) if _CLASS_SCORES.match(name) else value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked") and not training_only(name)
    }
    levels = {m[1] for name in kept if (m := re.match(r"backbone\.fpn\.inner_blocks\.(\d)\.", name))}
    several = any(name.startswith("rpn.head.conv.1.") for name in kept)
    return _renaming(6 - len(levels), alone=not levels, several=several).write(kept)


def _renaming(first: int, alone: bool, several: bool) -> Renaming:
    """The pairs of a detector.

    Args:
        first: the number of the pyramid's finest level.
        alone: there is no pyramid; then the bottom-up network is the backbone itself.
        several: the RPN has more than one convolution; then they are numbered.
    """
    return Renaming(
        (*_PAIRS, *_POINT_REND),
        first=first,
        bottom=_ALONE if alone else _BELOW_PYRAMID,
        conv="conv{i}." if several else "",
        place="{i}.0." if several else "0.0.",
    )
