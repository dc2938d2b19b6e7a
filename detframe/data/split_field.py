"""The field `split` of a catalog entry: shares in a fixed order, lists of images, or a name that the format knows."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detframe.data.entries import CatalogEntry
from detframe.data.image_names import common_end
from detframe.data.missing import with_these_missing
from detframe.data.packing import PackedDataset
from detframe.data.selection import take_images
from detframe.data.source_groups import share_of
from detframe.errors import InvalidValueError, MissingFileError, listed, shown
from detframe.files import read_text
from detframe.registry import nearest

_FORMS = "a share (80%, -20% for the last fifth, 80%-90%) or a list of images (val.txt)"
_NUMBER = r"(\d{1,3}(?:\.\d{1,9})?)"
_SHARE = re.compile(rf"(-?)\s*{_NUMBER}\s*%(?:\s*-\s*{_NUMBER}\s*%)?")
_FLAG_COLUMN = re.compile(r"\s+[+-]?[01]$")  # of VOC's lists of a single class


@dataclass(frozen=True)
class Share:
    """What lies between two cuts of the fixed order, in per cent."""

    low: float
    high: float
    text: str


@dataclass(frozen=True)
class SplitField:
    """What `split` asks for: a name that goes to the format's own reader, then shares and lists, one after another."""

    own: str
    cuts: tuple[Share | Path, ...]

    @property
    def lists(self) -> tuple[Path, ...]:
        """The lists of images."""
        return tuple(cut for cut in self.cuts if isinstance(cut, Path))

    def apply(self, packed: PackedDataset, entry: CatalogEntry) -> PackedDataset:
        """The images that all shares and lists have in common; each share is of what is left before it.

        Raises:
            ValueError: nothing is left, or a list names images twice or ones that the data set does not have.
        """
        for cut in self.cuts:
            before = len(packed) + len(packed.missing)
            packed = _share(packed, entry, cut) if isinstance(cut, Share) else _listed(packed, entry, cut)
            if not len(packed) and not packed.missing:
                what = f"split {cut.text}" if isinstance(cut, Share) else f"the list {cut}"
                raise InvalidValueError(
                    f"data set {entry.name!r}: {what} of its {before} images holds none"
                    + (", since images of one source stay together" if before > 1 else "")
                )
        return packed


def split_field(value: Any, entry: CatalogEntry, root: Path, has_own: bool) -> SplitField:
    """What the field says.

    Args:
        root: where the relative paths of the catalog start.
        has_own: whether the format's reader has a field `split` too, which gets what is neither share nor list.

    Raises:
        ValueError: another type, a share that is none, or several names.
        FileNotFoundError: a list that does not exist.
    """
    if value is None:
        return SplitField("", ())
    items = list(value) if isinstance(value, list | tuple) else [value]
    own: list[str] = []
    cuts: list[Share | Path] = []
    for item in items:
        if not isinstance(item, str):
            raise InvalidValueError(
                f"data set {entry.name!r}: split must be {_FORMS}, or several of them, not {shown(item)}"
            )
        text = item.strip()
        path = root / os.path.expanduser(text)
        if "%" in text:
            cuts.append(_share_from(text, entry))
        elif has_own and not (text.lower().endswith(".txt") and _is_file(path)):
            own.append(item)
        elif text:
            cuts.append(_list_from(path, text, entry))
    if isinstance(value, list | tuple) and own and not cuts:
        raise InvalidValueError(f"data set {entry.name!r}: split must be a name, not {shown(value)}")
    if len(own) > 1:
        raise InvalidValueError(f"data set {entry.name!r}: split names {' and '.join(own)}, and takes one name at most")
    return SplitField(own[0] if own else "", tuple(cuts))


def _share_from(text: str, entry: CatalogEntry) -> Share:
    found = _SHARE.fullmatch(text)
    if found is None:
        raise InvalidValueError(f"data set {entry.name!r}: split must be {_FORMS}, not {shown(text)}")
    last, first, second = found.groups()
    low, high = (0.0, float(first)) if second is None else (float(first), float(second))
    if last and second is None:
        low, high = 100 - high, 100.0
    if (last and second is not None) or not 0 <= low < high <= 100:
        raise InvalidValueError(
            f"data set {entry.name!r}: split {text} is no share: the numbers must rise from 0% to 100%, as in 80%-90%"
        )
    return Share(low, high, text)


def _list_from(path: Path, text: str, entry: CatalogEntry) -> Path:
    if "\0" in text or not _is_file(path):
        raise MissingFileError(
            f"data set {entry.name!r}: split must be {_FORMS}, and there is no file {shown(str(path))} "
            f"(entry in {entry.catalog})"
        )
    return path


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # methods of Path raise for names that are too long


# ------------------------------------------------------------------ shares
def _share(packed: PackedDataset, entry: CatalogEntry, share: Share) -> PackedDataset:
    paths = [packed.file_name(row) for row in range(len(packed))]
    names = [_stable_name(path, entry.images) for path in paths]
    chosen = share_of([*names, *packed.missing], paths, share.low, share.high)
    missing = [name for name, taken in zip(packed.missing, chosen[len(packed) :], strict=True) if taken]
    return _narrowed(packed, np.flatnonzero(chosen[: len(packed)]), missing)


def _stable_name(path: str, folder: Path) -> str:
    """A name of an image that stays the same where all files move together."""
    try:
        return os.path.relpath(path, folder).replace("\\", "/")
    except ValueError:  # on another drive of Windows
        return path.replace("\\", "/")


def _narrowed(packed: PackedDataset, rows: np.ndarray, missing: Sequence[str]) -> PackedDataset:
    chosen = PackedDataset(packed.metadata, take_images(packed.arrays, rows), (), None, packed.findings, ())
    return with_these_missing(chosen, missing)


# ------------------------------------------------------------------ lists
class _Pictures:
    """The images of a data set, to be found by what a list calls them.

    Attributes:
        paths: of those that exist, and then the names of those that are missing.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = [path.replace("\\", "/") for path in paths]
        self._by_name: dict[str, list[int]] = defaultdict(list)
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        for row, path in enumerate(self.paths):
            base = path.rpartition("/")[2]
            self._by_name[base].append(row)
            self._by_stem[base.rpartition(".")[0] or base].append(row)

    def find(self, line: str) -> list[int]:
        """The rows that a line of a list may mean: several where it is not clear, none where there is no such one."""
        name = line.replace("\\", "/")
        base = name.rpartition("/")[2]
        found = self._by_name.get(base) or self._by_stem.get(base) or self._by_stem.get(base.rpartition(".")[0]) or []
        if len(found) < 2:
            return found
        wanted = [part for part in name.split("/")[:-1] if part != "."]
        lengths = [common_end(wanted, self.paths[row].split("/")[:-1]) for row in found]
        best = [row for row, length in zip(found, lengths, strict=True) if length == max(lengths)]
        # a name alone is that of the image right in the folder, which has the shortest path
        shortest = min(self.paths[row].count("/") for row in best)
        return [row for row in best if self.paths[row].count("/") == shortest] if not wanted else best

    def names(self) -> list[str]:
        """All names, for messages."""
        return list(self._by_name)


def _listed(packed: PackedDataset, entry: CatalogEntry, path: Path) -> PackedDataset:
    """The images that a list names, in its order."""
    pictures = _Pictures([*(packed.file_name(row) for row in range(len(packed))), *packed.missing])
    lines = [line.strip() for line in read_text(path, "the list").split("\n")]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line and not line.startswith("#")]
    where: dict[int, list[int]] = defaultdict(list)  # row -> numbers of lines
    strays: list[str] = []
    for number, line in numbered:
        found = pictures.find(line) or pictures.find(_FLAG_COLUMN.sub("", line))
        if len(found) > 1:
            several = listed([pictures.paths[row] for row in found], 3)
            raise InvalidValueError(f"{path}, line {number}: {shown(line)} may be {several}; name the folder too")
        if found:
            where[found[0]].append(number)
        else:
            strays.append(line)
    _check_list(entry, path, pictures, where, strays)
    rows = [row for row in where if row < len(packed)]
    return _narrowed(
        packed, np.array(rows, dtype=np.int64), [pictures.paths[row] for row in where if row >= len(packed)]
    )


def _check_list(
    entry: CatalogEntry, path: Path, pictures: _Pictures, where: dict[int, list[int]], strays: Sequence[str]
) -> None:
    """Raises ValueError for names of images that the data set does not have, and for those that stand there twice."""
    if strays:
        base = strays[0].replace("\\", "/").rpartition("/")[2]
        verb = "image that is" if len(strays) == 1 else "images that are"
        hint = nearest(base, pictures.names()) if len(pictures.paths) <= 5000 else ""
        raise InvalidValueError(
            f"data set {entry.name!r}: the list {path} names {len(strays)} {verb} not in its annotations: "
            f"{listed([shown(name) for name in strays], 3)}; {hint if len(hint) < 200 else ''}".rstrip("; ")
        )
    twice = [(pictures.paths[row], numbers) for row, numbers in where.items() if len(numbers) > 1]
    if twice:
        examples = [f"{name} in the lines {' and '.join(map(str, numbers[:3]))}" for name, numbers in twice]
        raise InvalidValueError(f"{path} names {len(twice)} images twice: {listed(examples, 3, '; ')}")
