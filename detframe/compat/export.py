"""detframe's weights for torchvision and detectron2: names, order and layout of theirs.

An exported state dict is read back before it is handed out, so that what the other program has no place for is an error
and never a silent loss.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from detframe.compat.anchor_order import DENSE_OUTPUTS, RPN_OUTPUTS, Grid, anchor_grid, ratios_fastest, sizes_fastest
from detframe.compat.names import translate
from detframe.compat.report import TRAINING_ONLY
from detframe.errors import InvalidValueError, listed

State = dict[str, Tensor]
Rule = tuple[str, Callable[[re.Match[str]], str]]
_DENSE_CLASSES = "rpn.head.classification_head.cls_logits."
_MASKS = "roi_heads.mask.predictor.mask_fcn_logits."
_RES5 = "roi_heads.box_head.layer4."
_DELTAS = "roi_heads.box_predictor.bbox_pred."
_KNOWN = {
    "torchvision": r"(backbone\.(body|fpn)|rpn\.head|head|roi_heads\.(box_head\.(fc\d\.[a-z]|\d+\.(\d\.)?[a-z_]+$)|"
    r"box_predictor\.[a-z]|mask_head|mask_predictor|keypoint_head|keypoint_predictor))",
    "detectron2": r"(backbone\.(bottom_up|stem|res\d|fpn_(lateral|output)\d|top_block)|proposal_generator\.rpn_head|"
    r"head\.(cls_subnet|bbox_subnet|cls_score|bbox_pred)|"
    r"roi_heads\.(box_head\.(\d\.)?(fc|conv)\d\.[a-z]|box_predictor|mask_head|keypoint_head|res5))",
}
# A score that the class which torchvision never uses cannot reach
_NEVER = -1e4

_TO_TORCHVISION: tuple[Rule, ...] = (
    (r"roi_heads\.mask\.head\.", lambda m: "roi_heads.mask_head."),
    (r"roi_heads\.mask\.predictor\.", lambda m: "roi_heads.mask_predictor."),
    (r"roi_heads\.keypoint\.head\.", lambda m: "roi_heads.keypoint_head."),
    (r"roi_heads\.keypoint\.predictor\.", lambda m: "roi_heads.keypoint_predictor."),
)
_TO_DETECTRON2: tuple[Rule, ...] = (
    (r"(roi_heads\.box_head)\.(layer4)\.", lambda m: "roi_heads.res5."),
    (r"rpn\.head\.conv\.(\d)\.0\.", lambda m: f"proposal_generator.rpn_head.conv.conv{m[1]}."),
    (r"rpn\.head\.cls_logits\.", lambda m: "proposal_generator.rpn_head.objectness_logits."),
    (r"rpn\.head\.bbox_pred\.", lambda m: "proposal_generator.rpn_head.anchor_deltas."),
    (r"(roi_heads\.box_head\.(?:\d\.)?)convs\.(\d)\.0\.", lambda m: f"{m[1]}conv{int(m[2]) + 1}."),
    (r"(roi_heads\.box_head\.(?:\d\.)?)convs\.(\d)\.1\.", lambda m: f"{m[1]}conv{int(m[2]) + 1}.norm."),
    (r"(roi_heads\.box_head\.(?:\d\.)?)fc(\d)\.", lambda m: f"{m[1]}fc{int(m[2]) - 5}."),
    (r"roi_heads\.mask\.head\.(\d)\.0\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}."),
    (r"roi_heads\.mask\.head\.(\d)\.1\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.norm."),
    (r"roi_heads\.mask\.predictor\.conv5_mask\.", lambda m: "roi_heads.mask_head.deconv."),
    (r"roi_heads\.mask\.predictor\.mask_fcn_logits\.", lambda m: "roi_heads.mask_head.predictor."),
    (r"roi_heads\.keypoint\.head\.(\d+)\.", lambda m: f"roi_heads.keypoint_head.conv_fcn{int(m[1]) // 2 + 1}."),
    (r"roi_heads\.keypoint\.predictor\.kps_score_lowres\.", lambda m: "roi_heads.keypoint_head.score_lowres."),
    (r"rpn\.head\.classification_head\.conv\.(\d)\.0\.", lambda m: f"head.cls_subnet.{2 * int(m[1])}."),
    (r"rpn\.head\.regression_head\.conv\.(\d)\.0\.", lambda m: f"head.bbox_subnet.{2 * int(m[1])}."),
    (r"rpn\.head\.classification_head\.cls_logits\.", lambda m: "head.cls_score."),
    (r"rpn\.head\.regression_head\.bbox_reg\.", lambda m: "head.bbox_pred."),
    (r"backbone\.fpn\.extra_blocks\.", lambda m: "backbone.top_block."),
)


def to_torchvision(state: Mapping[str, Tensor], like: Mapping[str, Tensor] | None = None) -> State:
    """The state dict of torchvision's Faster, Mask or Keypoint R-CNN, RetinaNet or FCOS with these weights.

    torchvision keeps outputs for the background that it never uses, and we do not have. They become zero (for a dense
    detector: a score that is never reached), or what they are in `like`.

    Args:
        state: that of a detframe model.
        like: the torchvision state dict that the weights once came from.

    Raises:
        ValueError: torchvision has no place for some of it.
    """
    dense = f"{_DENSE_CLASSES}weight" in state
    rules = (*_TO_TORCHVISION, *_torchvision_box_head(state))
    out: State = {}
    for name, value in state.items():
        if name in TRAINING_ONLY:
            continue
        theirs = re.sub(r"^rpn\.head\.", "head.", name) if dense else _renamed(name, rules)
        unused = _unused_rows(name, value, state)
        if unused:
            groups = value.unflatten(0, (unused, -1)) if dense else value[None]
            shape = (len(groups), 4 if name.startswith(_DELTAS) else 1, *groups.shape[2:])
            rows = value.new_full(shape, _NEVER if dense and name.endswith("bias") else 0.0)
            if like is not None and theirs in like:
                rows = like[theirs].unflatten(0, (len(groups), -1))[:, : shape[1]].to(value)
            value = torch.cat([rows, groups], 1).flatten(0, 1)
        out[theirs] = value
    return _checked("torchvision", out, state, dense)


def _torchvision_box_head(state: Mapping[str, Tensor]) -> tuple[Rule, ...]:
    """A box head with convolutions is one row there: the blocks, Flatten, then linear layers and ReLUs in turn."""
    num_conv = len({m[1] for name in state if (m := re.match(r"roi_heads\.box_head\.convs\.(\d+)\.", name))})
    if not num_conv:
        return ()
    return (
        (r"roi_heads\.box_head\.convs\.", lambda m: "roi_heads.box_head."),
        (
            r"roi_heads\.box_head\.fc(\d)\.(?=weight|bias)",
            lambda m: f"roi_heads.box_head.{num_conv + 1 + 2 * (int(m[1]) - 6)}.",
        ),
    )


def _unused_rows(name: str, value: Tensor, state: Mapping[str, Tensor]) -> int:
    """In how many groups of rows torchvision has one for the background in front; 0: in none."""
    if name.startswith(_DENSE_CLASSES):
        return len(state["rpn.head.regression_head.bbox_reg.weight"]) // 4
    several = name.startswith(_MASKS) and len(value) > 1
    return int(name.startswith(_DELTAS) or several)


def to_detectron2(model: nn.Module) -> State:
    """The state dict of detectron2's Faster, Mask, Keypoint or Cascade R-CNN or RetinaNet with a model's weights.

    Raises:
        ValueError: detectron2 has no place for some of it.
    """
    state, grid = model.state_dict(), anchor_grid(model)
    levels = {int(m[1]) for name in state if (m := re.match(r"backbone\.fpn\.inner_blocks\.(\d)\.", name))}
    first = 6 - len(levels)
    single, single_rpn_conv = not levels, not any(name.startswith("rpn.head.conv.1.") for name in state)
    out: State = {}
    for name, value in ratios_fastest(state, grid, (*RPN_OUTPUTS, *DENSE_OUTPUTS)).items():
        if name.endswith("num_batches_tracked") or name in TRAINING_ONLY:
            continue
        if re.match(r"roi_heads\.box_predictor\.(\d\.)?cls_score\.", name):
            value = torch.cat([value[1:], value[:1]])
        out[_detectron2_name(name, first, single, single_rpn_conv)] = value
    return _checked("detectron2", out, state, dense=False, grid=grid)


def _detectron2_name(name: str, first_level: int, single: bool, single_rpn_conv: bool) -> str:
    renamed = _renamed(name, _TO_DETECTRON2)
    if single_rpn_conv:
        renamed = renamed.replace("rpn_head.conv.conv0.", "rpn_head.conv.")
    blocks = {"inner": "lateral", "layer": "output"}
    renamed = re.sub(
        r"^backbone\.fpn\.(inner|layer)_blocks\.(\d)\.([01])\.",
        lambda m: f"backbone.fpn_{blocks[m[1]]}{int(m[2]) + first_level}." + ("norm." if m[3] == "1" else ""),
        renamed,
    )
    bottom = "backbone." if single else "backbone.bottom_up."
    renamed = re.sub(r"^backbone\.body\.conv1\.", f"{bottom}stem.conv1.", renamed)
    renamed = re.sub(r"^backbone\.body\.bn1\.", f"{bottom}stem.conv1.norm.", renamed)
    renamed = re.sub(r"^backbone\.body\.layer(\d)\.", lambda m: f"{bottom}res{int(m[1]) + 1}.", renamed)
    renamed = renamed.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")
    if re.match(r"(backbone\.(bottom_up\.)?res\d|roi_heads\.res5)\.", renamed):
        renamed = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", renamed)
    return renamed


def _renamed(name: str, rules: tuple[Rule, ...]) -> str:
    for pattern, build in rules:
        renamed = re.sub(rf"^{pattern}", build, name)
        if renamed != name:
            return renamed
    return name


def _checked(
    program: str, exported: State, state: Mapping[str, Tensor], dense: bool, grid: Grid | None = None
) -> State:
    """`exported`, if reading it gives `state` back; `grid` where the order of anchors was changed."""
    back = sizes_fastest(translate(exported)[1], grid, (*RPN_OUTPUTS, *DENSE_OUTPUTS))
    if any(name.startswith(_RES5) for name in state):  # it reads as the body's last stage, and loading puts it here
        back = {name.replace("backbone.body.layer4.", _RES5): value for name, value in back.items()}
    kept = [name for name in state if not name.endswith("num_batches_tracked") and name not in TRAINING_ONLY]
    missing = [name for name in kept if name not in back]
    # the class that a dense detector of torchvision does not use is left out where the model is known, when loading
    same = [name for name, value in back.items() if name in state and value.shape == state[name].shape]
    changed = [name for name in same if not torch.equal(back[name], state[name])]
    foreign = [name for name in back if name not in state]
    unlike = [name for name in back if name in state and name not in same]
    odd = [name for name in unlike if not (dense and name.startswith(_DENSE_CLASSES))]
    unknown = [name for name in exported if not re.match(_KNOWN[program], name)]
    wrong = [*unknown, *missing, *changed, *foreign, *odd]
    if wrong:
        raise InvalidValueError(f"{program} has no place for these weights: {listed(wrong, 5)}")
    return exported
