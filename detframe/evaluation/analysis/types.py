"""What `analyse` finds out about the detections of a data set.

Legend: K classes, T IoU thresholds, D detections, N objects, I images. Labels are 1..K; AP is from 0 to 100, as in the
metrics, precision, recall, F1 and scores are from 0 to 1. What is not defined is NaN here, and None in `as_dict`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from detframe.evaluation.analysis.plain import plain

SIZES = ("all", "small", "medium", "large")
# What a detection is; see `errors`
RIGHT, CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, IGNORED = range(7)
DETECTION_STATUSES = ("right", "class", "localisation", "both", "duplicate", "background", "ignored")
# What became of an object; see `Objects`
FOUND, FOUND_AS_OTHER, BADLY_PLACED, MISSED, CROWD = range(5)
OBJECT_STATUSES = ("found", "class", "localisation", "missed", "ignored")
ERROR_TYPES = ("class", "localisation", "both", "duplicate", "background", "missed")
MISSING_LABEL, WRONG_CLASS, UNLIKE_ANY = "missing label", "wrong class", "unlike anything found"
SUSPECT_KINDS = (MISSING_LABEL, WRONG_CLASS, UNLIKE_ANY)


@dataclass(frozen=True)
class APTable:
    """Average precision by class, size of the objects (`SIZES`) and IoU, as COCO defines it; NaN without objects."""

    thresholds: np.ndarray  # (T,): 0.50, 0.55, ..., 0.95
    classes: np.ndarray  # (K, 4, T), from 0 to 100
    mean: np.ndarray  # (4, T): over the classes that have objects of that size
    objects: np.ndarray  # int64 (K, 4), without crowds; on the border between two sizes an object counts in both
    detections: np.ndarray  # int64 (K, 4), by the area of the box


@dataclass(frozen=True)
class Threshold:
    """What comes of keeping the detections with at least this score; the score with the highest F1, NaN if nothing is
    found at any."""

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Curve:
    """Precision, recall and F1 of keeping the detections from a score on, exact at each of the scores given.

    IoU as in `Analysis.iou`; detections and objects are paired as COCO does, class by class.
    """

    name: str  # of the class, or "all": the detections of all classes together
    label: int  # 0 for all
    num_objects: int
    scores: np.ndarray  # (P,), falling; at most about 200
    precision: np.ndarray  # (P,)
    recall: np.ndarray  # (P,), NaN without objects
    f1: np.ndarray  # (P,)
    best: Threshold


@dataclass(frozen=True)
class Confusion:
    """How often an object of one class (row) was found as another (column), at a score; the last is background.

    See `confusion.confusion_matrix` for who is paired with whom.
    """

    counts: np.ndarray  # int64 (K + 1, K + 1)
    score: float


@dataclass(frozen=True)
class Errors:
    """The error types of TIDE (Bolya et al. 2020), in the order of `ERROR_TYPES`; see `errors`."""

    counts: np.ndarray  # int64 (6,)
    cost: np.ndarray  # (6,): by how much AP at `Analysis.iou` rises, from 0 to 100, were this type of error mended
    by_class: np.ndarray  # int64 (K, 6): counts; of the detection's class, or the missed object's
    ap: float  # the AP that the costs refer to


@dataclass(frozen=True)
class Calibration:
    """Whether a score says how likely a detection is right: equal bins of score."""

    edges: np.ndarray  # (11,)
    counts: np.ndarray  # int64 (10,)
    scores: np.ndarray  # (10,): mean score, NaN where there is none
    right: np.ndarray  # (10,): share of right detections
    error: float  # expected calibration error: mean of |scores - right|, weighted by counts; NaN without detections


@dataclass(frozen=True)
class Detections:
    """Detections from `Analysis.min_score` on, by image and falling score; one column each."""

    image: np.ndarray  # int64 (D,): index in `Analysis.image_ids`
    row: np.ndarray  # int64 (D,): in that image's result
    label: np.ndarray  # int64 (D,)
    score: np.ndarray  # float64 (D,)
    box: np.ndarray  # float32 (D, 4), xyxy
    size: np.ndarray  # int64 (D,): index in SIZES, 1 to 3, by the area of the box
    status: np.ndarray  # int64 (D,): index in DETECTION_STATUSES
    object: np.ndarray  # int64 (D,): row in `Analysis.objects` of the object that the status refers to, or -1
    iou: np.ndarray  # float64 (D,): with that object; 0 without

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True)
class Objects:
    """All objects by image, crowds included; one column each.

    The status says what became of an object at the score `Analysis.threshold`: "found" by a detection of its class;
    else "class", a detection of another class lies on it (`iou` or more); else "localisation", one of its own class
    overlaps it by 0.1 or more; else "missed". Crowds are "ignored".
    """

    image: np.ndarray  # int64 (N,): index in `Analysis.image_ids`
    row: np.ndarray  # int64 (N,): in the image's ground truth
    ann_id: np.ndarray  # int64 (N,): of the file
    label: np.ndarray  # int64 (N,)
    box: np.ndarray  # float32 (N, 4), xyxy
    size: (
        np.ndarray
    )  # int64 (N,): index in SIZES, 1 to 3, by the area of the file; small is below 32^2, large from 96^2
    status: np.ndarray  # int64 (N,): index in OBJECT_STATUSES
    found_as: np.ndarray  # int64 (N,): label of the detection that the status refers to; 0 if missed
    score: np.ndarray  # float64 (N,): of that detection; NaN if missed
    best_score: np.ndarray  # float64 (N,): of any detection, of any score and class, with this IoU or more; NaN if none

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Images:
    """What is right and wrong on each image at the score `Analysis.threshold`; one column each, in their order."""

    right: np.ndarray  # int64 (I,): detections that are right
    wrong: np.ndarray  # int64 (I,): detections that are not
    missed: np.ndarray  # int64 (I,): objects that no detection of their class found
    f1: np.ndarray  # (I,); 1 where there is nothing to find and nothing was found
    badness: np.ndarray  # (I,): (wrong + missed) * (1 - f1)
    worst: np.ndarray  # int64 (I,): the images by falling badness


@dataclass(frozen=True)
class Suspect:
    """A likely label error; see `suspects` for the kinds and the ranking."""

    kind: str  # one of SUSPECT_KINDS
    score: float  # from 0 to 1, comparable between kinds
    image: int  # index in `Analysis.image_ids`
    ann_id: int | None  # annotation of the file; None where one seems to be missing
    object: int  # row in `Analysis.objects`, or -1
    label: int  # of the object; 0 where one seems to be missing
    found_as: int  # label of the detection that speaks against it; 0 where there is none
    detection_score: float  # of that detection; NaN where there is none
    box: tuple[float, float, float, float]  # xyxy: of the object, or where one seems to be missing
    detection: int  # row in `Analysis.detections`, or -1
    text: str


@dataclass(frozen=True)
class Advice:
    """What to try next, and the numbers that it follows from."""

    code: str
    text: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Analysis:
    """Where the detections of a data set fail."""

    class_names: tuple[str, ...]
    image_ids: tuple[Any, ...]
    max_detections: int  # that count per image and class
    iou: float  # from which a detection can be right
    min_score: float  # from which detections are listed in `detections`; all count everywhere else
    threshold: float  # score of the highest F1 over all classes; 0.5 if nothing is found at any
    ap: APTable
    curves: tuple[Curve, ...]  # "all" first, then the classes
    confusion: Confusion
    errors: Errors
    calibration: Calibration
    detections: Detections
    objects: Objects
    images: Images
    suspects: tuple[Suspect, ...]  # the likeliest first
    advice: tuple[Advice, ...]  # what promises most first

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it: the fields by their names, arrays as lists, NaN as None.

        `detections`, `objects` and `suspects` have, beside the number of the image, its `image_id`, and their statuses
        and sizes by name. Image ids that are neither number nor text become text.
        """
        out: dict[str, Any] = plain(self)
        out["sizes"], out["error_types"] = list(SIZES), list(ERROR_TYPES)
        out["detections"]["status"] = [DETECTION_STATUSES[i] for i in self.detections.status]
        out["objects"]["status"] = [OBJECT_STATUSES[i] for i in self.objects.status]
        for part in (out["detections"], out["objects"]):
            part["size"] = [SIZES[i] for i in part["size"]]
            part["image_id"] = [out["image_ids"][i] for i in part["image"]]
        for suspect in out["suspects"]:
            suspect["image_id"] = out["image_ids"][suspect["image"]]
        return out
