"""Where a run stands in its data: images seen, the batches they came in, and what is sampled next."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from detframe.checkpoint import TrainingState
from detframe.config import ConfigNode, Pace, Stretch
from detframe.data import Records, build_sampler, image_repeats
from detframe.data.bucketing import BUCKET_KEYS, group_of
from detframe.data.samplers import START, Beginning
from detframe.errors import InvalidValueError

REMEDY = "train into another OUTPUT_DIR with MODEL.WEIGHTS set to that checkpoint"
REPEAT_KEYS = (  # by which images come more or less often
    "DATALOADER.SAMPLER",
    "DATALOADER.REPEAT_THRESHOLD",
    "DATALOADER.REPEAT_SQRT",
    "DATALOADER.EMPTY_SHARE",
    "DATASETS.TRAIN_WEIGHTS",
)
_NAMES = 1000  # file names that are compared, evenly spaced


@dataclass(frozen=True)
class Place:
    """A run's way through its data; the same object serves the whole run.

    Args:
        pace: the images seen at each iteration.
        beginning: where the stream of images goes on at iteration `begun_at`.
        grouped: DATALOADER.ASPECT_RATIO_GROUPING; by what, the config says.
        data: the `fingerprint` of the training data.
    """

    pace: Pace
    beginning: Beginning
    begun_at: int
    grouped: bool
    data: Mapping[str, Any]

    @property
    def images_per_epoch(self) -> int:
        """Each as often as it comes (DATALOADER.SAMPLER), on average."""
        return int(self.data.get("per_epoch", self.data["count"]))

    def state_dict(self) -> dict[str, Any]:
        """In types that a checkpoint can hold."""
        return {
            "stretches": [list(stretch) for stretch in self.pace.stretches],
            "pending": list(self.beginning.pending),
            "origin": self.beginning.origin,
            "begun_at": self.begun_at,
            "grouped": self.grouped,
            "data": dict(self.data),
        }


def fingerprint(records: Records, repeats: np.ndarray | None = None) -> dict[str, Any]:
    """What tells one set of training images from another, wherever its files lie; and one set of objects.

    Args:
        repeats: how often each image comes in an epoch, as `image_repeats` gives it.
    """
    images, objects = hashlib.sha256(), hashlib.sha256()
    for column in (records.image_ids, records.sizes_hw):
        images.update(np.ascontiguousarray(column).tobytes())
    for index in np.unique(np.linspace(0, len(records) - 1, _NAMES).astype(int)):
        images.update(PurePath(records.file_name(int(index))).name.encode() + b"\0")
    objects.update(np.ascontiguousarray(records.num_objects).tobytes())
    found = {"count": len(records), "images": images.hexdigest(), "objects": objects.hexdigest()}
    if repeats is None:
        return found
    # Rounded: no processor or library may disagree in the last digit
    digest = hashlib.sha256(np.ascontiguousarray(repeats.round(9)).tobytes()).hexdigest()
    return {**found, "repeats": digest, "per_epoch": round(float(repeats.sum()))}


def first_place(cfg: ConfigNode, records: Records) -> Place:
    """The place of a run that begins."""
    pace = Pace.steady(cfg.SOLVER.IMS_PER_BATCH)
    data = fingerprint(records, image_repeats(cfg, records))
    return Place(pace, START, 0, cfg.DATALOADER.ASPECT_RATIO_GROUPING, data)


def resumed_place(cfg: ConfigNode, records: Records, state: TrainingState, before: Mapping[str, Any]) -> Place:
    """The place from which a run goes on, perhaps with another batch or grouping: at the first image not seen yet.

    Args:
        cfg: with the seed of the run.
        before: the config of the checkpoint, by dotted keys.
    """
    old = saved_place(state, before, records)
    batch, grouped = cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.ASPECT_RATIO_GROUPING
    if (old.pace.batch, old.grouped) == (batch, grouped) and not _regrouped(cfg, before):
        return old
    iteration = state["iteration"]
    repeats = image_repeats(cfg, records)
    then = cfg.changed([(key, before[key]) for key in BUCKET_KEYS if key in before])
    group = group_of(then, records)
    sampler = build_sampler(
        records, old.pace.batch, cfg.SEED, old.grouped, beginning=old.beginning, repeats=repeats, group=group
    )
    rest = sampler.rest(iteration - old.begun_at)
    return Place(old.pace.changed(iteration, batch), rest, iteration, grouped, old.data)


def _regrouped(cfg: ConfigNode, before: Mapping[str, Any]) -> bool:
    """Whether INPUT.BUCKETS group the images in another way than those of the checkpoint's config."""
    now = dict(cfg.leaves())
    if not now["INPUT.BUCKETS"] and not before.get("INPUT.BUCKETS"):
        return False
    return any(key in before and _plain(before[key]) != _plain(now[key]) for key in BUCKET_KEYS)


def saved_place(training: TrainingState, before: Mapping[str, Any], records: Records) -> Place:
    """The place in a checkpoint; one of an older version has none, and its batch has never changed."""
    state = training.get("place")
    if state is None:
        pace = Pace.steady(before["SOLVER.IMS_PER_BATCH"])
        return Place(pace, START, 0, before["DATALOADER.ASPECT_RATIO_GROUPING"], fingerprint(records))
    pace = Pace(tuple(Stretch(*numbers) for numbers in state["stretches"]))
    beginning = Beginning(tuple(state["pending"]), state["origin"])
    return Place(pace, beginning, state["begun_at"], state["grouped"], state["data"])


def check_same_data(
    cfg: ConfigNode, records: Records, training: TrainingState, before: Mapping[str, Any], keys: tuple[str, ...]
) -> str:
    """The training images must be those with which the run began, as the position in the data would mean nothing.

    Args:
        keys: those that name the data.

    Returns:
        A warning where only the objects in the images are others, or "".

    Raises:
        ValueError: they are other images.
    """
    now = dict(cfg.leaves())
    changed = [key for key in keys if key in before and _plain(before[key]) != _plain(now[key])]
    listed = "; ".join(f"{key} was {_plain(before[key])!r}, is {_plain(now[key])!r}" for key in changed)
    state = training.get("place")
    if state is None:
        decisive = [key for key in changed if key != "DATASETS.CATALOG"]
        if decisive:
            raise InvalidValueError(f"resuming: the training data is another one ({listed}). {_why()}")
        return ""
    then, found = state["data"], fingerprint(records, image_repeats(cfg, records))
    same_objects = then["objects"] == found["objects"]
    if then["images"] != found["images"] or (changed and not same_objects):
        counts = f"{then['count']} images then, {found['count']} now"
        raise InvalidValueError(f"resuming: the training data is another one ({listed or counts}). {_why()}")
    same_rule = all(_plain(before.get(key)) == _plain(now[key]) for key in REPEAT_KEYS)
    if same_rule and then.get("repeats") != found.get("repeats"):
        raise InvalidValueError(
            "resuming: other objects are in the training images, so that the images come in another order "
            f"({_sampling(cfg)}). {_why()}"
        )
    if same_objects:
        return ""
    return "resuming: the same training images, but other numbers of objects in them: the new ones count from here on"


def _sampling(cfg: ConfigNode) -> str:
    """The keys of `REPEAT_KEYS` that are not as by default."""
    stated = [(key, value) for key, statement, value in cfg.statements() if value != statement.default]
    return ", ".join(f"{key} {_plain(value)}" for key, value in stated if key in REPEAT_KEYS)


def _why() -> str:
    return f"The position in the data would mean nothing there. Give the data of the run, or {REMEDY}"


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
