"""A model of one linear layer, and what a trainer of it needs."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from detframe.checkpoint import Checkpoint
from detframe.config import get_cfg
from detframe.engine.checkpoint import Checkpointer, last_checkpoint
from detframe.engine.nonfinite import FiniteGuard
from detframe.engine.step import StepSettings
from detframe.engine.trainer import Hook, Trainer
from detframe.solver import ModelEMA, build_optimizer

METADATA = SimpleNamespace(
    class_names=("cat", "dog"),
    category_ids=(3, 7),
    keypoint_names=("nose",),
    keypoint_flip_pairs=(),
    keypoint_sigmas=(0.025,),
)
META = {"format": 1, "class_names": ["cat", "dog"], "config": "SEED: 0\n"}


class At(Hook):
    """Calls something after a step."""

    name = "at"

    def __init__(self, iteration, call):
        self.iteration, self.call = iteration, call

    def after_step(self, trainer):
        if trainer.iteration == self.iteration:
            self.call(trainer)


class Regressor(nn.Module):
    """Losses of a linear map of the image's mean colour; "images" are uint8 (3, 2, 2)."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2)
        self.noise = noise

    def forward(self, images, targets):
        x = torch.stack([image.float().mean((1, 2)) / 255 for image in images])
        wanted = torch.stack([target["boxes"][0, :2] for target in targets])
        error = (self.layer(x) - wanted + self.noise * torch.rand(())).square().mean(0)
        return {"loss_a": error[0], "loss_b": 2 * error[1]}


def make_batch(iteration, size=4, rank=0, world=1):
    generator = torch.Generator().manual_seed(iteration)
    images = [torch.randint(0, 256, (3, 2, 2), dtype=torch.uint8, generator=generator) for _ in range(size)]
    boxes = [torch.rand(1, 4, generator=generator) + torch.tensor([0.0, 0.0, 1.0, 1.0]) for _ in range(size)]
    targets = [
        {"boxes": b, "labels": torch.tensor([1]), "image_id": 10 * iteration + i, "orig_size_hw": (2, 2), "seed": i}
        for i, b in enumerate(boxes)
    ]
    share = slice(rank * size // world, (rank + 1) * size // world)
    return images[share], targets[share]


def make_data(start=0, size=4, rank=0, world=1):
    return (make_batch(i, size, rank, world) for i in itertools.count(start))


def make_config(**solver):
    cfg = get_cfg()
    for key, value in {"BASE_LR": 0.1, "IMS_PER_BATCH": 4, "MAX_ITER": 8, **solver}.items():
        cfg.SOLVER[key] = value
    return cfg


def make_trainer(
    folder: Path,
    cfg=None,
    model=None,
    data=None,
    hooks=(),
    ema=0.0,
    schedule=lambda iteration: 1.0,
    start=0,
    norms=None,
    **settings,
):
    cfg = cfg or make_config()
    model = model or Regressor()
    return Trainer(
        model=model,
        optimizer=build_optimizer(cfg, model),
        data=data or make_data(start),
        schedule=schedule,
        settings=StepSettings(base_lr=cfg.SOLVER.BASE_LR, **settings),
        max_iter=cfg.SOLVER.MAX_ITER,
        device=torch.device("cpu"),
        guard=FiniteGuard(folder, cfg, META),
        hooks=hooks,
        ema=ModelEMA(model, ema) if ema else None,
        norms=norms,
    )


def make_checkpointer(folder: Path, keep_last=3, background=False):
    return Checkpointer(folder, META, keep_last, background)


STATE = {"max_iter": 8, "finished": False, "stop_reason": "", "optimizer": {}, "scaler": {}, "rng": [], "hooks": {}}


def save_state(folder: Path, name: str, iteration: int, keep_last=0, **model):
    """A checkpoint with all parts, of a model without meaning."""
    model = {"w": torch.arange(600.0), **model}
    return make_checkpointer(folder, keep_last).save(name, model, {**STATE, "iteration": iteration}, {})


def last_state(folder: Path):
    """What the newest training checkpoint of a run says of it."""
    return Checkpoint.read(last_checkpoint(folder)).state


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def config(*overrides):
    """The defaults with some keys changed: config("SEED", 7)."""
    cfg = get_cfg()
    cfg.merge_from_list(list(overrides))
    return cfg
