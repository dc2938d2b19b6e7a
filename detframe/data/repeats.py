"""Repeat-factor sampling: images with a class that few images have come more than once an epoch.

Gupta, Dollár and Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019 (arXiv:1908.03195),
section 5. With f(c) the fraction of the images that hold class c, and a threshold t:

    r(c) = max(1, sqrt(t / f(c)))        r(image) = the largest r(c) of the classes in the image, 1 without objects

An image comes r(image) times an epoch: the whole part of it always, the rest as the probability of once more.

Of tiles (INPUT.TILES), those that show an object have factors like images, among themselves. Those that show none come
so seldom that MAX_EMPTY holds, and those that show only parts of objects that are too small to count, never. Where
MAX_EMPTY is 1, every tile comes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from detframe.data.records import Records
from detframe.data.samplers import ROUNDING
from detframe.data.tiles import TiledRecords, tiled
from detframe.errors import InvalidValueError


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
    """float64 (N,): how often each image, or tile of INPUT.TILES, comes in an epoch; None where each comes once.

    Raises:
        ValueError: no tile shows an object.
    """
    records = tiled(cfg, records)
    if isinstance(records, TiledRecords):
        return _tile_repeats(cfg, records)
    return _repeats(cfg, records)


def images_per_epoch(cfg: Any, records: Records) -> int:
    """The images, or tiles of INPUT.TILES, of an epoch, those that come again counted again.

    On average, to the nearest whole number.
    """
    records = tiled(cfg, records)
    factors = image_repeats(cfg, records)
    return len(records) if factors is None else round(float(factors.sum()))


def _repeats(cfg: Any, records: Records) -> np.ndarray | None:
    """The factors of DATALOADER.REPEAT_THRESHOLD; None where it is 0."""
    threshold = cfg.DATALOADER.REPEAT_THRESHOLD
    return repeat_factors(records, threshold, cfg.DATALOADER.REPEAT_SQRT)[1] if threshold > 0 else None


def _tile_repeats(cfg: Any, records: TiledRecords) -> np.ndarray | None:
    share = cfg.INPUT.TILES.MAX_EMPTY if cfg.DATALOADER.EMPTY == "keep" else 0.0
    full, empty = tile_kinds(records)
    factors = np.ones(len(records))
    of_full = _repeats(cfg, records.select(full))
    factors[full] = 1.0 if of_full is None else of_full
    if share < 1:
        check_objects(records)
        most = min(int(empty.sum()), int(float(factors[full].sum()) * share / (1 - share) + ROUNDING))
        factors[~full] = 0.0
        factors[empty] = most / max(1, int(empty.sum()))
    return None if (factors == 1).all() else factors


def tile_kinds(records: TiledRecords) -> tuple[np.ndarray, np.ndarray]:
    """bool (N,) twice: the tiles that show an object, and those that show nothing of any."""
    full = records.num_objects > 0
    return full, ~full & (records.num_ignored == 0)


def check_objects(records: TiledRecords) -> None:
    """Some tile must show an object. Raises ValueError where none does."""
    if records.num_objects.any():
        return
    name, tiling, images = records.metadata.name, records.tiles.tiling, records.tiles.images
    if not images.num_objects.any():
        raise InvalidValueError(
            f"none of the {len(images)} images of {name} has an object, so that no tile of INPUT.TILES shows one"
        )
    raise InvalidValueError(
        f"none of the {len(records)} tiles of {tiling.size} pixels (INPUT.TILES.SIZE) shows {tiling.min_visible:g} "
        f"(INPUT.TILES.MIN_VISIBLE) of an object of {name}: its objects are larger than the tiles. Make SIZE larger, "
        "or set INPUT.TILES.WHOLE_IMAGE_TOO True"
    )
