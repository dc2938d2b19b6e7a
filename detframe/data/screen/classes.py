"""What there is to learn: images, objects and classes of each split, and whether the splits agree about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from detframe.data.findings import ERROR, NOTE, WARNING, Finding, Kind
from detframe.data.grouping import alike
from detframe.data.metadata import folded
from detframe.data.screen.split import Split, found

FEW_OBJECTS = 10  # of a class, to learn from
FEW_IMAGES = 10  # to measure with
MOSTLY = 0.5

NO_IMAGES = Kind("split has no image", "splits have no image", code="no-images", severity=ERROR)
NO_OBJECTS = Kind(
    "image, and not one object in it: there is nothing to learn or to measure",
    "images, and not one object in them: there is nothing to learn or to measure",
    code="no-objects",
    severity=ERROR,
    remedy="see whether the labels lie where they are looked for, and belong to these images",
)
ONE_IMAGE = Kind(
    "image is all there is to learn from: the model will know this one alone",
    "images are all there is to learn from",
    code="one-image",
    remedy="add some; from about 50 on, a detector starts to find objects in images that it has not seen",
)
SMALL_VAL = Kind(
    "image is all there is to measure with: AP will jump from one evaluation to the next",
    "images are all there is to measure with: AP will jump from one evaluation to the next",
    code="few-images",
    severity=NOTE,
)
EMPTY = Kind(
    "image has no object; it is kept, and teaches what is background",
    "images have no object; they are kept, and teach what is background",
    code="images-without-objects",
    severity=NOTE,
)
NEVER = Kind(
    "class has no object to learn from, and is never found",
    "classes have no object to learn from, and are never found",
    examples=5,
    code="class-without-objects",
    remedy="select the others with `classes:`, or add images of them",
)
ONLY_THERE = Kind(
    "class has objects here and none to learn from: it is never found, and counts as AP 0",
    "classes have objects here and none to learn from: they are never found, and count as AP 0",
    examples=5,
    code="class-only-in-val",
    remedy="move images of them to train, or select the others with `classes:`",
)
NOT_MEASURED = Kind(
    "class has no object here; its AP is n/a",
    "classes have no object here; their AP is n/a",
    examples=5,
    code="class-not-measured",
    severity=NOTE,
)
RARE = Kind(
    f"class has fewer than {FEW_OBJECTS} objects to learn from",
    f"classes have fewer than {FEW_OBJECTS} objects each to learn from",
    examples=5,
    code="rare-class",
    severity=NOTE,
)
SIMILAR = Kind(
    "name of a class is there in two spellings, which count as two classes",
    "names of classes are there in several spellings, which count as classes of their own",
    code="similar-class-names",
    remedy="make them one with `classes: {'one spelling': name, 'the other': name}`, or with --write",
)
DIFFERENT = Kind(
    "name of a class is not the same in all splits, whose labels do not mean the same then",
    "names of classes are not the same in all splits, whose labels do not mean the same then",
    examples=5,
    code="class-names-differ",
    severity=ERROR,
    remedy="give every entry of the catalog the same `classes:`",
)


def check_counts(split: Split) -> list[Finding]:
    """Whether a split has images and objects, and enough of them."""
    images = len(split.records)
    if not images:
        return found(NO_IMAGES, split.name, [], 1)
    counts = split.records.num_objects
    if not counts.any():
        return split.found(NO_OBJECTS, [], images)
    out = []
    if split.trains and images == 1:
        out += split.found_images(ONE_IMAGE, [0])
    if not split.trains and images < FEW_IMAGES:
        out += split.found(SMALL_VAL, [], images)
    empty = np.flatnonzero(counts == 0).tolist()
    return [*out, *split.found_images(EMPTY, empty, WARNING if len(empty) > MOSTLY * images else NOTE)]


def check_classes(splits: Sequence[Split]) -> list[Finding]:
    """Names and counts of classes, by name where splits list them in different order."""
    out = [finding for split in splits for finding in _spellings(split)]
    out += _different(splits)
    counts = {split.name: class_counts(split) for split in splits if len(split.objects.labels)}
    train = counts.get("train")
    if train is None:
        return out
    elsewhere = [name for name in counts if name != "train"]
    absent = [name for name in train if not train.get(name)]
    seen = {name for other in elsewhere for name, count in counts[other].items() if count}
    out += found(NEVER, "train", [repr(name) for name in absent if name not in seen])
    out += found(RARE, "train", [f"{name!r} ({count})" for name, count in train.items() if 0 < count < FEW_OBJECTS])
    for other in elsewhere:
        out += _measured(other, counts[other], train)
    return out


def _measured(split: str, counts: Mapping[str, int], train: Mapping[str, int]) -> list[Finding]:
    """Classes that a split cannot measure, and those that it measures for nothing."""
    there = [name for name, count in counts.items() if count]
    lost = [f"{name!r} ({counts[name]})" for name in there if not train.get(name)]
    unmeasured = [repr(name) for name, count in train.items() if count and not counts.get(name)]
    severity = ERROR if len(lost) == len(there) else WARNING
    return [*found(ONLY_THERE, split, lost, severity=severity), *found(NOT_MEASURED, split, unmeasured)]


def class_counts(split: Split) -> dict[str, int]:
    """Objects of each class of a split, crowds not counted, by name."""
    return dict(zip(split.classes, split.records.class_counts().tolist(), strict=True))


def _spellings(split: Split) -> list[Finding]:
    same = alike(split.classes, folded)
    return split.found(SIMILAR, [" and ".join(map(repr, names)) for names in same])


def _different(splits: Sequence[Split]) -> list[Finding]:
    first = splits[0]
    out: list[Finding] = []
    for other in splits[1:]:
        if other.classes == first.classes:
            continue
        only = [repr(name) for name in first.classes if name not in other.classes]
        only += [repr(name) for name in other.classes if name not in first.classes]
        out += found(DIFFERENT, other.name, only or ["the same names in another order"])
    return out
