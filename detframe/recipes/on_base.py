"""What a recipe chooses on a config of the user's: what data and machine demand of it. As pure as the other choices."""

from __future__ import annotations

import math
from typing import Any

from detframe.config import parse_duration
from detframe.config.effects import norm_key
from detframe.recipes.facts import DataFacts
from detframe.recipes.machine import Machine
from detframe.recipes.spelling import option
from detframe.recipes.wish import Picks
from detframe.solver import resolve_base_lr


def on_base(picks: Picks, facts: DataFacts, machine: Machine) -> tuple[int, float, str]:
    """What is chosen on a config of the user's: what data and machine demand. Returns batch, learning rate, reason."""
    base = picks.wish.base
    if base is None:
        raise ValueError("there is no base")
    _norms_of_base(picks)
    if picks.wish.task == "mask" and not base.MODEL.MASK_ON:
        picks.set("MODEL.MASK_ON", True, option("task", "mask"))
    if picks.wish.task == "keypoint" and not base.MODEL.KEYPOINT_ON:
        picks.set("MODEL.KEYPOINT_ON", True, option("task", "keypoint"))
    theirs = base.SOLVER.IMS_PER_BATCH
    share = max(1, min(theirs // machine.ranks, 8 if machine.gpu else 4, facts.images // machine.ranks))
    share = min(share, picks.wish.most_per_process or share)
    why = f"{picks.wish.base_name} takes {theirs}, on other machines; this one has {machine.words}"
    batch = int(picks.set("SOLVER.IMS_PER_BATCH", share * machine.ranks, why))
    if base.SOLVER.LR_RULE == "none":
        usual = "sqrt" if base.SOLVER.OPTIMIZER == "AdamW" else "linear"
        base = base.changed([("SOLVER.LR_RULE", usual), ("SOLVER.REFERENCE_BATCH", theirs)])
    solver = base.SOLVER
    rate = resolve_base_lr(base.changed([("SOLVER.IMS_PER_BATCH", batch)])).SOLVER.BASE_LR
    why = f"{solver.BASE_LR:g} of {picks.wish.base_name} at {solver.REFERENCE_BATCH} images, for {batch}"
    return batch, rate, why


def _norms_of_base(picks: Picks) -> None:
    found = picks.wish.weights
    weights = picks.set("MODEL.WEIGHTS", found.value, found.reason)
    if weights:
        return
    key = norm_key(str(picks.get("MODEL.BACKBONE.CONV_BODY")))
    if picks.get("MODEL.BACKBONE.FREEZE_CONV_BODY_AT"):
        picks.set("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, "the backbone starts at random, so all of it is trained")
    if key and picks.get(key) == "FrozenBN":
        picks.set(key, "BN", "the backbone starts at random, so its norms are trained too")


def steps_of_base(picks: Picks, steps: int) -> None:
    """The places at which a base lowers its learning rate, as parts of its length."""
    base = picks.wish.base
    if base is None or base.SOLVER.LR_SCHEDULE != "step":
        return
    whole = parse_duration(base.SOLVER.MAX_ITER, 1, 1)
    known = base.SOLVER.STEPS if whole else ()
    parts = [step if isinstance(step, float) else parse_duration(step, 1, 1) / whole for step in known]
    places = tuple(dict.fromkeys(max(1, round(part * steps)) for part in parts if part < 1))  # of few steps, each once
    picks.set("SOLVER.STEPS", places, f"at the same parts of the training as in {picks.wish.base_name}")


def whole_duration(duration: Any, steps: int) -> int:
    """A duration of the base in iterations; epochs, of other data, count as the whole training."""
    if isinstance(duration, float):  # a share
        return math.ceil(duration * steps)
    return duration if isinstance(duration, int) else steps
