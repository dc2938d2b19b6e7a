"""LVISEvaluator: average precision where not every class was looked for in every image."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from detframe.arrays.results import ImageResult
from detframe.errors import InvalidValueError
from detframe.evaluation.coco import COCOEvaluator, Share
from detframe.evaluation.ground_truth import GroundTruth, ImageTruth
from detframe.evaluation.scorer import Protocol, Tally, match, tally
from detframe.evaluation.scores import mean_percent, metrics_of
from detframe.evaluation.table import format_metric
from detframe.registry import EVALUATORS
from detframe.structures.lazy_masks import areas_of
from detframe.texts import text_table

# Detections of an image that count, of all classes together
LIMIT = 300
GROUPS = {"r": "rare", "c": "common", "f": "frequent"}
# A box beyond any image
_EVERYWHERE = np.array([-1e6, -1e6, 1e6, 1e6], dtype=np.float32)


@EVALUATORS.register("lvis")
class LVISEvaluator(COCOEvaluator):
    """COCO's average precision by the rules of LVIS (Gupta et al., arXiv:1908.03195).

    The best 300 detections of an image count, of all classes together. In an image count only the classes that were
    looked for there: those with objects, and those known to be absent (neg_category_ids). Where not all objects of a
    class are annotated (not_exhaustive_category_ids), a detection that finds none of them counts neither way.

    `compute()` gives, for "bbox" and "segm", AP, AP50, AP75, APs, APm, APl, AP-CLASS, as COCOEvaluator; APr, APc and
    APf, the means over the classes that are rare, common and frequent in training; and AR@300.

    Args:
        records: see COCOEvaluator; of a data set that says which classes its images were searched for.
        max_detections: of no meaning here.

    Raises:
        ValueError: the data set does not say it.
    """

    def __init__(self, records: Any, max_detections: int = LIMIT) -> None:
        super().__init__(records, max_detections)
        images = self.truth.images.items()
        unjudged = next((image_id for image_id, image in images if image.negative_labels is None), None)
        if unjudged is not None:
            raise InvalidValueError(
                f"the evaluator 'lvis' needs to know which classes were looked for in an image, and the data set "
                f"{records.metadata.name!r} does not say it of image {unjudged!r}: its annotation file has no "
                "neg_category_ids and not_exhaustive_category_ids there; take TEST.EVALUATOR coco"
            )

    def table(self, metrics: dict[str, float]) -> str:
        """AP by the frequency of classes; then COCO's tables."""
        kinds = [kind for kind in ("bbox", "segm") if f"{kind}/AP" in metrics]
        rows = [["LVIS", *(f"AP {name}" for name in GROUPS.values()), f"AR@{LIMIT}"]]
        keys = [*(f"AP{letter}" for letter in GROUPS), f"AR@{LIMIT}"]
        rows += [[kind, *(format_metric(metrics[f"{kind}/{key}"]) for key in keys)] for kind in kinds]
        return f"{text_table(rows)}\n\n{super().table(metrics)}"

    @functools.cached_property
    def _searched(self) -> GroundTruth:
        """The ground truth with a crowd region over everything for each class that is not annotated exhaustively.

        What finds no object lies in it, and so counts neither way: the rule of LVIS in terms of COCO's.
        """
        truth = copy.copy(self.truth)
        truth.images = {image_id: _with_partial(image) for image_id, image in self.truth.images.items()}
        return truth

    def _match(self, share: Share) -> dict[str, Any]:
        states = {}
        for kind in self._kinds(share.kinds):
            results = {i: _judged(self.truth.images[i], result, kind) for i, result in share.results.items()}
            states[kind] = match(self._searched, results, self._protocol(kind))
        return states

    def _measure(self, states: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for kind in self._kinds(kinds):
            counted = tally(self._searched, [state[kind] for state in states], self._protocol(kind))
            metrics.update(self._metrics(counted, kind))
        return metrics

    def _metrics(self, counted: Tally, kind: str) -> dict[str, float]:
        out = metrics_of(counted, kind, self.class_names)
        out[f"{kind}/AR@{LIMIT}"] = out.pop(f"{kind}/ARmax")
        known = getattr(self.records.metadata, "frequencies", ()) or ("",) * len(self.class_names)
        for letter in GROUPS:
            classes = [index for index, frequency in enumerate(known) if frequency == letter]
            precision = counted.precision[:, :, classes, counted.areas.index("all"), -1]
            out[f"{kind}/AP{letter}"] = mean_percent(precision) if classes else math.nan
        return out

    def _protocol(self, kind: str) -> Protocol:
        return Protocol(kind, (LIMIT,))

    def _kinds(self, kinds: Sequence[str]) -> list[str]:
        """Without keypoints, of which LVIS has none."""
        return [kind for kind in kinds if kind != "keypoints"]


def _with_partial(image: ImageTruth) -> ImageTruth:
    count = 0 if image.partial_labels is None else len(image.partial_labels)
    if not count or image.partial_labels is None:
        return image
    height, width = image.size_hw
    everything = np.array([0.0, 0, width, 0, width, height, 0, height])
    return replace(
        image,
        boxes=np.concatenate([image.boxes, np.tile(_EVERYWHERE, (count, 1))]),
        labels=np.concatenate([image.labels, image.partial_labels]),
        iscrowd=np.concatenate([image.iscrowd, np.ones(count, bool)]),
        area=np.concatenate([image.area, np.full(count, height * width, np.float32)]),
        ann_ids=np.concatenate([image.ann_ids, np.zeros(count, np.int64)]),
        segmentations=None if image.segmentations is None else [*image.segmentations, *([[everything]] * count)],
        keypoints=None,
    )


def _judged(image: ImageTruth, result: ImageResult, kind: str) -> ImageResult:
    """The detections of an image that count, without those that could not even lie in a region over everything."""
    labels = result.labels
    best = np.sort(np.argsort(-result.scores, kind="stable")[:LIMIT])
    partial = image.partial_labels if image.partial_labels is not None else np.zeros(0, np.int64)
    looked_for = np.concatenate([image.labels, *([] if image.negative_labels is None else [image.negative_labels])])
    kept = np.isin(labels[best], looked_for) & ~(np.isin(labels[best], partial) & (_areas(result, kind)[best] <= 0))
    rows = best[kept]
    return ImageResult(
        boxes=result.boxes[rows],
        labels=labels[rows],
        scores=result.scores[rows],
        rles=None if result.rles is None else [result.rles[row] for row in rows],
    )


def _areas(result: ImageResult, kind: str) -> np.ndarray:
    if kind == "segm" and result.rles:
        return areas_of(result.rles)
    return np.asarray((result.boxes[:, 2:] - result.boxes[:, :2]).clip(min=0).prod(1))
