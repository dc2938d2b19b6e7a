"""Packing the images of formats whose objects have names of classes, and whose images are found by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detframe.data.entries import CatalogEntry
from detframe.data.findings import ERROR, NOTE, Findings, Kind
from detframe.data.formats.fields import Entry, size_of_file
from detframe.data.formats.locate import ImageFinder
from detframe.data.formats.shapes import Box, Point, around, flat, placed_mask
from detframe.data.listing import IMAGE_SUFFIXES
from detframe.data.metadata import Metadata
from detframe.data.packing import PackedDataset, RecordBuilder
from detframe.errors import FileAccessError, InvalidValueError, MissingFileError, NoPermissionError

NO_BOX = Kind(
    "shape is a point or a line, which has no box, and was left out",
    "shapes are points or lines, which have no box, and were left out",
    code="shape-without-box",
)
UNKNOWN_SHAPE = Kind(
    "shape is of a kind that is not read, and was left out",
    "shapes are of kinds that are not read, and were left out",
    code="unknown-shape",
)
FEW_POINTS = Kind(
    "polygon has fewer than three points and was left out",
    "polygons have fewer than three points and were left out",
    code="polygon-of-few-points",
)
TURNED = Kind(
    "box is turned, and the upright box around it was taken",
    "boxes are turned, and the upright boxes around them were taken",
    code="turned-box",
)
EMPTY_MASK = Kind(
    "mask covers no pixel of its image, and its object was left out",
    "masks cover no pixel of their images, and their objects were left out",
    code="mask-without-pixel",
)
NO_CLASS = Kind(
    "object has no class and was left out, so that it counts as background",
    "objects have no class and were left out, so that they count as background",
    code="object-without-class",
    severity=ERROR,
    remedy="give each object a class in the program that annotated them",
)
TWO_CLASSES = Kind(
    "object has several classes, and the first was taken",
    "objects have several classes each, and the first was taken",
    code="object-of-several-classes",
)
ONE_OBJECT = Kind(
    "object is drawn in several parts, which were joined",
    "objects are drawn in several parts each, which were joined",
    code="object-in-parts",
    severity=NOTE,
)
UNREADABLE = Kind(
    "image cannot be read and was left out; the annotations do not say its size",
    "images cannot be read and were left out; the annotations do not say their sizes",
    code="unreadable-image",
    severity=ERROR,
    remedy="copy the images anew, or delete their annotations",
)


class NamedObjects:
    """Packs images by their names, and objects by those of their classes.

    Args:
        names: of the classes, in the order of their labels.
        findings: what is repaired and left out.
    """

    def __init__(self, entry: CatalogEntry, names: Sequence[str], findings: Findings) -> None:
        self.builder = RecordBuilder(Metadata(entry.name, tuple(names), tuple(range(1, len(names) + 1))), findings)
        self.findings = findings
        self.finder = ImageFinder(entry.images, findings)
        self._labels = {name: label for label, name in enumerate(names, 1)}
        self.size_hw = (0, 0)  # of the image begun last

    def find(self, names: Sequence[str], beside: Path) -> Path | None:
        """The image that has one of these names, the likeliest first.

        It lies in the image folder, else in `beside`, the folder of the annotations, or in `images` there, else
        somewhere below the image folder or under a name that means the same.
        """
        for name in names:
            relative = name.replace("\\", "/")
            if relative.lower().endswith(IMAGE_SUFFIXES) and "\0" not in relative:
                for folder, file in ((self.finder.folder, name), (beside, relative), (beside / "images", relative)):
                    path = os.path.normpath(os.path.join(folder, file))
                    if os.path.isfile(path):
                        return Path(path)
            if (found := self.finder.find(name)) is not None:
                return found
        return None

    def begin(self, path: Path | None, name: str, image_id: int, size_hw: tuple[int, int] | None, place: Entry) -> bool:
        """Begin the next image.

        Args:
            path: what `find` found.
            name: what the annotations call it.
            size_hw: where they say it.

        Returns:
            Whether there is such an image; if not, it is noted, and its objects must not be added.
        """
        if path is None:
            self.builder.add_missing(name, self.finder.near(name))
            return False
        try:
            self.size_hw = size_hw or size_of_file(path, place)
        except (InvalidValueError, MissingFileError, NoPermissionError, FileAccessError) as error:
            self.findings.add(UNREADABLE, str(error))
            return False
        self.builder.add_image(path, image_id, self.size_hw)
        return True

    def add(self, name: str, box: Box, segmentation: Any, place: Entry) -> None:
        """Add an object to the image begun last. Raises ValueError, with the place, for a malformed segmentation."""
        try:
            self.builder.add_object(box, self._labels[name], segmentation=segmentation)
        except InvalidValueError as error:
            raise place.error(str(error)) from None

    def outline(self, points: Sequence[Point], place: Entry) -> tuple[Box, Any] | None:
        """The box and the polygon of an outline; None, with a word in the findings, where it has too few points."""
        if len(points) < 3:
            self.findings.add(FEW_POINTS, place.in_file)
            return None
        return around(points), [flat(points)]

    def mask(self, pixels: np.ndarray, left: int, top: int, place: Entry) -> tuple[Box, Any] | None:
        """As `placed_mask` in the image begun last, with a word in the findings where no pixel lies in it."""
        found = placed_mask(pixels, left, top, self.size_hw)
        if found is None:
            self.findings.add(EMPTY_MASK, place.in_file)
        return found

    def build(self) -> PackedDataset:
        """The packed data set."""
        return self.builder.build()
