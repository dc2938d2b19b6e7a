"""The model part of `detframe check`: what the model reaches of the data, and whether it stands a step of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from detframe.config.effects import without_effect
from detframe.data.findings import ERROR, WARNING, Finding, sentence
from detframe.errors import UserError

if TYPE_CHECKING:
    from detframe.config import ConfigNode
    from detframe.data import Records
    from detframe.recipes.batch_shapes import BatchShapes
    from detframe.recipes.reach import Reach
    from detframe.recipes.trial import Trial

SECONDS = 30.0  # that a trial may take
NO_WEIGHTS = "from random weights, as none are on this machine"


@dataclass(frozen=True)
class ModelCheck:
    """What is said of a model and the data that it is to learn from."""

    lines: tuple[str, ...]
    findings: tuple[Finding, ...]
    facts: dict[str, Any]  # for JSON


def check_model(cfg: ConfigNode, sets: Mapping[str, Records], what: str, trial: bool) -> ModelCheck:
    """Set a model against the training data.

    Args:
        what: the model is, for the heading: "the model that `detframe train --data` chooses".
        trial: make a few steps too.
    """
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
        shapes = batch_shapes(cfg, divisor, sets)
        tried = try_model(cfg, train, others[0] if others else None, seconds=SECONDS) if trial else None
    except UserError as error:
        refused = sentence("model-refused", ERROR, f"it cannot be made: {error}", where="model")
        return ModelCheck(heading, (refused,), {})
    lines = [*heading, "", *reached.lines(), "", *shapes.lines(), *(["", *tried.lines()] if tried is not None else [])]
    idle = [sentence("no-effect", WARNING, text) for text in without_effect(cfg)]
    findings = [*idle, *reached.findings(), *shapes.findings(), *(tried.findings() if tried is not None else ())]
    facts = {
        "body": body,
        "weights": cfg.MODEL.WEIGHTS,
        "reach": _of_reach(reached),
        "batch_shapes": _of_shapes(shapes),
        "trial": _of_trial(tried),
    }
    return ModelCheck(tuple(lines), tuple(replace(f, where="model") for f in findings), facts)


def chosen_config(sets: Mapping[str, Records], overrides: Mapping[str, Any]) -> ConfigNode:
    """The config that `detframe train --data` chooses for the data and this machine, from weights that are here.

    Args:
        overrides: values that win over every choice, by key.
    """
    from detframe.recipes.choices import choose, size_of
    from detframe.recipes.facts import data_facts, facts_of_tiles
    from detframe.recipes.machine import this_machine
    from detframe.recipes.plan import config_of
    from detframe.recipes.weights import find_weights
    from detframe.recipes.wish import Wish

    train, val = sets["train"], sets.get("val", sets["train"])
    machine = this_machine(str(overrides.get("MODEL.DEVICE", "auto")))
    body = str(overrides.get("MODEL.BACKBONE.CONV_BODY", size_of(machine).body))
    named = str(overrides.get("MODEL.WEIGHTS", "")) or ("none" if "MODEL.WEIGHTS" in overrides else "")
    rest = {key: value for key, value in overrides.items() if key != "MODEL.WEIGHTS"}
    wish = Wish(weights=find_weights(body, named, fetch=False), overrides=rest)
    facts = facts_of_tiles(data_facts(train, val, len(train.missing)), rest, train, val)
    return config_of(choose(facts, machine, wish))


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


def _of_trial(tried: Trial | None) -> dict[str, Any] | None:
    if tried is None:
        return None
    return {
        "device": tried.device,
        "parameters": tried.parameters,
        "trained": tried.trained,
        "seconds_per_step": _number(tried.step_seconds),
        "seconds_of_training": _number(tried.training_seconds),
        "iterations": tried.max_iter,
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
