"""The lists beside annotations of VOC's form: of images, in ImageSets/Main, and of classes."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from detframe.data.listing import IMAGE_SUFFIXES
from detframe.errors import InvalidValueError
from detframe.files import read_text

_FLAG_COLUMN = re.compile(r"\s+[+-]?[01]$")
_QUOTED = re.compile(r'"([^"]*)"')
_LABELMAP = re.compile(r"([^:]+):[\d, ]*:[^:]*:[^:]*")


def list_path(annotations: Path, name: str) -> Path:
    """Where a list of images of VOC's own layout lies."""
    return annotations.parent / "ImageSets" / "Main" / f"{name}.txt"


def lists_beside(annotations: Path) -> dict[str, Path]:
    """The lists of images of VOC's own layout, by their names."""
    return {path.stem: path for path in sorted(list_path(annotations, "").parent.glob("*.txt"))}


def listed_keys(path: Path, known: Collection[str]) -> list[str]:
    """The images that a list names, as the paths of their XML files among `known`, without suffix."""
    lines = read_text(path, "the list").split("\n")
    return [_listed_key(line.strip(), known) for line in lines if line.strip()]


def _listed_key(line: str, known: Collection[str]) -> str:
    """The image that a line names: alone, or with a second column as lists of a single class have (1, 0 or -1).

    Names may hold spaces (CVAT writes those in quotes), and may end as those of images or XML files do.
    """
    quoted = _QUOTED.match(line)
    names = (quoted[1], quoted[1]) if quoted else (line, _FLAG_COLUMN.sub("", line))
    bare = (name[: -len(Path(name).suffix)] for name in names if Path(name).suffix.lower() in (*IMAGE_SUFFIXES, ".xml"))
    return next((name for name in (*names, *bare) if name in known), names[1])


def read_labelmap(text: str, path: Path) -> list[str]:
    """The classes of a list of names, one a line, or of CVAT's labelmap.txt (name:color:parts:actions), in its order.

    Raises:
        ValueError: no name, or one twice.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    names = [match[1].strip() if (match := _LABELMAP.fullmatch(line)) else line for line in lines]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if not names or twice is not None:
        raise InvalidValueError(
            f"{path} must name each class in a line of its own, once; {twice or 'no class'} does not"
        )
    return names
