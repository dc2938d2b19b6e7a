"""The label files of a YOLO data set: which texts are some, and which of them belongs to an image."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from detframe.data.formats.locate import IMAGE_FOLDERS
from detframe.data.formats.yolo_places import LABEL_FOLDERS
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
        ValueError: it is no text in UTF-8. OSError: it cannot be read.
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
