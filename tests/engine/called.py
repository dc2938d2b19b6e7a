"""Callbacks that the tests of two ranks run in processes of their own; each writes down what it was called for."""

from __future__ import annotations

from pathlib import Path

import torch

from detframe.config import ConfigNode
from detframe.engine import train
from detframe.engine.trainer import Hook, Trainer
from detframe.parallel.collectives import rank
from detframe.parallel.joining import process_group


class Called(Hook):
    """Notes every call; at the one that `deed` names, rank 1 alone raises, or asks to stop.

    Args:
        deed: "raise step 3" or "stop AP 4"; "" does nothing.
    """

    name = "called"

    def __init__(self, folder: Path, deed: str) -> None:
        self.file = folder / f"rank{rank()}.txt"
        self.what, _, self.when = deed.partition(" ")
        self.count = 0

    def note(self, trainer: Trainer, line: str) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        if rank() == 1 and line == self.when:
            if self.what == "raise":
                raise ZeroDivisionError("of the callback of rank 1")
            trainer.stop_reason = "rank 1 has had enough"

    def before_train(self, trainer: Trainer) -> None:
        self.note(trainer, f"begin {trainer.iteration} {self.count}")

    def after_step(self, trainer: Trainer) -> None:
        self.count += 1 + rank()
        self.note(trainer, f"step {trainer.iteration}")

    def before_evaluation(self, trainer: Trainer) -> None:
        self.note(trainer, f"evaluating {trainer.iteration}")

    def after_evaluation(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        self.note(trainer, f"AP {trainer.iteration}")
        self.note(trainer, f"metrics {sorted(metrics.items())}")

    def after_last_step(self, trainer: Trainer) -> None:
        self.note(trainer, "last")

    def after_train(self, trainer: Trainer) -> None:
        self.note(trainer, f"end {trainer.finished} {trainer.stop_reason}")

    def close(self) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write("closed\n")

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def whole_run(cfg: ConfigNode, folder: str, deed: str = "", resume: bool = False) -> None:
    """`train(cfg, callbacks=[...])` on this rank."""
    torch.set_num_threads(1)
    with process_group("cpu", cfg.PROCESS_GROUP_TIMEOUT):
        train(cfg, resume, callbacks=[Called(Path(folder), deed)])
