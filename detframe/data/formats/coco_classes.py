"""The categories of COCO files as classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detframe.data.findings import NOTE, Findings
from detframe.data.formats.fields import Entry
from detframe.errors import InvalidValueError


@dataclass(frozen=True)
class Categories:
    """The classes of a file.

    Attributes:
        names: by label, without background.
        ids: the file's number of each class; of several with one name, the first.
        label_of: category id -> label; ids of the same name have the same label.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    label_of: Mapping[int, int]


def read_categories(
    items: Sequence[Mapping[str, Any]], used: Collection[Any], path: Path, findings: Findings
) -> Categories:
    """The categories, in the order of their ids.

    Args:
        items: the categories of the file, each with `id` and `name`.
        used: the ids of categories that annotations have.

    Raises:
        ValueError: an id that is none or is given twice, or a name that is none.
    """
    named = []
    place = Entry(path, "", findings)
    for index, item in enumerate(items):
        place.name = f"categories[{index}]"
        number = place.identity(item["id"], "id")
        text = Entry(path, f"category {number}", findings).text(item["name"], "name", numbers=True)
        named.append((number, text, item.get("supercategory")))
    counts = Counter(number for number, _, _ in named)
    repeated = sorted(number for number, count in counts.items() if count > 1)
    if repeated:
        raise InvalidValueError(f"{path}: the category id {repeated[0]} is given {counts[repeated[0]]} times")
    named.sort(key=lambda item: item[0])
    umbrella = _umbrella(named, used)
    if umbrella is not None:
        text = f"category {umbrella[1]!r} has no annotation and is the super-category of all others: it is no class"
        findings.say("super-category", text, severity=NOTE)
    return _merged([(number, text) for number, text, _ in named if (number, text) != umbrella], path, findings)


def _umbrella(named: Sequence[tuple[int, str, Any]], used: Collection[Any]) -> tuple[int, str] | None:
    """The category that Roboflow writes for the project: without annotations, and the super-category of all others."""
    for number, text, _ in named:
        others = [above for other, _, above in named if other != number]
        if number not in used and others and all(above == text for above in others):
            return number, text
    return None


def _merged(named: Sequence[tuple[int, str]], path: Path, findings: Findings) -> Categories:
    """One class for each name."""
    labels: dict[str, int] = {}
    first: dict[str, int] = {}
    for number, text in named:
        labels.setdefault(text, len(labels) + 1)
        first.setdefault(text, number)
    for text in labels:
        ids = [number for number, other in named if other == text]
        if len(ids) > 1:
            numbers = " and ".join(map(str, ids))
            findings.say(
                "category-name-twice",
                f"{path.name}: the categories {numbers} have one name, {text!r}, and count as one class; predictions "
                f"are written with the id {first[text]}",
                len(ids),
            )
    return Categories(tuple(labels), tuple(first.values()), {number: labels[text] for number, text in named})
