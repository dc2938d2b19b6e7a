"""Evaluating a model on every data set of DATASETS.TEST, with tables, a diagnosis and pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode
from detframe.data import Records, TestLoader, build_test_loader
from detframe.data.scaled import LARGE_PIXELS
from detframe.engine.batch_shapes import FullBatches
from detframe.engine.comparing import EqualPixels, Watched, comparison_table, costs, why_not
from detframe.engine.inputs import file_names
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.pictures import EvaluationPictures
from detframe.engine.step import Batch
from detframe.engine.terminal import RESULT, clear_progress, show_progress
from detframe.engine.validation_loss import ValidationLosses, check_can_measure, line
from detframe.errors import InvalidValueError
from detframe.evaluation import build_evaluator, run_evaluation
from detframe.evaluation.exported import FileModel
from detframe.evaluation.loop import OnBatch
from detframe.evaluation.tiled import TiledEvaluator, as_loaded
from detframe.inference.augmentation import AugmentedModel
from detframe.modeling.build import detector_class
from detframe.parallel import stopping
from detframe.parallel.collectives import gather_objects, rank, world_size
from detframe.registry import RPN_HEADS
from detframe.report.predictions import predictions_file
from detframe.report.whole_images import EQUAL, WHOLE
from detframe.structures import ANY_CLASS, Prediction, Target
from detframe.texts import counted

logger = logging.getLogger(__name__)


class TestSets:
    """The data sets that a run evaluates; every method is called by every rank.

    Args:
        sets: records by name; see `detframe.engine.inputs.load_test_sets`.
        writer: where pictures go; None makes none.

    Raises:
        ValueError: TEST.EVALUATOR compares classes, and the model has none.
    """

    __test__ = False  # pytest, this is no test class

    def __init__(
        self,
        cfg: ConfigNode,
        sets: Mapping[str, Records],
        amp_dtype: torch.dtype | None,
        writer: MetricsWriter | None = None,
    ) -> None:
        self.cfg = cfg
        self.amp_dtype = amp_dtype
        self.writer = writer
        self.sets = dict(sets)
        for records in self.sets.values():
            _check_classes(cfg, len(records.metadata.class_names))
            if cfg.TEST.LOSS:
                check_can_measure(cfg, records)
        self.evaluators = {name: as_loaded(cfg, build_evaluator(cfg, records)) for name, records in self.sets.items()}
        self._of_tiles: dict[str, dict[str, float]] = {}  # what the newest evaluation gave, by set, and what it took
        self.evaluated = False  # the evaluators hold what the newest evaluation found

    def evaluate(self, model: nn.Module, iteration: int) -> dict[str, float]:
        """Metrics of all data sets; with several of them, each key begins with the name of its set."""
        out: dict[str, float] = {}
        self.evaluated = False
        for name in self.sets:
            metrics = self._evaluate_one(name, model, iteration)
            out.update(metrics if len(self.sets) == 1 else {f"{name}/{key}": value for key, value in metrics.items()})
        self.evaluated = True
        return out

    def compare(self, model: nn.Module) -> dict[str, float]:
        """Beside the newest evaluation in tiles: whole images, and whole images at as many pixels (TILES.COMPARE).

        Returns:
            "whole/bbox/AP" and its fellows, "whole_equal_pixels/bbox/AP", and of each "pixels" and "seconds" per image
            as the network sees and needs them ("tiles/pixels"); nothing where images are not cut into tiles.
        """
        out: dict[str, float] = {}
        if not (self.cfg.INPUT.TILES.SIZE and self.cfg.INPUT.TILES.COMPARE):
            return out
        if not self.evaluated:  # it was by a process that has ended
            logger.warning("tiles and whole images are not compared; `detframe evaluate` does it")
            return out
        for name, records in self.sets.items():
            metrics = dict(self._of_tiles[name])
            rows = {key: value for key, value in metrics.items() if key.startswith("tiles/")}
            for kind in (WHOLE, EQUAL):
                rows.update(self._whole(kind, name, model, records))
            logger.info("%s in tiles and whole:\n%s", name, comparison_table({**metrics, **rows}), extra=RESULT)
            out.update(rows if len(self.sets) == 1 else {f"{name}/{key}": value for key, value in rows.items()})
        return out

    def _whole(self, kind: str, name: str, model: nn.Module, records: Records) -> dict[str, float]:
        """The metrics of whole images; every rank calls it."""
        reason = why_not(kind, self.cfg, model, records.sizes_hw)
        if reason:
            logger.warning("%s is not evaluated as whole images (%s): %s", name, kind, reason)
            return {}
        settings: list[tuple[str, Any]] = [("INPUT.TILES.SIZE", 0)]
        if records.sizes_hw.prod(1).max() > LARGE_PIXELS:  # no such image is in memory, here no more than in tiles
            settings.append(("INPUT.DECODE", "scaled"))
        if kind == WHOLE:
            seen, loader = _views(self.cfg.changed(settings), model, records)
            watched = seen = Watched(seen, spare=True)
        else:
            settings += [("INPUT.MIN_SIZE_TEST", 0), ("INPUT.MAX_SIZE_TEST", 0)]
            loader = build_test_loader(self.cfg.changed(settings), records, rank=rank(), world_size=world_size())
            watched = Watched(model, spare=True)
            seen = EqualPixels(watched, self.cfg)
        logger.info("evaluating %s of %s as whole images (%s)", counted(len(records), "image"), name, kind)
        metrics = run_evaluation(seen, _Stoppable(loader), build_evaluator(self.cfg, records), self.amp_dtype)
        if sum(gather_objects(watched.failed)):
            logger.warning("%s is not evaluated as whole images (%s): the GPU has too little memory", name, kind)
            return {}
        return {f"{kind}/{key}": value for key, value in {**metrics, **costs(watched, len(records))}.items()}

    def gather(self) -> None:
        """Bring what the ranks have found in the newest evaluation to rank 0, where it is not there yet."""
        for evaluator in self.evaluators.values():
            if self.evaluated and hasattr(evaluator, "gather_results"):
                evaluator.gather_results()

    def save_predictions(self, folder: Path) -> None:
        """Write predictions_<set>.json for each data set, of the newest evaluation, on rank 0 after `gather`."""
        for name, evaluator in self.evaluators.items():
            if self.evaluated and hasattr(evaluator, "save_results"):  # evaluators of others may have no boxes
                evaluator.save_results(predictions_file(folder, name))

    def _evaluate_one(self, name: str, model: nn.Module, iteration: int) -> dict[str, float]:
        records, evaluator = self.sets[name], self.evaluators[name]
        left_out = f"; {len(records.missing)} that do not exist are left out" if records.missing else ""
        seen, loader = _views(self.cfg, model, records)
        totals = gather_objects(loader.total)
        in_tiles = f", in {counted(sum(totals), 'tile')}" if self.cfg.INPUT.TILES.SIZE else ""
        logger.info("evaluating %s of %s%s%s", counted(len(records), "image"), name, in_tiles, left_out)
        watched = Watched(seen) if isinstance(evaluator, TiledEvaluator) else None
        names = records.metadata.class_names
        classes = (names, (ANY_CLASS,) if getattr(model, "class_agnostic", False) else names)
        file_name = file_names(records)
        pictures = EvaluationPictures(self.writer, name, iteration, classes, self.cfg.TEST.VISUALIZE, file_name)
        losses = ValidationLosses.of(self.cfg, model, file_name) if self.cfg.TEST.LOSS else None
        if watched is None:
            draw = pictures.on_batch
        else:
            draw, evaluator.on_image = None, pictures.on_image
        on_batch = in_turn(draw, None if losses is None else losses.on_batch)
        metrics: dict[str, float] = run_evaluation(
            seen if watched is None else watched, _Stoppable(loader), evaluator, self.amp_dtype, on_batch
        )
        if watched is not None:
            cost = costs(watched, len(records), evaluator.seconds)
            self._of_tiles[name] = {**metrics, **{f"tiles/{key}": value for key, value in cost.items()}}
        if sum(gather_objects(loader.skipped)) == sum(totals):
            raise InvalidValueError(
                f"none of the {len(records)} images of {name} could be read (the log names them), so there is nothing "
                "to evaluate: is the disk there, and the folder the right one? DATALOADER.ON_ERROR skip leaves out "
                "single images, not all"
            )
        after = counted(iteration, "iteration")
        logger.info("results on %s after %s:\n%s", name, after, evaluator.table(metrics), extra=RESULT)
        diagnosis = evaluator.diagnosis()
        if diagnosis is not None:
            logger.log(logging.WARNING if rank() == 0 else logging.INFO, "%s", diagnosis)
        if losses is None:
            return metrics
        means = losses.compute()
        logger.info("validation losses on %s after %s: %s", name, after, line(means), extra=RESULT)
        return {**metrics, **means}


def in_turn(*callbacks: OnBatch | None) -> OnBatch | None:
    """One callback that calls all of those that are there, in their order; None where none is."""
    there = [callback for callback in callbacks if callback is not None]

    def call(images: Sequence[Tensor], targets: Sequence[Target], predictions: list[Prediction]) -> None:
        for callback in there:
            callback(images, targets, predictions)

    return call if there else None


def _views(cfg: ConfigNode, model: Any, records: Records) -> tuple[Any, TestLoader]:
    """What predicts and the images of this rank for it: with TEST.AUG as they are, since each view resizes them."""
    if cfg.TEST.AUG.ENABLED:
        model = AugmentedModel(model, cfg, records.metadata.keypoint_flip_pairs)
        logger.info("each image is predicted in %d views (TEST.AUG)", len(model.views))
        cfg = cfg.changed([("INPUT.MIN_SIZE_TEST", 0), ("INPUT.MAX_SIZE_TEST", 0)])
    loader = build_test_loader(cfg, records, rank=rank(), world_size=world_size())
    if (cfg.INPUT.BUCKETS or cfg.MODEL.COMPILE != "off") and not isinstance(model, FileModel):
        model = FullBatches(model, loader.batch_size if cfg.INPUT.BUCKETS else 0)
    return model, loader


class _Stoppable:
    """The batches of a loader, until a signal ends the run (RunStopped)."""

    def __init__(self, loader: TestLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
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
    proposes = not cfg.MODEL.ROI_HEADS.NAME and not detector_class(cfg).own_heads
    class_agnostic = proposes and getattr(rpn, "class_agnostic", False)
    if class_agnostic and cfg.TEST.EVALUATOR in ("coco", "tt100k", "voc", "lvis") and count > 1:
        raise InvalidValueError(
            f"the evaluator {cfg.TEST.EVALUATOR!r} compares {count} classes, but without MODEL.ROI_HEADS.NAME the "
            "model gives class-agnostic proposals; set TEST.EVALUATOR proposals, SOLVER.BEST_METRIC proposals/AR@1000"
        )
