"""What `--resume` does with each key of the config that has changed since the checkpoint was written.

The statement of each key says it (`Key(..., resume=)` in detframe.config.keys). docs/many_gpus.md shows a table.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detframe.checkpoint import Checkpoint, TrainingState
from detframe.config import ConfigNode, get_cfg
from detframe.config.key import REFUSED, UNSAID, Resume
from detframe.config.keys import all_keys
from detframe.config.keys.common import SAME_IMAGES
from detframe.config.keys.input import TILE_ORDER
from detframe.engine.checkpoint import BEST
from detframe.engine.place import REMEDY, Place
from detframe.engine.weights import with_own_statistics
from detframe.errors import InvalidValueError
from detframe.parallel.collectives import world_size

logger = logging.getLogger(__name__)
DATA_KEYS = tuple(key for key, statement in all_keys().items() if statement.resume in (SAME_IMAGES, TILE_ORDER))


@dataclass(frozen=True)
class Change:
    """A key whose value is another one than in the checkpoint."""

    key: str
    before: Any
    now: Any
    rule: Resume


def saved_leaves(checkpoint: Checkpoint) -> dict[str, Any]:
    """The effective config of a checkpoint by dotted keys; a key that its version did not have has its default.

    Raises:
        ValueError: it is no config, or a value is of another type than this version has there.
    """
    defaults, saved = dict(get_cfg().leaves()), checkpoint.settings()
    try:
        return {
            **defaults,
            **saved,
            **{key: all_keys()[key].read(key, saved[key], defaults[key]) for key in saved.keys() & defaults},
        }
    except ValueError as error:
        raise InvalidValueError(f"resuming: the config in the checkpoint: {error}") from None


def changes_since(before: Mapping[str, Any], cfg: ConfigNode) -> list[Change]:
    """What differs between a checkpoint's config and the effective one, in the order of the config."""
    return [
        Change(key, before[key], now, all_keys()[key].resume or UNSAID)
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
            "resuming: a run cannot go on under these settings:\n"
            + "\n".join(lines)
            + f"\nGive those of the run, or {REMEDY}"
        )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value else repr(value)


def log_changes(changes: list[Change], state: TrainingState, place: Place, cfg: ConfigNode) -> None:
    """Say what has changed since the checkpoint, and what that means."""
    for change in changes:
        logger.info(
            "resuming: %s %s -> %s: %s", change.key, _shown(change.before), _shown(change.now), change.rule.meaning
        )
    ranks = len(state["rng"])
    if ranks != world_size():
        logger.info("resuming: %d ranks -> %d: the same batches in the same order, divided anew", ranks, world_size())
    images, length = place.pace.images_at(state["iteration"]), place.images_per_epoch
    if len(place.pace.stretches) > 1:
        logger.info(
            "resuming: %d images seen, %.2f epochs; SOLVER.MAX_ITER %d makes it %.2f epochs (%.2f before)",
            images,
            images / length,
            cfg.SOLVER.MAX_ITER,
            place.pace.images_at(cfg.SOLVER.MAX_ITER) / length,
            planned_images(state, place) / length,
        )


def is_finished(cfg: ConfigNode, state: TrainingState, place: Place) -> bool:
    """Whether the checkpoint is the end of a run that SOLVER.MAX_ITER, or SOLVER.MAX_MINUTES, does not make longer.

    With another batch, the same number of epochs may be more iterations; those are not more.
    """
    if cfg.SOLVER.MAX_MINUTES and state["finished"]:
        return 60.0 * cfg.SOLVER.MAX_MINUTES <= state["hooks"].get("time_budget", {}).get("seconds", 0.0)
    if not state["finished"] or cfg.SOLVER.MAX_ITER <= state["max_iter"]:
        return bool(state["finished"])
    return place.pace.images_at(cfg.SOLVER.MAX_ITER) < planned_images(state, place) + place.pace.batch


def planned_images(state: TrainingState, place: Place) -> int:
    """The images that a run was to see when its checkpoint was written."""
    return int(state.get("max_images", state["max_iter"] * place.pace.stretches[0].batch))


def comparable(changes: list[Change]) -> bool:
    """Whether metrics before and after the changes mean the same."""
    return not any(change.rule.measures for change in changes)


def without_measures(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint without what was measured: the best value, that its iteration was evaluated, statistics of norms."""
    state = checkpoint.state
    hooks = {name: own for name, own in state["hooks"].items() if name != "best"}
    hooks["evaluation"] = {**hooks.get("evaluation", {}), "last": -1}
    weights = with_own_statistics(checkpoint)
    return replace(checkpoint, model=weights, training={**state, "hooks": hooks, "statistics": {}})


def keep_best(folder: Path, changes: list[Change], iteration: int) -> None:
    """Give the best model so far a name of its own where the next best one cannot be compared with it."""
    best = folder / BEST
    if not comparable(changes) and best.is_file():
        kept = folder / f"model_best_before_{iteration:07d}.pth"
        os.replace(best, kept)
        logger.info("resuming: %s was the best by the former measure; it is now %s", best, kept)
