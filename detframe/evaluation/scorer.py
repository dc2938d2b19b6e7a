"""Matching and counting by hotcoco, or by pycocotools where that is not installed: the same numbers, many times slower.

A scorer works in two steps, so that each rank can match its own images: `match` gives a state, and `tally` makes the
arrays of precision and recall from the states of all ranks.
"""

from __future__ import annotations

import functools
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detframe.arrays.results import ImageResult
from detframe.evaluation.coco_form import (
    category_rows,
    check_masks,
    detection_columns,
    detection_rows,
    image_rows,
    object_rows,
    pycocotools_index,
    quiet,
)
from detframe.evaluation.ground_truth import GroundTruth

logger = logging.getLogger(__name__)
# Images whose objects are rows in Python at a time, which bounds the memory
_IMAGES_AT_ONCE = 1000


@dataclass(frozen=True)
class Protocol:
    """How one kind of prediction is matched and counted."""

    iou_type: str  # "bbox", "segm" or "keypoints"
    limits: tuple[int, ...]  # detections that count per image and class, rising
    sigmas: tuple[float, ...] = ()  # tolerances of keypoints; none: those of COCO's 17


@dataclass
class Tally:
    """Precision and recall of T thresholds, K classes, A ranges of areas and M limits; -1 where there is no object."""

    precision: np.ndarray  # (T, 101, K, A, M), at recalls 0, 0.01, ..., 1
    recall: np.ndarray  # (T, K, A, M)
    thresholds: np.ndarray  # IoUs or similarities (T,)
    areas: tuple[str, ...]  # names, A of them: "all", "small", "medium", "large"
    limits: tuple[int, ...]


@dataclass
class Matched:
    """hotcoco's matches of some images; what travels between ranks is packed, which takes less than the boxes would."""

    stream: Any  # hotcoco.StreamingEval

    def __getstate__(self) -> bytes:
        return zlib.compress(self.stream.to_bytes(), level=1)

    def __setstate__(self, state: bytes) -> None:
        self.stream = hotcoco().StreamingEval.from_bytes(zlib.decompress(state))


@functools.cache
def hotcoco() -> Any:
    """The module, or None, with one warning, where it cannot be imported."""
    try:
        import hotcoco
    except ImportError as error:
        logger.warning(
            "hotcoco cannot be imported (%s), so pycocotools computes AP: the same numbers, many times slower; "
            "pip install hotcoco",
            error,
        )
        return None
    return hotcoco


def match(truth: GroundTruth, results: Mapping[Any, ImageResult], protocol: Protocol) -> Any:
    """The state of some images, those of `results`, for `tally`; it can be pickled.

    Ids that the data set does not have are left out.

    Raises:
        ValueError: a mask of another size than its image.
    """
    known = {image_id: result for image_id, result in results.items() if image_id in truth.images}
    module = hotcoco()
    if module is None:
        return known
    stream = module.StreamingEval(category_rows(truth), protocol.iou_type, params=_params(module, truth, protocol))
    image_ids = list(known)
    for start in range(0, len(image_ids), _IMAGES_AT_ONCE):
        some = {image_id: known[image_id] for image_id in image_ids[start : start + _IMAGES_AT_ONCE]}
        _feed(stream, truth, some, protocol.iou_type)
    return Matched(stream)


def tally(truth: GroundTruth, states: Sequence[Any], protocol: Protocol) -> Tally:
    """Precision and recall from the states of all ranks, in which each image of the data set stands once."""
    module = hotcoco()
    if module is None:
        return _tally_by_pycocotools(truth, {i: result for state in states for i, result in state.items()}, protocol)
    evaluation = module.StreamingEval.merge([state.stream for state in states]).finalize()
    evaluation.accumulate()
    return _tally(evaluation.eval, evaluation.params)


def _params(module: Any, truth: GroundTruth, protocol: Protocol) -> Any:
    params = module.Params(protocol.iou_type)
    params.cat_ids = list(range(1, len(truth.class_names) + 1))
    params.max_dets = list(protocol.limits)
    if protocol.sigmas:
        params.kpt_oks_sigmas = list(protocol.sigmas)
    return params


def _feed(stream: Any, truth: GroundTruth, results: Mapping[Any, ImageResult], iou_type: str) -> None:
    images, objects = image_rows(truth, results), object_rows(truth, results, iou_type)
    if iou_type == "bbox":
        stream.update(images, objects, detection_columns(truth, results, iou_type))
    elif iou_type == "segm":
        with_masks = {image_id: result for image_id, result in results.items() if result.rles is not None}
        for image_id, result in with_masks.items():
            check_masks(image_id, result, truth.images[image_id].size_hw)
        rles = [rle for result in with_masks.values() for rle in result.rles or ()]
        stream.update(images, objects, detection_columns(truth, with_masks, iou_type), segmentation=rles)
    else:
        stream.update(images, objects, detection_rows(truth, results, iou_type))


def _tally(arrays: Mapping[str, Any], params: Any) -> Tally:
    return Tally(
        precision=arrays["precision"],
        recall=arrays["recall"],
        thresholds=np.asarray(params.iouThrs),
        areas=tuple(params.areaRngLbl),
        limits=tuple(params.maxDets),
    )


def _tally_by_pycocotools(truth: GroundTruth, results: Mapping[Any, ImageResult], protocol: Protocol) -> Tally:
    from detframe.evaluation.matching import FastCOCOeval  # here, since it imports pycocotools

    kind = protocol.iou_type
    with quiet():
        objects = pycocotools_index(truth, object_rows(truth, truth.images, kind))
        evaluation = FastCOCOeval(objects, pycocotools_index(truth, detection_rows(truth, results, kind)), kind)
        evaluation.params.catIds = list(range(1, len(truth.class_names) + 1))
        evaluation.params.maxDets = list(protocol.limits)
        if protocol.sigmas:
            evaluation.params.kpt_oks_sigmas = np.asarray(protocol.sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
    return _tally(evaluation.eval, evaluation.params)
