"""What LVIS's files say beyond COCO's: how frequent classes are, and which of them an image was searched for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detframe.data.formats.fields import Entry
from detframe.errors import shown

NEGATIVE, PARTIAL = "neg_category_ids", "not_exhaustive_category_ids"
# The fields of an image that has been judged
JUDGED = {NEGATIVE, PARTIAL}
_FREQUENCIES = ("r", "c", "f")


def with_file_name(image: Any) -> Any:
    """An image of LVIS v1, which has the address of a file in place of its name, with folder and name from there."""
    if not isinstance(image, Mapping) or "file_name" in image or not isinstance(image.get("coco_url"), str):
        return image
    return {**image, "file_name": "/".join(image["coco_url"].split("/")[-2:])}


def frequencies(categories: Sequence[Mapping[str, Any]], ids: Sequence[int]) -> tuple[str, ...]:
    """The frequency ("r", "c", "f", or "" for none) of the category of each id; empty where none has one."""
    of_id = {item["id"]: item.get("frequency") for item in categories}
    found = tuple(str(of_id[number]) if of_id.get(number) in _FREQUENCIES else "" for number in ids)
    return found if any(found) else ()


def judged_labels(image: Mapping[str, Any], label_of: Mapping[int, int], place: Entry) -> tuple[list[int], list[int]]:
    """Labels that are known to be absent from an image, and those not all of whose objects are annotated.

    Raises:
        ValueError: a field that is no list of ids of categories.
    """
    return _labels(image, NEGATIVE, label_of, place), _labels(image, PARTIAL, label_of, place)


def _labels(image: Mapping[str, Any], field: str, label_of: Mapping[int, int], place: Entry) -> list[int]:
    values = image[field]
    if not isinstance(values, list):
        raise place.error(f"{field!r} must be a list of ids of categories, not {shown(values)}")
    ids = [place.identity(value, field) for value in values]
    strays = [number for number in ids if number not in label_of]
    if strays:
        raise place.error(f"{field!r} has {strays[0]}, and 'categories' has no such id")
    return [label_of[number] for number in ids]
