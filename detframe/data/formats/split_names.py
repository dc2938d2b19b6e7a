"""Which split a file belongs to, by the words of its path."""

from __future__ import annotations

import re
from pathlib import PurePath

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
