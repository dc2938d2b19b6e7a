"""Runs: training, evaluation, the processes that share them, and what they leave in OUTPUT_DIR."""

from detframe.engine.checkpoint import Checkpointer, last_checkpoint, read_checkpoint
from detframe.engine.hooks import Hook
from detframe.engine.launch import launch
from detframe.engine.replay import replay
from detframe.engine.run import evaluate, train
from detframe.engine.trainer import StepSettings, Trainer

__all__ = [
    "Checkpointer",
    "Hook",
    "StepSettings",
    "Trainer",
    "evaluate",
    "last_checkpoint",
    "launch",
    "read_checkpoint",
    "replay",
    "train",
]
