"""Which images of a data set a name means, and which come near it: from their names alone, no file is read."""

from __future__ import annotations

import bisect
import difflib
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property

from detframe.data.listing import IMAGE_SUFFIXES

# Of images that are not read, and may lie there in another form
_OTHER_SUFFIXES = (".heic", ".heif", ".dng", ".raw", ".dcm", ".svg")
_NEIGHBOURS = 25
_NUMBER, _NO_WORD = re.compile(r"\d+"), re.compile(r"[\W_]+")


class ImageNames:
    """The images of a data set by their names.

    Args:
        files: their paths relative to one folder, with slashes.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self.files = files

    def best(self, name: str) -> list[str]:
        """The files that `name`, with slashes, may mean: one where it is clear, several where it is not.

        They are of the same name, or else differ from it in letter case, or else in suffix; of several, those whose
        folders agree with the name's the longest.
        """
        base = base_of(name)
        for group in (
            self._by_base.get(base, []),
            self._by_folded.get(_folded(base), []),
            self._by_stem.get(_folded(stem_of(base)), []),
        ):
            if group:
                exact = [path for path in group if stem_of(base_of(path)) == stem_of(base)]
                return _agreeing(name, exact or group)
        return []

    def near(self, name: str) -> str:
        """The existing names that are most like `name`, at most two and separated by commas; "" where none is."""
        translated = name.strip().replace("\\", "/")
        found = self.best(translated)
        if len(found) < 2:
            found = self._alike(base_of(translated))
        return ", ".join(found[:2])

    def _alike(self, base: str) -> list[str]:
        """Names with the same numbers and words; else the most similar one of those that begin or end in the same way,
        with the same numbers where there is one: of a numbered series, any other is near."""
        start, end = self._neighbours(base)
        wanted = _canonical(base)
        same = [path for path in start + end if _canonical(base_of(path)) == wanted]
        if same:
            return list(dict.fromkeys(same))
        by_name = {_canonical(base_of(path)): path for path in reversed(start + end)}
        numbered = sorted(name for name in by_name if _NUMBER.findall(name) == _NUMBER.findall(wanted))
        for names in (numbered, sorted(by_name)):
            close = difflib.get_close_matches(wanted, names, n=1, cutoff=0.7)
            if close:
                return [by_name[close[0]]]
        return []

    def _neighbours(self, base: str) -> tuple[list[str], list[str]]:
        """The files beside `base` in the order of names, and in the order of names read backwards."""
        forwards, backwards = self._sorted
        key = _canonical(base)
        return _beside(forwards, key), _beside(backwards, key[::-1])

    # ------------------------------------------------------------------ made when they are needed
    @cached_property
    def _by_base(self) -> dict[str, list[str]]:
        return _grouped(self.files, base_of)

    @cached_property
    def _by_folded(self) -> dict[str, list[str]]:
        return _grouped(self.files, lambda path: _folded(base_of(path)))

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped(self.files, lambda path: _folded(stem_of(base_of(path))))

    @cached_property
    def _sorted(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        keys = [(_canonical(base_of(path)), path) for path in self.files]
        return sorted(keys), sorted((key[::-1], path) for key, path in keys)


def _grouped(files: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for path in files:
        groups.setdefault(key(path), []).append(path)
    return groups


def _agreeing(name: str, group: list[str]) -> list[str]:
    """Of several files, those in the very folder that is named, or whose folders agree with it the longest, from the
    end."""
    if len(group) == 1:
        return group
    folder = name.rpartition("/")[0]
    direct = [path for path in group if path.rpartition("/")[0] == folder]
    if direct:
        return direct
    wanted = folder.lower().split("/") if folder else []
    lengths = [common_end(wanted, path.rpartition("/")[0].lower().split("/")) for path in group]
    return [path for path, length in zip(group, lengths, strict=True) if length == max(lengths)]


def common_end(first: Sequence[str], second: Sequence[str]) -> int:
    """How many of the last words of two lists agree."""
    return next(
        (i for i, (a, b) in enumerate(zip(reversed(first), reversed(second), strict=False)) if a != b),
        min(len(first), len(second)),
    )


def _beside(keys: list[tuple[str, str]], key: str) -> list[str]:
    at = bisect.bisect_left(keys, (key, ""))
    return [path for _, path in keys[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]]


def base_of(path: str) -> str:
    """A path without its folders."""
    return path.rpartition("/")[2]


def stem_of(base: str) -> str:
    """A file name without the suffix of an image; what else stands behind a point belongs to the name."""
    head, _, suffix = base.rpartition(".")
    return head if head and f".{suffix.lower()}" in (*IMAGE_SUFFIXES, *_OTHER_SUFFIXES) else base


def _folded(text: str) -> str:
    """Without differences of letter case and of how accents are written."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text).casefold()


def _canonical(base: str) -> str:
    """The words and numbers of a name, so that frame_1.jpg and Frame-0001.png are the same."""
    return _NUMBER.sub(lambda match: match[0].lstrip("0") or "0", _NO_WORD.sub(" ", _folded(stem_of(base))).strip())
