"""How likely a detection is right, or an object is found, judged by all that can be seen but the other one.

A logistic regression, fitted to the very data set that it then judges: a detection where no object is, though all like
it are right, is a surprise, and so is an object that is not found, though all like it are.
"""

from __future__ import annotations

import numpy as np

from detframe.evaluation.analysis.columns import Boxes

_STEPS = 25
# Strength of the pull towards "as likely as all others", in detections
_RIDGE = 1.0
_CLIP = 1e-4
# Objects from which on a class's sizes and shapes are known, the least spread (of logarithms) that is believed, and the
# largest logarithm of a ratio
_FEW, _LEAST_SPREAD, _MOST_EVIDENCE = 5, 0.1, float(np.log(100))
# Deviations from the mean beyond which nothing is known
_FARTHEST = 3.0


def probability(features: np.ndarray, right: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Logistic regression, by Newton's method, of `right` on standardised features: (N,) probabilities.

    Args:
        features: float64 (N, F).
        right: bool (N,).
        used: bool (N,): rows to fit to; the others are judged only.
    """
    if not used.any():
        return np.zeros(len(features))
    mean, spread = features[used].mean(0), features[used].std(0)
    scaled = np.clip((features - mean) / np.where(spread > 0, spread, 1), -_FARTHEST, _FARTHEST)
    inputs = np.concatenate([np.ones((len(features), 1)), scaled], axis=1)
    x, y = inputs[used], right[used].astype(np.float64)
    # half a case of each kind keeps what is always right below certainty
    share = (y.sum() + 0.5) / (len(y) + 1)
    weights = np.zeros(x.shape[1])
    weights[0] = np.log(share / (1 - share))
    pull = np.full(x.shape[1], _RIDGE)
    centre = weights.copy()
    for _ in range(_STEPS):
        p = _sigmoid(x @ weights)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(pull)
        step = np.linalg.solve(curvature, x.T @ (y - p) - pull * (weights - centre))
        # Newton's steps may overshoot where p is near 0 or 1
        weights = weights + step / max(1.0, float(np.abs(step).max()) / 2)
    return _sigmoid(inputs @ weights)


def log_odds(p: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), kept finite."""
    p = np.clip(p, _CLIP, 1 - _CLIP)
    return np.asarray(np.log(p / (1 - p)))


def shape_features(boxes: Boxes, sizes_hw: np.ndarray, typical: np.ndarray) -> list[np.ndarray]:
    """Columns (N,): how size and shape depart from what is usual in the class, and whether the box ends at the border.

    Args:
        sizes_hw: (I, 2) of the images.
        typical: (K + 1, 2): see `typical_shapes`.
    """
    shape = _shape(boxes.box) - typical[boxes.label]
    height, width = sizes_hw[boxes.image].T
    box = boxes.box
    border = np.minimum(box[:, :2].min(1, initial=np.inf), np.minimum(width - box[:, 2], height - box[:, 3])) < 2
    return [shape[:, 0], shape[:, 0] ** 2, shape[:, 1], shape[:, 1] ** 2, border.astype(np.float64)]


def typical_shapes(boxes: Boxes, num_classes: int) -> np.ndarray:
    """(K + 1, 2): mean logarithms of area and of width over height, by label; those of all where a class has none."""
    shape = _shape(boxes.box)
    counts = np.bincount(boxes.label, minlength=num_classes + 1)[:, None]
    sums = np.stack([np.bincount(boxes.label, weights=column, minlength=num_classes + 1) for column in shape.T], axis=1)
    overall = shape.mean(0) if len(shape) else np.zeros(2)
    return np.where(counts > 0, sums / np.maximum(counts, 1), overall)


def shape_ratio(boxes: Boxes, rows: np.ndarray, other: np.ndarray, num_classes: int) -> np.ndarray:
    """How much more typical size and shape of some boxes are of another class than of their own: (S,), 0.01 to 100.

    Of normal distributions of the logarithms of area and of width over height. 1 where one of the classes has too few.

    Args:
        rows: int64 (S,) of `boxes`.
        other: int64 (S,): labels.
    """
    shape, label = _shape(boxes.box), boxes.label
    mean = typical_shapes(boxes, num_classes)
    counts = np.bincount(label, minlength=num_classes + 1)
    squares = ((shape - mean[label]) ** 2).T
    sums = np.stack([np.bincount(label, weights=column, minlength=num_classes + 1) for column in squares], axis=1)
    variance = np.maximum(sums / np.maximum(counts, 1)[:, None], _LEAST_SPREAD**2)

    def log_density(classes: np.ndarray) -> np.ndarray:
        away = (shape[rows] - mean[classes]) ** 2 / variance[classes]
        return np.asarray(-0.5 * (away + np.log(variance[classes])).sum(1))

    known = (counts[label[rows]] >= _FEW) & (counts[other] >= _FEW)
    ratio = np.clip(log_density(other) - log_density(label[rows]), -_MOST_EVIDENCE, _MOST_EVIDENCE)
    return np.asarray(np.where(known, np.exp(ratio), 1.0))


def class_feature(label: np.ndarray, right: np.ndarray, used: np.ndarray, num_classes: int) -> np.ndarray:
    """How often those of the class are right, as log odds: (N,)."""
    total = np.bincount(label[used], minlength=num_classes + 1)
    hits = np.bincount(label[used & right], minlength=num_classes + 1)
    return log_odds((hits + 1) / (total + 2))[label]


def others_on_image(image: np.ndarray, weight: np.ndarray, num_images: int) -> np.ndarray:
    """The logarithm of how many others there are on the same image: (N,), each counting with its weight."""
    total = np.bincount(image, weights=weight, minlength=num_images)
    return np.asarray(np.log(np.maximum(total[image] - weight, 0) + 0.5))


def _shape(box: np.ndarray) -> np.ndarray:
    width, height = np.maximum(box[:, 2] - box[:, 0], 1e-3), np.maximum(box[:, 3] - box[:, 1], 1e-3)
    return np.stack([np.log(width * height), np.log(width / height)], axis=1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -40, 40))))
