"""A training that takes no time: it leaves what a study looks at, and calls the callback as the trainer does."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from detframe.engine.metrics_file import MetricsFile

METRIC = "bbox/AP"
SPACE = {"SOLVER.BASE_LR": {"low": 1e-4, "high": 1.0, "log": True}, "SOLVER.OPTIMIZER": ["SGD", "AdamW"]}


def peak_at_three_hundredths(rate: float) -> float:
    """A metric from 0 to 50, the highest at a learning rate of 0.03."""
    return 50 / (1 + math.log10(rate / 0.03) ** 2)


class Pretended:
    """In place of `train`.

    Attributes:
        calls: (name of the folder, learning rate, resume) of each.
        value: the final metric of a learning rate; a third and two thirds of it are measured before.
        late: steps that are made while an evaluation is under way, as with TEST.ASYNC.
        before: called with the config before anything is written, to fail as a training does.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, float, bool]] = []
        self.value: Callable[[float], float] = peak_at_three_hundredths
        self.before: Callable[..., None] = lambda cfg: None
        self.late = 0

    def __call__(self, cfg, resume=False, callbacks=()):
        folder = Path(cfg.OUTPUT_DIR)
        self.calls.append((folder.name, cfg.SOLVER.BASE_LR, resume))
        (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
        self.before(cfg)
        trainer = SimpleNamespace(iteration=0, evaluated=0, max_iter=6, stop_reason="", is_over=False)
        for callback in callbacks:
            callback.before_train(trainer)
        for part in (1, 2, 3):
            if not trainer.stop_reason:
                self._evaluate(trainer, 2 * part, folder, self.value(cfg.SOLVER.BASE_LR) * part / 3, callbacks)
        (folder / "model_0000006.pth").touch()
        return {}

    def _evaluate(self, trainer, iteration, folder, value, callbacks) -> None:
        trainer.evaluated, trainer.is_over = iteration, iteration == trainer.max_iter
        trainer.iteration = iteration + self.late * (not trainer.is_over)
        MetricsFile(folder).append(iteration, {METRIC: value})
        for callback in callbacks:
            callback.after_evaluation(trainer, {METRIC: value})
