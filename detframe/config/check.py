"""What a config must satisfy: what each key states, and keys that must agree. All findings are reported at once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from detframe.config.bounds import Duration, Each, Name, Rule, complaints, shown
from detframe.config.durations import is_zero
from detframe.config.effects import without_effect
from detframe.config.keys import ADDED
from detframe.config.plugins import requirements
from detframe.config.tree import ConfigNode
from detframe.errors import InvalidValueError, UnknownNameError
from detframe.registry import Registry

_LONGEST_SIDE = 2**16  # of a training image, in pixels
_WIDEST = 2**12  # channels of a ResNet's first stage
_COLOURS = 3
_FINEST_MASK = 2**11  # pixels of its side
Findings = Iterator[tuple[str, str]]  # key, what it must be


def validate(cfg: ConfigNode) -> None:
    """Check what each key states, and keys that must agree.

    Raises:
        ValueError: a list of every finding, each with its key, its value, and where the value was set.
    """
    check_values(cfg)  # what agrees is asked of sound values alone
    rows = [*_solver(cfg), *_data(cfg), *_input(cfg), *_heads(cfg), *_efpn(cfg), *_test(cfg)]
    _refuse([_misfit(cfg, key, wanted) for key, wanted in rows])


def check_values(cfg: ConfigNode, section: str = "", choices: bool = False) -> None:
    """Check what each key states.

    Args:
        section: what the keys begin with that are looked at, as "MODEL."; "" is all of them.
        choices: look at keys alone that choose one of some words.

    Raises:
        ValueError: as `validate`.
    """
    _refuse(
        [
            f"{line} (from {cfg.source(key)})"
            for key, statement, value in cfg.statements()
            if key.startswith(section) and (statement.choices or not choices)
            for line in complaints(statement.rule, key, value)
        ]
    )


def check_crops(cfg: ConfigNode) -> None:
    """What MODEL.EFPN.ON_CROPS needs of other keys, for a model that is built of a config that nobody has validated.

    Raises:
        ValueError: as `validate`.
    """
    _refuse([_misfit(cfg, key, wanted) for key, wanted in _crops(cfg)])


def _refuse(findings: list[str]) -> None:
    if findings:
        raise InvalidValueError("the config has errors:\n" + "\n".join(f"  {line}" for line in findings))


def check_names(cfg: ConfigNode) -> None:
    """Every name that a key chooses from a registry must be there, once all that fills the registries is imported.

    Raises:
        KeyError: all names that are not, each with the nearest ones and where it was set.
    """
    wrong = []
    for key, statement, value in cfg.statements():
        for known, name in _names(statement.rule, value):
            try:
                known.get(name)
            except UnknownNameError as error:
                wrong.append(f"{key} (from {cfg.source(key)}): {error}")
    if wrong:
        raise UnknownNameError("\n".join(wrong))


def needed_plugins(cfg: ConfigNode) -> tuple[str, ...]:
    """What PLUGINS of a config must name: the packages whose members its keys choose and whose keys it sets."""
    chosen = [pair for _, statement, value in cfg.statements() for pair in _names(statement.rule, value)]
    modules = [known.registrar(name) for known, name in chosen]
    return requirements(cfg.PLUGINS, [*modules, *(ADDED[path] for path in cfg.used_sections())])


def _names(rule: Rule, value: Any) -> Iterator[tuple[Registry, str]]:
    """The names of a value that must be members of a registry."""
    if isinstance(rule, Each):
        for item in value if isinstance(value, tuple) else ():  # what stands without its brackets is a number
            yield from _names(rule.member, item)
    elif isinstance(rule, Name) and not (rule.empty and value == ""):
        yield rule.registry, value


def doubts(cfg: ConfigNode) -> list[str]:
    """What may be meant and more often is not; durations are whole numbers by now."""
    solver, out = cfg.SOLVER, []
    late = [step for step in solver.STEPS if step >= solver.MAX_ITER]
    if late and solver.LR_SCHEDULE == "step":
        out.append(f"SOLVER.STEPS {late} lie at or behind SOLVER.MAX_ITER {solver.MAX_ITER} and will have no effect")
    if solver.WARMUP_ITERS > solver.MAX_ITER > 0 and solver.LR_SCHEDULE != "one_cycle":
        out.append(
            f"SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS} is longer than SOLVER.MAX_ITER {solver.MAX_ITER}: the learning "
            "rate never reaches BASE_LR"
        )
    if 0 < solver.SWA_START <= solver.MAX_ITER < solver.SWA_START + solver.SWA_PERIOD:
        out.append(
            f"SOLVER.SWA_START {solver.SWA_START} and SWA_PERIOD {solver.SWA_PERIOD} leave one iteration alone before "
            f"SOLVER.MAX_ITER {solver.MAX_ITER}: the mean is its weights"
        )
    if cfg.TEST.EVAL_PERIOD and not cfg.DATASETS.TEST:
        out.append(f"TEST.EVAL_PERIOD is {cfg.TEST.EVAL_PERIOD}, but DATASETS.TEST is empty: nothing is evaluated")
    return [*out, *without_effect(cfg)]


def _misfit(cfg: ConfigNode, key: str, wanted: str) -> str:
    """One finding: a key, what it must be, its value, and where that was set."""
    return f"{key} must be {wanted}, not {shown(cfg.at(key))} (from {cfg.source(key)})"


def _solver(cfg: ConfigNode) -> Findings:
    solver = cfg.SOLVER
    if solver.IMS_PER_BATCH % solver.ACCUMULATE_STEPS:
        yield "SOLVER.ACCUMULATE_STEPS", f"a divisor of SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH}"
    if solver.OPTIMIZER == "SGD" and solver.NESTEROV and solver.MOMENTUM == 0:
        yield "SOLVER.MOMENTUM", "above 0, as SOLVER.NESTEROV is on"
    if solver.SWA_START and solver.EMA_DECAY:
        yield "SOLVER.EMA_DECAY", "0 with SOLVER.SWA_START: one of two averages is evaluated and saved"
    if solver.SWA_START and is_zero(solver.SWA_PERIOD):
        yield "SOLVER.SWA_PERIOD", "above 0 with SOLVER.SWA_START"
    if solver.EARLY_STOP_PATIENCE and is_zero(cfg.TEST.EVAL_PERIOD):
        yield "SOLVER.EARLY_STOP_PATIENCE", "0, or it needs evaluations during training: set TEST.EVAL_PERIOD"
    if solver.EARLY_STOP_PATIENCE and not cfg.DATASETS.TEST:
        yield "SOLVER.EARLY_STOP_PATIENCE", "0, or it needs data to evaluate on: set DATASETS.TEST"
    if solver.MAX_MINUTES and solver.SWA_START:
        yield "SOLVER.SWA_START", "0 with SOLVER.MAX_MINUTES: at which iteration the last part begins is not known"
    if solver.MAX_MINUTES and cfg.INPUT.CLOSE_AT:
        yield "INPUT.CLOSE_AT", "0 with SOLVER.MAX_MINUTES: at which iteration the last part begins is not known"
    steps = [Duration().parts(step, "SOLVER.STEPS") for step in solver.STEPS]
    alike = len({unit for _, unit in steps}) == 1
    if alike and any(a >= b for a, b in pairwise(steps)):
        yield "SOLVER.STEPS", "a list that is rising"


def _data(cfg: ConfigNode) -> Findings:
    data, weights, names = cfg.DATALOADER, cfg.DATASETS.TRAIN_WEIGHTS, cfg.DATASETS.TRAIN
    if data.SAMPLER == "repeat_factor" and data.REPEAT_THRESHOLD == 0:
        yield "DATALOADER.REPEAT_THRESHOLD", 'above 0, as DATALOADER.SAMPLER is "repeat_factor"'
    if data.EMPTY_SHARE > 0 and data.EMPTY == "drop":
        yield "DATALOADER.EMPTY_SHARE", '0 or -1, as DATALOADER.EMPTY "drop" leaves no image without objects'
    if data.EMPTY_SHARE >= 0 and cfg.INPUT.TILES.SIZE:
        yield "DATALOADER.EMPTY_SHARE", "-1 with INPUT.TILES, whose MAX_EMPTY says how many tiles show no object"
    if weights and len(weights) != len(names):
        listed = f" ({', '.join(names)})" if names else ""
        yield "DATASETS.TRAIN_WEIGHTS", f"empty, or a number for each of the {len(names)} data sets of TRAIN{listed}"
    elif weights and sum(weights) == 0:
        yield "DATASETS.TRAIN_WEIGHTS", "above 0 for one data set at least"


def _input(cfg: ConfigNode) -> Findings:
    sizes, jitter, tiles = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.LSJ, cfg.INPUT.TILES
    sampling = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if sampling != "choice" and (len(sizes) != 2 or sizes[0] > sizes[1]):
        yield "INPUT.MIN_SIZE_TRAIN", f'two rising values (the SAMPLING is "{sampling}")'
    if jitter.MAX_SCALE < jitter.MIN_SCALE:
        yield "INPUT.LSJ.MAX_SCALE", f"at least MIN_SCALE {jitter.MIN_SCALE}"
    if jitter.ON and jitter.SIZE * jitter.MAX_SCALE > _LONGEST_SIDE:
        yield "INPUT.LSJ.MAX_SCALE", f"so small that SIZE {jitter.SIZE} times it is at most {_LONGEST_SIDE} pixels"
    if 0 < tiles.SIZE <= tiles.OVERLAP:
        yield "INPUT.TILES.OVERLAP", f"below INPUT.TILES.SIZE {tiles.SIZE} (in pixels, or a part of it, as 0.2)"
    yield from _channels(cfg)
    buckets = cfg.INPUT.BUCKETS
    pairs = [isinstance(bucket, tuple) and len(bucket) == 2 for bucket in buckets]
    if not all(pairs) and not (len(buckets) == 1 and isinstance(buckets[0], int)):
        yield "INPUT.BUCKETS", "one number, as 128, or pairs of height and width, as [[480, 640], [640, 480]]"


def _channels(cfg: ConfigNode) -> Findings:
    channels, keys = cfg.INPUT.CHANNELS, ("INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD")
    if cfg.INPUT.DEPTH == "8bit" and channels != _COLOURS:
        yield "INPUT.DEPTH", f"'file' or 'auto', as INPUT.CHANNELS is {channels} and colours are {_COLOURS}"
    for key, statement, value in cfg.statements():
        if key in keys and len(value) != channels and value != statement.default:
            yield key, f"a number for each of the {channels} INPUT.CHANNELS"


def _heads(cfg: ConfigNode) -> Findings:
    model = cfg.MODEL
    if model.CHECKPOINT_ACTIVATIONS and model.COMPILE != "off":
        yield "MODEL.COMPILE", "off with MODEL.CHECKPOINT_ACTIVATIONS: a graph decides by itself what it computes again"
    if model.RESNETS.NORM_EPS == 0 and model.RESNETS.NORM != "FrozenBN":
        yield "MODEL.RESNETS.NORM_EPS", f"above 0 with MODEL.RESNETS.NORM {model.RESNETS.NORM}"
    if model.RESNETS.NUM_GROUPS * model.RESNETS.WIDTH_PER_GROUP > _WIDEST:
        yield "MODEL.RESNETS.WIDTH_PER_GROUP", f"at most {_WIDEST} channels in all NUM_GROUPS"
    if model.RPN.FINEST_LEVEL and model.RPN.IN_FEATURES:
        yield "MODEL.RPN.IN_FEATURES", f"empty, since MODEL.RPN.FINEST_LEVEL {model.RPN.FINEST_LEVEL!r} says which"
    for section in ("RPN", "RETINANET", "ROI_HEADS"):
        high = model[section].FG_IOU_THRESHOLD
        if model[section].BG_IOU_THRESHOLD > high:
            yield f"MODEL.{section}.BG_IOU_THRESHOLD", f"at most FG_IOU_THRESHOLD {high}"
    for key in ("MASK_ON", "KEYPOINT_ON"):
        if model[key] and not model.ROI_HEADS.NAME:
            yield "MODEL.ROI_HEADS.NAME", f"the ROI heads that MODEL.{key} needs"
    for section in ("RPN", "RETINANET"):
        rows = [row if isinstance(row, tuple) else (row,) for row in model[section].ANCHOR_SIZES]
        if len({len(row) for row in rows}) > 1:
            yield f"MODEL.{section}.ANCHOR_SIZES", "equally many sizes on every level"
    points = model.POINT_HEAD
    if points.COARSE_SIDE * 2**points.SUBDIVISION_STEPS > _FINEST_MASK:
        yield "MODEL.POINT_HEAD.SUBDIVISION_STEPS", f"so few that masks have at most {_FINEST_MASK} pixels a side"
    cascade = model.ROI_BOX_CASCADE_HEAD
    if len(cascade.IOUS) != len(cascade.BBOX_REG_WEIGHTS):
        yield "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", f"as many as BBOX_REG_WEIGHTS, {len(cascade.BBOX_REG_WEIGHTS)}"


def _efpn(cfg: ConfigNode) -> Findings:
    efpn = cfg.MODEL.EFPN
    if efpn.EXTRACTOR in ("swin", "hat") and efpn.WIDTH % efpn.ATTENTION.HEADS:
        yield "MODEL.EFPN.ATTENTION.HEADS", f"a divisor of MODEL.EFPN.WIDTH {efpn.WIDTH}"
    if efpn.TRANSFER == "plain" and efpn.EXTRACTOR != "residual":
        yield "MODEL.EFPN.EXTRACTOR", 'the default "residual" (with TRANSFER "plain" nothing is extracted)'
    if efpn.UPSAMPLE != "sub_pixel" and (efpn.TRANSFER == "plain" or efpn.EXTRACTOR == "pointwise"):
        chosen = 'TRANSFER "plain"' if efpn.TRANSFER == "plain" else 'EXTRACTOR "pointwise"'
        yield "MODEL.EFPN.UPSAMPLE", f'the default "sub_pixel" (it has no place with {chosen})'
    if cfg.MODEL.DISTILL.RUNNING_NORMS and not cfg.MODEL.DISTILL.DETECTION:
        yield "MODEL.DISTILL.RUNNING_NORMS", "False without MODEL.DISTILL.DETECTION, whose images give the statistics"
    if cfg.MODEL.DETECTOR != "GeneralizedRCNN" and cfg.MODEL.DISTILL.ON:
        yield "MODEL.DETECTOR", "the default 'GeneralizedRCNN' with MODEL.DISTILL.ON, which has a detector of its own"
    if cfg.MODEL.DETECTOR == "DistilledRCNN":
        yield "MODEL.DETECTOR", "the default 'GeneralizedRCNN': MODEL.DISTILL.ON chooses 'DistilledRCNN'"
    if cfg.MODEL.DISTILL.TEACHER_WEIGHTS and not cfg.MODEL.DISTILL.ON:
        yield "MODEL.DISTILL.TEACHER_WEIGHTS", "empty without MODEL.DISTILL.ON, as nobody is taught"
    if efpn.ON_CROPS:
        yield from _crops(cfg)


def _crops(cfg: ConfigNode) -> Findings:
    """What P2' on crops needs: only the box head of ExtendedROIHeads asks for what it pools."""
    model, efpn = cfg.MODEL, cfg.MODEL.EFPN
    why = "with MODEL.EFPN.ON_CROPS"
    for key in ("CROP_SIZE", "CROP_MARGIN"):
        if efpn[key] % 2:
            yield f"MODEL.EFPN.{key}", "even, as P3 has half as many cells as P2"
    if efpn.EXTRACTOR in ("swin", "hat"):
        yield "MODEL.EFPN.EXTRACTOR", f"without windows {why}, which would cut them"
    if model.ROI_HEADS.NAME != "ExtendedROIHeads":
        yield "MODEL.ROI_HEADS.NAME", f"'ExtendedROIHeads' {why}, as only they ask for what they pool"
    for key in ("MASK_ON", "KEYPOINT_ON"):
        if model[key]:
            yield f"MODEL.{key}", f"False {why}, whose P2' the box head alone asks for where it pools"
    if model.COMPILE != "off":
        yield "MODEL.COMPILE", f"off {why}"
    if model.RPN.FINEST_LEVEL == "p1" or "p1" in model.RPN.IN_FEATURES:
        yield "MODEL.RPN." + ("FINEST_LEVEL" if model.RPN.FINEST_LEVEL else "IN_FEATURES"), f"without 'p1' {why}"
    elif not model.RPN.FINEST_LEVEL and not model.RPN.IN_FEATURES:
        yield "MODEL.RPN.FINEST_LEVEL", f"'p2' {why}, so that the RPN does not read P2'"


def _test(cfg: ConfigNode) -> Findings:
    views = cfg.TEST.AUG
    if views.ENABLED and not views.PLAIN and not views.MIN_SIZES:
        yield "TEST.AUG.MIN_SIZES", "one size at least, as TEST.AUG.PLAIN is off and there would be no view at all"
