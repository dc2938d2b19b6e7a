"""COCO JSON: `images`, `categories` and `annotations`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detframe.data.entries import CatalogEntry
from detframe.data.findings import NOTE, Findings, Kind
from detframe.data.formats.coco_find import LOOKS_FOR, recognise
from detframe.data.formats.fields import BACKSLASH, ID_RANGE, LOST_BACKSLASH, Entry, size_of_file
from detframe.data.formats.json_and_xml import read_json
from detframe.data.formats.locate import ImageFinder
from detframe.data.formats.lvis import JUDGED, frequencies, judged_labels, with_file_name
from detframe.data.formats.shapes import BoxForm
from detframe.data.image_files import image_exists
from detframe.data.metadata import Metadata, pairs_by_name, with_keypoint_facts
from detframe.data.packing import PackedDataset, RecordBuilder
from detframe.data.recognition import recognised_by
from detframe.errors import InvalidValueError, shown
from detframe.registry import DATASET_FORMATS

EXAMPLES = 5  # how many of the same finding a message lists

NEW_ID = Kind(
    "annotation has an id that is no whole number above 0 of 64 bits; all were numbered anew",
    "annotations have ids that are no whole numbers above 0 of 64 bits; all were numbered anew",
    code="annotation-id-unusable",
)


@DATASET_FORMATS.register("coco")
@recognised_by(recognise, LOOKS_FOR)
def read_coco(
    entry: CatalogEntry,
    keypoint_sigmas: Sequence[float] | None = None,
    keypoint_flip_pairs: Sequence[Sequence[str]] | None = None,
) -> PackedDataset:
    """Read a COCO file. Category ids may be any whole numbers; labels follow their order.

    Args:
        keypoint_sigmas: for keypoint AP, by how much of the object's size annotators differ, keypoint by keypoint; left
            out: COCO's own for its 17, 0.05 for others.
        keypoint_flip_pairs: names of the keypoints that a mirrored image exchanges; left out: those whose names differ
            by left and right.

    Raises:
        ValueError: malformed JSON (with line and column), a missing field or one of another type or range, a repeated
            image id, an annotation whose image or category does not exist, a segmentation or keypoints of a wrong form.
            The message names the file and the entry in it.
    """
    path, findings = entry.annotations, Findings()
    data = _read_json(path)
    images = _images(data, path, findings)
    annotations = _annotations(data, path)
    if data.get("annotations") is None:
        text = f"{path} has no 'annotations'; its {len(images)} images count as empty"
        findings.say("no-annotations", text, len(images))
    categories = _categories(data, annotations, path, findings)
    points = _keypoint_names(data, path, findings)
    metadata = Metadata(entry.name, categories.names, categories.ids, points, pairs_by_name(points))
    metadata = replace(metadata, frequencies=frequencies(data["categories"], categories.ids))
    metadata = with_keypoint_facts(metadata, keypoint_sigmas, keypoint_flip_pairs)
    by_image = _group(annotations, images, categories, path, findings)
    builder, form = RecordBuilder(metadata, findings), BoxForm()
    files = _ImageFiles(entry.images, [image["file_name"] for image in images.values()], findings)
    for image_id, image in images.items():
        place = Entry(path, f"image {image_id}", findings)
        file_name = files.find(image["file_name"], place)
        size_hw = place.size_hw(image.get("height"), image.get("width"))
        if size_hw is None and not image_exists(file_name):
            builder.add_missing(image["file_name"], files.near(image["file_name"]))
            continue
        size_hw = size_hw or size_of_file(file_name, place)
        builder.add_image(file_name, image_id, size_hw)
        if JUDGED <= image.keys():
            builder.add_judgement(*judged_labels(image, categories.label_of, place))
        for annotation, category_id in by_image.get(image_id, ()):
            name = f"annotation {_shown_id(annotation)} of {place.name}"
            _add(builder, annotation, categories.label_of[category_id], Entry(path, name, findings), (form, size_hw))
    form.report(findings)
    return builder.build()


class _ImageFiles:
    """The paths of images: as they are named, else as the finder finds them, but no file for two names.

    An image that is nowhere keeps the path that its name gives; whoever loads the records says that it is missing.
    """

    def __init__(self, folder: Path, names: Sequence[str], findings: Findings) -> None:
        self.folder = folder
        self._finder = ImageFinder(folder, findings)
        self._known = set(self._finder.files)
        self._taken = {name: name for name in names if name in self._known}  # file -> the name that it is taken for

    def find(self, name: str, place: Entry) -> Path:
        """The path of the image of this name."""
        if self._taken.get(name) == name:
            return self.folder / name
        translated = name.replace("\\", "/")
        if translated in self._known and translated != name and self._taken.setdefault(translated, name) == name:
            place.findings.add(BACKSLASH, f"{name!r} of {place.name}")
            return self.folder / translated
        found = self._finder.find(name)
        if found is not None:
            key = found.relative_to(self.folder).as_posix() if found.is_relative_to(self.folder) else str(found)
            if self._taken.setdefault(key, name) == name:
                return found
        elif "\\" in name:
            place.findings.add(LOST_BACKSLASH, f"{name!r} of {place.name}")
        return self.folder / name

    def near(self, name: str) -> str:
        """Names of images that are there and come near."""
        return self._finder.near(name)


def _read_json(path: Path) -> dict[str, Any]:
    data = read_json(path)
    for key in ("images", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            found = ", ".join(map(shown, list(data)[:10])) if isinstance(data, dict) else f"a {type(data).__name__}"
            raise InvalidValueError(f"{path} is not a COCO data set: it needs a list {key!r}; found {found}")
    return dict(data)


def _require(item: Any, keys: tuple[str, ...], place: Entry) -> Mapping[str, Any]:
    values = place.mapping(item)
    absent = [key for key in keys if key not in values]
    if absent:
        raise InvalidValueError(
            f"{place} (id {shown(values.get('id'))}) lacks {', '.join(map(repr, absent))}; "
            f"it has {shown(sorted(values))}"
        )
    return values


def _images(data: dict[str, Any], path: Path, findings: Findings) -> dict[int, Mapping[str, Any]]:
    images: dict[int, Mapping[str, Any]] = {}
    place = Entry(path, "", findings)
    for index, item in enumerate(data["images"]):
        place.name = f"images[{index}]"
        image = _require(with_file_name(item), ("id", "file_name"), place)
        number = place.identity(image["id"], "id")
        Entry(path, f"image {number}", findings).text(image["file_name"], "file_name")
        other = images.setdefault(number, image)
        if other is not image:
            files = f"{other['file_name']} and {image['file_name']}"
            raise InvalidValueError(f"{path}: the image id {number} is given twice, to {files}")
    return images


def _annotations(data: dict[str, Any], path: Path) -> list[Any]:
    annotations = data.get("annotations")
    if annotations is None:
        return []
    if not isinstance(annotations, list):
        raise InvalidValueError(f"{path}: 'annotations' must be a list, not {type(annotations).__name__}")
    return annotations


def _categories(data: dict[str, Any], annotations: list[Any], path: Path, findings: Findings) -> Categories:
    place = Entry(path, "", findings)
    items = []
    for index, item in enumerate(data["categories"]):
        place.name = f"categories[{index}]"
        items.append(_require(item, ("id", "name"), place))
    found = (item.get("category_id") for item in annotations if isinstance(item, dict))
    return read_categories(items, {number for number in found if isinstance(number, int | float)}, path, findings)


def _keypoint_names(data: dict[str, Any], path: Path, findings: Findings) -> tuple[str, ...]:
    lists = {_names(c["keypoints"], path) for c in data["categories"] if c.get("keypoints") is not None} - {()}
    if len(lists) > 1:
        text = f"its categories have {len(lists)} different lists of keypoints; keypoints are left out"
        findings.say("keypoints-differ", text, len(lists))
        return ()
    if lists:
        return lists.pop()
    found = (a.get("keypoints") for a in data.get("annotations") or () if isinstance(a, dict))
    lengths = {len(points) for points in found if isinstance(points, list) and points}
    return tuple(f"keypoint_{i}" for i in range(1, lengths.pop() // 3 + 1)) if len(lengths) == 1 else ()


def _names(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str | int) for v in value):
        raise InvalidValueError(f"{path}: 'keypoints' of a category must be a list of names, not {shown(value)}")
    names = tuple(map(str, value))
    if len(set(names)) < len(names):
        raise InvalidValueError(f"{path}: 'keypoints' of a category must name each keypoint once: {shown(value)}")
    return names


def _group(
    annotations: list[Any], images: Mapping[int, Any], categories: Categories, path: Path, findings: Findings
) -> dict[int, list[tuple[Mapping[str, Any], int]]]:
    """The annotations, each with its category, by image id, once all of them are known to point at something."""
    lost_images, lost_categories = [], []
    by_image: dict[int, list[tuple[Mapping[str, Any], int]]] = defaultdict(list)
    known, place = set(categories.label_of), Entry(path, "", findings)
    for index, item in enumerate(annotations):
        place.name = f"annotations[{index}]"
        has_outline = isinstance(item, dict) and bool(item.get("segmentation"))
        annotation = _require(item, ("image_id", "category_id", *(() if has_outline else ("bbox",))), place)
        image_id = place.identity(annotation["image_id"], "image_id")
        category_id = place.identity(annotation["category_id"], "category_id")
        if image_id not in images:
            lost_images.append(f"annotation {shown(annotation.get('id'))} -> image {image_id}")
        if category_id not in known:
            lost_categories.append(f"annotation {shown(annotation.get('id'))} -> category {category_id}")
        by_image[image_id].append((annotation, category_id))
    if lost_images:
        raise InvalidValueError(f"{path}: {_some(lost_images)}: no such id in 'images'")
    if lost_categories:
        ids = ", ".join(map(str, categories.ids[:20])) or "none"
        raise InvalidValueError(f"{path}: {_some(lost_categories)}: no such id in 'categories', which has {ids}")
    return by_image


def _some(findings: list[str]) -> str:
    """The first few of many findings of one kind."""
    shown_ = "; ".join(findings[:EXAMPLES])
    return shown_ if len(findings) <= EXAMPLES else f"{shown_}; ... ({len(findings)} in all)"


def _add(
    builder: RecordBuilder,
    annotation: Mapping[str, Any],
    label: int,
    place: Entry,
    form: tuple[BoxForm, tuple[int, int]],
) -> None:
    x, y, width, height = box = _bbox(annotation, place)
    form[0].add(box, form[1])
    ann_id = _ann_id(annotation.get("id"), place)
    iscrowd = place.flag(annotation.get("iscrowd"), "iscrowd")
    area, points = annotation.get("area"), annotation.get("keypoints")
    area = None if area is None else place.number(area, "area")
    points = None if points is None else _numbers(points, "keypoints", place) or None
    corners = (x, y, x + width, y + height)
    try:
        builder.add_object(corners, label, ann_id, iscrowd, area, annotation.get("segmentation"), points)
    except InvalidValueError as error:
        raise place.error(str(error)) from None


def _shown_id(annotation: Mapping[str, Any]) -> str:
    number = annotation.get("id")
    return str(number) if type(number) is int and number.bit_length() < 64 else shown(number)


def _bbox(annotation: Mapping[str, Any], place: Entry) -> tuple[float, float, float, float]:
    """x, y, width, height; null is not a number. Where there is no box, it is the one around the polygons."""
    bbox = annotation.get("bbox")
    if bbox in (None, []):
        return _around(annotation.get("segmentation"))
    try:
        x, y, width, height = _numbers(bbox, "bbox", place)
        return x, y, width, height
    except ValueError:
        raise place.error(f"'bbox' must be [x, y, width, height], not {shown(bbox)}") from None


def _around(polygons: Any) -> tuple[float, float, float, float]:
    """x, y, width, height of the box around polygons; of anything else NaN, a box that is left out, and counted."""
    lists = polygons if isinstance(polygons, list) else []
    flat = [v for points in lists if isinstance(points, list) for v in points[: len(points) // 2 * 2]]
    if not flat or not all(isinstance(v, int | float) for v in flat):
        return (math.nan,) * 4
    xs, ys = flat[0::2], flat[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _numbers(values: Any, field: str, place: Entry) -> list[float]:
    if not isinstance(values, list):
        raise place.error(f"{field!r} must be a list of numbers, not {shown(values)}")
    return [float("nan") if v is None else place.number(v, field) for v in values]


def _ann_id(value: Any, place: Entry) -> int:
    """The file's id where pycocotools can use it, else 0: the ids of annotations serve to tell them apart, no more."""
    if type(value) is int and 0 < value <= ID_RANGE[1]:
        return value
    if value is not None and value != 0:
        place.findings.add(NEW_ID, place.name)
    return 0


# ------------------------------------------------------------------ categories
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
