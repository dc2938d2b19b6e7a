"""Some steps of the training that is to come, and some images of its evaluation, with a watch in the hand."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from detframe.config import ConfigNode, resolve_durations
from detframe.data import build_test_loader, build_train_loader
from detframe.engine.build import reproducible, step_settings
from detframe.engine.trainer import Step, Trainer
from detframe.evaluation import evaluating
from detframe.layers.device import resolve_amp, resolve_device
from detframe.modeling import build_detection_model
from detframe.recipes.budget import Pace
from detframe.solver import ModelEMA, build_optimizer

logger = logging.getLogger(__name__)
Clock = Callable[[], float]
WARM_UP_STEPS = 2  # slower than the rest: memory is fetched, kernels are chosen
FEWEST_STEPS, MOST_STEPS = 3, 40
RATE_FACTOR = 0.01  # of the learning rate: only the time is of interest
BATCHES = 2  # of the evaluation, the first of which only warms up
SCORING = 0.004  # seconds an image, for matching detections with objects once all are there
FULL_MODEL = 1.3  # a trained model finds more than one at its beginning
CLOSING = 6.0  # seconds for the last checkpoints and pictures


def rehearse(cfg: ConfigNode, train: Any, val: Any, seconds: float, clock: Clock = time.perf_counter) -> Pace:
    """Measure the pace of a training, alone in this process and whatever group of processes it belongs to.

    Args:
        cfg: complete but for DATASETS and the length; IMS_PER_BATCH is that of this process.
        train, val: records.
        seconds: about so many are spent on training steps.

    Raises:
        torch.OutOfMemoryError: the batch does not fit into the GPU's memory.
        ValueError: the weights of MODEL.WEIGHTS do not fit the model.
    """
    begun = clock()
    with reproducible(cfg), _quiet():
        model = _model(cfg, train)
        built = clock() - begun
        step = _time_steps(cfg, model, train, seconds, clock)
        image = _time_images(cfg, model, val, clock)
    return Pace(step, image, built + CLOSING)


def _model(cfg: ConfigNode, train: Any) -> nn.Module:
    from detframe.compat import load_weights

    full = cfg.clone()
    full.defrost()
    full.MODEL.NUM_CLASSES = train.metadata.num_classes
    full.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = len(train.metadata.keypoint_names) if cfg.MODEL.KEYPOINT_ON else 0
    model = build_detection_model(full)
    if cfg.MODEL.WEIGHTS:
        load_weights(model, cfg.MODEL.WEIGHTS, cfg.MODEL.ALLOW_PARTIAL_WEIGHTS, train.metadata.class_names)
    return model


class _Bystander:
    """A recorder that lets everything pass: what is trained here is thrown away."""

    def stop(self, trainer: Trainer, step: Step) -> None:
        """Nothing is stopped."""

    def check_rates(self, trainer: Trainer) -> None:
        """Nothing is checked."""

    def check_weights(self, trainer: Trainer) -> None:
        """Nothing is checked."""


def _time_steps(cfg: ConfigNode, model: nn.Module, train: Any, seconds: float, clock: Clock) -> float:
    """Mean seconds of a step, waiting for data included."""
    device = resolve_device(cfg.MODEL.DEVICE)
    cfg = resolve_durations(cfg, len(train))
    trainer = Trainer(
        model=model,
        optimizer=build_optimizer(cfg, model),
        data=iter(build_train_loader(cfg, train)),
        schedule=lambda iteration: RATE_FACTOR,
        settings=step_settings(cfg, device),
        max_iter=MOST_STEPS,
        device=device,
        recorder=_Bystander(),
        ema=ModelEMA(model, cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY > 0 else None,
    )
    try:
        for _ in range(WARM_UP_STEPS):
            trainer.step()
        begun, steps = _now(device, clock), 0
        while steps < FEWEST_STEPS or (_now(device, clock) - begun < seconds and not trainer.is_over):
            trainer.step()
            steps += 1
        return (_now(device, clock) - begun) / steps
    finally:
        trainer.close_data()


def _time_images(cfg: ConfigNode, model: nn.Module, val: Any, clock: Clock) -> float:
    """Seconds of an image in an evaluation, reading and scoring included."""
    device = resolve_device(cfg.MODEL.DEVICE)
    some = val[: BATCHES * cfg.TEST.IMS_PER_BATCH]
    count, begun = 0, _now(device, clock)
    with evaluating(model, resolve_amp(cfg.SOLVER.AMP, device)):
        for number, (images, _) in enumerate(build_test_loader(cfg, some)):
            if number == 1:
                count, begun = 0, _now(device, clock)
            model(images)
            count += len(images)
    return FULL_MODEL * (_now(device, clock) - begun) / max(count, 1) + SCORING


def _now(device: torch.device, clock: Clock) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Loading the same weights and building the same model is told once, when the training begins."""
    own = logging.getLogger("detframe")
    before = own.level
    own.setLevel(logging.ERROR)
    try:
        yield
    finally:
        own.setLevel(before)
