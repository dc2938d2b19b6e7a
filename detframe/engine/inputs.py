"""What a run reads before it trains: data sets that agree with each other, with the model and with the checkpoint."""

from __future__ import annotations

import logging
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from detframe.checkpoint import Checkpoint, TrainingState
from detframe.compat import apply_input_format, apply_saved_format
from detframe.config import ConfigNode, given_in_epochs, resolve_durations
from detframe.config.check import needed_plugins
from detframe.config.paths import expanded
from detframe.data import (
    Metadata,
    MissingImagesError,
    Records,
    TiledRecords,
    check_same_names,
    image_repeats,
    load_records,
    resolve_num_classes,
    resolve_num_keypoints,
    tiled,
)
from detframe.data.class_balance import resolve_class_weights, resolve_frequencies
from detframe.data.findings import NOTE
from detframe.data.repeats import check_objects, tile_kinds
from detframe.data.tile_check import check_tiles
from detframe.engine.place import Place, check_same_data, first_place, resumed_place
from detframe.engine.resuming import DATA_KEYS, Change, changes_since, check_changes, log_changes, saved_leaves
from detframe.engine.sampling import describe_sampling
from detframe.errors import InvalidValueError
from detframe.parallel.collectives import all_reduce_seconds, broadcast_object, gather_objects, world_size
from detframe.parallel.environment import share_of_batch
from detframe.solver import resolve_base_lr
from detframe.texts import counted

logger = logging.getLogger(__name__)
_PROBE = 2**24  # bytes that are summed to see how fast the ranks are connected
_SLOW_LINK = 1.25e9  # bytes/s: a network of 10 Gbit/s


@dataclass
class RunInputs:
    """The effective config (classes, durations and seed are known numbers) and the records.

    Attributes:
        records: of all training sets.
        test_sets: by name.
        place: where the run stands in its data.
        in_epochs: which of MAX_ITER and WARMUP_ITERS were given in epochs.
        changes: since the checkpoint from which the run goes on.
        begun: when the reading of the data began, by `time.monotonic`.
    """

    cfg: ConfigNode
    records: Records
    test_sets: dict[str, Records]
    place: Place
    in_epochs: frozenset[str]
    changes: list[Change]
    begun: float = field(default_factory=time.monotonic)


def load_inputs(cfg: ConfigNode, checkpoint: Checkpoint | None) -> RunInputs:
    """Read the data sets and complete the config; `checkpoint` is that from which the run goes on.

    Raises:
        ValueError: no training data; class names or numbers that disagree.
        FileNotFoundError, KeyError: as `detframe.data.load_records`.
    """
    if not cfg.DATASETS.TRAIN:
        raise InvalidValueError("DATASETS.TRAIN is empty; name at least one data set of the catalog")
    begun, trained = time.monotonic(), ", ".join(cfg.DATASETS.TRAIN)
    records, test_sets = _load_sets(cfg)
    if len(records) == 0:
        raise InvalidValueError(f"DATASETS.TRAIN {trained} holds no image to train with")
    check_masks(cfg, records)
    if isinstance(records, TiledRecords):
        check_objects(records)
    for name, test in test_sets.items():
        check_same_names("class", (trained, records.metadata.class_names), (name, test.metadata.class_names))
    if checkpoint is not None:
        saved = ("the checkpoint", checkpoint.class_names)
        check_same_names("class", saved, (trained, records.metadata.class_names))
    seeded = cfg.clone()
    seeded.defrost()
    before = saved_leaves(checkpoint) if checkpoint is not None else {}
    seeded.SEED = resolve_seed(cfg, before)
    state = checkpoint.training if checkpoint is not None else None
    place = _place(seeded, records, state, before)
    timed = resolve_base_lr(resolve_durations(seeded, place.images_per_epoch, place.pace))
    effective = effective_config(timed, records.metadata, records=records)
    changes = _changes(effective, state, before, place)
    return RunInputs(effective, records, test_sets, place, given_in_epochs(cfg), changes, begun)


def effective_config(
    cfg: ConfigNode, metadata: Metadata, checkpoint: Checkpoint | None = None, records: Records | None = None
) -> ConfigNode:
    """The config that a model for these data is built from, frozen: for training, for evaluation and for a trial.

    Input formats that nobody has set are those of the weights; classes and keypoints have their numbers.

    Args:
        checkpoint: of detframe, which MODEL.WEIGHTS names; published weights are known by their name.
        records: what is trained on; see `with_classes`.

    Raises:
        ValueError: the config and the data have other numbers or names.
    """
    out = apply_input_format(cfg) if checkpoint is None else apply_saved_format(cfg, checkpoint.settings())
    return with_classes(out, metadata, records)


def with_classes(cfg: ConfigNode, metadata: Metadata, records: Records | None = None) -> ConfigNode:
    """A frozen copy in which the numbers of classes and keypoints that are 0 are those of the data, the losses have the
    weight of each class, PLUGINS names the packages that it needs, and the catalog has its whole path.

    Args:
        records: what is trained on, where losses depend on how common classes are; None: nothing is.

    Raises:
        ValueError: other numbers are given, or weights of classes that there are not.
    """
    out = cfg.clone()
    out.defrost()
    out.MODEL.NUM_CLASSES = resolve_num_classes(cfg, metadata)
    out.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = resolve_num_keypoints(cfg, metadata)
    out.MODEL.CLASS_WEIGHTS = resolve_class_weights(cfg, metadata, records)
    out.MODEL.ROI_BOX_HEAD.CLASS_FREQUENCIES = resolve_frequencies(cfg, records)
    out.PLUGINS = needed_plugins(cfg)
    if cfg.DATASETS.CATALOG:  # whoever reads the config of this run may work in another folder
        out.DATASETS.CATALOG = str(expanded(cfg.DATASETS.CATALOG).absolute())
    out.freeze()
    return out


def _place(cfg: ConfigNode, records: Records, state: TrainingState | None, before: Mapping[str, Any]) -> Place:
    """Where the run begins or goes on; `before` is the checkpoint's config by dotted keys."""
    if state is None:
        return first_place(cfg, records)
    note = check_same_data(cfg, records, state, before, DATA_KEYS)
    if note:
        logger.warning("%s", note)
    return resumed_place(cfg, records, state, before)


def _changes(cfg: ConfigNode, state: TrainingState | None, before: Mapping[str, Any], place: Place) -> list[Change]:
    """What has changed since the checkpoint; refuses what cannot, and logs the rest."""
    if state is None:
        return []
    changes = changes_since(before, cfg)
    check_changes(changes)
    log_changes(changes, state, place, cfg)
    return changes


def check_masks(cfg: ConfigNode, records: Records) -> None:
    """A model with masks needs data with masks. Raises ValueError where there are objects, and none has one."""
    if cfg.MODEL.MASK_ON and not records.has_masks and int(records.num_objects.sum()) > 0:
        raise InvalidValueError(
            f"MODEL.MASK_ON trains on masks, but no object of the data set {records.metadata.name} has one; "
            "name data with masks in DATASETS.TRAIN, or set MODEL.MASK_ON False"
        )


def _load_sets(cfg: ConfigNode) -> tuple[Records, dict[str, Records]]:
    """The training records, and the test sets by name. Raises one error for the missing images of all of them."""
    loaded: list[Any] = []
    errors: list[str] = []
    for load in (load_train_records, load_test_sets):
        try:
            loaded.append(load(cfg))
        except MissingImagesError as error:
            errors.append(str(error))
    if errors:
        raise MissingImagesError("\n".join(errors))
    return loaded[0], loaded[1]


def load_train_records(cfg: ConfigNode) -> Records:
    """The records of DATASETS.TRAIN, joined; with INPUT.TILES those of their tiles."""
    keep_empty = cfg.DATALOADER.EMPTY == "keep"
    records = load_records(
        cfg.DATASETS.TRAIN, cfg.DATASETS.CATALOG, keep_empty, cfg.DATASETS.LIMIT, cfg.DATALOADER.ON_ERROR
    )
    return tiled(cfg, records)


def load_test_sets(cfg: ConfigNode) -> dict[str, Records]:
    """The records of every data set in DATASETS.TEST, by name."""
    return {
        name: load_records([name], cfg.DATASETS.CATALOG, limit=cfg.DATASETS.LIMIT, on_missing=cfg.DATALOADER.ON_ERROR)
        for name in cfg.DATASETS.TEST
    }


def resolve_seed(cfg: ConfigNode, before: Mapping[str, Any]) -> int:
    """SEED; for -1 that of the checkpoint's run, whose config by dotted keys is `before`, or a new one of all ranks."""
    if cfg.SEED >= 0:
        return int(cfg.SEED)
    if before:
        if before["SEED"] < 0:
            raise InvalidValueError("resuming: the config in the checkpoint says no SEED; give that of the run")
        return int(before["SEED"])
    return int(broadcast_object(random.SystemRandom().randrange(2**31)))


def describe_ranks(cfg: ConfigNode, device: torch.device) -> str:
    """The start-up line: ranks, hosts, devices, and what the global batch is made of. Called by every rank."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else counted(torch.get_num_threads(), "thread")
    places = gather_objects((socket.gethostname(), f"{device} ({name})"))
    hosts = list(dict.fromkeys(host for host, _ in places))
    devices = ", ".join(f"rank {i}: {host} {where}" for i, (host, where) in enumerate(places))
    steps, batch, rule = cfg.SOLVER.ACCUMULATE_STEPS, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.LR_RULE
    share = share_of_batch(batch, len(places), steps)
    return (
        f"{counted(len(places), 'rank')} on {counted(len(hosts), 'host')}: {devices}\n"
        f"global batch {batch} = {counted(share, 'image')} x {counted(len(places), 'rank')} x "
        f"{counted(steps, 'accumulation step')}, "
        f"lr {cfg.SOLVER.BASE_LR:g}{'' if rule == 'none' else f' by SOLVER.LR_RULE {rule}'}"
    )


def describe_exchange(model: nn.Module, device: torch.device) -> str:
    """What it costs the ranks to sum their gradients, by a probe. Called by every rank, of which there are several."""
    size = 4 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    probe = min(size, _PROBE)
    seconds, ranks = all_reduce_seconds(probe, device), world_size()
    speed = 2 * (ranks - 1) / ranks * probe / seconds  # what passes through the link of each in a ring
    text = (
        f"summing gradients of {size / 1e6:.1f} MB over {ranks} ranks takes about {size / probe * seconds:.3g} s a "
        f"step, most of it during the backward pass ({probe / 1e6:.3g} MB took {1000 * seconds:.3g} ms: "
        f"{speed / 1e9:.2g} GB/s through each)"
    )
    if len(set(gather_objects(socket.gethostname()))) > 1 and speed < _SLOW_LINK and probe == _PROBE:
        text += (
            "; that is little between hosts: NCCL_SOCKET_IFNAME (GLOO_SOCKET_IFNAME on CPUs) chooses the network card, "
            "and NCCL_DEBUG=INFO shows which one is taken"
        )
    return text


def describe_data(inputs: RunInputs) -> str:
    """How many images and objects there are, and what the length of the training means in epochs."""
    cfg, records = inputs.cfg, inputs.records
    counts = records.class_counts().tolist()
    classes = ", ".join(f"{name} {n}" for name, n in zip(records.metadata.class_names, counts, strict=True))
    epochs = inputs.place.pace.images_at(cfg.SOLVER.MAX_ITER) / inputs.place.images_per_epoch
    return (
        f"training data {', '.join(cfg.DATASETS.TRAIN)}: {_describe_images(cfg, records)}; objects of "
        f"{counted(len(counts), 'class', 'classes')}: {classes}\n"
        f"{describe_sampling(cfg, records)}"
        f"{counted(cfg.SOLVER.MAX_ITER, 'iteration is', 'iterations are')} {epochs:.2f} epochs{_timed(cfg)}"
    )


def _timed(cfg: ConfigNode) -> str:
    minutes = cfg.SOLVER.MAX_MINUTES
    return f"; by SOLVER.MAX_MINUTES it will be as many as fit into {counted(minutes, 'minute')}" if minutes else ""


def _describe_images(cfg: ConfigNode, records: Records) -> str:
    """How many images, or tiles of images, there are, and how many of them show objects."""
    if not isinstance(records, TiledRecords):
        empty = int((records.num_objects == 0).sum())
        images = counted(len(records), "image")
        return f"{images}, {empty} of them without objects (DATALOADER.EMPTY {cfg.DATALOADER.EMPTY})"
    (full, empty_tiles), factors = tile_kinds(records), image_repeats(cfg, records)
    factors = np.ones(len(records)) if factors is None else factors
    drawn, scraps = (round(float(factors[some].sum())) for some in (empty_tiles, ~(full | empty_tiles)))
    return (
        f"{counted(len(records.tiles.images), 'image')} in {counted(len(records), 'tile')} of "
        f"{records.tiles.tiling.size} pixels (INPUT.TILES): {int(full.sum())} with objects, "
        f"{int(empty_tiles.sum())} without, {drawn} of which come in an epoch "
        f"(MAX_EMPTY {cfg.INPUT.TILES.MAX_EMPTY:g}), and {int((~(full | empty_tiles)).sum())} with only parts of "
        f"objects that are below MIN_VISIBLE {records.tiles.tiling.min_visible:g}, {scraps or 'none'} of which come"
    )


def tile_warnings(sets: Mapping[str, Records]) -> list[str]:
    """What of the tiles of some data sets, by name, does not fit their images and objects; nothing of whole images."""
    return [
        f"{finding.line(name)}; {finding.remedy}"
        for name, records in sets.items()
        if isinstance(records, TiledRecords)
        for finding in check_tiles(records)
        if finding.severity != NOTE
    ]


def missing_images(inputs: RunInputs) -> str:
    """How many annotated images of each data set do not exist and are left out; "" where all exist."""
    sets = {", ".join(inputs.cfg.DATASETS.TRAIN): inputs.records, **inputs.test_sets}
    counts = [f"{len(records.missing)} of {name}" for name, records in sets.items() if records.missing]
    return f"annotated images that do not exist were left out: {', '.join(counts)}" if counts else ""


def file_names(records: Records) -> Callable[[Any], str]:
    """A function image id -> path of its file; it searches only when it is asked."""

    def find(image_id: Any) -> str:
        for index in (records.image_ids == image_id).nonzero()[0][:1]:
            return str(records.file_name(int(index)))
        return "unknown file"

    return find
