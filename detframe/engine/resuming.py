"""What `--resume` does with each key of the config that has changed since the checkpoint was written.

One table, `RULES`, says it: every key belongs to exactly one row. docs/many_gpus.md shows the table.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detframe.config import ConfigNode, get_cfg
from detframe.config.coerce import coerce
from detframe.engine.checkpoint import BEST, saved_config
from detframe.engine.place import REMEDY, Place
from detframe.errors import InvalidValueError
from detframe.parallel.collectives import world_size

logger = logging.getLogger(__name__)
FREE, CONTINUES, REFUSED = "free", "continues", "refused"


@dataclass(frozen=True)
class Rule:
    """What becomes of a change of these keys; a pattern that ends in a dot stands for all keys below.

    Attributes:
        kind: FREE (nothing that is learned changes), CONTINUES (it holds from here on), or REFUSED.
        meaning: for the log and the docs.
        measures: metrics before and after cannot be compared, so the best value so far is forgotten.
    """

    kind: str
    meaning: str
    patterns: tuple[str, ...]
    measures: bool = False


DATA_KEYS = ("DATASETS.TRAIN", "DATASETS.CATALOG", "DATASETS.LIMIT", "DATALOADER.EMPTY")
_ANCHORS = ("ASPECT_RATIOS", "ANCHOR_SIZES", "ANCHOR_STYLE", "ANCHOR_OFFSET", "ANCHOR_STEP", "BBOX_REG_WEIGHTS")


def _below(section: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names)


RULES: tuple[Rule, ...] = (
    Rule(
        FREE,
        "how the work is done or what is written; what is learned stays the same",
        (
            *("OUTPUT_DIR", "CUSTOM_IMPORTS", "DETERMINISTIC", "DATALOADER.NUM_WORKERS", "DATALOADER.ON_ERROR"),
            *_below("MODEL", "DEVICE", "CHANNELS_LAST", "COMPILE"),
            *_below("SOLVER", "CHECKPOINT_PERIOD", "KEEP_LAST", "LOG_PERIOD", "IMAGE_PERIOD", "ACCUMULATE_STEPS"),
            *_below("SOLVER", "EARLY_STOP_PATIENCE", "EARLY_STOP_MIN_DELTA", "REQUEUE_EXIT_CODE"),
            *_below("TEST", "EVAL_PERIOD", "IMS_PER_BATCH", "VISUALIZE"),
        ),
    ),
    Rule(
        FREE,
        "it is for the first weights, and a run that goes on takes those of its checkpoint",
        (
            *_below("MODEL", "WEIGHTS", "ALLOW_PARTIAL_WEIGHTS"),
            *("MODEL.FCOS.PRIOR_PROB", "MODEL.RETINANET.PRIOR_PROB"),
        ),
    ),
    Rule(
        CONTINUES,
        "the next step begins at the first image not seen yet; durations in epochs keep their length in images, those "
        "in iterations keep their number; the learning rate stays what SOLVER.BASE_LR says",
        ("SOLVER.IMS_PER_BATCH",),
    ),
    Rule(CONTINUES, "the run ends there", ("SOLVER.MAX_ITER",)),
    Rule(
        CONTINUES,
        "from here on the learning rate is that of the new schedule at this iteration",
        (
            *_below("SOLVER", "BASE_LR", "BIAS_LR_FACTOR", "BACKBONE_LR_FACTOR", "LR_SCHEDULE", "STEPS", "GAMMA"),
            *_below("SOLVER", "COSINE_END_FACTOR", "WARMUP_ITERS", "WARMUP_FACTOR", "WARMUP_METHOD"),
        ),
    ),
    Rule(
        CONTINUES,
        "it holds from the next step on, and the optimizer keeps its state",
        (
            *_below(
                "SOLVER", "MOMENTUM", "NESTEROV", "BETAS", "WEIGHT_DECAY", "WEIGHT_DECAY_BIAS", "WEIGHT_DECAY_NORM"
            ),
            *_below("SOLVER", "CLIP_GRAD_NORM", "CLIP_GRAD_VALUE", "AMP"),
        ),
    ),
    Rule(
        CONTINUES,
        "switched on, the average starts from the current weights; switched off, the raw weights are trained on and "
        "saved; another decay holds from the next step on",
        ("SOLVER.EMA_DECAY",),
    ),
    Rule(
        CONTINUES,
        "the images that are left of the window come in the new order; none comes twice or is left out",
        ("DATALOADER.ASPECT_RATIO_GROUPING",),
    ),
    Rule(CONTINUES, "the training images are the same, in the same order (others are refused)", DATA_KEYS),
    Rule(
        CONTINUES,
        "it holds for the images that are drawn from here on",
        (
            *_below("INPUT", "MIN_SIZE_TRAIN", "MIN_SIZE_TRAIN_SAMPLING", "MAX_SIZE_TRAIN", "FLIP_PROB", "LSJ."),
            *_below("INPUT", "VERTICAL_FLIP_PROB", "COPY_PASTE_PROB", "BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"),
        ),
    ),
    Rule(
        CONTINUES,
        "what is trained changes; the optimizer keeps its state of all that stays",
        ("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", "MODEL.FREEZE"),
    ),
    Rule(
        CONTINUES,
        "the same network, from here on with these targets, samples or losses",
        (
            "MODEL.DISTILL.",
            *_below("MODEL.RPN", "FG_IOU_THRESHOLD", "BG_IOU_THRESHOLD", "BOUNDARY_THRESH", "BATCH_SIZE_PER_IMAGE"),
            *_below("MODEL.RPN", "POSITIVE_FRACTION", "BOX_LOSS_TYPE", "SMOOTH_L1_BETA", "LOSS_NORMALIZER"),
            *_below("MODEL.RPN", "LOSS_WEIGHT", "BBOX_REG_LOSS_WEIGHT", "PRE_NMS_TOP_N_TRAIN", "POST_NMS_TOP_N_TRAIN"),
            *_below("MODEL.RPN", "FPN_POST_NMS_TOP_N_TRAIN", "FPN_POST_NMS_PER_BATCH"),
            *_below("MODEL.FCOS", "SIZES_OF_INTEREST", "RANGE_INCLUSIVE", "CENTER_SAMPLING_RADIUS", "IOU_LOSS_TYPE"),
            *_below("MODEL.FCOS", "IOU_SMOOTHING", "WEIGHT_BY_CENTERNESS", "SYNC_NORMALIZER", "LOSS_ALPHA"),
            *_below("MODEL.FCOS", "LOSS_GAMMA"),
            *_below("MODEL.RETINANET", "FG_IOU_THRESHOLD", "BG_IOU_THRESHOLD", "LOSS_ALPHA", "LOSS_GAMMA"),
            *_below("MODEL.RETINANET", "BOX_LOSS_TYPE", "SMOOTH_L1_BETA", "BBOX_REG_LOSS_WEIGHT"),
            *_below("MODEL.ROI_HEADS", "FG_IOU_THRESHOLD", "BG_IOU_THRESHOLD", "BATCH_SIZE_PER_IMAGE"),
            *_below("MODEL.ROI_HEADS", "POSITIVE_FRACTION"),
            *_below("MODEL.ROI_BOX_HEAD", "BOX_LOSS_TYPE", "SMOOTH_L1_BETA", "BBOX_REG_LOSS_WEIGHT"),
            *_below("MODEL.ROI_BOX_HEAD", "TRAIN_ON_PRED_BOXES"),
            *_below("MODEL.ROI_MASK_HEAD", "TARGET_MODE", "LOSS_WEIGHT"),
            *_below("MODEL.POINT_HEAD", "NUM_POINTS", "OVERSAMPLE", "IMPORTANCE"),
            *_below("MODEL.ROI_KEYPOINT_HEAD", "NORMALIZER", "LOSS_WEIGHT"),
        ),
    ),
    Rule(
        CONTINUES,
        "metrics before and after cannot be compared: the best value so far is forgotten, and its model kept as "
        "model_best_before_<iteration>.pth",
        (
            *("DATASETS.TEST", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST", "SOLVER.BEST_METRIC"),
            *_below("TEST", "EVALUATOR", "TT100K_SCORE_THRESH", "DETECTIONS_PER_IMG"),
            *_below("MODEL.RPN", "MIN_SIZE", "NMS_THRESH", "PRE_NMS_TOP_N_TEST", "POST_NMS_TOP_N_TEST", "POST_NMS_PER"),
            *_below("MODEL.RPN", "FPN_POST_NMS_TOP_N_TEST"),
            *_below("MODEL.FCOS", "INFERENCE_TH", "THRESH_WITH_CTR", "PRE_NMS_TOP_N", "NMS_TH"),
            *_below("MODEL.RETINANET", "INFERENCE_TH", "PRE_NMS_TOP_N", "NMS_TH", "CLIP_BEFORE_NMS", "MIN_SIZE"),
            *_below("MODEL.ROI_HEADS", "SCORE_THRESH", "NMS", "MIN_SIZE"),
            *_below("MODEL.POINT_HEAD", "SUBDIVISION_STEPS", "SUBDIVISION_POINTS"),
        ),
        measures=True,
    ),
    Rule(REFUSED, "its state means nothing to another optimizer", ("SOLVER.OPTIMIZER",)),
    Rule(
        REFUSED,
        "the order of the images and what is drawn for each follow from it; -1 keeps that of the run",
        ("SEED",),
    ),
    Rule(
        REFUSED,
        "the network has learned to see images in this form",
        _below("INPUT", "FORMAT", "PIXEL_MEAN", "PIXEL_STD"),
    ),
    Rule(
        REFUSED,
        "another architecture",
        (
            *_below("MODEL", "NUM_CLASSES", "LEGACY_BOXES", "BACKBONE.CONV_BODY", "MASK_ON", "KEYPOINT_ON"),
            *_below("MODEL", "RESNETS.", "MOBILENET.", "FPN.", "EFPN.", "ROI_BOX_CASCADE_HEAD."),
            *_below("MODEL.RPN", "NAME", "IN_FEATURES", "CONV_DEPTH", *_ANCHORS),
            *_below("MODEL.FCOS", "NUM_CONVS", "NORM", "USE_DCN_IN_TOWER", "LOCATION_OFFSET", "LOCATION_STEP"),
            *_below("MODEL.FCOS", "NORM_REG_TARGETS", "USE_SCALE", "CENTERNESS_ON_REG", "BOX_QUALITY"),
            *_below("MODEL.RETINANET", "NUM_CONVS", "NORM", "LOSS_NORMALIZER", *_ANCHORS),
            *_below("MODEL.ROI_HEADS", "NAME", "IN_FEATURES", "BBOX_REG_WEIGHTS"),
            *_below("MODEL.ROI_BOX_HEAD", "POOLER_RESOLUTION", "POOLER_SAMPLING_RATIO", "POOLER_ALIGNED"),
            *_below("MODEL.ROI_BOX_HEAD", "POOLER_CANONICAL_SIZE", "POOLER_CANONICAL_LEVEL", "NUM_CONV", "CONV_DIM"),
            *_below("MODEL.ROI_BOX_HEAD", "NORM", "NUM_FC", "MLP_HEAD_DIM", "FC_NORM", "CLS_AGNOSTIC_BBOX_REG"),
            *_below("MODEL.ROI_MASK_HEAD", "NAME", "POOLER_RESOLUTION", "POOLER_SAMPLING_RATIO", "NUM_CONV"),
            *_below("MODEL.ROI_MASK_HEAD", "CONV_DIM", "NORM", "CLS_AGNOSTIC_MASK"),
            *_below("MODEL.POINT_HEAD", "IN_FEATURE", "COARSE_SIDE", "COARSE_NUM_FC", "COARSE_FC_DIM", "NUM_FC"),
            *_below("MODEL.POINT_HEAD", "FC_DIM"),
            *_below("MODEL.ROI_KEYPOINT_HEAD", "NUM_KEYPOINTS", "POOLER_RESOLUTION", "POOLER_SAMPLING_RATIO"),
            *_below("MODEL.ROI_KEYPOINT_HEAD", "CONV_DIMS"),
        ),
    ),
)


@dataclass(frozen=True)
class Change:
    """A key whose value is another one than in the checkpoint."""

    key: str
    before: Any
    now: Any
    rule: Rule


def rules_of(key: str) -> list[Rule]:
    """The rows of the table in which a key stands."""
    return [
        rule
        for rule in RULES
        if any(key == pattern or (pattern.endswith(".") and key.startswith(pattern)) for pattern in rule.patterns)
    ]


def saved_leaves(content: Mapping[str, Any]) -> dict[str, Any]:
    """The effective config of a checkpoint by dotted keys; a key that its version did not have has its default.

    Raises:
        ValueError: it is no config, or a value is of another type than this version has there.
    """
    defaults, saved = dict(get_cfg().leaves()), _flat(saved_config(content), "")
    try:
        return {**defaults, **saved, **{key: coerce(key, saved[key], defaults[key]) for key in saved.keys() & defaults}}
    except ValueError as error:
        raise InvalidValueError(f"--resume: the config in the checkpoint: {error}") from None


def _flat(tree: Mapping[str, Any], path: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in tree.items():
        out.update(_flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": value})
    return out


def changes_since(before: Mapping[str, Any], cfg: ConfigNode) -> list[Change]:
    """What differs between a checkpoint's config and the effective one, in the order of the config."""
    return [
        Change(key, before[key], now, rules_of(key)[0])
        for key, now in cfg.leaves()
        if key in before and _comparable(before[key]) != _comparable(now)
    ]


def _comparable(value: Any) -> Any:
    return tuple(_comparable(entry) for entry in value) if isinstance(value, (list, tuple)) else value


def check_changes(changes: list[Change]) -> None:
    """Refuse what has no right meaning.

    Raises:
        ValueError: each such key with both values and the reason, and the remedy.
    """
    refused = [change for change in changes if change.rule.kind == REFUSED]
    if refused:
        lines = [
            f"  the run began with {c.key} {_shown(c.before)}, the config says {_shown(c.now)} ({c.rule.meaning})"
            for c in refused
        ]
        raise InvalidValueError(
            "--resume: a run cannot go on under these settings:\n"
            + "\n".join(lines)
            + f"\nGive those of the run, or {REMEDY}"
        )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else repr(value)


def log_changes(changes: list[Change], content: Mapping[str, Any], place: Place, cfg: ConfigNode) -> None:
    """Say what has changed since the checkpoint, and what that means."""
    for change in changes:
        logger.info(
            "--resume: %s %s -> %s: %s", change.key, _shown(change.before), _shown(change.now), change.rule.meaning
        )
    ranks = len(content["training"]["rng"])
    if ranks != world_size():
        logger.info("--resume: %d ranks -> %d: the same batches in the same order, divided anew", ranks, world_size())
    images, length = place.pace.images_at(content["training"]["iteration"]), place.data["count"]
    if len(place.pace.stretches) > 1:
        logger.info(
            "--resume: %d images seen, %.2f epochs; SOLVER.MAX_ITER %d makes it %.2f epochs (%.2f before)",
            images,
            images / length,
            cfg.SOLVER.MAX_ITER,
            place.pace.images_at(cfg.SOLVER.MAX_ITER) / length,
            planned_images(content["training"], place) / length,
        )


def is_finished(cfg: ConfigNode, content: Mapping[str, Any], place: Place) -> bool:
    """Whether the checkpoint is the end of a run that SOLVER.MAX_ITER does not make longer.

    With another batch, the same number of epochs may be more iterations; those are not more.
    """
    state = content["training"]
    if not state["finished"] or cfg.SOLVER.MAX_ITER <= state["max_iter"]:
        return bool(state["finished"])
    return place.pace.images_at(cfg.SOLVER.MAX_ITER) < planned_images(state, place) + place.pace.batch


def planned_images(state: Mapping[str, Any], place: Place) -> int:
    """The images that a run was to see when its checkpoint was written."""
    return int(state.get("max_images", state["max_iter"] * place.pace.stretches[0].batch))


def comparable(changes: list[Change]) -> bool:
    """Whether metrics before and after the changes mean the same."""
    return not any(change.rule.measures for change in changes)


def without_measures(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint without what was measured: the best value, and that its iteration was evaluated."""
    hooks = {name: state for name, state in content["training"]["hooks"].items() if name != "best"}
    hooks["evaluation"] = {**hooks.get("evaluation", {}), "last": -1}
    return {**content, "training": {**content["training"], "hooks": hooks}}


def keep_best(folder: Path, changes: list[Change], iteration: int) -> None:
    """Give the best model so far a name of its own where the next best one cannot be compared with it."""
    best = folder / BEST
    if not comparable(changes) and best.is_file():
        kept = folder / f"model_best_before_{iteration:07d}.pth"
        os.replace(best, kept)
        logger.info("--resume: %s was the best by the former measure; it is now %s", best, kept)
