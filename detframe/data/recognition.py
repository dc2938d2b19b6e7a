"""What a format says of a path that it recognises as a data set of its own.

A reader in DATASET_FORMATS may carry `recognise(path) -> Recognised | None`, which `recognised_by` puts there::

    def recognise(path: Path) -> Recognised | None:
        tables = files_below(path).with_suffix(".tsv")
        ...

    @DATASET_FORMATS.register("my_tsv")
    @recognised_by(recognise, looks_for="a folder with .tsv files whose first line names the columns")
    def read_my_tsv(entry: CatalogEntry, *, delimiter: str = "\\t") -> PackedDataset:
        ...

It looks at names and at the beginning of a few files, and reads no data set whole: a path may have 100,000 files. What
is clearly of its format and cannot be used (a description that names folders of which none exists) is a `UserError`,
which the user is told unless another format recognises the path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeVar

SPLITS = ("train", "val", "test")
Reader = TypeVar("Reader", bound=Callable[..., Any])


@dataclass(frozen=True)
class Part:
    """One part of a recognised data set: what a catalog entry says of it."""

    split: str  # "train", "val" or "test"; "" where the data set is not split
    images: Path  # the folder from which the images' names start
    annotations: Path
    options: Mapping[str, Any] = field(default_factory=dict)  # fields that only this format has


@dataclass(frozen=True)
class Recognised:
    """A data set that a format knows how to read."""

    format: str  # its name in DATASET_FORMATS
    reason: str  # by what it was recognised, as a clause: "data.yaml names 1 class, and train/labels has 326 files"
    parts: tuple[Part, ...]  # at most one of each split
    notes: tuple[str, ...] = ()  # what the path says that is not so, and what was taken in its place
    left_out: tuple[Path, ...] = ()  # folders and files that belong to it and were not taken: copies, old versions
    with_keypoints: Recognised | None = (
        None  # the same images by files with keypoints, where those of `parts` lack them
    )


def recognised_by(recognise: Callable[[Path], Recognised | None], looks_for: str = "") -> Callable[[Reader], Reader]:
    """Decorate a reader with the function that recognises its data sets.

    Args:
        looks_for: by what it recognises them, for people whose data set no format knows: "a folder with my_tsv files".
    """

    def decorate(reader: Reader) -> Reader:
        reader.recognise = recognise  # type: ignore[attr-defined]
        reader.looks_for = looks_for  # type: ignore[attr-defined]
        return reader

    return decorate


# ------------------------------------------------------------------ which split a path names
_WORDS = {
    "train": ("train", "training", "trainval", "trainset"),
    "val": ("val", "valid", "validation", "validate", "validating", "valset", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "testset"),
}
_NO_LETTERS = re.compile(r"[^a-z]+")


def split_of(path: PurePath, by_name: bool = True) -> str:
    """The split that a path names: "train", "val" or "test"; "" where it names none.

    Words count, whatever stands beside them: `via_train.json`, `instances_val2017.json`, `Valid/`; `latest/` and
    `trains/` name no split. The innermost name decides; one with words of two splits names none.

    Args:
        path: relative to the data set, so that a folder in which somebody keeps it does not count.
        by_name: whether the file's own name counts; not where each image has a file, whose name is that of the image.
    """
    parts = [path.stem if path.suffix else path.name, *reversed(path.parts[:-1])]
    for part in parts[not by_name :]:
        words = set(_NO_LETTERS.split(part.lower()))
        found = [split for split, names in _WORDS.items() if words & set(names)]
        if len(found) == 1:
            return found[0]
    return ""
