"""The model part of `detframe check`: what the model reaches of the data, and whether it stands a step of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from detframe.config.effects import without_effect
from detframe.data.findings import ERROR, WARNING, Finding, sentence
from detframe.errors import UserError
from detframe.texts import counted

if TYPE_CHECKING:
    from detframe.config import ConfigNode
    from detframe.data import Records
    from detframe.recipes.batch_shapes import BatchShapes
    from detframe.recipes.reach import Reach
    from detframe.recipes.trial import Trial

SECONDS = 30.0  # that a trial may take


class Limit(NamedTuple):
    """Where a training ends before its iterations are made."""

    minutes: float
    iterations: int  # that it makes in them, about
    alike: bool  # whether it then shows images as they are, which the whole one would show in other sizes and colours


LimitOf = Callable[["Trial", float], "Limit | None"]  # of a trial and its seconds; None where nothing ends it early
NO_WEIGHTS = "from random weights, as none are on this machine"


@dataclass(frozen=True)
class ModelCheck:
    """What is said of a model and the data that it is to learn from."""

    lines: tuple[str, ...]
    findings: tuple[Finding, ...]
    facts: dict[str, Any]  # for JSON


def check_model(
    cfg: ConfigNode, sets: Mapping[str, Records], what: str, trial: bool, limit_of: LimitOf | None = None
) -> ModelCheck:
    """Set a model against the training data.

    Args:
        what: the model is, for the heading: "the model that `detframe train --data` chooses".
        trial: make a few steps too.
        limit_of: where `detframe train --data` ends the training, of the trial.
    """
    from detframe.data.transforms import build_train_transforms
    from detframe.engine.inputs import with_classes
    from detframe.modeling.build import build_outline
    from detframe.recipes.batch_shapes import batch_shapes
    from detframe.recipes.reach import reach
    from detframe.recipes.trial import try_model

    train, others = sets["train"], [records for name, records in sets.items() if name != "train"]
    body = cfg.MODEL.BACKBONE.CONV_BODY
    heading = (f"{what}, against train", f"  {body}, {cfg.MODEL.RPN.NAME}, {cfg.MODEL.WEIGHTS or NO_WEIGHTS}")
    try:
        reached = reach(cfg, train)
        divisor = build_outline(with_classes(cfg, train.metadata)).preprocessor.divisor
        sized = cfg.INPUT.BUCKETS or not build_train_transforms(cfg).unsized
        shapes = batch_shapes(cfg, divisor, sets) if sized else None
        begun = time.perf_counter()
        tried = try_model(cfg, train, others[0] if others else None, seconds=SECONDS) if trial else None
    except UserError as error:
        refused = sentence("model-refused", ERROR, f"it cannot be made: {error}", where="model")
        return ModelCheck(heading, (refused,), {})
    limit = limit_of(tried, time.perf_counter() - begun) if tried is not None and limit_of is not None else None
    said, found = _of_training(cfg, train, trial)
    of_shapes = shapes.lines() if shapes is not None else ()
    of_trial = (*tried.lines(), *_of_time(cfg, limit)) if tried is not None else ()
    parts = map(list, (reached.lines(), of_shapes, of_trial, said))
    lines = [*heading, *(line for part in parts if part for line in ("", *part))]
    idle = [sentence("no-effect", WARNING, text) for text in without_effect(cfg)]
    findings = [
        *idle,
        *found,
        *reached.findings(),
        *(shapes.findings() if shapes is not None else ()),
        *(tried.findings() if tried is not None else ()),
    ]
    facts = {
        "body": body,
        "weights": cfg.MODEL.WEIGHTS,
        "reach": _of_reach(reached),
        "batch_shapes": _of_shapes(shapes) if shapes is not None else None,
        "trial": _of_trial(tried, limit),
    }
    return ModelCheck(tuple(lines), tuple(replace(f, where="model") for f in findings), facts)


def _of_time(cfg: ConfigNode, limit: Limit | None) -> list[str]:
    """What ends the training before its iterations are made, in a sentence; nothing where nothing does."""
    if cfg.SOLVER.MAX_MINUTES:
        minutes = counted(cfg.SOLVER.MAX_MINUTES, "minute")
        return [f"  SOLVER.MAX_MINUTES makes as many of them as fit into {minutes}, evaluation included"]
    if limit is None:
        return []
    minutes, steps = counted(limit.minutes, "minute"), counted(limit.iterations, "iteration")
    ends = f"makes about {steps}, as it ends after {minutes}; --minutes or --epochs change that"
    if limit.alike:
        ends += ". Its images come too seldom for other sizes and colours each time: all are resized as in test"
    return [f"  `detframe train --data` {ends}"]


def _of_training(cfg: ConfigNode, records: Records, trial: bool) -> tuple[list[str], list[Finding]]:
    """What the log of a training says of how often its images come, of weights of classes and of INPUT.TRANSFORMS.

    Args:
        trial: try the transforms on some images.
    """
    from detframe.config import resolve_durations
    from detframe.data import tiled
    from detframe.data.class_balance import describe_weights, weight_warnings
    from detframe.data.repeats import images_per_epoch
    from detframe.engine.sampling import describe_sampling, sampling_warnings
    from detframe.engine.transform_trial import try_transforms

    kept = records if cfg.DATALOADER.EMPTY == "keep" else records.select(records.num_objects > 0)
    trained = tiled(cfg, kept)
    try:
        lines = [*describe_sampling(cfg, trained).splitlines(), describe_weights(cfg, kept)]
        doubtful = [sentence("sampling", WARNING, text) for text in sampling_warnings(cfg, {"train": trained})]
        doubtful += [sentence("class-weights", WARNING, text) for text in weight_warnings(cfg, kept)]
        if cfg.INPUT.TRANSFORMS and trial:
            timed = resolve_durations(cfg.changed([("SEED", max(cfg.SEED, 0))]), images_per_epoch(cfg, trained))
            lines.append(f"INPUT.TRANSFORMS, {try_transforms(timed, trained)}")
    except UserError as error:
        return [], [sentence("training-refused", ERROR, f"a training of it would stop at its beginning: {error}")]
    return [line for line in lines if line], doubtful


def chosen_config(sets: Mapping[str, Records], overrides: Mapping[str, Any]) -> tuple[ConfigNode, LimitOf]:
    """The config that `detframe train --data` chooses for the data and this machine, from weights that are here.

    And what says from a trial of it where that command ends the training, when neither minutes nor epochs are given.

    Args:
        overrides: values that win over every choice, by key.
    """
    from detframe.recipes.budget import default_minutes
    from detframe.recipes.choices import choose, size_of
    from detframe.recipes.facts import data_facts
    from detframe.recipes.machine import this_machine
    from detframe.recipes.plan import config_of
    from detframe.recipes.tiles import facts_seen
    from detframe.recipes.trial import pace_of
    from detframe.recipes.weights import find_weights
    from detframe.recipes.wish import Wish

    train, val = sets["train"], sets.get("val", sets["train"])
    machine = this_machine(str(overrides.get("MODEL.DEVICE", "auto")))
    body = str(overrides.get("MODEL.BACKBONE.CONV_BODY", size_of(machine).body))
    named = str(overrides.get("MODEL.WEIGHTS", "")) or ("none" if "MODEL.WEIGHTS" in overrides else "")
    rest = {key: value for key, value in overrides.items() if key != "MODEL.WEIGHTS"}
    wish = Wish(weights=find_weights(body, named, fetch=False), overrides=rest)
    facts = facts_seen(data_facts(train, val, len(train.missing)), wish, machine, train, val)

    def limit_of(trial: Trial, seconds: float) -> Limit | None:
        """Where that command ends the training; None where it makes all iterations, or the trial does not tell."""
        if not math.isfinite(trial.training_seconds) or any(batch.failure for batch in trial.batches):
            return None
        timed = config_of(choose(facts, machine, wish, pace_of(trial, seconds)))
        if timed.SOLVER.MAX_ITER >= trial.max_iter:
            return None
        alike = timed.INPUT.MIN_SIZE_TRAIN != chosen.INPUT.MIN_SIZE_TRAIN
        return Limit(default_minutes(machine), timed.SOLVER.MAX_ITER, alike)

    chosen = config_of(choose(facts, machine, wish))
    return chosen, limit_of


# ---------------------------------------------------------------------------------------------- JSON
def _of_reach(found: Reach) -> dict[str, Any]:
    return {
        "objects": found.num_objects,
        "attainable_recall": _number(found.recall),
        "by_size": [
            {
                "size": one.name,
                "objects": one.count,
                "reached": _number(one.full),
                "missed": _number(one.missed),
                "below_a_cell": _number(one.below_cell),
                "anchors_each": _number(one.positives),
                "iou_of_anchors": _number(one.overlap),
                "side_over_anchors": _number(one.scale),
            }
            for one in (*found.classes, found.total)
        ],
        "settings": [
            {"set": option.text, "attainable_recall": _number(option.recall), "missed": _number(option.missed)}
            for option in found.options
        ],
        "images_shrunk_threefold": found.shrunk.count,
        "images_above_detections_per_img": found.crowded.count,
        "detections_per_img": found.limit,
    }


def _of_shapes(shapes: BatchShapes) -> dict[str, Any]:
    return {
        "choices": [
            {
                "buckets": choice.buckets,
                "training": choice.training,
                "evaluation": choice.evaluation,
                "padding": _number(choice.padding),
            }
            for choice in shapes.choices
        ],
        "proposed": shapes.proposed,
    }


def _of_trial(tried: Trial | None, limit: Limit | None) -> dict[str, Any] | None:
    if tried is None:
        return None
    return {
        "device": tried.device,
        "parameters": tried.parameters,
        "trained": tried.trained,
        "seconds_per_step": _number(tried.step_seconds),
        "seconds_of_training": _number(tried.training_seconds),
        "iterations": tried.max_iter,
        "ends_early": {"minutes": limit.minutes, "iterations": limit.iterations} if limit is not None else None,
        "peak_memory": tried.peak_memory,
        "memory": tried.memory,
        "batches": [
            {
                "batch": batch.name,
                "images": batch.num_images,
                "objects": batch.num_objects,
                "size_hw": list(batch.size_hw),
                "seconds": _number(batch.seconds),
                "memory": batch.memory,
                "failure": batch.failure,
            }
            for batch in tried.batches
        ],
    }


def _number(value: float) -> float | None:
    """A number as JSON knows it, with as many digits as mean something."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
