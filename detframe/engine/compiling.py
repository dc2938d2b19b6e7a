"""What torch.compile costs a run, in its log (MODEL.COMPILE)."""

from __future__ import annotations

import logging
from typing import Any

from detframe.engine.trainer import Hook, Trainer

logger = logging.getLogger(__name__)


class CompileHook(Hook):
    """Says of each step in which graphs were made how long it took, and at the end what all of them cost."""

    name = "compile"

    def __init__(self) -> None:
        self._seen = 0

    def after_step(self, trainer: Trainer) -> None:
        graphs: Any = getattr(trainer.model, "graphs", None)
        if graphs is None or len(graphs.made) == self._seen or trainer.last_step is None:
            return
        new, self._seen = graphs.made[self._seen :], len(graphs.made)
        logger.info(
            "step %d took %.1f s: %d new graphs, %.1f s until they had run (MODEL.COMPILE; %d graphs so far)",
            trainer.iteration,
            trainer.last_step.seconds,
            len(new),
            sum(graph.seconds for graph in new),
            len(graphs.made),
        )

    def after_train(self, trainer: Trainer) -> None:
        graphs: Any = getattr(trainer.model, "graphs", None)
        if graphs is not None:
            logger.info("MODEL.COMPILE: %d graphs were made, in %.1f s", len(graphs.made), graphs.seconds)
