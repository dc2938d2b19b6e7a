"""What the choices of a recipe look at in a data set: sizes of images and objects, how many there are, and of what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from detframe.arrays.pixels import PixelForm
from detframe.data.repeats import images_with_class
from detframe.data.screen.channels import measured
from detframe.data.screen.pictures import look_at
from detframe.errors import InvalidValueError
from detframe.recipes.wish import Choice

FEWEST_OF_A_CLASS = 10  # objects; sizes of fewer say little
MOST_OBJECTS = 200_000  # that are looked at, evenly spaced; quantiles need no more
MOST_DECODED = 300  # images whose pixels are measured, evenly spaced


@dataclass(frozen=True)
class ChannelFacts:
    """Mean and standard deviation of each channel over the pixels of some training images."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    images: int


@dataclass(frozen=True)
class DataFacts:
    """Numbers of a training set and of the set it is evaluated on.

    Attributes:
        classes: their names, label 1 first.
        sizes_hw: int (images, 2) of the training images.
        objects: of each training image, crowds not counted, int (images,).
        val_images: how many images there are to evaluate on.
        most_objects: in any one image of the two sets.
        widths, heights: of the training objects in pixels of their files, float (N,).
        centres_y: the middle of each as a share of its image's height, float (N,).
        owners: which image each belongs to, int (N,).
        labels: of each, 1..K, int (N,).
        with_class: in how many training images each class has an object, (K,).
        keypoints: names of the keypoints; empty where there are none.
        missing: images of the training set that the labels name and that do not exist.
        unusable: images of both sets that exist, and cannot be read or are not those that were annotated.
        channels: what was measured of the pixels, where they are no 8-bit colours.
        views: what "images" are here: "images", or "tiles" of them.
        cut: the choice of tiles, where they were not asked for.
    """

    classes: tuple[str, ...]
    sizes_hw: np.ndarray
    objects: np.ndarray
    val_images: int
    most_objects: int
    widths: np.ndarray
    heights: np.ndarray
    centres_y: np.ndarray
    owners: np.ndarray
    labels: np.ndarray
    with_class: np.ndarray
    has_masks: bool = False
    keypoints: tuple[str, ...] = ()
    mirrored_keypoints: bool = False
    missing: int = 0
    unusable: int = 0
    channels: ChannelFacts | None = None
    views: str = "images"
    cut: Choice | None = None

    @property
    def images(self) -> int:
        """How many training images there are."""
        return len(self.sizes_hw)

    @property
    def num_objects(self) -> int:
        """How many objects there are to train on."""
        return int(self.objects.sum())

    def sides(self, min_size: int, max_size: int) -> np.ndarray:
        """The objects' sides (square root of the area) after resizing as INPUT.MIN_SIZE and MAX_SIZE say, (N,)."""
        scales = resize_scales(self.sizes_hw, min_size, max_size)
        return np.sqrt(self.widths * self.heights) * scales[self.owners]

    def small(self, sides: np.ndarray, quantile: float = 0.1) -> float:
        """The side at a quantile (0.1: nine of ten objects exceed it) of the class whose objects are smallest.

        Average precision is a mean over classes, so that a rare class of small objects counts as much as any. Of many
        classes, it is a tenth that may be smaller still; classes of a few objects are not looked at.
        """
        counts = np.bincount(self.labels, minlength=len(self.classes) + 1)
        kept = np.flatnonzero(counts >= min(FEWEST_OF_A_CLASS, int(counts.max())))
        values = [float(np.quantile(sides[self.labels == label], quantile)) for label in kept]
        return float(np.quantile(values, 0.1, method="lower"))

    def ratios(self) -> np.ndarray:
        """Heights over widths of the objects, (N,)."""
        return self.heights / self.widths


def resize_scales(sizes_hw: np.ndarray, min_size: int, max_size: int) -> np.ndarray:
    """By how much each image is scaled so that its shorter side has `min_size`, its longer at most `max_size` (0: any).

    With `min_size` 0 images stay as they are.
    """
    if not min_size:
        return np.ones(len(sizes_hw))
    scales = min_size / sizes_hw.min(axis=1)
    return np.minimum(scales, max_size / sizes_hw.max(axis=1)) if max_size else scales


def data_facts(train: Any, val: Any, missing: int = 0, unusable: int = 0) -> DataFacts:
    """The facts of two `detframe.data.Records`.

    Raises:
        ValueError: no image, or no object at all, to train on.
    """
    if not len(train):
        raise InvalidValueError("the data set has no image to train with; are these the right labels?")
    columns = train.objects()
    kept = np.flatnonzero(~columns.iscrowd)
    if not len(kept):
        images = f"the {len(train)} training images have" if len(train) > 1 else "the only training image has"
        crowds = f" but {len(columns.iscrowd)} crowd regions" if len(columns.iscrowd) else ""
        raise InvalidValueError(
            f"{images} no objects{crowds}, so there is nothing to learn from; are these the right labels?"
        )
    kept = kept[:: max(1, -(-len(kept) // MOST_OBJECTS))]
    boxes, owners = columns.boxes[kept].astype(np.float64), columns.image[kept]
    sizes = train.sizes_hw
    metadata = train.metadata
    return DataFacts(
        classes=tuple(metadata.class_names),
        sizes_hw=sizes,
        objects=train.num_objects,
        val_images=len(val),
        most_objects=int(max(train.num_objects.max(initial=0), val.num_objects.max(initial=0))),
        widths=boxes[:, 2] - boxes[:, 0],
        heights=boxes[:, 3] - boxes[:, 1],
        centres_y=(boxes[:, 1] + boxes[:, 3]) / 2 / sizes[owners, 0],
        owners=owners,
        labels=columns.labels[kept],
        with_class=images_with_class(train),
        has_masks=train.has_masks,
        keypoints=tuple(metadata.keypoint_names),
        mirrored_keypoints=bool(metadata.keypoint_flip_pairs),
        missing=missing,
        unusable=unusable,
    )


def channel_facts(train: Any, form: PixelForm) -> ChannelFacts | None:
    """What the pixels of training images are; None of 8-bit colours, for which weights know it.

    Args:
        form: what the training reads images as.
    """
    if not form.as_stored:
        return None
    step = max(1, -(-len(train) // MOST_DECODED))
    pictures = look_at([train.file_name(i) for i in range(0, len(train), step)], True, tiles=True, form=form).values()
    found = measured(pictures)
    if found is None:
        return None  # none can be read, which the training says
    return ChannelFacts(tuple(found[0]), tuple(found[1]), sum(picture.moments is not None for picture in pictures))
