"""How long an evaluator's compute() takes beside pycocotools, on predictions made up; both give the same AP."""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)
OBJECTS_PER_IMAGE, CLASSES, DETECTIONS = 7, 80, 100
SIZE_HW = (480, 640)


class MadeUp:
    """What an evaluator needs of records: images of random boxes, OBJECTS_PER_IMAGE each."""

    def __init__(self, images: int) -> None:
        rng = np.random.default_rng(0)
        labels = range(1, CLASSES + 1)
        self.metadata = SimpleNamespace(
            name="made up", class_names=tuple(f"class {i}" for i in labels), category_ids=tuple(labels)
        )
        self.rows = [_objects(rng, image_id) for image_id in range(1, images + 1)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]

    def class_counts(self) -> np.ndarray:
        """int64 (K,): objects of each class."""
        counts = np.bincount(np.concatenate([row["labels"] for row in self.rows]), minlength=CLASSES + 1)
        return np.asarray(counts[1:])


def benchmark_evaluation(
    images: int, measure: Callable[[list[Callable[[], Any]]], list[list[float]]]
) -> dict[str, Any]:
    """Median seconds of detframe and of pycocotools for the same predictions, and by how much they raise the memory.

    Either has read the ground truth before: what is timed is what each evaluation of a training does, from predictions
    to metrics. pycocotools gets them as the list of its results format.

    Args:
        measure: times steps in turn; the seconds of each.
    """
    evaluator = _evaluator(images)
    theirs = _pycocotools(evaluator)
    steps: list[Callable[[], Any]] = [evaluator.compute, theirs]
    peaks = [_peak_megabytes()]
    scores = []
    for step in steps:  # the one that takes less first: a peak only rises
        scores.append(step())
        peaks.append(_peak_megabytes())
    rows = measure(steps)
    ours_s, theirs_s = (statistics.median(row) for row in rows)
    out = {
        "detframe_s": ours_s,
        "pycocotools_s": theirs_s,
        "ratio": theirs_s / ours_s,
        "AP": {"detframe": scores[0]["bbox/AP"], "pycocotools": scores[1]},
        "memory_mb": {"detframe": peaks[1] - peaks[0], "pycocotools": peaks[2] - peaks[0]},
        "rounds_s": rows,
    }
    logger.info(
        "evaluation %d images, %d detections each  pycocotools %8.1f ms  detframe %8.1f ms  ratio %.1f  AP %.6f, %.6f  "
        "memory %.0f MB, %.0f MB",
        images, DETECTIONS, 1e3 * theirs_s, 1e3 * ours_s, out["ratio"], scores[1], scores[0]["bbox/AP"],
        peaks[2] - peaks[0], peaks[1] - peaks[0],
    )  # fmt: skip
    return out


def _evaluator(images: int) -> Any:
    """An evaluator with ground truth and predictions: half of these lie near an object, most with its class."""
    from detframe.evaluation import COCOEvaluator

    evaluator = COCOEvaluator(MadeUp(images), DETECTIONS)
    rng = np.random.default_rng(1)
    for row in evaluator.records:
        evaluator.update([{"image_id": row["image_id"], "orig_size_hw": SIZE_HW}], [_detections(rng, row)])
    evaluator.truth  # noqa: B018 - read now, not in the first round
    return evaluator


def _pycocotools(evaluator: Any) -> Callable[[], float]:
    """AP by pycocotools, from the evaluator's ground truth and results."""
    from pycocotools.cocoeval import COCOeval

    from detframe.evaluation.coco_form import object_rows, pycocotools_index

    truth, results = evaluator.truth, evaluator.results()
    index = pycocotools_index(truth, object_rows(truth, truth.images, "bbox"))

    def step() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(index, index.loadRes([dict(row) for row in results]), "bbox")
            evaluation.params.maxDets = [1, 10, DETECTIONS]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return float(100 * evaluation.stats[0])

    return step


def _objects(rng: np.random.Generator, image_id: int) -> dict[str, Any]:
    limit = np.array(SIZE_HW[::-1])
    sides = np.exp(rng.uniform(np.log(10), np.log(300), (OBJECTS_PER_IMAGE, 2)))
    corner = rng.uniform(0, 1, (OBJECTS_PER_IMAGE, 2)) * (limit - sides)
    return {
        "file_name": f"{image_id}.jpg",
        "image_id": image_id,
        "size_hw": SIZE_HW,
        "boxes": np.concatenate([corner, corner + sides], 1).astype(np.float32),
        "labels": rng.integers(1, CLASSES + 1, OBJECTS_PER_IMAGE),
        "iscrowd": np.zeros(OBJECTS_PER_IMAGE, bool),
        "area": sides.prod(1).astype(np.float32),
        "ann_ids": np.arange(1, OBJECTS_PER_IMAGE + 1),
    }


def _detections(rng: np.random.Generator, row: dict[str, Any]) -> Any:
    import torch

    near = rng.integers(0, OBJECTS_PER_IMAGE, DETECTIONS)
    boxes = row["boxes"][near] + rng.normal(0, 6, (DETECTIONS, 4))
    boxes[DETECTIONS // 2 :] = _objects(rng, 0)["boxes"][near[DETECTIONS // 2 :]]
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    other = rng.random(DETECTIONS) < 0.3
    labels = np.where(other, rng.integers(1, CLASSES + 1, DETECTIONS), row["labels"][near])
    scores = np.sort(rng.random(DETECTIONS))[::-1].astype(np.float32)
    return {
        "boxes": torch.from_numpy(boxes.astype(np.float32)),
        "labels": torch.from_numpy(labels),
        "scores": torch.from_numpy(scores.copy()),
    }


def _peak_megabytes() -> float:
    """The most memory that the process has held so far."""
    import resource  # here: Windows has none, and the other benchmarks run there

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
