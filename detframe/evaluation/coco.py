"""COCOEvaluator: average precision as COCO defines it, for data sets of any format."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detframe.errors import InvalidValueError
from detframe.evaluation.diagnosis import diagnose
from detframe.evaluation.ground_truth import GroundTruth
from detframe.evaluation.results import ImageResult, coco_rows, pack, write_json
from detframe.evaluation.scores import score
from detframe.evaluation.table import metrics_table
from detframe.parallel.collectives import broadcast_object, gather_objects, rank
from detframe.registry import EVALUATORS
from detframe.structures import Prediction, Target

logger = logging.getLogger(__name__)
# Below this AP (of 100) something is wrong rather than weak, and the evaluator says what it saw
DIAGNOSE_BELOW = 0.1


@EVALUATORS.register("coco")
class COCOEvaluator:
    """Collects predictions and scores them against the records' ground truth; see `detframe.evaluation.scorer`.

    Args:
        records: the data set; indexable, with `.metadata` (class_names, category_ids).
        max_detections: detections that count per image and class, TEST.DETECTIONS_PER_IMG.
    """

    def __init__(self, records: Any, max_detections: int = 100) -> None:
        if max_detections < 1:
            raise InvalidValueError(f"max_detections must be 1 or more, not {max_detections}")
        self.records = records
        self.max_detections = max_detections
        self.class_names: tuple[str, ...] = tuple(records.metadata.class_names)
        self.category_ids: tuple[int, ...] = tuple(records.metadata.category_ids)
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._results: dict[Any, ImageResult] = {}
        self._diagnosis: str | None = None

    def update(self, targets: Sequence[Target], predictions: Sequence[Prediction]) -> None:
        """Take the predictions of some images, in the coordinates of the original images.

        An image that was seen before keeps its first predictions. Masks (M, 1, H, W) are encoded at once.

        Raises:
            ValueError: not one prediction per target, a label outside 1..K, or masks of another size than the image.
        """
        for target, prediction in zip(targets, predictions, strict=True):
            image_id = target["image_id"]
            if image_id in self._results:
                continue
            self._check(target, prediction)
            self._results[image_id] = pack(prediction)

    def compute(self) -> dict[str, float]:
        """Metrics from 0 to 100 (nan: not applicable) over the predictions of all ranks; every rank gets the same dict.

        Keys are "bbox/AP" and its fellows (see `scores.score`), and the same under "segm/" and "keypoints/" where both
        predictions and records have masks or keypoints. Every rank must call it. Rank 0 does the work and afterwards
        holds the predictions of all ranks.
        """
        gathered = gather_objects(self._results)
        outcome: tuple[dict[str, float], str | None] | None = None
        if rank() == 0:
            self._results = _merge(gathered)
            outcome = self._score()
        del gathered
        metrics, self._diagnosis = broadcast_object(outcome)
        return dict(metrics)

    def table(self, metrics: dict[str, float]) -> str:
        """The metrics as a text table; what is not applicable reads N/A."""
        return metrics_table(metrics, self.class_names, self.records.class_counts().tolist())

    def diagnosis(self) -> str | None:
        """What went wrong, if the last `compute()` gave an AP below 0.1 or none at all; else None."""
        return self._diagnosis

    def results(self) -> list[dict[str, Any]]:
        """All predictions in COCO's results format, with the category ids of the annotation file.

        After `compute()` rank 0 has those of all ranks; another rank has its own.
        """
        return [row for i, result in self._results.items() for row in coco_rows(i, result, self.category_ids)]

    def save_results(self, path: str | Path) -> Path:
        """Write `results()` as JSON (rank 0 only; the others do nothing)."""
        return write_json(self.results(), path) if rank() == 0 else Path(path)

    # ------------------------------------------------------------------ inside
    @functools.cached_property
    def _truth(self) -> GroundTruth:
        return GroundTruth(self.records)

    def _check(self, target: Target, prediction: Prediction) -> None:
        labels, image_id = prediction["labels"], target["image_id"]
        if len(labels) and (int(labels.min()) < 1 or int(labels.max()) > len(self.class_names)):
            raise InvalidValueError(
                f"a prediction for image {image_id!r} has label {int(labels.max())} (smallest {int(labels.min())}), "
                f"but the data set has {len(self.class_names)} classes, labels 1 to {len(self.class_names)}: "
                f"{', '.join(self.class_names)}. Was the model trained on other classes?"
            )
        if "masks" in prediction and "orig_size_hw" in target:
            size, wanted = tuple(prediction["masks"].shape[-2:]), tuple(target["orig_size_hw"])
            if size != wanted:
                raise InvalidValueError(
                    f"the predicted masks of image {image_id!r} have size {size}, the image has {wanted} "
                    "(height, width); rescale predictions to the original image before update()"
                )

    def _score(self) -> tuple[dict[str, float], str | None]:
        truth, results = self._truth, self._results
        self._warn(truth)
        kinds = ["bbox"]
        if truth.has_masks and any(r.rles is not None for r in results.values()):
            kinds.append("segm")
            _say_without_masks(truth)
        if truth.has_keypoints and any(r.keypoints is not None for r in results.values()):
            kinds.append("keypoints")
        metrics: dict[str, float] = {}
        for kind in kinds:
            metrics.update(score(truth, results, kind, self.max_detections))
        poor = [kind for kind in kinds if math.isnan(metrics[f"{kind}/AP"]) or metrics[f"{kind}/AP"] < DIAGNOSE_BELOW]
        return metrics, diagnose(truth, results, metrics, poor[0]) if poor else None

    def _warn(self, truth: GroundTruth) -> None:
        missing = [image_id for image_id in truth.images if image_id not in self._results]
        if missing:
            logger.warning(
                "%d of %d images got no prediction entry (first: %r): skipped while loading, or not evaluated; "
                "their objects count as missed",
                *(len(missing), len(truth.images), missing[0]),
            )
        unknown = [image_id for image_id in self._results if image_id not in truth.images]
        if unknown:
            logger.warning("%d image ids of predictions are not in the data set, as %r", len(unknown), unknown[0])
        broken = sum(result.not_finite for result in self._results.values())
        if broken:
            logger.warning("%d detections with a box or score that is not a finite number were left out", broken)


def _say_without_masks(truth: GroundTruth) -> None:
    without = truth.num_without_mask()
    if without:
        logger.warning(
            "%d of %d objects have no usable mask; the AP of masks (segm) leaves them out, that of boxes counts them",
            *(without, truth.num_objects()),
        )


def oracle_check(records: Any) -> dict[str, float]:
    """The metrics of the ground truth handed in as predictions: 100 each, or nan where nothing of that size exists.

    Anything else means that ids, classes or coordinates are misread somewhere between file and evaluator. Crowd regions
    are not handed in.
    """
    truth = GroundTruth(records)
    most = max((len(image.labels) for image in truth.images.values()), default=0)
    kinds = ["bbox"] + ["segm"] * truth.has_masks + ["keypoints"] * truth.has_keypoints
    metrics: dict[str, float] = {}
    for kind in kinds:
        results = {image_id: image.as_result(kind) for image_id, image in truth.images.items()}
        metrics.update(score(truth, results, kind, max(most, 101)))
    return metrics


def build_evaluator(cfg: Any, records: Any) -> Any:
    """The evaluator that TEST.EVALUATOR names, for a data set."""
    entry = EVALUATORS.get(cfg.TEST.EVALUATOR)
    if hasattr(entry, "from_config"):  # it has settings of its own
        return entry.from_config(cfg, records)
    return entry(records, max_detections=cfg.TEST.DETECTIONS_PER_IMG)


def _merge(gathered: list[dict[Any, ImageResult]]) -> dict[Any, ImageResult]:
    """Results of all ranks, each image once (a rank that repeats an image of another is ignored)."""
    merged: dict[Any, ImageResult] = {}
    for results in gathered:
        for image_id, result in results.items():
            merged.setdefault(image_id, result)
    return merged
