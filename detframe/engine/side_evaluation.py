"""TEST.ASYNC: the evaluations of a training beside its steps, in a process of rank 0."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from detframe.checkpoint import Checkpoint
from detframe.engine.checkpoint import EVALUATING, Checkpointer
from detframe.engine.hooks import EvaluationHook
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.side_process import Outcome, SideProcess, Task
from detframe.engine.trainer import Trainer, is_due
from detframe.parallel.collectives import broadcast_object, max_over_ranks, on_rank_zero

logger = logging.getLogger(__name__)
_WAIT_SECONDS = 0.5  # from one look for a signal to the next


class SideEvaluationHook(EvaluationHook):
    """Has the weights of every `period`-th step evaluated beside the steps that follow; the last ones between steps.

    Metrics are taken in at the first `look`-th step after they have come, and at the latest where the next evaluation
    is due, which waits for them. They count for the iteration of their weights. A callback or patience that ends the
    training does so where the next evaluation is due, so that it does not depend on how fast anything was. An
    evaluation that was under way when a run was ended is made again, from the weights in model_evaluating.pth.

    Args:
        look: steps from one look for metrics to the next.
        side: the process; None on all ranks but 0.
    """

    def __init__(
        self,
        evaluate: Callable[[int], dict[str, float]],
        writer: MetricsWriter,
        period: int,
        compare: Callable[[], dict[str, float]] | None,
        look: int,
        checkpointer: Checkpointer,
        side: SideProcess | None,
    ) -> None:
        super().__init__(evaluate, writer, period, compare)
        self.look = look
        self.checkpointer = checkpointer
        self.side = side
        self.under_way = -1  # the iteration of the weights that are evaluated beside the training
        self._stop = ""  # why the training ends at the next evaluation
        self._outcome: Outcome | None = None  # on rank 0, that nobody has taken in yet

    def before_train(self, trainer: Trainer) -> None:
        """Begin the evaluation again during which the run was ended."""
        if self.under_way < 0 or trainer.is_over:
            super().before_train(trainer)
        elif self.under_way == trainer.iteration:
            self._begin(trainer)
        else:
            self._begin_again()
            if is_due(trainer.iteration, self.period) and self._begun != trainer.iteration:
                self._follow(trainer)  # a signal ended the wait for the one before it

    def check(self) -> None:
        """Tell of an evaluation that has failed."""
        if self.side is not None and self._outcome is None:
            self._outcome = self.side.poll()
        if self._outcome is not None and self._outcome.error is not None:
            outcome, self._outcome = self._outcome, None
            _say(outcome)
            raise self._explain(outcome)

    def after_step(self, trainer: Trainer) -> None:
        """Take metrics in, and have the next weights evaluated where that is due."""
        if is_due(trainer.iteration, self.period):
            self._follow(trainer)
        elif self.under_way >= 0 and is_due(trainer.iteration, self.look):
            self._take_in(trainer, wait=False)

    def after_last_step(self, trainer: Trainer) -> None:
        """Take in what is still evaluated, and evaluate the last weights."""
        if self.under_way >= 0:
            for hook in trainer.hooks:
                hook.before_evaluation(trainer)
            with self._explained(trainer):
                self._take_in(trainer, wait=True)
            signum = max_over_ranks([trainer.stop.received])[0]
            if self.under_way >= 0 and signum:
                raise trainer.stopped(int(signum))
        super().after_last_step(trainer)

    def after_train(self, trainer: Trainer) -> None:
        """Remove what only an evaluation needed."""
        on_rank_zero(lambda: (self.checkpointer.folder / EVALUATING).unlink(missing_ok=True), "to remove a file")

    def close(self) -> None:
        """End the process."""
        if self.side is not None:
            self.side.close()

    def _follow(self, trainer: Trainer) -> None:
        """Wait for the evaluation before this one, end the training if that says so, and begin this one."""
        if self.under_way >= 0:
            try:
                self._take_in(trainer, wait=True)
            except Exception:
                for hook in trainer.hooks:
                    hook.before_stop(trainer)
                raise
            if self.under_way >= 0:  # a signal has come, of which the next step hears
                return
        if self._stop:
            trainer.stop_reason, self._stop = self._stop, ""
        if not trainer.is_over:
            self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        iteration = self.under_way = trainer.iteration
        self._prepare(trainer)
        side = self.side
        if side is not None:
            path = self.checkpointer.folder / EVALUATING
            weights = trainer.inference_weights()
            self.checkpointer.save_for_evaluation(weights, iteration, lambda: side.submit(Task(iteration, path)))

    def _begin_again(self) -> None:
        path = self.checkpointer.folder / EVALUATING
        if not broadcast_object(self.side is not None and _holds(path, self.under_way)):
            logger.warning(
                "the weights of iteration %d are not in %s any more, so their evaluation is not made again",
                *(self.under_way, path),
            )
            self.under_way = -1
        elif self.side is not None:
            self.side.submit(Task(self.under_way, path))

    def _take_in(self, trainer: Trainer, wait: bool) -> None:
        """Publish the metrics, if they have come, for the iteration of their weights."""
        outcome = on_rank_zero(lambda: self._arrived(trainer, wait), "to evaluate")
        if outcome is None:
            return
        iteration, self.under_way = self.under_way, -1
        self._outcome = None
        _say(outcome)
        self._last = iteration
        self._write(iteration, outcome.metrics)
        before, trainer.stop_reason = trainer.stop_reason, ""
        trainer.publish(outcome.metrics, iteration, outcome.seconds)
        self._stop, trainer.stop_reason = trainer.stop_reason, before

    def _arrived(self, trainer: Trainer, wait: bool) -> Outcome | None:
        """The outcome on rank 0; None where it has not come, a signal ended the wait, or it has failed unawaited."""
        if self.side is None:
            return None
        begun = time.monotonic()
        if wait:
            self.checkpointer.wait()  # what hands the weights over
        while self._outcome is None and not self.side.idle:
            self._outcome = self.side.poll(_WAIT_SECONDS if wait else 0.0)
            if not wait or trainer.stop.received:
                break
        if wait and time.monotonic() - begun > 1:
            logger.info("waited %.0f s for the evaluation of iteration %d", time.monotonic() - begun, self.under_way)
        found = self._outcome
        if found is not None and found.error is not None:
            if not wait:
                return None
            _say(found)
            raise self._explain(found)
        return found

    def _explain(self, outcome: Outcome) -> Exception:
        error = outcome.error or RuntimeError("no error")
        error.add_note(f"This was the evaluation of iteration {self.under_way}, beside the training (TEST.ASYNC).")
        return error

    def state_dict(self) -> dict[str, Any]:
        """Which evaluation is under way, too, and whether the training is to end."""
        return {**super().state_dict(), "under_way": self.under_way, "stop": self._stop}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Know what was under way."""
        super().load_state_dict(state)
        self.under_way, self._stop = state.get("under_way", -1), state.get("stop", "")


def _holds(path: Any, iteration: int) -> bool:
    try:
        return Checkpoint.read(path).iteration == iteration
    except (OSError, ValueError):
        return False


def _say(outcome: Outcome) -> None:
    for level, text in outcome.lines:
        logger.log(level, "%s", text)
