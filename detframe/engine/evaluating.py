"""Evaluating a model on every data set of DATASETS.TEST, with tables, a diagnosis and pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.engine.recorder import RunRecorder
from detframe.layers.collectives import rank, world_size
from detframe.structures import Prediction, Target

logger = logging.getLogger(__name__)
_PICTURE_THRESHOLD = 0.3
_COCO_KINDS = ("bbox", "segm", "keypoints")


class TestSets:
    """The data sets that a run evaluates; every method is called by every rank.

    Args:
        sets: records by name; see `detframe.engine.inputs.load_test_sets`.
        recorder: where pictures go; None makes none.
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
        logger.info("evaluating %d images of %s", len(records), name)
        loader = build_test_loader(self.cfg, records, rank=rank(), world_size=world_size())
        pictures = _Pictures(self.recorder, name, iteration, records.metadata.class_names, self.cfg.TEST.VISUALIZE)
        metrics: dict[str, float] = run_evaluation(model, loader, evaluator, self.amp_dtype, pictures.on_batch)
        logger.info("results on %s after %d iterations:\n%s", name, iteration, evaluator.table(metrics))
        diagnosis = evaluator.diagnosis()
        if diagnosis is not None:
            logger.log(logging.WARNING if rank() == 0 else logging.INFO, "%s", diagnosis)
        return metrics


class _Pictures:
    """Draws the first images of rank 0's shard, ground truth beside prediction."""

    def __init__(
        self, recorder: RunRecorder | None, name: str, iteration: int, class_names: Sequence[str], count: int
    ) -> None:
        self.recorder = recorder
        self.name = name
        self.iteration = iteration
        self.class_names = class_names
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
            picture = side_by_side(image, target, prediction, self.class_names, _PICTURE_THRESHOLD)
            self.recorder.picture(self.iteration, f"predictions_{self.name}_{self._number}", picture)
            self._number += 1
            self.left -= 1


def choose_metric(cfg: ConfigNode) -> str:
    """The full name of SOLVER.BEST_METRIC: with several test sets and no set named, that of the first one.

    Raises:
        ValueError: it is not of the form that evaluations produce.
    """
    metric, sets = cfg.SOLVER.BEST_METRIC, cfg.DATASETS.TEST
    if len(sets) > 1 and not any(metric.startswith(f"{name}/") for name in sets):
        metric = f"{sets[0]}/{metric}"
    kind = metric.split("/")[-2] if "/" in metric else ""
    kinds = {"coco": _COCO_KINDS, "tt100k": (*_COCO_KINDS, "tt100k")}.get(cfg.TEST.EVALUATOR, (kind,))
    if kind not in kinds:
        more = ", 'tt100k/F1'" if "tt100k" in kinds else ""
        raise ValueError(
            f"SOLVER.BEST_METRIC {cfg.SOLVER.BEST_METRIC!r} is no metric of the evaluator {cfg.TEST.EVALUATOR!r}; "
            f"as 'bbox/AP', 'bbox/AP50'{more}, 'segm/AP' or 'bbox/AP-<class name>'"
        )
    return metric
