"""How often an image comes in an epoch: once, or as its classes, its data set and its being empty ask for.

DATALOADER.SAMPLER says by which rule the classes count. N images, f(c) the fraction of them that hold class c:

- repeat_factor: Gupta, Dollár and Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019
  (arXiv:1908.03195), section 5. With a threshold t,

      r(c) = max(1, sqrt(t / f(c)))        r(image) = the largest r(c) of the classes in the image, 1 without objects

- class_balanced: class-aware sampling, Shen, Lin and Huang, "Relay Backpropagation for Effective Learning of Deep
  Convolutional Neural Networks", ECCV 2016 (arXiv:1512.05830), section 4: a class is drawn, each of the C classes
  equally often, and then an image among those that hold it. In expectation, among the images with objects,

      r(image) = sum over the classes c in the image of 1 / (C f(c))        r(image) = 1 without objects

An image comes r(image) times an epoch: the whole part of it always, the rest as the probability of once more.

DATALOADER.EMPTY_SHARE and DATASETS.TRAIN_WEIGHTS then multiply r by one number for the images with objects and one for
those without, and by one for each data set; of tiles, such that MAX_EMPTY holds.

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
from detframe.texts import counted

_ROUNDS = 1000  # of making two kinds of shares hold together
_DIGITS = 9  # of a factor; no processor or library may disagree in the last one
Margin = tuple[np.ndarray, np.ndarray]  # int64 (N,) the group of each image; float (G,) the shares of the groups


def repeat_factors(records: Records, threshold: float, square_root: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """float64 (K,), how often the classes ask for, and float64 (N,), how often each image comes in an epoch.

    Crowds do not count, as they are not trained on. A class without an image has 1.

    Args:
        threshold: t, a fraction of the images.
        square_root: False leaves out the root.
    """
    image, label, with_class = _classes_of_images(records)
    wanted = threshold * len(records) / np.maximum(with_class, 1)
    of_class = np.where(with_class > 0, np.maximum(np.sqrt(wanted) if square_root else wanted, 1.0), 1.0)
    of_image = np.ones(len(records))
    np.maximum.at(of_image, image, of_class[label])
    return of_class[1:], of_image


def class_balanced_factors(records: Records) -> np.ndarray:
    """float64 (N,): how often each image comes in an epoch where every class is drawn equally often.

    Crowds do not count, and classes without an image neither. Images without objects have 1, the others 1 on average.
    """
    image, label, with_class = _classes_of_images(records)
    full = np.zeros(len(records), dtype=bool)
    full[image] = True
    number = max(1, int((with_class > 0).sum()))
    drawn = np.bincount(image, 1.0 / with_class[label], minlength=len(records)) / number
    return np.where(full, drawn * int(full.sum()), 1.0)


def images_with_class(records: Records, factors: np.ndarray | None = None) -> np.ndarray:
    """float64 (K,): in how many of the images each class has an object, crowds not counted.

    Args:
        factors: float (N,), how often each image counts; None: once.
    """
    image, label, with_class = _classes_of_images(records)
    weights = np.ones(len(image)) if factors is None else factors[image]
    return np.bincount(label, weights, minlength=len(with_class))[1:]


def _classes_of_images(records: Records) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int64 (P,) twice: the images and the classes (1..K) of all pairs in which the image has an object of the class;
    and int64 (K + 1,): how many images have each class. Crowds are left out."""
    objects = records.objects()
    trained = ~objects.iscrowd
    classes = records.metadata.num_classes + 1
    pairs = np.unique(objects.image[trained].astype(np.int64) * classes + objects.labels[trained])
    image, label = np.divmod(pairs, classes)
    return image, label, np.bincount(label, minlength=classes)


def image_repeats(cfg: Any, records: Records) -> np.ndarray | None:
    """float64 (N,): how often each image, or tile of INPUT.TILES, comes in an epoch; None where each comes once.

    Raises:
        ValueError: no tile shows an object, or there are no images for a share that DATALOADER.EMPTY_SHARE or
            DATASETS.TRAIN_WEIGHTS give.
    """
    records = tiled(cfg, records)
    repeats = _tile_repeats(cfg, records) if isinstance(records, TiledRecords) else _repeats(cfg, records)
    if cfg.DATALOADER.EMPTY_SHARE < 0 and not cfg.DATASETS.TRAIN_WEIGHTS:
        return repeats
    factors = _in_shares(cfg, records, np.ones(len(records)) if repeats is None else repeats)
    return None if (factors == 1).all() else factors


def images_per_epoch(cfg: Any, records: Records) -> int:
    """The images, or tiles of INPUT.TILES, of an epoch, those that come again counted again.

    On average, to the nearest whole number.
    """
    records = tiled(cfg, records)
    factors = image_repeats(cfg, records)
    return len(records) if factors is None else round(float(factors.sum()))


def sampler_name(cfg: Any) -> str:
    """DATALOADER.SAMPLER; for "auto" that which it means."""
    name, threshold = str(cfg.DATALOADER.SAMPLER), cfg.DATALOADER.REPEAT_THRESHOLD
    return name if name != "auto" else "repeat_factor" if threshold > 0 else "uniform"


def _repeats(cfg: Any, records: Records) -> np.ndarray | None:
    """The factors of DATALOADER.SAMPLER; None where it is uniform."""
    name = sampler_name(cfg)
    if name == "class_balanced":
        factors: np.ndarray = class_balanced_factors(records).round(_DIGITS)
        return None if (factors == 1).all() else factors
    data = cfg.DATALOADER
    return repeat_factors(records, data.REPEAT_THRESHOLD, data.REPEAT_SQRT)[1] if name == "repeat_factor" else None


# ---------------------------------------------------------------------------------------------- shares
def _in_shares(cfg: Any, records: Records, factors: np.ndarray) -> np.ndarray:
    """The factors times numbers that make DATALOADER.EMPTY_SHARE and DATASETS.TRAIN_WEIGHTS hold.

    With EMPTY_SHARE the images with objects keep their number in an epoch. TRAIN_WEIGHTS leave an epoch its length.
    """
    margins: list[Margin] = []
    total = float(factors.sum())
    if cfg.DATALOADER.EMPTY_SHARE >= 0:
        margins.append(_empty_margin(cfg.DATALOADER.EMPTY_SHARE, records))
        (kind, shares) = margins[-1]
        total = float(factors[kind == 1].sum()) / shares[1]
    if cfg.DATASETS.TRAIN_WEIGHTS:
        margins.append(_set_margin(cfg.DATASETS.TRAIN_WEIGHTS, records, factors))
    exclude = "DATASETS.TRAIN_WEIGHTS exclude each other in these data: some data sets hold no"
    refused = f"DATALOADER.EMPTY_SHARE and {exclude} images without objects, or nothing else. Set one of the two alone"
    scaled: np.ndarray = _raked(factors, margins, total, refused)
    if isinstance(records, TiledRecords):  # sets of unequal weight may have unequally many empty tiles
        full, most = records.num_objects > 0, cfg.INPUT.TILES.MAX_EMPTY
        if float(scaled[~full].sum()) > (most + ROUNDING) * float(scaled.sum()):
            margins.append((full.astype(np.int64), np.array([most, 1.0 - most])))
            refused = f"INPUT.TILES.MAX_EMPTY {most:g} and {exclude} tiles with objects, or few. Make MAX_EMPTY larger"
            scaled = _raked(factors, margins, total, f"{refused}, or the weights of these sets smaller")
    return scaled.round(_DIGITS)


def _empty_margin(share: float, records: Records) -> Margin:
    """The images without objects (group 0) and with (group 1), and their shares."""
    kind = (records.num_objects > 0).astype(np.int64)
    if not kind.any():
        raise InvalidValueError(
            f"DATALOADER.EMPTY_SHARE is {share:g}, but none of the {len(kind)} images of {records.metadata.name} has "
            "objects"
        )
    if share > 0 and kind.all():
        raise InvalidValueError(
            f"DATALOADER.EMPTY_SHARE is {share:g}, but each of the {len(kind)} images of {records.metadata.name} has "
            "objects; add images without, or set DATALOADER.EMPTY_SHARE -1"
        )
    return kind, np.array([share, 1.0 - share])


def _set_margin(weights: tuple[float, ...], records: Records, factors: np.ndarray) -> Margin:
    """The data set of each image, and the shares of the data sets."""
    names, part = records.part_names, records.part_of
    if len(weights) != len(names):
        raise InvalidValueError(
            f"DATASETS.TRAIN_WEIGHTS has {len(weights)} numbers, {list(weights)}, for {len(names)} data sets: "
            f"{', '.join(names)}"
        )
    drawn = np.bincount(part, factors, minlength=len(names))
    for name, weight, images in zip(names, weights, drawn.tolist(), strict=True):
        if weight > 0 and images == 0:
            raise InvalidValueError(
                f"DATASETS.TRAIN_WEIGHTS gives the data set {name} {weight:g}, but no image of it is sampled (there "
                f"are {int((part == names.index(name)).sum())}); give it 0, or take it out of DATASETS.TRAIN"
            )
    return part, np.array(weights) / sum(weights)


def _raked(factors: np.ndarray, margins: list[Margin], total: float, refused: str) -> np.ndarray:
    """The factors times a number for each group of each margin, so that their sums over groups are shares of `total`.

    Iterative proportional fitting (Deming and Stephan, Annals of Mathematical Statistics 11, 1940).

    Args:
        refused: the message where no numbers do that.

    Raises:
        ValueError: the shares of two margins exclude each other.
    """
    for _ in range(_ROUNDS if len(margins) > 1 else 1):
        for group, shares in margins:
            sums = np.bincount(group, factors, minlength=len(shares))
            factors = factors * (shares * total / np.where(sums > 0, sums, 1.0))[group]
        found = [np.bincount(group, factors, minlength=len(shares)) for group, shares in margins]
        if all(np.abs(f - m[1] * total).max() <= ROUNDING * total for f, m in zip(found, margins, strict=True)):
            return factors
    raise InvalidValueError(refused)


# ---------------------------------------------------------------------------------------------- tiles
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
    objects = images.objects()
    sides = (objects.boxes[:, 2:] - objects.boxes[:, :2])[~objects.iscrowd].max(axis=1)
    why = "its objects are larger than the tiles. Make SIZE larger, or set INPUT.TILES.WHOLE_IMAGE_TOO True"
    if sides.min() <= tiling.size:
        why = (
            f"those that are no larger than a tile lie on borders of tiles (the smallest has {sides.min():.0f}). Make "
            "INPUT.TILES.OVERLAP larger, or MIN_VISIBLE smaller"
        )
    raise InvalidValueError(
        f"none of the {len(records)} tiles of {counted(tiling.size, 'pixel')} (INPUT.TILES.SIZE) shows "
        f"{tiling.min_visible:g} (INPUT.TILES.MIN_VISIBLE) of an object of {name}: {why}"
    )
