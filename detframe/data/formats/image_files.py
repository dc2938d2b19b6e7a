"""Image files that annotations name."""

from __future__ import annotations

from pathlib import Path

from detframe.data.findings import Kind
from detframe.data.formats.fields import Entry
from detframe.data.images import image_size
from detframe.errors import InvalidValueError, MissingFileError

BACKSLASH = Kind(
    "file name has backslashes, as on Windows, and was read with slashes",
    "file names have backslashes, as on Windows, and were read with slashes",
)
LOST_BACKSLASH = Kind(
    "file name has backslashes, as on Windows, and no such file exists, with slashes neither",
    "file names have backslashes, as on Windows, and no such files exist, with slashes neither",
)


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
