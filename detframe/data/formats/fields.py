"""Fields of annotation files: each is of its type and in its range, or an error that names file, entry and field.

What has one obvious meaning is taken for it, with a word in the findings: "64" and 64.0 for 64, "false" for no.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from detframe.data.findings import ERROR, NOTE, Findings, Kind
from detframe.data.images import image_size
from detframe.errors import InvalidValueError, MissingFileError, shown

# OpenCV reads no image beyond these
MAX_SIDE, MAX_PIXELS = 2**20, 2**30
ID_RANGE = (-(2**63), 2**63 - 1)

AS_TEXT = Kind(
    "number is written as text, and was read as a number",
    "numbers are written as text, and were read so",
    code="number-as-text",
)
AS_FLOAT = Kind(
    "whole number is written with a point, and was read as a whole number",
    "whole numbers are written with a point, and were read as whole numbers",
    code="whole-number-with-point",
)
AS_FLAG = Kind(
    "flag is not written as 0 or 1, and was read as what it says",
    "flags are not written as 0 or 1, and were read as what they say",
    code="flag-as-word",
)
DECIMAL_COMMA = Kind(
    "number has a decimal comma, and was read so",
    "numbers have decimal commas, and were read so",
    code="decimal-comma",
    severity=NOTE,
)
CORNERS_EXCHANGED = Kind(
    "box has its corners the other way round, right before left or lower before upper, and was read from the other end",
    "boxes have their corners the other way round, right before left or lower before upper, and were read from the "
    "other end",
    code="corners-exchanged",
)
NUMBER_AS_NAME = Kind(
    "name is a number, and was read as text", "names are numbers, and were read as text", code="number-as-name"
)
NO_SIZE = Kind(
    "image has a width or height that is not above 0; its size was read from its file",
    "images have a width or height that is not above 0; their sizes were read from their files",
    code="no-size",
)

BACKSLASH = Kind(
    "file name has backslashes, as on Windows, and was read with slashes",
    "file names have backslashes, as on Windows, and were read with slashes",
    code="backslashes",
)
LOST_BACKSLASH = Kind(
    "file name has backslashes, as on Windows, and no such file exists, with slashes neither",
    "file names have backslashes, as on Windows, and no such files exist, with slashes neither",
    code="lost-backslashes",
    severity=ERROR,
)

_NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d*,\d+([eE][+-]?\d+)?\s*", re.ASCII)
_NO, _YES = ("", "0", "0.0", "false", "no", "unspecified"), ("1", "1.0", "true", "yes")


class Entry:
    """One entry of an annotation file ("image 3"), and the reading of its fields.

    Args:
        texts: the file has nothing but text (XML), so that a number written as text needs no word.
    """

    __slots__ = ("findings", "name", "path", "texts")

    def __init__(self, path: Path, name: str, findings: Findings, texts: bool = False) -> None:
        self.path, self.name, self.findings, self.texts = path, name, findings, texts

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"

    @property
    def in_file(self) -> str:
        """The entry with the name of its file, for findings."""
        return f"{self.name} of {self.path.name}"

    def error(self, message: str) -> InvalidValueError:
        """An error to be raised, with file and entry before the message."""
        return InvalidValueError(f"{self}: {message}")

    def mapping(self, value: Any) -> dict[str, Any]:
        """The entry itself: an object with fields."""
        if not isinstance(value, dict):
            raise InvalidValueError(f"{self} must be an object, not {shown(value)}")
        return value

    def identity(self, value: Any, field: str) -> int:
        """An id: a whole number of 64 bits. Text is none, since predictions are written with the file's own ids."""
        if type(value) is int and ID_RANGE[0] <= value <= ID_RANGE[1]:
            return value
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            self._repaired(AS_FLOAT, field, value)
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            raise InvalidValueError(
                f"{self} has {field!r} {shown(value)}, which does not fit into 64 bits; give numbers from 1 on in its "
                f"place, wherever it stands"
            )
        raise InvalidValueError(f"{self} has {field!r} {shown(value)}; ids must be whole numbers")

    def whole(self, value: Any, field: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        number = self._as_number(value)
        if number is None or not float(number).is_integer():
            raise self.error(f"{field!r} must be a whole number, not {shown(value)}")
        whole = int(number)
        if not low <= whole <= high:
            bound = f"at least {low}" if whole < low else f"at most {high}"
            raise self.error(f"{field!r} is {shown(value)}; it must be {bound}")
        if not isinstance(value, int):
            self._repaired(AS_FLOAT if isinstance(value, float) else AS_TEXT, field, value)
        return whole

    def number(self, value: Any, field: str) -> float:
        """A number, which may be infinite or not a number: what that means is for the caller to say."""
        if type(value) is float or (type(value) is int and -(2**53) < value < 2**53):
            return float(value)
        number = self._as_number(value)
        if number is None:
            raise self.error(f"{field!r} must be a number, not {shown(value)}")
        if isinstance(value, str):
            self._repaired(AS_TEXT, field, value)
        return float(number)

    def decimal(self, text: str | None, field: str) -> float:
        """A number in a file of nothing but text, which may have a decimal comma."""
        if text is not None and "," in text and _DECIMAL_COMMA.fullmatch(text[:60]):
            self.findings.add(DECIMAL_COMMA, f"{self.name}: {text.strip()}")
            text = text.replace(",", ".")
        return self.number(text, field)

    def corners(self, x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
        """A box by two opposite corners, of which the upper left one comes first; no number stays in its place."""
        if x1 > x2 or y1 > y2:
            self.findings.add(CORNERS_EXCHANGED, f"{[x1, y1, x2, y2]} in {self.in_file}")
            return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)
        return x1, y1, x2, y2

    def flag(self, value: Any, field: str) -> bool:
        """Yes or no: 0 or 1, and what says the same in other words; null is no."""
        if value is None or value is False or value is True or (type(value) is int and value in (0, 1)):
            return bool(value)
        if isinstance(value, float) and value in (0.0, 1.0):
            self._repaired(AS_FLAG, field, value)
            return bool(value)
        word = value.strip().lower() if isinstance(value, str) else None
        if word not in _NO and word not in _YES:
            raise self.error(f"{field!r} must be 0 or 1, not {shown(value)}")
        self._repaired(AS_FLAG, field, value)
        return word in _YES

    def text(self, value: Any, field: str, numbers: bool = False) -> str:
        """Text that is not empty and that can be written out; with `numbers`, a whole number is its digits."""
        if numbers and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
            self._repaired(NUMBER_AS_NAME, field, value)
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"{field!r} must be text, not {shown(value)}")
        wrong = next((letter for letter in value if letter == "\0" or "\ud800" <= letter <= "\udfff"), None)
        if wrong is not None:
            raise self.error(
                f"{field!r} is {shown(value)}, with the character {wrong!r}, which no file name or text may hold; "
                f"it was probably made from bytes in another encoding"
            )
        return value

    def size_hw(self, height: Any, width: Any) -> tuple[int, int] | None:
        """(height, width) of an image, or None where they are absent, 0 or negative: its file knows them.

        Raises:
            ValueError: another type, a fraction, or a size beyond any image.
        """
        if height is None or width is None:
            return None
        sides = [self.whole(v, field, ID_RANGE[0], MAX_SIDE) for v, field in ((height, "height"), (width, "width"))]
        if min(sides) <= 0:
            self.findings.add(NO_SIZE, f"{self.name} ({shown(width)} x {shown(height)})")
            return None
        if sides[0] * sides[1] > MAX_PIXELS:
            raise self.error(f"it is {sides[1]} pixels wide and {sides[0]} high; no image has more than {MAX_PIXELS}")
        return sides[0], sides[1]

    def _as_number(self, value: Any) -> int | float | None:
        """The finite number that a value is or spells; None where it is none."""
        if isinstance(value, str) and len(value) < 16 and value.isascii() and value.replace(".", "", 1).isdigit():
            return int(value) if value.isdigit() else float(value)  # the shortest way for what most texts are
        if isinstance(value, str) and _NUMBER.fullmatch(value[:400]) and len(value) <= 400:
            value = int(value) if value.strip().lstrip("+-").isdigit() else float(value)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        try:
            return value if math.isfinite(value) else None
        except OverflowError:  # a whole number beyond all floats
            return None

    def _repaired(self, kind: Kind, field: str, value: Any) -> None:
        if not (self.texts and isinstance(value, str)):
            self.findings.add(kind, f"{self.name}: {field} {shown(value)}")


# -------------------------------------------------------------------------------- image files that annotations name
def image_file(folder: Path, name: str, entry: Entry) -> Path:
    """The path of an image. A name with backslashes is read with slashes where no file has it as it is."""
    path = folder / name
    if "\\" not in name or path.is_file():
        return path
    translated = folder / name.replace("\\", "/")
    found = translated.is_file()
    entry.findings.add(BACKSLASH if found else LOST_BACKSLASH, f"{name!r} of {entry.name}")
    return translated if found else path


def size_of_file(path: Path, entry: Entry) -> tuple[int, int]:
    """(height, width) from the header of an image.

    Raises:
        FileNotFoundError, ValueError: as `image_size`, with annotation file and entry.
    """
    try:
        return image_size(path)
    except FileNotFoundError:
        raise MissingFileError(f"{entry}: the file {path} does not exist") from None
    except ValueError as error:
        raise InvalidValueError(f"{entry}: {error}") from None


# -------------------------------------------------------------------------------- fields of catalog entries
