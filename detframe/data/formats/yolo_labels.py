"""The label files of a YOLO data set: which texts are some, and which of them belongs to which image."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detframe.data.findings import NOTE, Findings, Kind
from detframe.data.formats.locate import IMAGE_FOLDERS, ImageFinder
from detframe.data.formats.yolo_places import LABEL_FOLDERS, images_and_labels
from detframe.files import read_bytes, read_text

# What lies beside label files and is none
NO_LABELS = (
    *("classes", "predefined_classes", "obj", "labels", "names", "notes", "readme", "license", "train", "val", "valid"),
    *("test", "requirements"),
)
_NO_PLACE = {*IMAGE_FOLDERS, *LABEL_FOLDERS, "obj_train_data", "obj_valid_data", "obj_test_data"}
_HEAD = 4000  # bytes of a file that say what it is


class LabelIndex:
    """The label files below a folder, found by the names of images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = sorted(_texts_below(folder))  # relative, with slashes
        self._by_place: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in self.files:
            place = place_of(path)
            self._by_place[place].append(path)
            self._by_stem[place.rpartition("/")[2]].append(path)

    def find(self, image: str) -> str | None:
        """The label file of an image, named by its path relative to the folder of images.

        It has the same name in the same folder, not counting folders as `images` and `labels`; else it is the only one
        of its name.
        """
        place = place_of(image)
        name = image.rpartition("/")[2]
        for group in (
            self._by_place.get(place),
            self._by_place.get(f"{place}{name[len(Path(name).stem) :]}"),  # a.jpg.txt
            self._by_stem.get(place.rpartition("/")[2]),
        ):
            if group and len(group) == 1:
                return group[0]
        return None


def place_of(path: str) -> str:
    """A path with slashes, without suffix and without the folders that only tell images from labels."""
    *folders, name = path.split("/")
    return "/".join([*(part for part in folders if part.lower() not in _NO_PLACE), os.path.splitext(name)[0]])


def _texts_below(folder: Path) -> Iterator[str]:
    start = len(str(folder).rstrip(os.sep)) + 1
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = parent[start:].replace(os.sep, "/")
        for name in names:
            if name.lower().endswith(".txt") and not name.startswith("."):
                yield f"{below}/{name}" if below else name


def listed_images(path: Path) -> list[str]:
    """The names in a list of images, one a line.

    Raises:
        ValueError: it is no text in UTF-8.
        OSError: it cannot be read.
    """
    return [line.strip() for line in read_text(path, "the list of images").splitlines() if line.strip()]


def is_label_file(path: Path) -> bool:
    """Whether a text that belongs to no image is a label file, by its first row; an empty one is, but for its name."""
    if os.path.splitext(path.name)[0].lower() in NO_LABELS:
        return False
    words = _first_line(path)
    return words is not None and (not words or looks_like_row(words))


def _first_line(path: Path) -> list[str] | None:
    """The words of the first line that has some; None where it cannot be read."""
    try:
        text = read_bytes(path)[:_HEAD].decode("utf-8-sig", "replace")
    except (OSError, ValueError):
        return None
    return next((words for line in text.splitlines() if (words := line.replace(",", " ").split())), [])


def looks_like_row(words: Sequence[str]) -> bool:
    """Whether the words of a line are a class and at least four numbers."""
    try:
        return len(words) >= 5 and words[0].replace(".", "", 1).isdigit() and len([float(w) for w in words[:9]]) >= 5
    except ValueError:
        return False


def rows_look_like_labels(files: Sequence[Path], lenient: bool) -> bool:
    """Whether a few texts are label files, by their first rows.

    Args:
        lenient: the folder is called as folders of labels are, so that pixels in place of fractions, or nothing but
            empty files, do not speak against it.
    """
    lines = [_first_line(file) for file in files]
    good = sum(_is_first_row(words, lenient) for words in lines if words)
    wrong = sum(words is None or bool(words) for words in lines) - good
    return good > wrong or (lenient and not good and not wrong)


def _is_first_row(words: Sequence[str], lenient: bool) -> bool:
    """A row of fractions; with six numbers it is a prediction."""
    if not looks_like_row(words):
        return False
    return lenient or (len(words) != 6 and all(-0.5 <= float(word) <= 1.5 for word in words[1:5]))


# ------------------------------------------------------------------ which image belongs to which label file
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
