"""Recognising data sets of VOC's form, in the layouts in which programs and people keep them."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detframe.data.formats.annotation_files import spread
from detframe.data.formats.locate import ImageFinder, image_root
from detframe.data.formats.voc_files import is_voc, listed_keys, lists_beside, named_image, read_annotation
from detframe.data.listing import files_below
from detframe.data.recognition import SPLITS, Part, Recognised, split_of
from detframe.errors import UserError, listed

LOOKS_FOR = "XML files of Pascal VOC's form, one for each image, whose root is <annotation>"
_LISTS = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation", "validate", "valset", "dev"),
    "test": ("test", "testing", "testset"),
}
_LOOKED_AT = 3  # files of each folder that are read
_MOST_FOLDERS = 500
_SAMPLE = 200


@dataclass(frozen=True)
class _Folder:
    """A folder that holds XML files of VOC's form itself, not only in folders below it."""

    path: Path  # relative to what is recognised
    files: tuple[Path, ...]
    classes: frozenset[str]  # of the few files that were read
    pascal: bool  # they are files of Pascal VOC itself

    @property
    def split(self) -> str:
        return split_of(self.path / "file.xml", by_name=False)


def recognise(path: Path) -> Recognised | None:
    """The data set that the XML files of a path make: one, or one for each split by lists or folders."""
    if path.is_file():
        if path.suffix.lower() != ".xml" or not is_voc(path):
            return None
        images, _ = _images(path.parent, [path], path.parent)
        return Recognised("voc", f"{path.name} is the annotation of an image", (Part("", images, path, _CONVENTIONS),))
    folders = _folders(path) if path.is_dir() else []
    if not folders or _are_several(folders, path):
        return None
    by_split: dict[str, list[_Folder]] = defaultdict(list)
    for folder in folders:
        by_split[folder.split].append(folder)
    named = {split: by_split[split] for split in SPLITS if split in by_split}
    roots = {split: path / _common([folder.path for folder in of_split]) for split, of_split in named.items()}
    if len(named) > 1 and _are_apart(roots.values()):
        return _of_folders(path, named, roots, by_split[""])
    return _of_one_folder(path, folders)


# -------------------------------------------------------------------------------- which folders
def _folders(root: Path) -> list[_Folder]:
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in files_below(root).with_suffix(".xml"):
        by_folder[file.parent].append(file)
    if len(by_folder) > _MOST_FOLDERS:  # perhaps one for each image
        by_folder = {
            Path(os.path.commonpath(list(by_folder))): [file for files in by_folder.values() for file in files]
        }
    found = (_look_at(root, folder, files) for folder, files in sorted(by_folder.items()))
    return [folder for folder in found if folder is not None]


def _look_at(root: Path, folder: Path, files: Sequence[Path]) -> _Folder | None:
    """A folder by a few of its files, if they are of VOC's form."""
    some = [root / file for file in spread(files, _LOOKED_AT) if is_voc(root / file)]
    if not some:
        return None
    classes: set[str] = set()
    sources: set[str] = set()
    for file in some:
        try:
            annotation = read_annotation(file)
        except UserError:  # whoever reads it says what is wrong
            continue
        classes.update((item.findtext("name") or "").strip() for item in annotation.findall("object"))
        sources.add(annotation.findtext("source/database") or "")
    pascal = bool(sources) and all(re.fullmatch(r"The VOC\d{4} Database", source.strip()) for source in sources)
    return _Folder(folder, tuple(files), frozenset(classes), pascal)


def _are_several(folders: Sequence[_Folder], root: Path) -> bool:
    """Whether folders are data sets of their own: two have lists of their own, or XML files of the same names, or no
    class and no parent in common. Those of splits belong together."""
    if len([folder for folder in folders if lists_beside(root / folder.path)]) > 1:
        return True
    for first, second in itertools.combinations(folders[:30], 2):
        same_split = first.split == second.split
        names = {file.name for file in first.files} & {file.name for file in second.files}
        if same_split and 2 * len(names) > min(len(first.files), len(second.files)):
            return True
        related = first.path.parent == second.path.parent or first.path in second.path.parents
        if not related and first.classes and second.classes and not first.classes & second.classes:
            return True
    return False


def _are_apart(folders: Iterable[Path]) -> bool:
    """Whether none of them lies in another one."""
    return not any(a.is_relative_to(b) or b.is_relative_to(a) for a, b in itertools.combinations(folders, 2))


def _common(paths: Sequence[Path]) -> Path:
    """The deepest folder that holds all of these."""
    return Path(os.path.commonpath([os.path.join(".", path) for path in paths]))


# -------------------------------------------------------------------------------- one folder, perhaps with lists
def _of_one_folder(root: Path, folders: Sequence[_Folder]) -> Recognised:
    own = root / _common([folder.path for folder in folders])
    files = [root / file for folder in folders for file in folder.files]
    images, notes = _images(own, files, root)
    lists = lists_beside(own)
    chosen, list_notes = _chosen_lists(lists, own, files)
    pascal = bool(lists) and all(folder.pascal for folder in folders)
    options: dict[str, Any] = {} if pascal else dict(_CONVENTIONS)
    labelmap = own.parent / "labelmap.txt"
    if labelmap.is_file():
        options["names"] = labelmap
    parts = tuple(Part(split, images, own, {**options, "split": name}) for split, name in chosen.items())
    reason = f"{_shown(own, root)} has {_counted(len(files))}"
    if chosen:
        reason += f", and ImageSets/Main lists {listed([f'{name}.txt' for name in chosen.values()], 3)}"
    return Recognised("voc", reason, parts or (Part("", images, own, options),), (*notes, *list_notes))


def _chosen_lists(
    lists: Mapping[str, Path], annotations: Path, files: Sequence[Path]
) -> tuple[dict[str, str], list[str]]:
    """The list of each split; trainval is for training where there is no list for training alone."""
    known = {file.relative_to(annotations).with_suffix("").as_posix() for file in files}
    usable: dict[str, str] = {}
    notes: list[str] = []
    for stem, path in lists.items():
        names = listed_keys(path, known)
        if any(name in known for name in names):
            usable[stem.lower()] = stem
        elif any(stem.lower() in words for words in _LISTS.values()):
            notes.append(
                f"ImageSets/Main/{path.name} {'names no image that has an XML file' if names else 'is empty'}, and was "
                f"left out"
            )
    chosen = {
        split: next(usable[word] for word in words if word in usable)
        for split, words in _LISTS.items()
        if any(word in usable for word in words)
    }
    if "train" not in chosen and "trainval" in usable:
        chosen.pop("val", None)  # it is a part of trainval
        chosen = {"train": usable["trainval"], **chosen}
    return chosen, notes


# -------------------------------------------------------------------------------- a folder for each split
def _of_folders(
    root: Path, named: Mapping[str, Sequence[_Folder]], roots: Mapping[str, Path], others: Sequence[_Folder]
) -> Recognised:
    parts, notes, seen = [], [], []
    for split, folders in named.items():
        files = [root / file for folder in folders for file in folder.files]
        images, lost = _images(roots[split], files, root)
        parts.append(Part(split, images, roots[split], dict(_CONVENTIONS)))
        notes += lost
        seen.append(f"{_shown(roots[split], root)} has {_counted(len(files))}")
    if others:
        left = [f"{_shown(root / folder.path, root)} ({_counted(len(folder.files))})" for folder in others]
        notes.append(f"folders that belong to no split were left out: {listed(left, 3)}")
    return Recognised("voc", ", ".join(seen), tuple(parts), tuple(notes))


# -------------------------------------------------------------------------------- parts of both
# Only Pascal VOC's own files count pixels from 1; annotation programs write positions
_CONVENTIONS: Mapping[str, Any] = {"one_based": False, "difficult": "keep"}


def _images(annotations: Path, files: Sequence[Path], root: Path) -> tuple[Path, list[str]]:
    """The folder of the images of XML files, and a note where none of them is found."""
    some = spread(sorted(files), _SAMPLE)
    # with the folder of the annotations, which tells images/train/1.jpg from images/val/1.jpg
    stems = [file.relative_to(annotations.parent).with_suffix("").as_posix() for file in some]
    for names in (stems, _named(some[:50])):
        for start in dict.fromkeys((annotations, root)):
            found = image_root(start, names)
            if found is not None:
                return _narrowed(found, annotations, names), []
    return annotations, [f"none of the images of {_shown(annotations, root)} was found, as {stems[0]}"]


def _named(files: Sequence[Path]) -> list[str]:
    """The names that XML files give their images."""
    names = []
    for file in files:
        try:
            names.append(named_image(read_annotation(file)))
        except UserError:  # as in _look_at
            continue
    return [name for name in names if name]


def _narrowed(images: Path, annotations: Path, names: Sequence[str]) -> Path:
    """The folder of one split below the images of all, where it has the name of the annotations' folder."""
    below = images / annotations.name
    if not below.is_dir() or below == annotations or annotations.is_relative_to(images):
        return images
    whole, part = ImageFinder(images), ImageFinder(below)
    return below if all(part.matches(name) or not whole.matches(name) for name in names) else images


def _counted(files: int) -> str:
    return f"{files} XML file{'s' * (files != 1)} of VOC's form"


def _shown(folder: Path, root: Path) -> str:
    return folder.name if folder == root else folder.relative_to(root).as_posix()
