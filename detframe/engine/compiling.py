"""What torch.compile costs a run, in its log (MODEL.COMPILE)."""

from __future__ import annotations

import logging
from typing import Any

from detframe.engine.trainer import Hook, Trainer

logger = logging.getLogger(__name__)


class CompileHook(Hook):
    """Says of each step and evaluation in which graphs were made how long that took, and at the end what all cost."""

    name = "compile"

    def __init__(self) -> None:
        self._seen = 0
        self._seconds = 0.0  # of the steps that made graphs, in which the backward pass is compiled too

    def after_step(self, trainer: Trainer) -> None:
        if trainer.last_step is not None:
            seconds = trainer.last_step.seconds
            if self._say(trainer, "step %d took %.1f s:", trainer.iteration, seconds):
                self._seconds += seconds

    def after_evaluation(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        self._say(trainer, "the evaluation after step %d:", trainer.evaluated)

    def _say(self, trainer: Trainer, what: str, *values: float) -> bool:
        graphs: Any = getattr(trainer.model, "graphs", None)
        if graphs is None or len(graphs.made) == self._seen:
            return False
        new, self._seen = graphs.made[self._seen :], len(graphs.made)
        logger.info(
            f"{what} %d new graphs, %.1f s until they had run (MODEL.COMPILE; %d graphs so far)",
            *values,
            len(new),
            sum(graph.seconds for graph in new),
            len(graphs.made),
        )
        return True

    def after_train(self, trainer: Trainer) -> None:
        graphs: Any = getattr(trainer.model, "graphs", None)
        if graphs is not None:
            text = "MODEL.COMPILE: %d graphs were made; the training steps that made some took %.1f s"
            logger.info(text, len(graphs.made), self._seconds)
