"""The images and annotations of a COCO file as a few numbers each: where they lie in it, and what belongs to what.

Legend: I images, A annotations.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detframe.data.findings import Findings
from detframe.data.formats.fields import ID_RANGE, Entry
from detframe.data.formats.json_stream import JsonFile, JsonValues
from detframe.data.formats.lvis import with_file_name
from detframe.errors import InvalidValueError, shown

EXAMPLES = 5  # how many of the same finding a message lists
_CHUNK = 2**16  # annotations that are looked up at a time


class Members:
    """The members of a list of a file, each read when it is asked for.

    Args:
        name: of the list.
    """

    def __init__(self, file: JsonFile, name: str) -> None:
        self.file, self.name = file, name
        self._starts = array("I" if file.size < 2**32 else "Q")
        self._end = 0
        self._values = JsonValues(file)

    def take(self, member: Any, start: int, end: int) -> None:
        """Note where the next member lies."""
        self._starts.append(start)
        self._end = end

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Any:
        last = number + 1 == len(self._starts)
        return self._values.read(self._starts[number], self._end if last else self._starts[number + 1])


@dataclass
class _Uses:
    """How often a category is used."""

    count: int = 0
    first: list[int] = field(default_factory=list)  # the first few annotations, by their numbers

    def add(self, number: int) -> None:
        self.count += 1
        if len(self.first) < EXAMPLES:
            self.first.append(number)


class Annotations(Members):
    """The annotations of a file.

    Attributes:
        uses: category id -> how often it is used; with ids of any kind before `check`.
        lengths: of their lists of keypoints.
    """

    def __init__(self, file: JsonFile) -> None:
        super().__init__(file, "annotations")
        self.uses: dict[int, _Uses] = {}
        self.lengths: set[int] = set()
        self._image_ids = array("q")
        self._odd = array("q")  # the numbers of those that `check` has to look at

    def take(self, member: Any, start: int, end: int) -> None:
        """Note the next annotation."""
        number = len(self)
        super().take(member, start, end)
        image_id = category_id = None
        if isinstance(member, dict):
            points, image_id, category_id = (member.get(key) for key in ("keypoints", "image_id", "category_id"))
            if points and isinstance(points, list):
                self.lengths.add(len(points))
            if not ("bbox" in member or member.get("segmentation")):
                image_id = None
        if type(image_id) is int and type(category_id) is int and _fits(image_id) and _fits(category_id):
            self._image_ids.append(image_id)
            self._use(category_id, number)
        else:
            self._image_ids.append(0)
            self._odd.append(number)

    def _use(self, category_id: int, number: int) -> None:
        uses = self.uses.get(category_id)
        if uses is None:
            uses = self.uses[category_id] = _Uses()
        uses.add(number)

    def used(self) -> set[Any]:
        """The ids of categories that annotations have; before `check`."""
        odd = (self[number] for number in self._odd)
        found = (item.get("category_id") for item in odd if isinstance(item, dict))
        return {number for number in found if isinstance(number, int | float)} | set(self.uses)

    def check(self, findings: Findings) -> None:
        """Read the ids of those that do not have them as they should.

        Raises:
            ValueError: one is no object, lacks a field, or has an id that is none.
        """
        for number in self._odd:
            place = Entry(self.file.path, f"annotations[{number}]", findings)
            item = self[number]
            has_outline = isinstance(item, dict) and bool(item.get("segmentation"))
            annotation = require(item, ("image_id", "category_id", *(() if has_outline else ("bbox",))), place)
            self._image_ids[number] = place.identity(annotation["image_id"], "image_id")
            self._use(place.identity(annotation["category_id"], "category_id"), number)

    def by_image(self, image_ids: np.ndarray, categories: Mapping[int, Any], ids: tuple[int, ...]) -> Grouped:
        """The annotations by the images, int64 (I,) ids, that they are of.

        Raises:
            ValueError: some point at no image or at no category of these; says which, and the `ids` there are.
        """
        rows = self._rows(image_ids)
        lost = np.flatnonzero(rows < 0)
        path = self.file.path
        if len(lost):
            first = [self._pointing(int(number), "image") for number in lost[:EXAMPLES]]
            raise InvalidValueError(f"{path}: {_some(first, len(lost))}: no such id in 'images'")
        strays = [uses for number, uses in self.uses.items() if number not in categories]
        if strays:
            numbers = sorted(number for uses in strays for number in uses.first)[:EXAMPLES]
            first = [self._pointing(number, "category") for number in numbers]
            there = ", ".join(map(str, ids[:20])) or "none"
            count = sum(uses.count for uses in strays)
            raise InvalidValueError(f"{path}: {_some(first, count)}: no such id in 'categories', which has {there}")
        self._image_ids = array("q")  # not needed any more
        return Grouped.of(self, rows, len(image_ids))

    def _rows(self, image_ids: np.ndarray) -> np.ndarray:
        """int32 (A,): the image of each annotation; -1 where there is none of its id."""
        rows = np.full(len(self), -1, dtype=np.int32)
        if not len(image_ids):
            return rows
        order = np.argsort(image_ids, kind="stable").astype(np.int32)
        ids = image_ids[order]
        for start in range(0, len(self), _CHUNK):
            wanted = np.array(self._image_ids[start : start + _CHUNK], dtype=np.int64)
            at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
            rows[start : start + _CHUNK] = np.where(ids[at] == wanted, order[at], -1)
        return rows

    def _pointing(self, number: int, what: str) -> str:
        annotation = self[number]
        target = int(annotation[f"{what}_id"])
        return f"annotation {shown(annotation.get('id'))} -> {what} {target}"


class Grouped:
    """Annotations by image.

    Args:
        begin: int64 (I + 1,): those of image i are the members of `order` from begin[i] to begin[i + 1].
        order: int32 (A,): their numbers in the file; None: they stand there image by image.
    """

    def __init__(self, annotations: Annotations, begin: np.ndarray, order: np.ndarray | None) -> None:
        self._annotations, self._begin, self._order = annotations, begin, order

    @classmethod
    def of(cls, annotations: Annotations, rows: np.ndarray, images: int) -> Grouped:
        """By the image of each annotation, int32 (A,)."""
        begin = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=images))])
        in_order = bool((rows[1:] >= rows[:-1]).all())
        return cls(annotations, begin, None if in_order else np.argsort(rows, kind="stable").astype(np.int32))

    def __getitem__(self, row: int) -> list[Any]:
        """The annotations of an image, in the order of the file."""
        start, end = self._begin[row : row + 2].tolist()
        numbers = range(start, end) if self._order is None else self._order[start:end].tolist()
        return [self._annotations[number] for number in numbers]


class Images(Members):
    """The images of a file.

    Attributes:
        ids: int64 (I,). names: int64 (I,), the hashes of their files' names. Both are there after `check`.
    """

    ids: np.ndarray
    names: np.ndarray

    def __init__(self, file: JsonFile) -> None:
        super().__init__(file, "images")

    def __getitem__(self, number: int) -> Any:
        return with_file_name(super().__getitem__(number))

    def check(self, findings: Findings) -> None:
        """Read all ids and names. Raises ValueError where an image has none, or an id is given twice."""
        ids, names = array("q"), array("q")
        for number in range(len(self)):
            place = Entry(self.file.path, f"images[{number}]", findings)
            image = require(self[number], ("id", "file_name"), place)
            ids.append(place.identity(image["id"], "id"))
            place.name = f"image {ids[-1]}"
            names.append(hash(place.text(image["file_name"], "file_name")))
        self.ids, self.names = np.array(ids, dtype=np.int64), np.array(names, dtype=np.int64)
        self._check_unique()

    def _check_unique(self) -> None:
        order = np.argsort(self.ids, kind="stable")
        again = order[1:][self.ids[order[1:]] == self.ids[order[:-1]]]
        if len(again):
            second = int(again.min())
            number = int(self.ids[second])
            first = int(np.flatnonzero(self.ids == number)[0])
            files = " and ".join(self[row]["file_name"] for row in (first, second))
            raise InvalidValueError(f"{self.file.path}: the image id {number} is given twice, to {files}")


@dataclass
class Tables:
    """What a file holds."""

    images: Images
    annotations: Annotations
    categories: list[Any]
    has_annotations: bool


def read_tables(file: JsonFile) -> Tables:
    """Go through a file once.

    Raises:
        ValueError: malformed JSON, or no COCO data set.
    """
    images, annotations, categories = Images(file), Annotations(file), list[Any]()
    takes: dict[str, Callable[[Any, int, int], None]] = {
        "images": images.take,
        "annotations": annotations.take,
        "categories": lambda member, start, end: categories.append(member),
    }
    outline = file.walk(takes)
    for key in ("images", "categories"):
        if outline.kind is not dict or outline.keys.get(key) is not list:
            is_object = outline.kind is dict
            found = ", ".join(map(shown, list(outline.keys)[:10])) if is_object else f"a {outline.kind.__name__}"
            raise InvalidValueError(f"{file.path} is not a COCO data set: it needs a list {key!r}; found {found}")
    kind = outline.keys.get("annotations", type(None))
    if kind not in (list, type(None)):
        raise InvalidValueError(f"{file.path}: 'annotations' must be a list, not {kind.__name__}")
    return Tables(images, annotations, categories, kind is list)


def require(item: Any, keys: tuple[str, ...], place: Entry) -> Mapping[str, Any]:
    """An entry as an object with these fields. Raises ValueError where it is none, or lacks one."""
    values = place.mapping(item)
    absent = [key for key in keys if key not in values]
    if absent:
        raise InvalidValueError(
            f"{place} (id {shown(values.get('id'))}) lacks {', '.join(map(repr, absent))}; "
            f"it has {shown(sorted(values))}"
        )
    return values


def _some(first: list[str], count: int) -> str:
    """The first few of many findings of one kind."""
    text = "; ".join(first)
    return text if count <= EXAMPLES else f"{text}; ... ({count} in all)"


def _fits(number: int) -> bool:
    return ID_RANGE[0] <= number <= ID_RANGE[1]
