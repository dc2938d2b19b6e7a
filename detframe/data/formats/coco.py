"""COCO JSON: `images`, `categories` and `annotations`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detframe.data.entries import CatalogEntry
from detframe.data.findings import Findings, Kind
from detframe.data.formats.coco_classes import Categories, read_categories
from detframe.data.formats.coco_find import LOOKS_FOR, recognise
from detframe.data.formats.coco_images import ImageFiles
from detframe.data.formats.coco_tables import Tables, read_tables, require
from detframe.data.formats.fields import ID_RANGE, Entry, size_of_file
from detframe.data.formats.json_stream import JsonFile
from detframe.data.formats.lvis import JUDGED, frequencies, judged_labels
from detframe.data.formats.shapes import BoxForm
from detframe.data.image_files import image_exists
from detframe.data.metadata import Metadata, pairs_by_name, with_keypoint_facts
from detframe.data.packing import PackedDataset, RecordBuilder
from detframe.data.recognition import recognised_by
from detframe.data.resources import give_back_memory
from detframe.errors import InvalidValueError, shown
from detframe.registry import DATASET_FORMATS

_TRIMMED = 2**15  # images, after which memory is given back
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
    return _packed(entry, keypoint_sigmas, keypoint_flip_pairs).build()


def _packed(
    entry: CatalogEntry, sigmas: Sequence[float] | None, flip_pairs: Sequence[Sequence[str]] | None
) -> RecordBuilder:
    """All images with their annotations; what was needed to find them is let go."""
    findings = Findings()
    with JsonFile(entry.annotations) as file:
        tables = read_tables(file)
        tables.images.check(findings)
        if not tables.has_annotations:
            text = f"{file.path} has no 'annotations'; its {len(tables.images)} images count as empty"
            findings.say("no-annotations", text, len(tables.images))
        categories = _categories(tables, findings)
        points = _keypoint_names(tables, findings)
        metadata = Metadata(entry.name, categories.names, categories.ids, points, pairs_by_name(points))
        metadata = replace(metadata, frequencies=frequencies(tables.categories, categories.ids))
        builder = RecordBuilder(with_keypoint_facts(metadata, sigmas, flip_pairs), findings)
        _pack(builder, tables, categories, entry.images)
    return builder


def _pack(builder: RecordBuilder, tables: Tables, categories: Categories, folder: Path) -> None:
    """Add all images with their annotations."""
    images, path, findings, form = tables.images, tables.images.file.path, builder.findings, BoxForm()
    tables.annotations.check(findings)
    by_image = tables.annotations.by_image(images.ids, categories.label_of, categories.ids)
    files, label_of = ImageFiles(folder, images.names, findings), categories.label_of
    images.names = np.zeros(0, dtype=np.int64)
    for row in range(len(images)):
        if row % _TRIMMED == 0:
            give_back_memory()
        image, image_id = images[row], int(images.ids[row])
        place = Entry(path, f"image {image_id}", findings)
        file_name = files.find(image["file_name"], place)
        size_hw = place.size_hw(image.get("height"), image.get("width"))
        if size_hw is None and not image_exists(file_name):
            builder.add_missing(image["file_name"], files.near(image["file_name"]))
            continue
        size_hw = size_hw or size_of_file(Path(file_name), place)
        builder.add_image(file_name, image_id, size_hw)
        if JUDGED <= image.keys():
            builder.add_judgement(*judged_labels(image, label_of, place))
        for annotation in by_image[row]:
            name = f"annotation {_shown_id(annotation)} of {place.name}"
            _add(builder, annotation, label_of[annotation["category_id"]], Entry(path, name, findings), (form, size_hw))
    form.report(findings)


def _categories(tables: Tables, findings: Findings) -> Categories:
    path = tables.images.file.path
    items = [
        require(item, ("id", "name"), Entry(path, f"categories[{index}]", findings))
        for index, item in enumerate(tables.categories)
    ]
    return read_categories(items, tables.annotations.used(), path, findings)


def _keypoint_names(tables: Tables, findings: Findings) -> tuple[str, ...]:
    path = tables.images.file.path
    lists = {_names(c["keypoints"], path) for c in tables.categories if c.get("keypoints") is not None} - {()}
    if len(lists) > 1:
        text = f"its categories have {len(lists)} different lists of keypoints; keypoints are left out"
        findings.say("keypoints-differ", text, len(lists))
        return ()
    if lists:
        return lists.pop()
    lengths = tables.annotations.lengths
    return tuple(f"keypoint_{i}" for i in range(1, min(lengths) // 3 + 1)) if len(lengths) == 1 else ()


def _names(value: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str | int) for v in value):
        raise InvalidValueError(f"{path}: 'keypoints' of a category must be a list of names, not {shown(value)}")
    names = tuple(map(str, value))
    if len(set(names)) < len(names):
        raise InvalidValueError(f"{path}: 'keypoints' of a category must name each keypoint once: {shown(value)}")
    return names


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
