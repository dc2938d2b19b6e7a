"""The rows of YOLO's label files: a class and fractions of the image's width and height.

============================================  =====================================================================
row                                           read as
============================================  =====================================================================
``class cx cy w h``                           a box by its centre and its size
``class x1 y1 x2 y2 x3 y3 ...``               a segment of three points or more, and the box around it. The four
                                              corners of an oriented box are one too: nothing tells them apart
either, with one number more                  the same; the number is a confidence, as in predictions
``class cx cy w h`` and P x (2 or 3) numbers  a box with keypoints, where the data set has P of them
============================================  =====================================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from detframe.data.findings import Findings, Kind
from detframe.errors import InvalidValueError, listed, shown
from detframe.files import read_text

FAR = 2.0  # a number beyond is no fraction of an image, but looks like pixels
ROUNDING = 1e-3  # by which a fraction may lie outside 0 to 1 without a word
MAX_CLASS = 2**31 - 1

COMMAS = Kind(
    "label row is written with commas or semicolons between its numbers, and was read so",
    "label rows are written with commas or semicolons between their numbers, and were read so",
    code="label-with-commas",
)
DECIMAL_COMMAS = Kind(
    "label row has decimal commas, and was read with points",
    "label rows have decimal commas, and were read with points",
    code="label-with-decimal-commas",
)
REPEATED = Kind(
    "label row stands twice in its file, and was read once",
    "label rows stand twice in their files, and were read once",
    code="label-row-twice",
)
CONFIDENCE = Kind(
    "label row has one number more, a confidence as predictions have it, which was not used",
    "label rows have one number more, a confidence as predictions have it, which was not used",
    code="label-with-confidence",
    remedy="make sure that these are annotations, and not what a model predicted",
)
NOT_FINITE = Kind(
    "label row has a number that is not finite, and was left out",
    "label rows have numbers that are not finite, and were left out",
    code="label-not-finite",
)
OUTSIDE = Kind(
    "label row has fractions below 0 or above 1, and was clipped to its image",
    "label rows have fractions below 0 or above 1, and were clipped to their images",
    code="label-outside",
)
NO_FRACTIONS = Kind(
    f"label row has numbers beyond {FAR:.0f}, which are no fractions of an image, and was left out",
    f"label rows have numbers beyond {FAR:.0f}, which are no fractions of an image, and were left out",
    code="label-no-fraction",
)

KEYPOINT_OUTSIDE = Kind(
    "keypoint lies outside of its image, and counts as not annotated",
    "keypoints lie outside of their images, and count as not annotated",
    code="keypoint-outside",
)

_PLAIN = re.compile(r"[0-9.eE+\-\s]*", re.ASCII)
_NUMBER = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|nan|inf(inity)?)", re.ASCII | re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s,;]+")
_DECIMAL = re.compile(r"[+-]?\d*,\d+")
_WHAT = "a row is a class and 4 numbers (centre x, centre y, width, height), or a class and at least 3 points x y"
_SHOWN = 3


class Row(NamedTuple):
    """One object; every number but the class is a fraction of the image's width or height."""

    class_id: int
    values: Sequence[float]  # cx, cy, w, h of a box; x, y, x, y, ... of a segment
    keypoints: Sequence[float]  # as they stand in the row; () where it has none
    line: int

    @property
    def is_segment(self) -> bool:
        """Whether it is a polygon."""
        return len(self.values) > 4

    def corners(self) -> tuple[float, float, float, float]:
        """x1, y1, x2, y2 of its box, clipped where its numbers leave 0 to 1."""
        if self.is_segment:
            xs, ys = self.values[0::2], self.values[1::2]
            box = (min(xs), min(ys), max(xs), max(ys))
        else:
            x, y, w, h = self.values
            box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        if not self.leaves_image():
            return box
        x1, y1, x2, y2 = (min(max(v, 0.0), 1.0) for v in box)
        return x1, y1, x2, y2

    def leaves_image(self) -> bool:
        """Whether a number of it lies outside 0 to 1."""
        return min(self.values) < -ROUNDING or max(self.values) > 1 + ROUNDING

    def is_far(self) -> bool:
        """Whether a number of it can be no fraction."""
        return min(self.values) < -FAR or max(self.values) > FAR


@dataclass(frozen=True)
class KeypointForm:
    """How many keypoints a row has, and of how many numbers each (2: x, y; 3: and visibility)."""

    count: int
    numbers: int

    @property
    def length(self) -> int:
        """The numbers of all of them."""
        return self.count * self.numbers


class LabelReader:
    """Reads label files; what cannot be read is collected, so that one error names it all.

    Args:
        findings: what was repaired is counted here.
    """

    def __init__(self, findings: Findings, form: KeypointForm | None = None) -> None:
        self.findings, self.form = findings, form
        self._wrong: list[str] = []
        self._wrong_files = 0

    def read(self, path: Path) -> list[Row]:
        """The rows of a label file; an empty one has none.

        Raises:
            ValueError: it is no text in UTF-8, or no regular file.
            OSError: it cannot be read.
        """
        text = read_text(path, "the label file")
        plain, before = _PLAIN.fullmatch(text) is not None, len(self._wrong)
        rows: dict[tuple[float, ...], Row] = {}
        for number, line in enumerate(text.splitlines(), 1):
            numbers = self._numbers(line, plain, f"{path}, line {number}")
            if not numbers:
                continue
            row = self._row(numbers, number, path)
            if row is not None and rows.setdefault(tuple(numbers), row) is not row:
                self.findings.add(REPEATED, f"{path.name}, line {number}")
        self._wrong_files += len(self._wrong) > before
        return list(rows.values())

    def check(self) -> None:
        """Raises ValueError where a row of a file read so far was none; names the first ones."""
        if self._wrong:
            count, files = len(self._wrong), self._wrong_files
            total = f"{count} label row{'s' * (count > 1)} of {files} file{'s' * (files > 1)} cannot be read: "
            raise InvalidValueError((total if count > 1 else "") + listed(self._wrong, _SHOWN, "; ") + f". {_WHAT}")

    def _numbers(self, line: str, plain: bool, place: str) -> list[float]:
        """The numbers of a line; none where it is empty, or wrong."""
        words = line.split()
        try:
            if plain:
                return [float(word) for word in words]
        except ValueError:  # "1-2", "1.2.3"
            pass
        if "," in line or ";" in line:
            words = self._separated(line, words, place)
        wrong = next((word for word in words if not _NUMBER.fullmatch(word) or len(word) > 400), None)
        if wrong is None:
            return [float(word) for word in words]
        first = " where the number of its class must stand, 0 for the first name" if wrong == words[0] else ""
        self._wrong.append(f"{place}: {shown(wrong)} is no number{first}")
        return []

    def _separated(self, line: str, words: list[str], place: str) -> list[str]:
        """The words of a line with commas: decimal ones where spaces stand between the numbers."""
        name = Path(place).name
        if len(words) >= 5 and "." not in line and any(map(_DECIMAL.fullmatch, words)) and ";" not in line:
            self.findings.add(DECIMAL_COMMAS, name)
            return [word.replace(",", ".") for word in words]
        self.findings.add(COMMAS, name)
        return [word for word in _SEPARATORS.split(line) if word]

    def _row(self, numbers: list[float], line: int, path: Path) -> Row | None:
        """The object of a row; None where it is left out or wrong."""
        class_id, values = numbers[0], numbers[1:]
        if not math.isfinite(sum(numbers)) and not all(map(math.isfinite, numbers)):
            self.findings.add(NOT_FINITE, f"{path.name}, line {line}")
            return None
        if not class_id.is_integer() or abs(class_id) > MAX_CLASS:
            self._wrong.append(f"{path}, line {line}: the class {class_id:g} is no whole number")
            return None
        box, extra = self._parts(len(values))
        if not box:
            self._wrong.append(f"{path}, line {line}: it has {len(numbers)} numbers{self._wanted()}")
            return None
        if box + extra < len(values):
            self.findings.add(CONFIDENCE, f"{path.name}, line {line}")
        return Row(int(class_id), values[:box], values[box : box + extra], line)

    def _parts(self, count: int) -> tuple[int, int]:
        """Of so many numbers after the class, how many are the box or segment, and how many its keypoints."""
        if count in (4, 5):
            return 4, 0
        if self.form is not None:
            return (4, self.form.length) if count in (4 + self.form.length, 5 + self.form.length) else (0, 0)
        return (count - count % 2, 0) if count >= 6 else (0, 0)

    def _wanted(self) -> str:
        if self.form is None:
            return ""
        count, each = self.form.count, self.form.numbers
        return f", and {5 + self.form.length} belong to a box with {count} keypoints of {each} numbers"
