"""Which image belongs to which label file of a YOLO data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detframe.data.findings import NOTE, Findings, Kind
from detframe.data.formats.locate import ImageFinder
from detframe.data.formats.yolo_labels import LabelIndex, is_label_file, listed_images
from detframe.data.formats.yolo_places import images_and_labels

BACKGROUND = Kind(
    "image has no label file, and counts as an image without objects",
    "images have no label file, and count as images without objects",
    code="image-without-labels",
    severity=NOTE,
)
SHARED = Kind(
    "label file belongs to two images that differ in their suffix alone, and counts for both",
    "label files belong to two images each that differ in their suffix alone, and count for both",
    code="label-of-two-images",
)
LISTED_TWICE = Kind(
    "image is listed twice, and was read once", "images are listed twice, and were read once", code="image-listed-twice"
)


@dataclass
class Pairs:
    """What was found.

    Attributes:
        images: (number, image, its label file or None), sorted by image; numbers are from 1 on and stable.
        missing: (name of an image that is not there, names that come near).
    """

    images: list[tuple[int, Path, Path | None]] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)


# ------------------------------------------------------------------ pairing
def pair_folders(images: Path, labels: Path, findings: Findings) -> Pairs:
    """Pair all images below a folder with the label files below another one, or the same.

    A label file without an image names a missing one, unless it is no label file at all (a licence, a list of classes).
    """
    finder, index, out = ImageFinder(images, findings), LabelIndex(labels), Pairs()
    label_of: dict[str, str | None] = {name: index.find(name) for name in finder.files}
    used: dict[str, str] = {}
    for name, label in label_of.items():
        if label is not None and used.setdefault(label, name) != name:
            findings.add(SHARED, f"{Path(label).name} of {Path(used[label]).name} and {Path(name).name}")
    for label in index.files:
        if label not in used and is_label_file(labels / label):
            image = finder.find(os.path.splitext(label)[0])
            found = "" if image is None else image.relative_to(images).as_posix()
            if label_of.get(found, label) is None:
                label_of[found] = label
            else:
                out.missing.append((os.path.splitext(label)[0], finder.near(os.path.splitext(label)[0])))
    for number, (name, label) in enumerate(label_of.items(), 1):
        out.images.append((number, images / name, None if label is None else labels / label))
    _count_background(out, findings)
    return out


def pair_included(images: Path, labels: Path | None, include: Sequence[Path], findings: Findings) -> Pairs:
    """Pair the images of some folders and lists alone.

    Args:
        images: the folder that all of them lie in.
        labels: the folder of the label files; None: those that each folder of images has of its own.
        include: folders of images, and .txt files that list images.
    """
    finder, out = ImageFinder(images, findings), Pairs()
    numbers = {name: number for number, name in enumerate(finder.files, 1)}
    indices: dict[Path, LabelIndex] = {}
    chosen: dict[Path, Path | None] = {}
    for place in include:
        listed = _of_list(place, finder, out) if place.is_file() else _of_folder(place)
        for path in listed:
            if path in chosen:
                findings.add(LISTED_TWICE, path.name)
                continue
            folder = labels if labels is not None else images_and_labels(path.parent)[1]
            if folder not in indices:
                indices[folder] = LabelIndex(folder)
            start = images if labels is not None and path.is_relative_to(images) else path.parent
            label = indices[folder].find(path.relative_to(start).as_posix())
            chosen[path] = None if label is None else folder / label
    for path, label_file in sorted(chosen.items()):
        name = path.relative_to(images).as_posix() if path.is_relative_to(images) else str(path)
        out.images.append((numbers.setdefault(name, len(numbers) + 1), path, label_file))
    _count_background(out, findings)
    return out


def _of_folder(place: Path) -> list[Path]:
    folder, _ = images_and_labels(place)
    return [folder / name for name in ImageFinder(folder).files]


def _of_list(path: Path, finder: ImageFinder, out: Pairs) -> list[Path]:
    """The images that a list names, relative to itself or to the folder of images."""
    found = []
    for name in listed_images(path):
        beside = Path(os.path.normpath(path.parent / name.replace("\\", "/")))
        image = beside if os.path.isfile(beside) else finder.find(name)
        if image is None:
            out.missing.append((name, finder.near(name)))
        else:
            found.append(image)
    return found


def _count_background(pairs: Pairs, findings: Findings) -> None:
    for _, path, label in pairs.images:
        if label is None:
            findings.add(BACKGROUND, path.name)
