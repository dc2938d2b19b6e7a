"""Building what a run trains: model with its first weights, optimizer, loader, hooks, all in a Trainer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detframe.checkpoint import Checkpoint, Meta, describe
from detframe.compat import load_weights
from detframe.compat.body_weights import imagenet_weights
from detframe.config import ConfigNode
from detframe.config.effects import norm_key
from detframe.data import build_train_loader
from detframe.data.reading import records_form
from detframe.engine.callbacks import StopTogether, check_own_names
from detframe.engine.checkpoint import Checkpointer
from detframe.engine.compiling import CompileHook
from detframe.engine.evaluating import TestSets
from detframe.engine.hooks import EvaluationHook, LogHook
from detframe.engine.inputs import RunInputs, file_names
from detframe.engine.loggers.processes import BOARD, LoggersHook
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.nonfinite import FiniteGuard, FiniteHook
from detframe.engine.pictures import PictureHook
from detframe.engine.place import REMEDY
from detframe.engine.precise_norms import build_precise_norms
from detframe.engine.preflight import choose_metric
from detframe.engine.random_numbers import seed_all
from detframe.engine.reporting import ReportHook
from detframe.engine.resuming import comparable, without_measures
from detframe.engine.saving import BestHook, CheckpointHook
from detframe.engine.side_evaluation import SideEvaluationHook
from detframe.engine.side_process import SideProcess
from detframe.engine.step import Batch, StepSettings
from detframe.engine.teaching import give_teacher
from detframe.engine.time_budget import TimeBudget, keep_to_minutes
from detframe.engine.trainer import Hook, Trainer
from detframe.errors import InvalidValueError, listed
from detframe.layers import training_norms
from detframe.modeling import build_detection_model
from detframe.parallel.collectives import rank, world_size
from detframe.parallel.device import resolve_amp, resolve_device
from detframe.solver import (
    build_average,
    build_lr_schedule,
    build_optimizer,
    check_schedule,
    idle_patterns,
    parameter_groups,
)
from detframe.texts import counted

logger = logging.getLogger(__name__)
_FAR_APART = 1_000_003  # seeds of one iteration from those of the next; more than there are ranks
_DEEPER = ("backbone.body",)  # of this part, the parts get rows of their own


def build_trainer(
    inputs: RunInputs, folder: Path, weights: str, checkpoint: Checkpoint | None, callbacks: Sequence[Hook] = ()
) -> Trainer:
    """The trainer of a run, ready for its first step or, with a checkpoint, for the step after that.

    Args:
        folder: OUTPUT_DIR.
        weights: initial weights, as MODEL.WEIGHTS; "" keeps the random ones. Not read when going on.
        callbacks: hooks of the user's.

    Raises:
        ValueError: the weights or the checkpoint belong to another architecture, or there are no weights for a part of
            the backbone that is frozen.
    """
    cfg = inputs.cfg
    model = build_detection_model(cfg)
    log_model(model, parameter_groups(cfg, model))
    for line in [*idle_patterns(cfg, model), *averaged_norms(cfg, model)]:
        logger.warning("%s", line)
    if checkpoint is not None:
        check_resumable(model, checkpoint.model)
    elif weights:
        load_initial_weights(cfg, model, weights, inputs.records.metadata.class_names)
    else:
        refuse_frozen_noise(cfg, model)
    give_teacher(cfg, model)
    start = checkpoint.iteration if checkpoint is not None else 0
    place = inputs.place
    device = resolve_device(cfg.MODEL.DEVICE)
    meta = describe(cfg, inputs.records.metadata, records_form(cfg, inputs.records).dtype)
    schedule = build_lr_schedule(cfg, place.pace, inputs.in_epochs)
    check_schedule(cfg, schedule)
    settings = step_settings(cfg, device)
    # So far all ranks have used the same random numbers, to build the same weights. A run that goes on takes its own
    # states from the checkpoint, or, with another number of ranks, must not use the numbers of its beginning again
    seed_all(cfg.SEED + 1 + rank() + start * _FAR_APART)
    trainer = Trainer(
        model=model,
        optimizer=build_optimizer(cfg, model),
        data=_batches(inputs, start),
        schedule=schedule,
        settings=settings,
        max_iter=cfg.SOLVER.MAX_ITER,
        device=device,
        guard=FiniteGuard(folder, cfg, meta, file_names(inputs.records)),
        hooks=build_hooks(inputs, model, build_checkpointer(cfg, folder, meta), start, callbacks),
        ema=build_average(cfg, model),
        place=place,
        norms=build_precise_norms(cfg, model, inputs.records, settings.autocast(device)),
    )
    keep_to_minutes(trainer, inputs, checkpoint)
    if checkpoint is not None:
        trainer.load_training_state(checkpoint if comparable(inputs.changes) else without_measures(checkpoint))
    return trainer


def _batches(inputs: RunInputs, start: int) -> Iterator[Batch]:
    """This rank's batches from an iteration on."""
    cfg, place = inputs.cfg, inputs.place
    close_at = place.pace.images_at(cfg.INPUT.CLOSE_AT) if cfg.INPUT.CLOSE_AT else None
    since = start - place.begun_at
    return iter(build_train_loader(cfg, inputs.records, since, rank(), world_size(), place.beginning, close_at))


def build_checkpointer(cfg: ConfigNode, folder: Path, meta: Meta) -> Checkpointer:
    """What writes the checkpoints of a run into its folder."""
    return Checkpointer(folder, meta, cfg.SOLVER.KEEP_LAST, cfg.SOLVER.CHECKPOINT_ASYNC)


def averaged_norms(cfg: ConfigNode, model: nn.Module) -> Iterator[str]:
    """What becomes of the statistics of batch norms where SOLVER.SWA_START averages weights far from each other."""
    if cfg.SOLVER.SWA_START and not cfg.TEST.PRECISE_BN.ENABLED and training_norms(model):
        yield (
            "SOLVER.SWA_START averages the running statistics of batch norms like weights, and not what the averaged "
            "weights would give; TEST.PRECISE_BN.ENABLED True measures them for these weights before each evaluation"
        )


def step_settings(cfg: ConfigNode, device: torch.device) -> StepSettings:
    """The part of the config that a step needs."""
    return StepSettings(
        base_lr=cfg.SOLVER.BASE_LR,
        accumulate_steps=cfg.SOLVER.ACCUMULATE_STEPS,
        amp_dtype=resolve_amp(cfg.SOLVER.AMP, device),
        clip_norm=cfg.SOLVER.CLIP_GRAD_NORM,
        clip_each=cfg.SOLVER.CLIP_GRAD_NORM_PER == "parameter",
        clip_value=cfg.SOLVER.CLIP_GRAD_VALUE,
    )


def build_hooks(
    inputs: RunInputs, model: nn.Module, checkpointer: Checkpointer, start: int, callbacks: Sequence[Hook] = ()
) -> list[Hook]:
    """The hooks of a run, in their order: a checkpoint comes after the evaluation of the same iteration.

    Callbacks come before both, so that every checkpoint has their state after the step that it holds.

    Raises:
        ValueError: a metric that these data do not have, or a callback with the name of another hook.
    """
    cfg, names = inputs.cfg, inputs.records.metadata.class_names
    writer = MetricsWriter(checkpointer.folder, start, active=rank() == 0, board=BOARD in cfg.LOGGERS)
    tests = _test_sets(inputs, writer) if inputs.test_sets else None
    hooks: list[Hook] = [
        LoggersHook(checkpointer.folder, cfg.LOGGERS),
        FiniteHook(cfg.SOLVER.LOG_PERIOD, cfg.TEST.EVAL_PERIOD),
        CompileHook(),
        PictureHook(writer, names, cfg.SOLVER.IMAGE_PERIOD, file_names(inputs.records)),
        LogHook(writer, cfg.SOLVER.LOG_PERIOD, cfg.SOLVER.IMS_PER_BATCH, inputs.place.images_per_epoch, cfg.dump()),
    ]
    own = len(hooks)
    if tests is not None:
        hooks += evaluation_hooks(inputs, model, checkpointer, writer, tests)
    else:
        logger.info("DATASETS.TEST is empty: nothing is evaluated, and there will be no model_best.pth")
    hooks += [
        CheckpointHook(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, waits=not cfg.TEST.ASYNC),
        ReportHook(cfg, checkpointer.folder, tests),
    ]
    if not callbacks:
        return hooks
    together = StopTogether()
    check_own_names(callbacks, {TimeBudget.name, *(hook.name for hook in [*hooks, together])})
    return [*hooks[:own], *callbacks, together, *hooks[own:]]


def _test_sets(inputs: RunInputs, writer: MetricsWriter) -> TestSets:
    amp_dtype = resolve_amp(inputs.cfg.SOLVER.AMP, resolve_device(inputs.cfg.MODEL.DEVICE))
    return TestSets(inputs.cfg, inputs.test_sets, amp_dtype, writer)


def evaluation_hooks(
    inputs: RunInputs, model: nn.Module, checkpointer: Checkpointer, writer: MetricsWriter, tests: TestSets
) -> list[Hook]:
    """Evaluation, best model, early stop.

    Raises:
        ValueError: a metric that these data do not have.
    """
    cfg = inputs.cfg
    patience, metric = cfg.SOLVER.EARLY_STOP_PATIENCE, choose_metric(cfg, inputs.test_sets)
    return [
        _evaluation_hook(cfg, model, checkpointer, writer, tests),
        BestHook(checkpointer, metric, patience, cfg.SOLVER.EARLY_STOP_MIN_DELTA),
    ]


def _evaluation_hook(
    cfg: ConfigNode, model: nn.Module, checkpointer: Checkpointer, writer: MetricsWriter, tests: TestSets
) -> EvaluationHook:
    period = cfg.TEST.EVAL_PERIOD

    def evaluate(iteration: int) -> dict[str, float]:
        return tests.evaluate(model, iteration)

    def compare() -> dict[str, float]:
        return tests.compare(model)

    if not (cfg.TEST.ASYNC and period):
        return EvaluationHook(evaluate, writer, period, compare)
    side = SideProcess(cfg, checkpointer.folder) if rank() == 0 else None
    return SideEvaluationHook(evaluate, writer, period, compare, cfg.SOLVER.LOG_PERIOD, checkpointer, side)


# ---------------------------------------------------------------------------------------------- weights
def log_model(model: nn.Module, groups: list[dict[str, Any]]) -> None:
    """How many parameters there are and how many are trained, and a table of the parts with the optimizer's groups."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    sizes = f"model: {total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M of them trained"
    logger.info("%s\n%s", sizes, model_table(model, groups))  # the heading on a line without a time, over its columns


def load_initial_weights(cfg: ConfigNode, model: nn.Module, weights: str, class_names: Sequence[str]) -> None:
    """Fill the model from MODEL.WEIGHTS, class outputs by the names of the classes, and log what fitted.

    Raises:
        ValueError: too little of it fits.
        FileNotFoundError: there is no such file.
    """
    report = load_weights(model, weights, cfg.MODEL.ALLOW_PARTIAL_WEIGHTS, class_names)
    logger.info("%s", report.table())


def refuse_frozen_noise(cfg: ConfigNode, model: nn.Module) -> None:
    """A backbone that is random and frozen in part never learns that part; a detector hardly learns on top of it.

    Raises:
        ValueError: what of the backbone is frozen, and the remedies.
    """
    backbone = model.get_submodule("backbone") if hasattr(model, "backbone") else model
    frozen = sum(p.numel() for p in backbone.parameters() if not p.requires_grad)
    norms = sum(isinstance(module, FrozenBatchNorm2d) for module in backbone.modules())
    if frozen or norms:
        counts = [counted(number, what) for number, what in ((norms, "batch norm"), (frozen, "parameter")) if number]
        verb = "is" if norms + frozen == 1 else "are"
        body = cfg.MODEL.BACKBONE.CONV_BODY
        named, key = imagenet_weights(body), norm_key(body)
        norm = f" and {key} BN{'' if key == 'MODEL.MOBILENET.NORM' else ' or GN'}" if key else ""
        remedy = f"Name weights, as MODEL.WEIGHTS {named}," if named else "Name weights in MODEL.WEIGHTS"
        raise InvalidValueError(
            f"MODEL.WEIGHTS is empty, so the weights start at random, but {' and '.join(counts)} "
            f"of the backbone {body} {verb} frozen and would stay random. {remedy} or train "
            f"all of it: MODEL.BACKBONE.FREEZE_CONV_BODY_AT 0{norm}, without MODEL.FREEZE"
        )


def check_resumable(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """A run goes on only with the architecture with which it began, whatever module of the user's own has changed.

    Raises:
        ValueError: what differs.
    """
    saved = {name: tuple(value.shape) for name, value in weights.items()}
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    differing = [
        f"{k}: {saved.get(k, 'absent')} -> {own.get(k, 'absent')}"
        for k in {**own, **saved}
        if saved.get(k) != own.get(k)
    ]
    if differing:
        raise InvalidValueError(
            "resuming: the checkpoint is of another architecture than the config (parameter: checkpoint -> config): "
            f"{listed(differing, 8, '; ')}. Give the config of the run, or {REMEDY}"
        )


# ---------------------------------------------------------------------------------------------- the table of parts
def model_table(model: nn.Module, groups: list[dict[str, Any]]) -> str:
    """One line for every part: parameters, how many train, norms with their mode, learning rate over the schedule's.

    Args:
        model: a detector, in the mode in which it will train.
        groups: of the optimizer, as `parameter_groups` gives them.
    """
    factors = {id(parameter): group["lr_factor"] for group in groups for parameter in group["params"]}
    rows = [("module", "params M", "trained M", "norm", "lr x")]
    for name, module in _parts(model, ""):
        parameters = list(module.parameters())
        trained = [p for p in parameters if p.requires_grad]
        if parameters or _norms(module):
            rows.append(
                (
                    name,
                    f"{sum(p.numel() for p in parameters) / 1e6:.3f}",
                    f"{sum(p.numel() for p in trained) / 1e6:.3f}",
                    ", ".join(f"{count} {kind}" for kind, count in _norms(module).items()) or "-",
                    _range(sorted({factors[id(p)] for p in trained if id(p) in factors})),
                )
            )
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d:<{widths[3]}}  {e}".rstrip()
        for a, b, c, d, e in rows
    )


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if path == "backbone" or path in _DEEPER or (not prefix and len(list(child.named_children())) > 1):
            yield from _parts(child, f"{path}.")
        else:
            yield path, child


def _norms(module: nn.Module) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for member in module.modules():
        kind = _kind(member)
        if kind:
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def _kind(module: nn.Module) -> str:
    if isinstance(module, FrozenBatchNorm2d):
        return "FrozenBN"
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        name = "SyncBN" if isinstance(module, nn.SyncBatchNorm) else "BN"
        return f"{name} ({'batch statistics' if module.training else 'running statistics'})"
    if isinstance(module, nn.GroupNorm):
        return "GN"
    return "LN" if isinstance(module, nn.LayerNorm) else ""


def _range(factors: list[float]) -> str:
    if not factors:
        return "-"
    return f"{factors[0]:g}" if len(factors) == 1 else f"{factors[0]:g} to {factors[-1]:g}"
