"""Where the folders and lists lie that the data file of a YOLO data set names, and where the labels of images lie.

Such files are written on other machines, and moved: their absolute paths are dead, Roboflow writes `../train/images`
beside `train/`, and a split may be `valid` in the file and `val` on disk. What exists is taken, with a note.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detframe.data.formats.locate import IMAGE_FOLDERS
from detframe.data.formats.yolo_data_file import DRIVE, SPLIT_KEYS, DataFile, below, exists, parts_of
from detframe.data.listing import IMAGE_SUFFIXES, folders_in

LABEL_FOLDERS = ("labels", "label", "annotations", "labels_yolo", "yolo", "txt")


@dataclass
class Places:
    """The folders and lists of each split that exist.

    Attributes:
        notes: what the file says that is not so, and what was taken in its place.
        lost: split -> what it names, where none of that exists.
    """

    parts: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lost: dict[str, tuple[str, ...]] = field(default_factory=dict)


def locate_parts(data: DataFile) -> Places:
    """Find what a data file names."""
    out, folder, guessed = Places(), data.path.parent, set[str]()
    bases = _bases(data, out.notes)
    for split, items in data.parts.items():
        found: list[Path] = []
        for item in items:
            path, as_named = _located(item, folder, bases)
            if path is None:
                out.lost[split] = (*out.lost.get(split, ()), item)
                continue
            found.append(path)
            if not as_named:
                guessed.add(split)
                out.notes.append(f"{split} of {data.path.name} is {item!r}, and {_short(path, folder)} was taken")
        if found:
            out.parts[split] = tuple(found)
    _drop_doubled(out, guessed, data.path.name)
    for split, items in out.lost.items():
        named = ", ".join(map(repr, items))
        out.notes.append(f"{split} of {data.path.name} is {named}, which does not exist, and was left out")
    return out


def _bases(data: DataFile, notes: list[str]) -> list[Path]:
    """The folders that the paths of a data file may be relative to, the likeliest first."""
    folder = data.path.parent
    others = [folder, folder.parent]
    if not data.base:
        return others
    base = Path(os.path.normpath(folder / data.base.replace("\\", "/")))
    if exists(base) and not DRIVE.match(data.base):
        return list(dict.fromkeys([base, *others]))
    absolute = data.base.startswith("/") or DRIVE.match(data.base)
    if absolute or parts_of(data.base)[-1:] != [folder.name]:
        notes.append(f"path of {data.path.name} is {data.base!r}, which does not exist: it was read as its own folder")
    return others


def _located(item: str, folder: Path, bases: Sequence[Path]) -> tuple[Path | None, bool]:
    """Where a folder or list lies, and whether that is what its name says."""
    text = item.replace("\\", "/")
    absolute = text.startswith("/") or DRIVE.match(text)
    if text.startswith("/") and _is_place(Path(text)):
        return Path(os.path.normpath(text)), True
    parts = parts_of(text)
    if parts and "*" in parts[-1]:  # a pattern of files
        parts.pop()
    beside = folder.joinpath(*parts)
    if text.startswith("..") and parts and _is_place(beside):  # as Roboflow writes it
        return beside, True
    for base in bases if not absolute else ():
        path = Path(os.path.normpath(base / "/".join(part for part in text.split("/") if "*" not in part)))
        if _is_place(path):
            return path, True
    for version in _versions(parts):
        found = below(folder, "/".join(version))
        if found is not None and _is_place(found):
            return found, False
    return None, False


def _versions(parts: list[str]) -> list[list[str]]:
    """A path, and the same with other words for its split: val for valid."""
    out = [parts]
    for words in SPLIT_KEYS.values():
        out += [
            [*parts[:at], word, *parts[at + 1 :]]
            for at, part in enumerate(parts)
            if part.lower() in words
            for word in words
            if word != part
        ]
    return out


def _drop_doubled(out: Places, guessed: set[str], name: str) -> None:
    """Of two splits in one place, leave out the one that was not named so; say so where both are."""
    for first, second in itertools.combinations(list(out.parts), 2):
        if out.parts.get(first) != out.parts.get(second) or first not in out.parts:
            continue
        if second in guessed or first in guessed:
            del out.parts[second]
            out.notes.append(f"{first} and {second} of {name} lead to the same images, and {second} was left out")
        else:
            out.notes.append(f"{first} and {second} of {name} are the same images")


def _is_place(path: Path) -> bool:
    """Whether it is a folder, or a list of images."""
    return os.path.isdir(path) or (path.suffix.lower() == ".txt" and os.path.isfile(path))


def _short(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


# ------------------------------------------------------------------ images and their labels
def images_and_labels(place: Path) -> tuple[Path, Path]:
    """The folders of the images and of the label files that a split's folder stands for."""
    if not _has_files(place, IMAGE_SUFFIXES):
        inner = next((path for name in IMAGE_FOLDERS[:-1] if (path := _child(place, name)) is not None), None)
        if inner is not None:
            place = inner
    return place, labels_of(place)


def labels_of(images: Path) -> Path:
    """The folder with the label files of a folder of images: the first one that has some, else the images' own."""
    candidates = list(_label_folders(images))
    filled = (path for path in candidates if _has_files(path, (".txt",), deep=True))
    return next(filled, next((path for path in candidates if path != images and path.is_dir()), images))


def _label_folders(images: Path) -> list[Path]:
    """Where label files may lie, the likeliest first: `labels` in the place of the last `images`, beside, within."""
    out: list[Path] = []
    for at in reversed(range(len(images.parts))):
        if images.parts[at].lower() in IMAGE_FOLDERS[:-1]:
            out += [Path(*images.parts[:at], name, *images.parts[at + 1 :]) for name in LABEL_FOLDERS[:2]]
            break
    out.append(images)
    for name in LABEL_FOLDERS:
        out += [images.parent / name / images.name, images.parent / name, images / name]
    return list(dict.fromkeys(out))


def _child(folder: Path, name: str) -> Path | None:
    """A folder in a folder, whatever its letter case."""
    return next((path for path in folders_in(folder) if path.name.lower() == name), None)


def _has_files(folder: Path, suffixes: tuple[str, ...], deep: bool = False) -> bool:
    """Whether a folder holds a file with one of these suffixes; with `deep`, or one below it does."""
    for _, folders, names in os.walk(folder):
        if any(name.lower().endswith(suffixes) and not name.startswith(".") for name in names):
            return True
        if not deep:
            folders.clear()
    return False
