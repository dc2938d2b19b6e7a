"""The fields `classes` and `others` of a catalog entry: which classes there are, and what becomes of other objects."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from detframe.data.entries import check_names
from detframe.data.findings import NOTE, WARNING, Finding, sentence
from detframe.data.metadata import Metadata, folded
from detframe.data.packing import PackedDataset
from detframe.data.selection import class_counts, relabel
from detframe.errors import InvalidValueError, listed, shown
from detframe.registry import nearest
from detframe.texts import counted

OTHERS = ("background", "ignore")
_ALIKE = 0.85  # of difflib: one letter of seven, or another order of a few


@dataclass(frozen=True)
class ClassField:
    """The classes that an entry selects.

    Attributes:
        new_names: what each class of the data is called from now on; the labels are in the order of the new names.
        others: what objects of other classes are: "background", or "ignore" (neither trained on nor counted).
    """

    new_names: Mapping[str, str]
    others: str = "background"

    def apply(self, packed: PackedDataset, known_elsewhere: Callable[[], Collection[str] | None]) -> PackedDataset:
        """The data set with these classes and no others.

        Args:
            known_elsewhere: the names of classes in other parts of the same data set; None where nobody knows which
                parts there are. Asked only about a class that this part does not name.

        Raises:
            ValueError: a class that neither this part nor another one has, with the nearest ones.
        """
        old = packed.metadata
        findings = [*_check_known(self, old, known_elsewhere), *_others(self, packed)]
        names = tuple(dict.fromkeys(self.new_names.values()))
        labels = {name: label for label, name in enumerate(names, 1)}
        new_labels = np.array([0, *(labels.get(self.new_names.get(name, ""), 0) for name in old.class_names)])
        if names == old.class_names and new_labels.tolist() == list(range(len(names) + 1)):
            return packed
        ids = _category_ids(old, new_labels, len(names))
        metadata = replace(old, class_names=names, category_ids=ids, frequencies=_frequencies(old, new_labels, ids))
        arrays = relabel(packed.arrays, new_labels, self.others == "ignore")
        return PackedDataset(metadata, arrays, (), None, [*packed.findings, *findings], packed.missing)


def class_field(classes: Any, others: Any, name: str) -> ClassField | None:
    """What the fields of the entry called `name` say; None where all classes are taken as they are.

    Raises:
        ValueError: another type, no class at all, a class twice, or other words.
    """
    if others is not None and others not in OTHERS:
        raise InvalidValueError(f"data set {name!r}: others must be {' or '.join(OTHERS)}, not {shown(others)}")
    if classes is None:
        return None
    if isinstance(classes, Mapping):
        for key, value in classes.items():
            if not all(isinstance(word, str) and word.strip() for word in (key, value)):
                raise InvalidValueError(
                    f"data set {name!r}: classes must map names to names, and has {shown(key)}: {shown(value)}"
                )
        new_names = dict(classes)
    elif isinstance(classes, str):
        raise InvalidValueError(
            f"data set {name!r}: classes must be a list of names, not {shown(classes)}; write [NAME, NAME], or "
            f"{{NAME: NEW_NAME, ...}} to rename"
        )
    else:
        new_names = {each: each for each in check_names(name, "classes", classes)}
    if not new_names:
        raise InvalidValueError(f"data set {name!r}: classes names none; leave the field out to take all")
    return ClassField(new_names, others or OTHERS[0])


def _category_ids(old: Metadata, new_labels: np.ndarray, count: int) -> tuple[int, ...]:
    """The file's own id of each new class: of several, the first; of a class that the file does not know, a new one."""
    ids: dict[int, int] = {}
    for label, number in zip(new_labels[1:].tolist(), old.category_ids, strict=True):
        ids.setdefault(label, number)
    fresh = max((*old.category_ids, 0))
    out = []
    for label in range(1, count + 1):
        if label not in ids:
            fresh += 1
        out.append(ids.get(label, fresh))
    return tuple(out)


def _frequencies(old: Metadata, new_labels: np.ndarray, ids: tuple[int, ...]) -> tuple[str, ...]:
    """The frequency of each new class: of several, that of the first; "" of a class that the file does not know."""
    if not old.frequencies:
        return ()
    of_id = dict(zip(old.category_ids, old.frequencies, strict=True))
    return tuple(of_id.get(number, "") for number in ids)


# ------------------------------------------------------------------ what is said
def _check_known(
    field: ClassField, metadata: Metadata, known_elsewhere: Callable[[], Collection[str] | None]
) -> list[Finding]:
    """A word on selected classes that this part of the data does not name.

    Another part may have them, and a class that stands beside all others of the data may have no object yet; what
    nobody knows is a slip.
    """
    known = metadata.class_names
    strays = [name for name in field.new_names if name not in known]
    targets = {field.new_names[name] for name in known if name in field.new_names}
    needed = [name for name in strays if field.new_names[name] not in targets]
    if not strays:
        return []
    elsewhere = None if set(known) <= set(field.new_names) else known_elsewhere()
    unknown = [] if elsewhere is None else [name for name in strays if name not in elsewhere]
    if unknown:
        raise InvalidValueError(
            f"data set {metadata.name!r}: classes names {unknown[0]!r}, which the data set does not have; "
            f"{nearest(unknown[0], list(known))}"
        )
    if not needed:
        return []
    verb = "class has" if len(needed) == 1 else "classes have"
    text = f"{len(needed)} {verb} no object here, nor a name in the annotations: {listed(needed, 10)}"
    return [sentence("class-not-in-data", NOTE, text, len(needed))]


def _others(field: ClassField, packed: PackedDataset) -> list[Finding]:
    """How many objects of which classes are not selected, and whether one is another spelling of one that is."""
    names = packed.metadata.class_names
    counts = {
        name: int(count)
        for name, count in zip(names, class_counts(packed.arrays, len(names)), strict=True)
        if count and name not in field.new_names
    }
    if not counts:
        return []
    done = "are ignored" if field.others == "ignore" else "count as background"
    total = sum(counts.values())
    objects = "1 object of a class that is" if total == 1 else f"{total} objects of classes that are"
    frequent = sorted(counts, key=lambda name: -counts[name])
    by_name = listed([f"{name} {counts[name]}" for name in frequent], 10)
    out = [sentence("class-not-selected", NOTE, f"{objects} not selected, {done}: {by_name}", total)]
    for name in frequent:
        near = next((selected for selected in field.new_names if _is_near(name, selected)), None)
        if near is not None:
            new = field.new_names[near]
            remedy = f"if they are the same: classes: {{{near}: {new}, {name}: {new}}}"
            objects = counted(counts[name], "object")
            text = f"the class {name!r} ({objects}) is not selected, and {near!r} is; its objects {done}; {remedy}"
            out.append(sentence("class-near-selected", WARNING, text, counts[name], remedy))
    return out


def _is_near(name: str, selected: str) -> bool:
    """Whether a name is probably another spelling of a selected one; names that differ by a number are others."""
    if folded(name) == folded(selected):
        return True
    if re.findall(r"\d+", name) != re.findall(r"\d+", selected):
        return False
    return difflib.SequenceMatcher(None, folded(name), folded(selected)).ratio() >= _ALIKE
