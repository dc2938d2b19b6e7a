"""Images by what is wrong on them, and the confusion of classes, at one score."""

from __future__ import annotations

import numpy as np

from detframe.evaluation.analysis import types as t
from detframe.evaluation.analysis.columns import FoundBoxes, TrueBoxes


def image_columns(
    found: FoundBoxes, status: np.ndarray, objects: t.Objects, threshold: float, num_images: int
) -> t.Images:
    """Right, wrong and missed of each image, counting detections from the score `threshold` on."""
    kept = found.score >= threshold
    right = np.bincount(found.image[kept & (status == t.RIGHT)], minlength=num_images)
    wrong = np.bincount(found.image[kept & (status != t.RIGHT) & (status != t.IGNORED)], minlength=num_images)
    lost = (objects.status != t.FOUND) & (objects.status != t.CROWD)
    missed = np.bincount(objects.image[lost], minlength=num_images)
    total = 2 * right + wrong + missed
    f1 = np.where(total > 0, 2 * right / np.maximum(total, 1), 1.0)
    badness = (wrong + missed) * (1 - f1)
    return t.Images(right, wrong, missed, f1, badness, np.argsort(-badness, kind="stable"))


def confusion_matrix(
    found: FoundBoxes, true: TrueBoxes, status: np.ndarray, taken: np.ndarray, threshold: float, num_classes: int
) -> t.Confusion:
    """Objects by their class (rows) and that of the detection that got them (columns); background is the last of both.

    Only detections from the score `threshold` on, without those that lie in crowds.

    Args:
        status: int64 (D,): what each detection is, to know those in crowds.
        taken: int64 (D,): who got which object; see `pairing.pair_across_classes`.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    paired = taken >= 0
    np.add.at(counts, (true.label[taken[paired]] - 1, found.label[paired] - 1), 1)
    alone = ~paired & (found.score >= threshold) & (status != t.IGNORED)
    counts[-1, :-1] = np.bincount(found.label[alone], minlength=num_classes + 1)[1:]
    left = ~true.crowd
    left[taken[paired]] = False
    counts[:-1, -1] = np.bincount(true.label[left], minlength=num_classes + 1)[1:]
    return t.Confusion(counts, threshold)
