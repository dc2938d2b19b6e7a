"""COCOEvaluator: average precision as COCO defines it, for data sets of any format."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detframe.arrays.results import ImageResult, coco_rows, nothing, pack
from detframe.errors import InvalidValueError
from detframe.evaluation.diagnosis import diagnose, never_found, poor_kinds
from detframe.evaluation.ground_truth import GroundTruth
from detframe.evaluation.scorer import Protocol, match, tally
from detframe.evaluation.scores import coco_protocol, metrics_of, score
from detframe.evaluation.table import metrics_table
from detframe.files import write_json
from detframe.parallel.collectives import gather_objects, gather_on_rank_zero, on_every_rank, on_rank_zero, rank
from detframe.registry import EVALUATORS
from detframe.structures import Prediction, Target

logger = logging.getLogger(__name__)


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
        predictions and records have masks or keypoints. Every rank must call it. Each matches its own images, and only
        what that gave travels, not boxes and masks. An image that several ranks saw counts with the first one's
        predictions, and the objects of one that none saw as missed.
        """
        share = self._divide()
        states = on_every_rank(lambda: self._match(share), "matching predictions")
        metrics = on_rank_zero(lambda: self._measure(states or [], share.kinds), "computing metrics")
        self._diagnosis = self._explain(metrics)
        return dict(metrics)

    def gather_results(self) -> Mapping[Any, ImageResult]:
        """Bring the predictions of all ranks to rank 0, for `results()` and `save_results()`; every rank must call it.

        Returns:
            Image id -> predictions: on rank 0 of all ranks, on another rank its own.
        """
        gathered = gather_on_rank_zero(self._results)
        if gathered is not None:
            self._results = _merge(gathered)
        return self._results

    def table(self, metrics: dict[str, float]) -> str:
        """The metrics as a text table; what is not applicable reads N/A."""
        return metrics_table(metrics, self.class_names, self.records.class_counts().tolist())

    def diagnosis(self) -> str | None:
        """Why the last `compute()` gave an AP below 5 or none at all, or found no object of a class; else None."""
        return self._diagnosis

    def results(self) -> list[dict[str, Any]]:
        """All predictions in COCO's results format, with the category ids of the annotation file.

        Of several ranks each has its own, and after `gather_results()` rank 0 has those of all.
        """
        return [row for i, result in self._results.items() for row in coco_rows(i, result, self.category_ids)]

    def save_results(self, path: str | Path) -> Path:
        """Write `results()` as JSON (rank 0 only; the others do nothing)."""
        return write_json(Path(path), self.results()) if rank() == 0 else Path(path)

    @functools.cached_property
    def truth(self) -> GroundTruth:
        """The objects of the data set."""
        return GroundTruth(self.records)

    # ------------------------------------------------------------------ inside
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

    def _divide(self) -> Share:
        """What this rank matches; every rank must call it."""
        everyone = gather_objects(_Seen.of(self._results))
        if rank() == 0:
            self._warn(everyone)
        earlier = {image_id for seen in everyone[: rank()] for image_id in seen.image_ids}
        mine = {i: result for i, result in self._results.items() if i not in earlier and i in self.truth.images}
        if rank() == 0:
            anywhere = {image_id for seen in everyone for image_id in seen.image_ids}
            mine.update({image_id: nothing() for image_id in self.truth.images if image_id not in anywhere})
        kinds = ["bbox"]
        if self.truth.has_masks and any(seen.masks for seen in everyone):
            kinds.append("segm")
        if self.truth.has_keypoints and any(seen.keypoints for seen in everyone):
            kinds.append("keypoints")
        return Share(mine, tuple(kinds))

    def _match(self, share: Share) -> dict[str, Any]:
        """What this rank's images give, by name; it travels to rank 0."""
        return {kind: match(self.truth, share.results, self._protocol(kind)) for kind in share.kinds}

    def _measure(self, states: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> dict[str, float]:
        """The metrics, from what `_match` gave on all ranks; on rank 0."""
        if "segm" in kinds:
            _say_without_masks(self.truth)
        metrics: dict[str, float] = {}
        for kind in kinds:
            counted = tally(self.truth, [state[kind] for state in states], self._protocol(kind))
            metrics.update(metrics_of(counted, kind, self.class_names))
        return metrics

    def _protocol(self, kind: str) -> Protocol:
        return coco_protocol(self.truth, kind, self.max_detections)

    def _explain(self, metrics: Mapping[str, float]) -> str | None:
        """The diagnosis, where metrics are so poor that one is due; every rank must call it."""
        kinds = [kind for kind in ("bbox", "segm", "keypoints") if f"{kind}/AP" in metrics]
        if not poor_kinds(metrics, kinds) and not never_found(metrics, self.class_names):
            return None
        results = self.gather_results()
        return on_rank_zero(lambda: diagnose(self.truth, results, metrics, kinds), "diagnosing a low AP")

    def _warn(self, everyone: Sequence[_Seen]) -> None:
        seen = dict.fromkeys(image_id for part in everyone for image_id in part.image_ids)
        missing = [image_id for image_id in self.truth.images if image_id not in seen]
        if missing:
            logger.warning(
                "%d of %d images got no prediction entry (first: %r): skipped while loading, or not evaluated; "
                "their objects count as missed",
                *(len(missing), len(self.truth.images), missing[0]),
            )
        unknown = [image_id for image_id in seen if image_id not in self.truth.images]
        if unknown:
            logger.warning("%d image ids of predictions are not in the data set, as %r", len(unknown), unknown[0])
        broken = sum(part.not_finite for part in everyone)
        if broken:
            logger.warning("%d detections with a box or score that is not a finite number were left out", broken)


@dataclass(frozen=True)
class Share:
    """What one rank matches: its images, but for those of an earlier rank, and the kinds that all ranks agree on."""

    results: dict[Any, ImageResult]
    kinds: tuple[str, ...]  # of "bbox", "segm", "keypoints"


@dataclass(frozen=True)
class _Seen:
    """What the ranks must know of each other before they match."""

    image_ids: tuple[Any, ...]
    masks: bool
    keypoints: bool
    not_finite: int

    @classmethod
    def of(cls, results: Mapping[Any, ImageResult]) -> _Seen:
        """What these results hold."""
        values = results.values()
        return cls(
            image_ids=tuple(results),
            masks=any(result.rles is not None for result in values),
            keypoints=any(result.keypoints is not None for result in values),
            not_finite=sum(result.not_finite for result in values),
        )


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
