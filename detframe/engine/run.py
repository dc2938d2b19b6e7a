"""A whole run: `train(cfg)` and `evaluate(cfg)`, from the config to the metrics."""

from __future__ import annotations

import functools
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from detframe import storage
from detframe.backends import Session, is_exported
from detframe.checkpoint import Checkpoint
from detframe.compat import load_weights, read_weights
from detframe.config import ConfigNode, as_config, import_carried, import_modules
from detframe.config.arguments import flag
from detframe.config.check import doubts
from detframe.config.paths import config_beside
from detframe.data import Records, check_same_names, tiled
from detframe.data.transforms import build_train_transforms
from detframe.engine.batch_shapes import check_shapes
from detframe.engine.build import build_trainer
from detframe.engine.callbacks import check_callbacks
from detframe.engine.commands import full_disk_remedy
from detframe.engine.evaluating import TestSets
from detframe.engine.exported import open_exported
from detframe.engine.fit import fit_lines
from detframe.engine.hooks import EvaluationHook
from detframe.engine.inputs import (
    RunInputs,
    describe_data,
    describe_exchange,
    describe_ranks,
    effective_config,
    load_inputs,
    load_test_sets,
    missing_images,
    tile_warnings,
    with_classes,
)
from detframe.engine.loggers.processes import check_loggers
from detframe.engine.logs import RunLog, run_log
from detframe.engine.metrics_file import MetricsFile
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.newest import open_newest
from detframe.engine.output_dir import EVALUATION_FILE, check_writable, prepare
from detframe.engine.output_place import OutputPlace, output_place
from detframe.engine.preflight import check_data_sets, check_names, check_weights, choose_metric
from detframe.engine.random_numbers import reproducible
from detframe.engine.relaunch import Standing, standing
from detframe.engine.reporting import log_start, report_tests
from detframe.engine.resuming import is_finished, keep_best
from detframe.engine.sampling import sampling_warnings
from detframe.engine.side_evaluation import SideEvaluationHook
from detframe.engine.store_copies import borrowed
from detframe.engine.summary import summarise
from detframe.engine.surroundings import alone_in_process, own_surroundings
from detframe.engine.trainer import Hook, Trainer
from detframe.engine.transform_trial import transform_lines
from detframe.errors import InvalidValueError
from detframe.evaluation.exported import FileModel
from detframe.files import write_text
from detframe.modeling import GeneralizedRCNN, build_detection_model
from detframe.parallel.collectives import barrier, on_rank_zero, rank, world_size
from detframe.parallel.device import resolve_amp, resolve_device
from detframe.parallel.elastic import StoodBy
from detframe.parallel.environment import ranks_that_share, share_of_batch
from detframe.parallel.joining import process_group
from detframe.parallel.stopping import RunStopped, StopSignals, signal_name

logger = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- training
def train(cfg: ConfigNode | str | Path, resume: bool = False, callbacks: Sequence[Hook] = ()) -> dict[str, float]:
    """Train a detector as the config says, evaluate it, and write everything into OUTPUT_DIR.

    Works in one process, and in each of several that torchrun, srun or `launch` started. An older run in OUTPUT_DIR is
    moved into a subfolder, unless `resume` goes on from its last checkpoint. That happens when everything stands, up to
    the first batch: a start that fails before that changes nothing on the disk.

    Args:
        cfg: a config, or the YAML file of one ("x.yaml"; shipped ones are found by name).
        resume: go on from the last checkpoint in OUTPUT_DIR.
        callbacks: hooks of your own, the same on every rank; their state is saved under their names. See
            docs/experiments.md.

    Returns:
        The metrics of the final evaluation, the same on every rank; {} where DATASETS.TEST is empty, and on a rank that
        torchrun started again beside as many as can share the batch.

    Raises:
        ValueError, KeyError, FileNotFoundError: a mistake in the config, the data or the callbacks.
        TypeError: `resume` is not True or False.
        InUseError: another run works in OUTPUT_DIR, or another thread of this process trains or evaluates.
        RunStopped: SIGTERM, SIGUSR1 or SIGINT (then also a KeyboardInterrupt) has ended the run between two steps, and
            it is saved. Only the main thread of a process can handle signals.
        FloatingPointError: a loss or gradient that is not finite.
        OSError: OUTPUT_DIR cannot be written, or its disk is full.
    """
    return train_checked(as_config(cfg), flag("resume", resume), callbacks)


def train_checked(cfg: ConfigNode, resume: bool = False, callbacks: Sequence[Hook] = ()) -> dict[str, float]:
    """`train` with a config that `validate` has seen, as `read_config` gives it."""
    callbacks = check_callbacks(callbacks)
    place = output_place(cfg.OUTPUT_DIR)
    stop = StopSignals(cfg.SOLVER.REQUEUE_EXIT_CODE)
    with alone_in_process(), stop.handled(), own_surroundings(), place, ExitStack() as held:
        try:
            with stop.at_once(nothing_to_save=True):
                start = _start(cfg, place, resume, callbacks, held)
        except RunStopped as stopped:
            name = signal_name(stopped.signum)
            text = f"stopped by {name} before the training began; OUTPUT_DIR {place} is as it was"
            logger.warning("%s", text)
            raise stop.error(stopped.signum, text) from None
        except StoodBy:  # the others have had the batch to themselves
            return {}
        if start.trainer is None:
            start.log.begin()
            logger.info("%s", "\n".join(start.notes))
            on_rank_zero(place.complete, "to complete OUTPUT_DIR")
            return start.metrics
        start.trainer.stop = stop
        start.trainer.hooks += place.hooks()
        claim = place.claimed(start.resume, start.files, cfg.MODEL.WEIGHTS, cfg.SOLVER.KEEP_LAST)
        start.notes += on_rank_zero(lambda: held.enter_context(claim), "to prepare OUTPUT_DIR")
        on_rank_zero(lambda: start.standing.write(place.folder, start.inputs.cfg), "to write into OUTPUT_DIR")
        start.log.begin()
        return _train(start, start.trainer, place.folder)


@dataclass
class _Start:
    """A run of which nothing is on the disk yet."""

    inputs: RunInputs
    files: dict[str, int]  # the checkpoints that were there
    log: RunLog
    standing: Standing
    resume: bool  # as asked for, or since torchrun has started the processes anew
    notes: list[str]
    trainer: Trainer | None = None  # with its first batch; None where there is nothing to do
    metrics: dict[str, float] = field(default_factory=dict)


def _start(cfg: ConfigNode, place: OutputPlace, resume: bool, callbacks: Sequence[Hook], held: ExitStack) -> _Start:
    """Everything up to the first batch, on every rank; `held` closes what it has opened. The disk is only read."""
    _check(cfg)
    usable = functools.partial(ranks_that_share, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE_STEPS)
    held.enter_context(process_group(cfg.MODEL.DEVICE, cfg.PROCESS_GROUP_TIMEOUT, usable))
    held.enter_context(storage.using(storage.Settings.of(cfg)))
    folder = place.folder
    log = held.enter_context(run_log(folder, rank(), at_once=False))
    on_rank_zero(place.bring_launch, "to look at OUTPUT_DIR")
    here = standing(folder)
    resume, cfg = resume or here.goes_on, here.fitted(cfg)
    share_of_batch(cfg.SOLVER.IMS_PER_BATCH, world_size(), cfg.SOLVER.ACCUMULATE_STEPS)
    # a process of the attempt before waits as long, on a host that is cut off
    files = place.look(resume, 60 * (cfg.PROCESS_GROUP_TIMEOUT + 1) if here.goes_on else 0.0)
    log_start("training")
    here.tell()
    _log_translation(cfg)
    checkpoint = open_newest(folder) if resume else None
    check_weights(cfg, checkpoint is not None)
    inputs = load_inputs(cfg, checkpoint)
    if checkpoint is not None and is_finished(inputs.cfg, checkpoint.state, inputs.place):
        notes = [_nothing_to_do(inputs.cfg, checkpoint)]
        return _Start(inputs, files, log, here, resume, notes, metrics=checkpoint.metrics)
    held.enter_context(reproducible(inputs.cfg))
    trainer = _build(inputs, folder, checkpoint, callbacks, held)
    trainer.saved = Path(checkpoint.source) if checkpoint is not None else None
    notes = on_rank_zero(place.notes, "to look at OUTPUT_DIR") if resume and checkpoint is None else []
    barrier()  # rank 0 touches the disk only when every rank stands
    return _Start(inputs, files, log, here, resume, notes, trainer)


def _check(cfg: ConfigNode) -> None:
    """What a config can tell by itself, and with the names of data sets and classes that are known."""
    import_modules(cfg)
    check_names(cfg)
    check_loggers(cfg.LOGGERS)
    build_train_transforms(cfg)  # which names what is wrong with a list of them
    check_data_sets(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    if cfg.DATASETS.TEST:
        choose_metric(cfg)


def _build(
    inputs: RunInputs, folder: Path, checkpoint: Checkpoint | None, callbacks: Sequence[Hook], held: ExitStack
) -> Trainer:
    """The trainer, with its first batch."""
    logger.info("%s", describe_ranks(inputs.cfg, resolve_device(inputs.cfg.MODEL.DEVICE)))
    logger.info("%s", describe_data(inputs))
    logger.info("%s", transform_lines(inputs.cfg, inputs.records))
    seen = {name: tiled(inputs.cfg, records) for name, records in inputs.test_sets.items()}
    trained = {", ".join(inputs.cfg.DATASETS.TRAIN): inputs.records}
    found = [*tile_warnings({**seen, **trained}), *sampling_warnings(inputs.cfg, trained)]
    for line in [*doubts(inputs.cfg), *found]:
        logger.warning("%s", line)
    trainer = build_trainer(inputs, folder, inputs.cfg.MODEL.WEIGHTS, checkpoint, callbacks)
    held.callback(trainer.close_data)
    if world_size() > 1:
        logger.info("%s", describe_exchange(trainer.model, trainer.device))
    model = cast(GeneralizedRCNN, trainer.model)  # as build_trainer makes it
    shapes = check_shapes(inputs.cfg, model.preprocessor.divisor, seen, trained)
    if shapes:
        logger.info("%s", shapes)
    for level, line in fit_lines(inputs.cfg, model, inputs.records, seen):
        logger.log(level, "%s", line)
    trainer.fetch()
    return trainer


def _log_translation(cfg: ConfigNode) -> None:
    for level, line in cfg.translation:
        logger.log(level, "%s", line)


def _train(start: _Start, trainer: Trainer, folder: Path) -> dict[str, float]:
    for note in start.notes:
        logger.warning("%s", note)
    on_rank_zero(lambda: _write_start(start.inputs, folder, trainer), "to write config.yaml")
    if trainer.saved is not None:
        logger.info("going on from %s at iteration %d of %d", trainer.saved, trainer.iteration, trainer.max_iter)
    begun = time.perf_counter()
    trainer.train()
    summarise(trainer, start.inputs, folder, time.perf_counter() - begun, missing_images(start.inputs))
    return trainer.metrics


def _write_start(inputs: RunInputs, folder: Path, trainer: Trainer) -> None:
    keep_best(folder, inputs.changes, trainer.iteration)
    write_text(folder / "config.yaml", inputs.cfg.dump(), full_disk_remedy(folder))
    repeated = any(hook.is_pending(trainer) for hook in trainer.hooks if isinstance(hook, EvaluationHook))
    again = {hook.under_way for hook in trainer.hooks if isinstance(hook, SideEvaluationHook)}
    dropped = MetricsFile(folder).trim(trainer.iteration, not repeated, again)
    if dropped:
        logger.info(
            "dropped %d rows after iteration %d from metrics.jsonl; they are made again", dropped, trainer.iteration
        )


def _nothing_to_do(cfg: ConfigNode, checkpoint: Checkpoint) -> str:
    state = checkpoint.state
    why = f" ({state['stop_reason']})" if state["stop_reason"] else ""
    key = "MAX_MINUTES" if cfg.SOLVER.MAX_MINUTES else "MAX_ITER"
    return (
        f"nothing to do: {checkpoint.source} is at iteration {state['iteration']} of SOLVER.{key} "
        f"{cfg.SOLVER[key]}{why}; raise SOLVER.{key} to go on"
    )


# ---------------------------------------------------------------------------------------------- evaluation
def evaluate(cfg: ConfigNode | str | Path, allow_custom_imports: bool = False) -> dict[str, float]:
    """Evaluate MODEL.WEIGHTS on every data set of DATASETS.TEST; also writes evaluation.json into OUTPUT_DIR.

    The weights may be an exported file (.onnx, .xml of OpenVINO, .pt2). It is evaluated with the config in it and what
    `cfg` sets beside; without DATASETS.TEST in `cfg`, on the data sets that the training was evaluated on.

    Args:
        cfg: a config, or the YAML file of one ("x.yaml"; shipped ones are found by name).
        allow_custom_imports: beside what CUSTOM_IMPORTS of `cfg` names, import what the config inside the checkpoint
            names, which runs its author's code. Otherwise nothing of the checkpoint is imported.

    Returns:
        The metrics, from 0 to 100 (NaN: not applicable), the same on every rank.

    Raises:
        ValueError: no weights or no data named, weights that do not fill the model, classes that differ.
        InUseError: another thread of this process trains or evaluates.
    """
    cfg, exported = as_config(cfg), None
    allow_custom_imports = flag("allow_custom_imports", allow_custom_imports)
    if is_exported(cfg.MODEL.WEIGHTS):
        exported, cfg = open_exported(cfg)
    if not cfg.DATASETS.TEST:
        raise InvalidValueError(
            f"DATASETS.TEST is empty; name at least one data set of the catalog to evaluate on{_hint_at_config(cfg)}"
        )
    if not cfg.MODEL.WEIGHTS:
        raise InvalidValueError("MODEL.WEIGHTS is empty; name the checkpoint to evaluate")
    import_modules(cfg)
    if exported is not None:  # whatever the names of its parts, they are in the file
        check_data_sets(cfg, cfg.DATASETS.TEST)
    elif not allow_custom_imports:  # else the checkpoint's modules come first
        check_names(cfg)
        check_data_sets(cfg, cfg.DATASETS.TEST)
    device = cfg.MODEL.DEVICE if exported is None else "cpu"
    group = process_group(device, cfg.PROCESS_GROUP_TIMEOUT)
    settings = storage.using(storage.Settings.of(cfg))
    with alone_in_process(), own_surroundings(), group, settings, borrowed(cfg.OUTPUT_DIR) as folder:
        on_rank_zero(lambda: check_writable(folder), "to look at OUTPUT_DIR")
        with run_log(folder, rank(), at_once=False) as log:
            log_start("evaluation")
            _log_translation(cfg)
            if exported is None:
                subject = _of_weights(cfg, allow_custom_imports)
            else:
                subject = _of_file(cfg, exported)
            return _evaluate(subject, folder, log)


def _hint_at_config(cfg: ConfigNode) -> str:
    """A hint at the config of the run that made the weights, where it lies beside them."""
    config = config_beside(cfg.MODEL.WEIGHTS)
    return f", or the config of the training: --config-file {config}" if config else ""


@dataclass(frozen=True)
class _Subject:
    """What is evaluated, and on what."""

    cfg: ConfigNode  # effective
    model: nn.Module
    test_sets: dict[str, Records]
    iteration: int
    amp_dtype: torch.dtype | None


def _of_weights(cfg: ConfigNode, allow_custom_imports: bool) -> _Subject:
    """The model of a checkpoint, or of weights of others."""
    content = read_weights(cfg.MODEL.WEIGHTS)
    checkpoint = Checkpoint.of(content, cfg.MODEL.WEIGHTS) if Checkpoint.recognise(content) else None
    if allow_custom_imports:
        if checkpoint is not None:
            import_carried(checkpoint.config(), cfg.MODEL.WEIGHTS, allow=True)
        check_names(cfg)
    test_sets = load_test_sets(cfg)
    if checkpoint is not None:
        _check_classes("the checkpoint", checkpoint.class_names, test_sets)
    metadata = next(iter(test_sets.values())).metadata
    effective = effective_config(cfg, metadata, checkpoint)
    model = _trained_model(effective, content, metadata.class_names)
    seen = {name: tiled(effective, records) for name, records in test_sets.items()} if cfg.INPUT.BUCKETS else {}
    shapes = check_shapes(effective, model.preprocessor.divisor, seen)
    if shapes:
        logger.info("%s", shapes)
    amp_dtype = resolve_amp(cfg.SOLVER.AMP, resolve_device(cfg.MODEL.DEVICE))
    return _Subject(effective, model, test_sets, checkpoint.iteration if checkpoint is not None else 0, amp_dtype)


def _of_file(cfg: ConfigNode, session: Session) -> _Subject:
    """An exported file, which computes in its own precision."""
    test_sets, card = load_test_sets(cfg), session.card
    if not card.class_agnostic:
        _check_classes(session.path.name, card.class_names, test_sets)
    effective = with_classes(cfg, next(iter(test_sets.values())).metadata)
    logger.info("%s in %s on %s", session.path, session.runtime, session.device)
    return _Subject(effective, FileModel(session), test_sets, int(card.provenance.get("iteration", 0)), None)


def _check_classes(owner: str, class_names: Sequence[str], test_sets: Mapping[str, Records]) -> None:
    for name, records in test_sets.items():
        check_same_names("class", (owner, class_names), (name, records.metadata.class_names))


def _evaluate(subject: _Subject, folder: Path, log: RunLog) -> dict[str, float]:
    barrier()
    on_rank_zero(lambda: prepare(folder), "to prepare OUTPUT_DIR")
    log.begin()
    writer = MetricsWriter(folder, active=rank() == 0, board=False)
    weights, iteration = subject.cfg.MODEL.WEIGHTS, subject.iteration
    tests = TestSets(subject.cfg, subject.test_sets, subject.amp_dtype, writer)
    metrics = tests.evaluate(subject.model, iteration)
    metrics = {**metrics, **tests.compare(subject.model)}
    on_rank_zero(lambda: _write_evaluation(folder, weights, iteration, metrics), "to write its results")
    report_tests(subject.cfg, folder, tests)
    return metrics


def _trained_model(cfg: ConfigNode, content: Any, class_names: Sequence[str]) -> GeneralizedRCNN:
    with reproducible(cfg):
        model = build_detection_model(cfg)
    report = load_weights(model, content, cfg.MODEL.ALLOW_PARTIAL_WEIGHTS, class_names, cfg.MODEL.WEIGHTS)
    logger.info("%s", report.table())
    if (report.missing or report.reinitialised) and not cfg.MODEL.ALLOW_PARTIAL_WEIGHTS:
        raise InvalidValueError(
            f"{cfg.MODEL.WEIGHTS} does not fill the whole model, so its metrics would mean nothing:\n{report.table()}\n"
            "compare the config with that of the training; MODEL.ALLOW_PARTIAL_WEIGHTS True evaluates it all the same"
        )
    return model


def _write_evaluation(folder: Path, weights: str, iteration: int, metrics: Mapping[str, float]) -> None:
    values = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
    row = {"weights": weights, "iteration": iteration, "metrics": values}
    write_text(folder / EVALUATION_FILE, json.dumps(row, indent=2) + "\n")
    logger.info("metrics written to %s", folder / EVALUATION_FILE)
