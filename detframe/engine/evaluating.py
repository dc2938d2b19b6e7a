"""Evaluating a model on every data set of DATASETS.TEST, with tables, a diagnosis and pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.engine.best_metric import choose_metric
from detframe.engine.inputs import file_names
from detframe.engine.pictures import pictures_are_optional
from detframe.engine.recorder import RunRecorder
from detframe.engine.terminal import RESULT, clear_progress, show_progress
from detframe.errors import InvalidValueError
from detframe.parallel import stopping
from detframe.parallel.collectives import gather_objects, rank, world_size
from detframe.registry import RPN_HEADS
from detframe.structures import ANY_CLASS, Prediction, Target

__all__ = ["TestSets", "choose_metric"]
logger = logging.getLogger(__name__)
_PICTURE_THRESHOLD = 0.3


class TestSets:
    """The data sets that a run evaluates; every method is called by every rank.

    Args:
        sets: records by name; see `detframe.engine.inputs.load_test_sets`.
        recorder: where pictures go; None makes none.

    Raises:
        ValueError: TEST.EVALUATOR compares classes, and the model has none.
    """

    __test__ = False  # pytest, this is no test class

    def __init__(
        self,
        cfg: ConfigNode,
        sets: Mapping[str, Any],
        amp_dtype: torch.dtype | None,
        recorder: RunRecorder | None = None,
    ) -> None:
        from detframe.evaluation import build_evaluator

        self.cfg = cfg
        self.amp_dtype = amp_dtype
        self.recorder = recorder
        self.sets = dict(sets)
        for records in self.sets.values():
            _check_classes(cfg, len(records.metadata.class_names))
        self.evaluators = {name: build_evaluator(cfg, records) for name, records in self.sets.items()}

    def evaluate(self, model: nn.Module, iteration: int) -> dict[str, float]:
        """Metrics of all data sets; with several of them, each key begins with the name of its set."""
        out: dict[str, float] = {}
        for name in self.sets:
            metrics = self._evaluate_one(name, model, iteration)
            out.update(metrics if len(self.sets) == 1 else {f"{name}/{key}": value for key, value in metrics.items()})
        return out

    def _evaluate_one(self, name: str, model: nn.Module, iteration: int) -> dict[str, float]:
        from detframe.data import build_test_loader
        from detframe.evaluation import run_evaluation

        records, evaluator = self.sets[name], self.evaluators[name]
        left_out = f"; {len(records.missing)} that do not exist are left out" if records.missing else ""
        logger.info("evaluating %d images of %s%s", len(records), name, left_out)
        loader = build_test_loader(self.cfg, records, rank=rank(), world_size=world_size())
        names = records.metadata.class_names
        classes = (names, (ANY_CLASS,) if getattr(model, "class_agnostic", False) else names)
        pictures = _Pictures(self.recorder, name, iteration, classes, self.cfg.TEST.VISUALIZE, file_names(records))
        batches = _Stoppable(loader)
        metrics: dict[str, float] = run_evaluation(model, batches, evaluator, self.amp_dtype, pictures.on_batch)
        if sum(gather_objects(loader.skipped)) == len(records):
            raise InvalidValueError(
                f"none of the {len(records)} images of {name} could be read (the log names them), so there is nothing "
                "to evaluate: is the disk there, and the folder the right one? DATALOADER.ON_ERROR skip leaves out "
                "single images, not all"
            )
        logger.info("results on %s after %d iterations:\n%s", name, iteration, evaluator.table(metrics), extra=RESULT)
        diagnosis = evaluator.diagnosis()
        if diagnosis is not None:
            logger.log(logging.WARNING if rank() == 0 else logging.INFO, "%s", diagnosis)
        return metrics


class _Stoppable:
    """The batches of a loader, until a signal ends the run (RunStopped)."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.loader):
            stopping.check()
            show_progress("evaluating", number, len(self))
            yield batch
        stopping.check()
        clear_progress()


def _check_classes(cfg: ConfigNode, count: int) -> None:
    """A model that does not tell classes apart has no average precision over several.

    Raises:
        ValueError: it would meet an evaluator of classes.
    """
    rpn = RPN_HEADS.get(cfg.MODEL.RPN.NAME)
    class_agnostic = not cfg.MODEL.ROI_HEADS.NAME and getattr(rpn, "class_agnostic", False)
    if class_agnostic and cfg.TEST.EVALUATOR in ("coco", "tt100k") and count > 1:
        raise InvalidValueError(
            f"the evaluator {cfg.TEST.EVALUATOR!r} compares {count} classes, but without MODEL.ROI_HEADS.NAME the "
            "model gives class-agnostic proposals; set TEST.EVALUATOR proposals, SOLVER.BEST_METRIC proposals/AR@1000"
        )


class _Pictures:
    """Draws the first images of rank 0's shard, ground truth beside prediction.

    Args:
        class_names: of the ground truth, and of the predictions.
        count: how many images.
        file_name: the file of an image id, for the captions.
    """

    def __init__(
        self,
        recorder: RunRecorder | None,
        name: str,
        iteration: int,
        class_names: tuple[Sequence[str], Sequence[str]],
        count: int,
        file_name: Callable[[Any], str],
    ) -> None:
        self.recorder = recorder
        self.name = name
        self.iteration = iteration
        self.class_names, self.predicted_names = class_names
        self.file_name = file_name
        self.left = count if recorder is not None and recorder.active else 0
        self._number = 0

    @property
    def on_batch(self) -> Callable[[Sequence[Tensor], Sequence[Target], list[Prediction]], None] | None:
        """What `run_evaluation` calls with each batch."""
        return self._draw if self.left else None

    def _draw(self, images: Sequence[Tensor], targets: Sequence[Target], predictions: list[Prediction]) -> None:
        from detframe.visualization import side_by_side

        if self.recorder is None:
            return
        for image, target, prediction in list(zip(images, targets, predictions, strict=True))[: self.left]:
            names, predicted = self.class_names, self.predicted_names
            with pictures_are_optional(self.recorder):
                file = Path(self.file_name(target["image_id"])).name
                picture = side_by_side(image, target, prediction, names, _PICTURE_THRESHOLD, predicted, file)
                self.recorder.picture(self.iteration, f"predictions_{self.name}_{self._number}", picture)
            self._number += 1
            self.left -= 1
