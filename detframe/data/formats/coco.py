"""COCO JSON: `images`, `categories` and `annotations`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detframe.data.formats.json_file import read_json
from detframe.data.images import image_size
from detframe.data.metadata import Metadata, pairs_by_name, with_keypoint_facts
from detframe.data.packing import PackedDataset, RecordBuilder
from detframe.errors import InvalidValueError
from detframe.registry import DATASET_FORMATS

if TYPE_CHECKING:
    from detframe.data.entries import CatalogEntry

EXAMPLES = 5  # how many of the same finding a message lists


@DATASET_FORMATS.register("coco")
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
        ValueError: malformed JSON (with line and column), a missing field, a repeated image id, an annotation whose
            image or category does not exist, a segmentation or keypoints of a wrong form. The message names the file.
    """
    path = entry.annotations
    data = _read_json(path)
    warnings: list[str] = []
    images = _images(data, path)
    metadata = _metadata(entry.name, data, path, warnings)
    metadata = with_keypoint_facts(metadata, keypoint_sigmas, keypoint_flip_pairs)
    if "annotations" not in data:
        warnings.append(f"{entry.name}: {path} has no 'annotations'; its {len(images)} images count as empty")
    by_image = _group(data.get("annotations", []), images, metadata, path)
    builder = RecordBuilder(metadata)
    labels = {number: label for label, number in enumerate(metadata.category_ids, 1)}
    for image_id, image in images.items():
        file_name = entry.images / image["file_name"]
        size_hw = (
            (image["height"], image["width"]) if image.get("height") and image.get("width") else image_size(file_name)
        )
        builder.add_image(file_name, image_id, size_hw)
        for annotation in by_image.get(image_id, ()):
            _add(builder, annotation, labels[annotation["category_id"]], path)
    packed = builder.build()
    return PackedDataset(packed.metadata, packed.arrays, [*warnings, *packed.warnings])


def _read_json(path: Path) -> dict[str, Any]:
    data = read_json(path)
    for key in ("images", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            found = ", ".join(map(repr, data)) if isinstance(data, dict) else f"a {type(data).__name__}"
            raise InvalidValueError(f"{path} is not a COCO data set: it needs a list {key!r}; found {found}")
    return dict(data)


def _require(item: Any, keys: tuple[str, ...], what: str, path: Path) -> None:
    if not isinstance(item, Mapping):
        raise InvalidValueError(f"{path}: {what} must be an object, not {str(item)[:60]!r}")
    absent = [key for key in keys if key not in item]
    if absent:
        raise InvalidValueError(
            f"{path}: {what} {item.get('id', '')} lacks {', '.join(map(repr, absent))}; it has {sorted(item)}"
        )
    for key in keys:
        if key.endswith("id") and (not isinstance(item[key], int) or isinstance(item[key], bool)):
            raise InvalidValueError(f"{path}: {what} has {key!r} {item[key]!r}; ids must be whole numbers")


def _images(data: dict[str, Any], path: Path) -> dict[int, dict[str, Any]]:
    images: dict[int, dict[str, Any]] = {}
    for image in data["images"]:
        _require(image, ("id", "file_name"), "image", path)
        other = images.setdefault(image["id"], image)
        if other is not image:
            files = f"{other['file_name']} and {image['file_name']}"
            raise InvalidValueError(f"{path}: the image id {image['id']} is given twice, to {files}")
    return images


def _metadata(name: str, data: dict[str, Any], path: Path, warnings: list[str]) -> Metadata:
    for category in data["categories"]:
        _require(category, ("id", "name"), "category", path)
    categories = sorted(data["categories"], key=lambda category: category["id"])
    ids, names = [c["id"] for c in categories], [str(c["name"]) for c in categories]
    for what, values in (("id", ids), ("name", names)):
        repeated = sorted({v for v in values if values.count(v) > 1})
        if repeated:
            raise InvalidValueError(
                f"{path}: the category {what} {repeated[0]!r} is given {values.count(repeated[0])} times"
            )
    keypoints = _keypoint_names(name, data, warnings)
    return Metadata(name, tuple(names), tuple(ids), keypoints, pairs_by_name(keypoints))


def _keypoint_names(name: str, data: dict[str, Any], warnings: list[str]) -> tuple[str, ...]:
    lists = {tuple(map(str, c["keypoints"])) for c in data["categories"] if c.get("keypoints")}
    if len(lists) > 1:
        warnings.append(
            f"{name}: its categories have {len(lists)} different lists of keypoints; keypoints are left out"
        )
        return ()
    if lists:
        return lists.pop()
    lengths = {len(a["keypoints"]) for a in data.get("annotations", []) if isinstance(a, dict) and a.get("keypoints")}
    return tuple(f"keypoint_{i}" for i in range(1, lengths.pop() // 3 + 1)) if len(lengths) == 1 else ()


def _group(
    annotations: Any, images: Mapping[int, Any], metadata: Metadata, path: Path
) -> dict[int, list[dict[str, Any]]]:
    """The annotations by image id, once all of them are known to point at something."""
    if not isinstance(annotations, list):
        raise InvalidValueError(f"{path}: 'annotations' must be a list, not {type(annotations).__name__}")
    lost_images, lost_categories = [], []
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    known = set(metadata.category_ids)
    for annotation in annotations:
        _require(annotation, ("image_id", "category_id", "bbox"), "annotation", path)
        if annotation["image_id"] not in images:
            lost_images.append(f"annotation {annotation.get('id')} -> image {annotation['image_id']}")
        if annotation["category_id"] not in known:
            lost_categories.append(f"annotation {annotation.get('id')} -> category {annotation['category_id']}")
        by_image[annotation["image_id"]].append(annotation)
    if lost_images:
        raise InvalidValueError(f"{path}: {_some(lost_images)}: no such id in 'images'")
    if lost_categories:
        ids = ", ".join(map(str, metadata.category_ids[:20]))
        raise InvalidValueError(f"{path}: {_some(lost_categories)}: no such id in 'categories', which has {ids}")
    return by_image


def _some(findings: list[str]) -> str:
    """The first few of many findings of one kind."""
    shown = "; ".join(findings[:EXAMPLES])
    return shown if len(findings) <= EXAMPLES else f"{shown}; ... ({len(findings)} in all)"


def _add(builder: RecordBuilder, annotation: dict[str, Any], label: int, path: Path) -> None:
    bbox, ann_id = annotation["bbox"], annotation.get("id", 0)
    try:
        x, y, width, height = (float("nan") if v is None else float(v) for v in bbox)
        builder.add_object(
            (x, y, x + width, y + height),
            label,
            ann_id if isinstance(ann_id, int) else 0,
            bool(annotation.get("iscrowd", 0)),
            annotation.get("area"),
            annotation.get("segmentation"),
            annotation.get("keypoints") or None,
        )
    except (TypeError, ValueError) as error:
        wrong = f"'bbox' must be [x, y, width, height], not {bbox}" if not _is_bbox(bbox) else str(error)
        raise InvalidValueError(f"{path}: annotation {ann_id} of image {annotation['image_id']}: {wrong}") from None


def _is_bbox(bbox: Any) -> bool:
    return isinstance(bbox, list) and len(bbox) == 4 and all(v is None or isinstance(v, (int, float)) for v in bbox)
