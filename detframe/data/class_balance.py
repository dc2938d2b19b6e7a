"""What the classes of a data set are to a loss: their weights by name, and how common they are."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from detframe.data.metadata import Metadata
from detframe.data.records import Records
from detframe.errors import InvalidValueError, listed
from detframe.registry import nearest

logger = logging.getLogger(__name__)
Weights = tuple[tuple[str, float], ...]


def resolve_class_weights(cfg: Any, metadata: Metadata, records: Records | None) -> str | Weights:
    """MODEL.CLASS_WEIGHTS of every class, in the order of their labels; "" where it says nothing.

    A class that it does not name has 1. "auto" gives a class with n of all objects, of which K classes have some,

        all objects / (K n),

    so that all classes weigh the same together, and an object 1 on average; a class without objects has 1.

    Args:
        records: what is trained on; None: nothing is, and "auto" says nothing.

    Raises:
        ValueError: a name that no class has; the nearest is named.
    """
    weights, names = cfg.MODEL.CLASS_WEIGHTS, metadata.class_names
    if weights == "auto" and records is not None:
        for line in weight_warnings(cfg, records):
            logger.warning("%s", line)
        logger.info("%s", describe_weights(cfg, records))
        return _balanced(records)
    if not weights or weights == "auto":
        return ""
    given = dict(weights)
    unknown = [name for name in given if name not in names]
    if unknown:
        raise InvalidValueError(
            f"MODEL.CLASS_WEIGHTS (from {cfg.source('MODEL.CLASS_WEIGHTS')}): the data set {metadata.name} has no "
            f"class {unknown[0]!r}; {nearest(unknown[0], list(names))}"
        )
    found = tuple((name, float(given.get(name, 1.0))) for name in names)
    if records is not None:
        logger.info("MODEL.CLASS_WEIGHTS: %s", _written(found))
    return found


def describe_weights(cfg: Any, records: Records) -> str:
    """A line for a log: what MODEL.CLASS_WEIGHTS "auto" makes of the data; "" where it is not that."""
    if cfg.MODEL.CLASS_WEIGHTS != "auto":
        return ""
    return f"MODEL.CLASS_WEIGHTS auto: {_written(_balanced(records))}"


def _written(weights: Weights) -> str:
    return listed([f"{name} {weight:g}" for name, weight in weights], 20)


def weight_warnings(cfg: Any, records: Records) -> list[str]:
    """What of the data MODEL.CLASS_WEIGHTS "auto" has nothing to count in."""
    names, counts = records.metadata.class_names, records.class_counts().tolist()
    absent = [name for name, count in zip(names, counts, strict=True) if not count]
    if cfg.MODEL.CLASS_WEIGHTS != "auto" or not absent:
        return []
    return [f"MODEL.CLASS_WEIGHTS auto: no object is a {listed(absent, 8)}; weight 1"]


def _balanced(records: Records) -> Weights:
    names, counts = records.metadata.class_names, records.class_counts()
    some = max(1, int((counts > 0).sum()))
    weights = np.where(counts > 0, counts.sum() / (some * np.maximum(counts, 1)), 1.0)
    return tuple((name, float(f"{weight:.6g}")) for name, weight in zip(names, weights.tolist(), strict=True))


def resolve_frequencies(cfg: Any, records: Records | None) -> tuple[float, ...]:
    """MODEL.ROI_BOX_HEAD.CLASS_FREQUENCIES: where the loss "federated" needs it and it is empty, in how many images of
    the training data each class is.

    Raises:
        ValueError: it says that of another number of classes than there are.
    """
    box, found = cfg.MODEL.ROI_BOX_HEAD, tuple(cfg.MODEL.ROI_BOX_HEAD.CLASS_FREQUENCIES)
    if box.CLS_LOSS != "federated" or records is None:
        return found
    classes = records.metadata.num_classes
    if found and len(found) != classes:
        raise InvalidValueError(
            f"MODEL.ROI_BOX_HEAD.CLASS_FREQUENCIES holds {len(found)} numbers, and the data set "
            f"{records.metadata.name} has {classes} classes; leave it empty to have it counted"
        )
    if found:
        return found
    objects = records.objects()
    trained = ~objects.iscrowd
    pairs = np.unique(objects.image[trained].astype(np.int64) * (classes + 1) + objects.labels[trained])
    return tuple(np.bincount(pairs % (classes + 1), minlength=classes + 1)[1:].astype(float).tolist())
