"""Keys that were set and change nothing, since another key turns off what they are about."""

from __future__ import annotations

from collections.abc import Iterator

from detframe.config.keys.dense import OWN_RULES
from detframe.config.tree import ConfigNode

Idle = tuple[list[str], str]

_BY_FCOS = {"BOX_LOSS_TYPE": "MODEL.FCOS.IOU_LOSS_TYPE", "NMS_METRIC": "TEST.NMS_METRIC"}
_DENSE = {  # what a dense detector takes in place of keys of the RPN
    "FCOS": _BY_FCOS,
    "ATSS": _BY_FCOS,
    "GFL": {"BOX_LOSS_TYPE": "MODEL.GFL.BOX_LOSS_TYPE", "NMS_METRIC": "TEST.NMS_METRIC"},
    "TOOD": {"BOX_LOSS_TYPE": "MODEL.TOOD.BOX_LOSS_TYPE", "NMS_METRIC": "TEST.NMS_METRIC"},
    "RetinaNet": {"BOX_LOSS_TYPE": "MODEL.RETINANET.BOX_LOSS_TYPE", "NMS_METRIC": "TEST.NMS_METRIC"},
}
_PLACES = ("SIZES_OF_INTEREST", "RANGE_INCLUSIVE", "CENTER_SAMPLING_RADIUS")
_CLASSES = ("CLS_LOSS", "LOSS_ALPHA", "LOSS_GAMMA", "VARIFOCAL_ALPHA")
_LOSSES = ("BOX_QUALITY", "IOU_LOSS_TYPE", "IOU_SMOOTHING", "WEIGHT_BY_CENTERNESS", *_CLASSES)
_OTHERWISE = (*_PLACES, *_LOSSES, "NORM_REG_TARGETS", "CENTERNESS_ON_REG", "THRESH_WITH_CTR")
_OF_FCOS = {  # keys of MODEL.FCOS that its kin do not read
    "ATSS": _PLACES,
    "GFL": _OTHERWISE,
    "TOOD": (*_OTHERWISE, "NUM_CONVS"),
}
_ON_LOCATIONS = ("FCOS", *_OF_FCOS)
_IN_PLACE_OF_A_LIST = (
    "FLIP_PROB",
    "VERTICAL_FLIP_PROB",
    "LSJ.ON",
    "COPY_PASTE_PROB",
    "BRIGHTNESS",
    "CONTRAST",
    "SATURATION",
    "HUE",
)
_ON_ANCHORS = {"AnchorRPN": "MODEL.RPN", "RetinaNet": "MODEL.RETINANET"}  # where their anchors and thresholds stand
_ASSIGNMENT = {"ATSS": "atss", "NWD": "nwd", "RFLA": "rfla"}  # whose parameters begin so
_SCHEDULES = {  # what keys of other schedules begin with, of which some were there before and stand in many configs
    "step": ("POLYNOMIAL_", "ONE_CYCLE_"),
    "cosine": ("POLYNOMIAL_", "ONE_CYCLE_"),
    "polynomial": ("ONE_CYCLE_",),
    "one_cycle": ("POLYNOMIAL_", "WARMUP_"),
}
# What a number that is 0 switches off, and the keys of the optimizers that each does not have
_SWITCHED = {
    "SWA_START": ("SWA_PERIOD", "SWA_LR_FACTOR"),
    "CLIP_GRAD_NORM": ("CLIP_GRAD_NORM_PER",),
    "EARLY_STOP_PATIENCE": ("EARLY_STOP_MIN_DELTA",),
}
_OF_OTHERS = {"SGD": ("BETAS",), "AdamW": ("MOMENTUM", "NESTEROV")}
_OF_REGIONS = ("MODEL.ROI_HEADS.ASSIGNER", "MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE", "MODEL.ROI_BOX_HEAD.CLS_LOSS")
_OF_LOSSES = {  # keys of MODEL.ROI_BOX_HEAD that one of its CLS_LOSS reads
    "softmax_focal": ("FOCAL_GAMMA",),
    "federated": ("FEDERATED_CLASSES", "FEDERATED_POWER", "CLASS_FREQUENCIES"),
    "seesaw": ("SEESAW_P", "SEESAW_Q"),
}
_RESNETS = "MODEL.RESNETS."
_SECTIONS = {"R-": _RESNETS, "X-": _RESNETS, "W-": _RESNETS, "MNV2-": "MODEL.MOBILENET.", "timm/": ""}  # keys of bodies
_OF_EXTENDED_HEADS = ("SEPARATE_HEAD", "ROI_ASSIGNMENT", "DUPLICATE_UP_TO")  # keys of MODEL.EFPN, as all of these
_OF_CROPS = ("CROP_SIZE", "CROP_MARGIN")
_OF_BLOCKS = ("CONTENT_BLOCKS", "TEXTURE_BLOCKS")
_OF_TRANSFER = ("WIDTH", "UPSAMPLE", *_OF_BLOCKS, "ATTENTION.")
_OF_EXTRACTORS = {"residual": ("ATTENTION.",), "pointwise": _OF_TRANSFER, "swin": ("ATTENTION.HAT_",)}
_BY_DISTANCE = (
    "MODEL.RPN.BOX_LOSS_TYPE",
    "MODEL.RPN.NMS_METRIC",
    "MODEL.RETINANET.BOX_LOSS_TYPE",
    "MODEL.FCOS.IOU_LOSS_TYPE",
    "MODEL.GFL.BOX_LOSS_TYPE",
    "MODEL.TOOD.BOX_LOSS_TYPE",
    "MODEL.ROI_HEADS.ASSIGNER",
    "MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE",
    "TEST.NMS_METRIC",
)


_LAID_OVER = {  # what a config sets that others are laid over, by the keys with which these do without it
    "MODEL.EFPN.WIDTH": ("MODEL.EFPN.TRANSFER", "MODEL.EFPN.EXTRACTOR"),
    "MODEL.RPN.ANCHOR_SIZES": ("MODEL.RPN.ASSIGNER",),
    "MODEL.RPN.ASPECT_RATIOS": ("MODEL.RPN.ASSIGNER",),
    "MODEL.RETINANET.ANCHOR_SIZES": ("MODEL.RPN.ASSIGNER",),
    "MODEL.RETINANET.ASPECT_RATIOS": ("MODEL.RPN.ASSIGNER",),
    "MODEL.RESNETS.NORM": ("MODEL.BACKBONE.CONV_BODY",),
    "MODEL.MOBILENET.NORM": ("MODEL.BACKBONE.CONV_BODY",),
}


def without_effect(cfg: ConfigNode) -> Iterator[str]:
    """A sentence for each reason why keys that are not as by default change nothing.

    Not of those that every config of a kind sets, where another one, laid over it, does without them.
    """
    for idle, reason in idle_keys(cfg):
        keys = [key for key in idle if not any(cfg.overlaid(key, by) for by in _LAID_OVER.get(key, ()))]
        if keys:
            yield f"{', '.join(keys)} {'has' if len(keys) == 1 else 'have'} no effect: {reason}"


def idle_keys(cfg: ConfigNode) -> Iterator[Idle]:
    """The keys that are not as by default and change nothing, with the reason that those of a pair have in common."""
    set_keys = [key for key, statement, value in cfg.statements() if value != statement.default]
    yield from _tiles(cfg, set_keys)
    yield from _transforms(cfg, set_keys)
    yield from _dense(cfg, set_keys)
    yield from _assignment(cfg, set_keys)
    yield from _overlap(cfg, set_keys)
    yield from _bodies(cfg, set_keys)
    yield from _extended(cfg, set_keys)
    yield from _sampling(cfg, set_keys)
    yield from _schedule(cfg, set_keys)
    yield from _losses(cfg, set_keys)
    yield from _solver(cfg, set_keys)
    if "TEST.ASYNC" in set_keys and not cfg.TEST.EVAL_PERIOD:
        yield ["TEST.ASYNC"], "TEST.EVAL_PERIOD is 0, so that only the last weights are evaluated"
    regions = [key for key in set_keys if key in _OF_REGIONS]
    if regions and not cfg.MODEL.ROI_HEADS.NAME:
        yield regions, "MODEL.ROI_HEADS.NAME is empty, so that there are no ROI heads"
    if "MODEL.NWD_CONSTANT" in set_keys and all(cfg.at(key) != "nwd" for key in _BY_DISTANCE):
        yield ["MODEL.NWD_CONSTANT"], "no loss, NMS or assigner that it is for is 'nwd'"
    taught = [key for key in set_keys if key.startswith("MODEL.DISTILL.")]
    if taught and not cfg.MODEL.DISTILL.ON:
        yield taught, "MODEL.DISTILL.ON is False"


def _solver(cfg: ConfigNode, set_keys: list[str]) -> Iterator[Idle]:
    """Keys of what is switched off, and of the other optimizer. One of somebody's own may take them."""
    solver = cfg.SOLVER
    for switch, parts in _SWITCHED.items():
        keys = [f"SOLVER.{part}" for part in parts if f"SOLVER.{part}" in set_keys]
        if keys and not solver[switch]:
            yield keys, f"SOLVER.{switch} is 0"
    if solver.LR_RULE == "none" and "SOLVER.REFERENCE_BATCH" in set_keys:
        yield ["SOLVER.REFERENCE_BATCH"], "SOLVER.LR_RULE is 'none'"
    keys = [f"SOLVER.{key}" for key in _OF_OTHERS.get(solver.OPTIMIZER, ()) if f"SOLVER.{key}" in set_keys]
    if keys:
        yield keys, f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}"


def _tiles(cfg: ConfigNode, set_keys: list[str]) -> Iterator[Idle]:
    keys = [key for key in set_keys if key.startswith("INPUT.TILES.")]
    if keys and not cfg.INPUT.TILES.SIZE:
        yield keys, "INPUT.TILES.SIZE is 0, so that images stay whole"


def _sampling(cfg: ConfigNode, set_keys: list[str]) -> Iterator[Idle]:
    keys = [key for key in set_keys if key.startswith("DATALOADER.REPEAT_")]
    name, threshold = cfg.DATALOADER.SAMPLER, cfg.DATALOADER.REPEAT_THRESHOLD
    if keys and (name not in ("auto", "repeat_factor") or threshold == 0):
        why = "REPEAT_THRESHOLD is 0" if name == "auto" else f"SAMPLER is {name!r}"
        yield keys, f"DATALOADER.{why}"


def _schedule(cfg: ConfigNode, set_keys: list[str]) -> Iterator[Idle]:
    """Keys of another schedule than the one chosen. One of somebody's own may take them, whatever its name is."""
    name = cfg.SOLVER.LR_SCHEDULE
    others = [key for key in set_keys if any(key.startswith(f"SOLVER.{head}") for head in _SCHEDULES.get(name, ()))]
    if others:
        yield others, f"SOLVER.LR_SCHEDULE is {name!r}"


def _transforms(cfg: ConfigNode, set_keys: list[str]) -> Iterator[Idle]:
    """Keys of training images that a list of transforms stands in place of."""
    listed = bool(cfg.INPUT.TRANSFORMS)
    why = "INPUT.TRANSFORMS is the list of all that is done with a training image"
    keys = [key for key in set_keys if key.removeprefix("INPUT.") in (_IN_PLACE_OF_A_LIST if listed else ("CLOSE_AT",))]
    if keys:
        yield keys, why if listed else "INPUT.TRANSFORMS is empty"


def _dense(cfg: ConfigNode, set_keys: list[str]) -> Iterator[Idle]:
    """Keys of the RPN of a dense detector, which has others in their place."""
    name = cfg.MODEL.RPN.NAME
    for key, own in _DENSE.get(name, {}).items():
        if f"MODEL.RPN.{key}" in set_keys:
            yield [f"MODEL.RPN.{key}"], f"MODEL.RPN.NAME is {name!r}, which takes {own}"
    unread = [f"MODEL.FCOS.{key}" for key in _OF_FCOS.get(name, ())]
    others = tuple(f"MODEL.{head}." for head in _OF_FCOS if head != name)
    others += ("MODEL.DYHEAD.",) if name not in _ON_LOCATIONS else ()
    keys = [key for key in set_keys if key in unread or key.startswith(others)]
    if keys:
        yield keys, f"MODEL.RPN.NAME is {name!r}"


def _assignment(cfg: ConfigNode, set_keys: list[str]) -> Iterator[Idle]:
    kind, name = cfg.MODEL.RPN.ASSIGNER, cfg.MODEL.RPN.NAME
    kind = OWN_RULES.get(name, kind) if kind == "iou" else kind
    keys = []
    for key in set_keys:
        section, _, parameter = key.rpartition(".")
        if section != "MODEL.RPN.ASSIGNMENT":
            continue
        first = parameter.partition("_")[0]
        used = name in _ON_LOCATIONS and kind in ("atss", "nwd") if first == "FCOS" else kind == _ASSIGNMENT.get(first)
        if not used:
            keys.append(key)
    if keys:
        head = f" of {name}" if name in _DENSE else ""
        yield keys, f"MODEL.RPN.ASSIGNER{head} is {kind!r}"


def _overlap(cfg: ConfigNode, set_keys: list[str]) -> Iterator[Idle]:
    """Keys of the rule "iou" where anchors or locations are ranked."""
    kind, name = cfg.MODEL.RPN.ASSIGNER, cfg.MODEL.RPN.NAME
    if kind == "iou":
        return
    unread = [f"MODEL.FCOS.{key}" for key in _PLACES] if name == "FCOS" else []
    if name in _ON_ANCHORS:
        unread = [f"{_ON_ANCHORS[name]}.{bound}_IOU_THRESHOLD" for bound in ("FG", "BG")]
    keys = [key for key in set_keys if key in unread]
    if keys:
        yield keys, f"MODEL.RPN.ASSIGNER is {kind!r}, which ranks {'locations' if name == 'FCOS' else 'anchors'}"
    shapes = [f"{_ON_ANCHORS.get(name)}.{key}" for key in ("ANCHOR_SIZES", "ASPECT_RATIOS")] if kind == "rfla" else []
    keys = [key for key in set_keys if key in shapes]
    if keys:
        yield keys, "MODEL.RPN.ASSIGNER is 'rfla', whose receptive fields are the anchors"


def _losses(cfg: ConfigNode, set_keys: list[str]) -> Iterator[Idle]:
    """Keys of losses that are not chosen. One of somebody's own may read them, whatever its name is."""
    loss = cfg.MODEL.ROI_BOX_HEAD.CLS_LOSS if cfg.MODEL.ROI_HEADS.NAME else ""
    idle = [f"MODEL.ROI_BOX_HEAD.{key}" for name, keys in _OF_LOSSES.items() if name != loss for key in keys]
    idle += ["MODEL.LABEL_SMOOTHING"] if loss != "cross_entropy" else []
    keys = [key for key in set_keys if key in idle]
    if keys and not (cfg.CUSTOM_IMPORTS or cfg.PLUGINS):
        why = f"MODEL.ROI_BOX_HEAD.CLS_LOSS is {loss!r}" if loss else "MODEL.ROI_HEADS.NAME is empty"
        yield keys, why
    if "MODEL.CLASS_WEIGHTS" in set_keys and not loss and cfg.MODEL.RPN.NAME == "AnchorRPN":
        yield ["MODEL.CLASS_WEIGHTS"], "the RPN alone knows of no classes"


def norm_key(conv_body: str) -> str:
    """The key of the norms of a body; "" where it has none, as the models of timm bring their own.

    Args:
        conv_body: MODEL.BACKBONE.CONV_BODY. A name that begins as none of ours may be a body of somebody's own.
    """
    section = _section(conv_body)
    return f"{section}NORM" if section else ""


def _section(conv_body: str) -> str:
    """What the keys of a body begin with; "" where it has none."""
    return next((section for start, section in _SECTIONS.items() if conv_body.startswith(start)), _RESNETS)


def _bodies(cfg: ConfigNode, set_keys: list[str]) -> Iterator[Idle]:
    """Keys of ResNets or of MobileNetV2 where the body is another. One of somebody's own may read either."""
    body = cfg.MODEL.BACKBONE.CONV_BODY
    if cfg.CUSTOM_IMPORTS or cfg.PLUGINS or not body.startswith(tuple(_SECTIONS)):
        return
    own = _section(body)
    others = tuple(section for section in dict.fromkeys(_SECTIONS.values()) if section not in ("", own))
    keys = [key for key in set_keys if key.startswith(others)]
    if keys:
        yield keys, f"MODEL.BACKBONE.CONV_BODY {body!r} {f'reads {own}*' if own else 'has no such keys'}"


def _extended(cfg: ConfigNode, set_keys: list[str]) -> Iterator[Idle]:
    """Keys of an extended pyramid without one, or without the part of it that they are about. A body of somebody's own
    may take them, whatever its name is."""
    body, heads, efpn = cfg.MODEL.BACKBONE.CONV_BODY, cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.EFPN
    if cfg.CUSTOM_IMPORTS or cfg.PLUGINS:
        return
    if "EFPN" not in body.upper():
        keys = [key for key in set_keys if key.startswith("MODEL.EFPN.")]
        keys += ["MODEL.ROI_HEADS.NAME"] if heads == "ExtendedROIHeads" else []
        if keys:
            yield keys, f"MODEL.BACKBONE.CONV_BODY {body!r} is no extended pyramid, as 'R-50-EFPN' is"
        return
    for unread, reason in (
        (_OF_EXTENDED_HEADS if heads != "ExtendedROIHeads" else (), "MODEL.ROI_HEADS.NAME is not 'ExtendedROIHeads'"),
        (_OF_CROPS if not efpn.ON_CROPS else (), "MODEL.EFPN.ON_CROPS is False"),
        _unread_of_transfer(efpn),
        (
            ("DUPLICATE_UP_TO",) if heads == "ExtendedROIHeads" and efpn.ROI_ASSIGNMENT != "duplicate" else (),
            f"MODEL.EFPN.ROI_ASSIGNMENT is {efpn.ROI_ASSIGNMENT!r}",
        ),
    ):
        keys = [key for key in set_keys if key.startswith(tuple(f"MODEL.EFPN.{head}" for head in unread))]
        if keys:
            yield keys, reason


def _unread_of_transfer(efpn: ConfigNode) -> tuple[tuple[str, ...], str]:
    """What keys of the texture transfer begin with that its kind does not read, and why."""
    if efpn.TRANSFER == "plain":
        return (*_OF_TRANSFER, "EXTRACTOR", "SKIP"), "MODEL.EFPN.TRANSFER is 'plain'"
    return _OF_EXTRACTORS.get(efpn.EXTRACTOR, ()), f"MODEL.EFPN.EXTRACTOR is {efpn.EXTRACTOR!r}"
