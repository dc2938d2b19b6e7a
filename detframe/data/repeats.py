"""Repeat-factor sampling: images with a class that few images have come more than once an epoch.

Gupta, Dollár and Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019 (arXiv:1908.03195),
section 5. With f(c) the fraction of the images that hold class c, and a threshold t:

    r(c) = max(1, sqrt(t / f(c)))        r(image) = the largest r(c) of the classes in the image, 1 without objects

An image comes r(image) times an epoch: the whole part of it always, the rest as the probability of once more.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from detframe.data.records import Records


def repeat_factors(records: Records, threshold: float, square_root: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """float64 (K,), how often the classes ask for, and float64 (N,), how often each image comes in an epoch.

    Crowds do not count, as they are not trained on. A class without an image has 1.

    Args:
        threshold: t, a fraction of the images.
        square_root: False leaves out the root.
    """
    objects = records.objects()
    trained = ~objects.iscrowd
    classes = records.metadata.num_classes + 1
    pairs = np.unique(objects.image[trained].astype(np.int64) * classes + objects.labels[trained])
    image, label = np.divmod(pairs, classes)
    with_class = np.bincount(label, minlength=classes)
    wanted = threshold * len(records) / np.maximum(with_class, 1)
    of_class = np.where(with_class > 0, np.maximum(np.sqrt(wanted) if square_root else wanted, 1.0), 1.0)
    of_image = np.ones(len(records))
    np.maximum.at(of_image, image, of_class[label])
    return of_class[1:], of_image


def image_repeats(cfg: Any, records: Records) -> np.ndarray | None:
    """float64 (N,): how often each image comes in an epoch; None where DATALOADER.REPEAT_THRESHOLD is 0."""
    threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    return repeat_factors(records, threshold, cfg.DATALOADER.REPEAT_SQRT)[1] if threshold > 0 else None


def images_per_epoch(cfg: Any, records: Records) -> int:
    """The images of an epoch, those that come again counted again: on average, to the nearest whole number."""
    factors = image_repeats(cfg, records)
    return len(records) if factors is None else round(float(factors.sum()))
