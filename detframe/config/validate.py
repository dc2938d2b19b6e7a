"""What a config must satisfy beyond the type of each key. All findings are reported at once."""

from __future__ import annotations

from typing import Any

from detframe.config.config import DURATION_KEYS, ConfigNode
from detframe.config.durations import parse_duration
from detframe.errors import InvalidValueError

CHOICES: dict[str, tuple[str | int, ...]] = {
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "MODEL.RESNETS.RES5_DILATION": (1, 2),
    "MODEL.RESNETS.NORM": ("FrozenBN", "BN", "SyncBN", "GN"),
    "MODEL.MOBILENET.NORM": ("FrozenBN", "BN", "SyncBN"),
    "MODEL.FPN.NORM": ("", "GN", "BN", "SyncBN"),
    "MODEL.FPN.P6_FROM": ("P5", "C5"),
    "MODEL.FPN.TOP": ("auto", "maxpool", "p6p7", "none"),
    "MODEL.FPN.FUSE": ("sum", "avg"),
    "MODEL.FPN.UPSAMPLE": ("nearest", "bilinear"),
    "MODEL.FPN.IMAGE_FEATURE": ("res2", "res3", "res4", "res5"),
    "MODEL.EFPN.EXTRACTOR": ("residual", "swin", "hat"),
    "MODEL.EFPN.ROI_ASSIGNMENT": ("exclusive", "duplicate"),
    "MODEL.DISTILL.TEACHER": ("full", "enlarged"),
    "MODEL.ROI_BOX_HEAD.NORM": ("", "GN", "BN", "SyncBN"),
    "MODEL.ROI_BOX_HEAD.FC_NORM": ("", "GN"),
    "MODEL.ROI_MASK_HEAD.NORM": ("", "GN", "BN", "SyncBN"),
    "MODEL.ROI_MASK_HEAD.TARGET_MODE": ("exact", "soft"),
    "MODEL.ROI_KEYPOINT_HEAD.NORMALIZER": ("visible", "static"),
    "MODEL.RPN.LOSS_NORMALIZER": ("sampled", "batch_size"),
    "MODEL.RPN.POST_NMS_PER": ("image", "level"),
    "MODEL.RPN.ANCHOR_STEP": ("stride", "image"),
    "MODEL.RPN.ANCHOR_STYLE": ("torchvision", "exact", "detectron"),
    "MODEL.FCOS.NORM": ("", "GN"),
    "MODEL.FCOS.LOCATION_STEP": ("stride", "image"),
    "MODEL.FCOS.BOX_QUALITY": ("centerness", "iou"),
    "MODEL.FCOS.IOU_LOSS_TYPE": ("iou", "linear_iou", "giou"),
    "MODEL.RETINANET.ANCHOR_STEP": ("stride", "image"),
    "MODEL.RETINANET.ANCHOR_STYLE": ("torchvision", "exact", "detectron"),
    "MODEL.RETINANET.NORM": ("", "GN", "BN"),
    "MODEL.RETINANET.BOX_LOSS_TYPE": ("smooth_l1", "giou"),
    "MODEL.RETINANET.LOSS_NORMALIZER": ("batch", "image", "ema", "detectron"),
    "MODEL.RPN.BOX_LOSS_TYPE": ("smooth_l1", "giou"),
    "MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE": ("smooth_l1", "giou"),
    "DATALOADER.EMPTY": ("keep", "drop"),
    "DATALOADER.ON_ERROR": ("raise", "skip"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.AMP": ("auto", "off", "bf16", "fp16"),
}
POSITIVE = (
    "INPUT.LSJ.SIZE",
    "INPUT.LSJ.MIN_SCALE",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.ACCUMULATE_STEPS",
    "SOLVER.BASE_LR",
    "SOLVER.LOG_PERIOD",
    "TEST.IMS_PER_BATCH",
    "TEST.DETECTIONS_PER_IMG",
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.FPN.BIFPN_REPEATS",
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "MODEL.EFPN.WIDTH",
    "MODEL.EFPN.ATTENTION.WINDOW",
    "MODEL.EFPN.ATTENTION.HEADS",
    "MODEL.EFPN.ATTENTION.MLP_RATIO",
    "MODEL.EFPN.ATTENTION.HAT_DEPTH",
    "MODEL.EFPN.ATTENTION.HAT_COMPRESS",
    "MODEL.EFPN.ATTENTION.HAT_SQUEEZE",
    "MODEL.RESNETS.DEFORMABLE_GROUPS",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "MODEL.ROI_BOX_HEAD.CONV_DIM",
    "MODEL.RETINANET.PRE_NMS_TOP_N",
)
FRACTIONS = (
    "INPUT.FLIP_PROB",
    "INPUT.VERTICAL_FLIP_PROB",
    "INPUT.COPY_PASTE_PROB",
    "MODEL.RPN.POSITIVE_FRACTION",
    "MODEL.ROI_HEADS.POSITIVE_FRACTION",
    "MODEL.RPN.NMS_THRESH",
    "MODEL.ROI_HEADS.NMS",
    "MODEL.RPN.FG_IOU_THRESHOLD",
    "MODEL.RPN.BG_IOU_THRESHOLD",
    "MODEL.ROI_HEADS.FG_IOU_THRESHOLD",
    "MODEL.ROI_HEADS.BG_IOU_THRESHOLD",
    "MODEL.RETINANET.FG_IOU_THRESHOLD",
    "MODEL.RETINANET.BG_IOU_THRESHOLD",
    "MODEL.RETINANET.LOSS_ALPHA",
    "MODEL.RETINANET.INFERENCE_TH",
    "MODEL.RETINANET.NMS_TH",
    "MODEL.FCOS.PRIOR_PROB",
    "MODEL.FCOS.INFERENCE_TH",
    "MODEL.FCOS.NMS_TH",
    "TEST.TT100K_SCORE_THRESH",
)
NOT_NEGATIVE = (
    "DATASETS.LIMIT",
    "MODEL.NUM_CLASSES",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
    "INPUT.BRIGHTNESS",
    "INPUT.CONTRAST",
    "INPUT.SATURATION",
    "SOLVER.KEEP_LAST",
    "MODEL.EFPN.ATTENTION.HAT_OVERLAP",
    "MODEL.RPN.LOSS_WEIGHT",
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT",
    "MODEL.ROI_BOX_HEAD.NUM_CONV",
    "MODEL.ROI_BOX_HEAD.NUM_FC",
    "MODEL.RETINANET.NUM_CONVS",
    "MODEL.RETINANET.LOSS_GAMMA",
    "MODEL.RETINANET.SMOOTH_L1_BETA",
)


def validate(cfg: ConfigNode) -> None:
    """Check ranges, choices and keys that must agree.

    Raises:
        ValueError: a list of every finding, each with its key, its value, and where the value was set.
    """
    findings = [*_choices(cfg), *_ranges(cfg), *_durations(cfg), *_agreements(cfg)]
    if findings:
        raise InvalidValueError("the config has errors:\n" + "\n".join(f"  {line}" for line in findings))


def _value(cfg: ConfigNode, key: str) -> Any:
    node: Any = cfg
    for name in key.split("."):
        node = node[name]
    return node


def _finding(cfg: ConfigNode, key: str, wanted: str) -> str:
    return f"{key} must be {wanted}, not {_value(cfg, key)!r} (from {cfg.source(key)})"


def _choices(cfg: ConfigNode) -> list[str]:
    return [
        _finding(cfg, key, "one of " + ", ".join(repr(c) for c in allowed))
        for key, allowed in CHOICES.items()
        if _value(cfg, key) not in allowed
    ]


def _ranges(cfg: ConfigNode) -> list[str]:
    out = [_finding(cfg, key, "above 0") for key in POSITIVE if not _value(cfg, key) > 0]
    out += [_finding(cfg, key, "between 0 and 1") for key in FRACTIONS if not 0 <= _value(cfg, key) <= 1]
    out += [_finding(cfg, key, "0 or more") for key in NOT_NEGATIVE if not _value(cfg, key) >= 0]
    if not 0 <= cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT <= 5:
        out.append(_finding(cfg, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", "0 to 5"))
    if not 0 <= cfg.INPUT.HUE <= 0.5:
        out.append(_finding(cfg, "INPUT.HUE", "between 0 and 0.5"))
    if cfg.DATALOADER.NUM_WORKERS < -1:
        out.append(_finding(cfg, "DATALOADER.NUM_WORKERS", "0 or more, or -1 to choose it"))
    if not 0 <= cfg.SOLVER.EMA_DECAY < 1:
        out.append(_finding(cfg, "SOLVER.EMA_DECAY", "0 or more and below 1"))
    if cfg.SOLVER.IMS_PER_BATCH % cfg.SOLVER.ACCUMULATE_STEPS:
        out.append(
            _finding(cfg, "SOLVER.ACCUMULATE_STEPS", f"a divisor of SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH}")
        )
    return out


def _durations(cfg: ConfigNode) -> list[str]:
    out = []
    values = [(key, _value(cfg, key)) for key in sorted(DURATION_KEYS)]
    for key, value in [*values, *(("SOLVER.STEPS", step) for step in cfg.SOLVER.STEPS)]:
        try:
            parse_duration(value, 1, 1, key)
        except ValueError as error:
            out.append(f"{error} (from {cfg.source(key)})")
    return out


def _agreements(cfg: ConfigNode) -> list[str]:
    out = []
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    if not sizes or not all(isinstance(s, int) and s >= 0 for s in sizes):
        out.append(_finding(cfg, "INPUT.MIN_SIZE_TRAIN", "whole numbers, 0 or more"))
    elif cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range" and (len(sizes) != 2 or sizes[0] > sizes[1]):
        out.append(_finding(cfg, "INPUT.MIN_SIZE_TRAIN", 'two rising values (the SAMPLING is "range")'))
    for section in ("RPN", "RETINANET", "ROI_HEADS"):
        high = cfg.MODEL[section].FG_IOU_THRESHOLD
        if cfg.MODEL[section].BG_IOU_THRESHOLD > high:
            out.append(_finding(cfg, f"MODEL.{section}.BG_IOU_THRESHOLD", f"at most FG_IOU_THRESHOLD {high}"))
    stages = cfg.MODEL.RESNETS.STAGE_WITH_DCN
    if cfg.INPUT.LSJ.MAX_SCALE < cfg.INPUT.LSJ.MIN_SCALE:
        out.append(_finding(cfg, "INPUT.LSJ.MAX_SCALE", f"at least MIN_SCALE {cfg.INPUT.LSJ.MIN_SCALE}"))
    if len(stages) != 4 or not all(isinstance(stage, bool) for stage in stages):
        out.append(_finding(cfg, "MODEL.RESNETS.STAGE_WITH_DCN", "True or False for each of res2, res3, res4, res5"))
    for key in ("MASK_ON", "KEYPOINT_ON"):
        if cfg.MODEL[key] and not cfg.MODEL.ROI_HEADS.NAME:
            out.append(_finding(cfg, "MODEL.ROI_HEADS.NAME", f"the heads on regions that MODEL.{key} needs"))
    efpn = cfg.MODEL.EFPN
    if efpn.EXTRACTOR != "residual" and efpn.ATTENTION.HEADS > 0 and efpn.WIDTH % efpn.ATTENTION.HEADS:
        out.append(_finding(cfg, "MODEL.EFPN.ATTENTION.HEADS", f"a divisor of MODEL.EFPN.WIDTH {efpn.WIDTH}"))
    matched = cfg.MODEL.DISTILL.FEATURES
    if not matched or not set(matched) <= {"p2", "p3"}:
        out.append(_finding(cfg, "MODEL.DISTILL.FEATURES", 'one or both of "p2" and "p3"'))
    if not 0 < cfg.MODEL.RETINANET.PRIOR_PROB < 1:
        out.append(_finding(cfg, "MODEL.RETINANET.PRIOR_PROB", "above 0 and below 1"))
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.INPUT[key]) != 3:
            out.append(_finding(cfg, f"INPUT.{key}", "three numbers"))
    if any(not value > 0 for value in cfg.INPUT.PIXEL_STD):
        out.append(_finding(cfg, "INPUT.PIXEL_STD", "above 0"))
    return out
