"""Tsinghua-Tencent 100K: traffic signs in street panoramas (Zhu et al., CVPR 2016).

One JSON file holds `types`, the names of all classes, and `imgs`: for each image its path below the data folder, whose
first part is the split, and its objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from detframe.data.formats.json_file import read_json
from detframe.data.images import image_size
from detframe.data.metadata import Metadata
from detframe.data.packing import PackedDataset, RecordBuilder
from detframe.errors import InvalidValueError, MissingFileError
from detframe.registry import DATASET_FORMATS, nearest

if TYPE_CHECKING:
    from detframe.data.entries import CatalogEntry

CORNERS = ("xmin", "ymin", "xmax", "ymax")
# The classes with at least 100 objects, which the paper trains and evaluates
USUAL_CLASSES = tuple(
    "i2 i4 i5 il100 il60 il80 io ip p10 p11 p12 p19 p23 p26 p27 p3 p5 p6 pg ph4 ph4.5 ph5 pl100 pl120 pl20 pl30 pl40 "
    "pl5 pl50 pl60 pl70 pl80 pm20 pm30 pm55 pn pne po pr40 w13 w32 w55 w57 w59 wo".split()
)


@DATASET_FORMATS.register("tt100k")
def read_tt100k(entry: CatalogEntry, *, split: str = "", classes: Sequence[str] | str = USUAL_CLASSES) -> PackedDataset:
    """Read TT100K's annotations.json (2016) or annotations_all.json (2021).

    An object of a class that is not asked for is left out, as in the authors' evaluation: it is neither found nor
    missed, and a detection there that calls it one of the classes asked for is wrong. Boxes alone are read, not the
    ellipses and polygons. Sizes come from the headers of the image files.

    Args:
        entry: `images` is the folder that has train/, test/ and other/.
        split: the first part of the images' paths; empty is every image of the file.
        classes: names in the order of their labels; the usual 45, or "all" for the file's `types`.

    Raises:
        ValueError: malformed JSON, a class or split that the file does not have, an image or object of another form, or
            a file that is no image. The message names the file and the entry in it.
        FileNotFoundError: an image does not exist.
    """
    path = entry.annotations
    types, images = _read_types_and_images(path)
    names = _class_names(entry.name, classes, types, path)
    chosen = _of_split(entry.name, images, split, path)
    builder = RecordBuilder(Metadata(entry.name, names, tuple(range(1, len(names) + 1))))
    labels = {name: label for label, name in enumerate(names, 1)}
    unlisted: Counter[str] = Counter()
    for key, image in chosen.items():
        file_name = entry.images / image["path"]
        builder.add_image(file_name, image["id"], _size_hw(file_name, key, path))
        for number, item in enumerate(image["objects"], 1):
            category, box = _category_and_box(item, f"{path}: image {key!r}, object {number}")
            unlisted[category] += category not in types
            if category in labels:
                builder.add_object(box, labels[category])
    packed = builder.build()
    return PackedDataset(packed.metadata, packed.arrays, [*_unlisted_warning(entry.name, +unlisted), *packed.warnings])


def _read_types_and_images(path: Path) -> tuple[list[str], dict[str, dict[str, Any]]]:
    data = read_json(path)
    for key, form, words in (("types", list, "a list"), ("imgs", dict, "an object")):
        if not isinstance(data, dict) or not isinstance(data.get(key), form):
            found = ", ".join(map(repr, data)) if isinstance(data, dict) else f"a {type(data).__name__}"
            raise InvalidValueError(f"{path} is not a TT100K data set: it needs {key!r}, {words}; found {found}")
    seen: dict[int, str] = {}
    for key, image in data["imgs"].items():
        _check_image(key, image, path)
        other = seen.setdefault(image["id"], key)
        if other != key:
            raise InvalidValueError(f"{path}: the images {other!r} and {key!r} have the same 'id' {image['id']}")
    return [str(name) for name in data["types"]], data["imgs"]


def _check_image(key: str, image: Any, path: Path) -> None:
    if not isinstance(image, Mapping):
        raise InvalidValueError(f"{path}: image {key!r} must be an object, not {str(image)[:60]!r}")
    for field, form, words in (("id", int, "a whole number"), ("path", str, "text"), ("objects", list, "a list")):
        value = image.get(field)
        if not isinstance(value, form) or isinstance(value, bool):
            raise InvalidValueError(f"{path}: image {key!r}: {field!r} must be {words}, not {str(value)[:60]!r}")


def _class_names(name: str, classes: Sequence[str] | str, types: list[str], path: Path) -> tuple[str, ...]:
    if isinstance(classes, str):
        if classes != "all":
            raise InvalidValueError(f"data set {name!r}: classes must be a list of names, or 'all', not {classes!r}")
        return tuple(types)
    names = tuple(map(str, classes))
    repeated = [n for n, count in Counter(names).items() if count > 1]
    if repeated or not names:
        raise InvalidValueError(
            f"data set {name!r}: classes must name each class once, and one at least: {list(names)}"
        )
    for wanted in names:
        if wanted not in types:
            hint = nearest(wanted, types)
            raise InvalidValueError(f"data set {name!r}: the class {wanted!r} is not in the 'types' of {path}; {hint}")
    return names


def _of_split(name: str, images: dict[str, dict[str, Any]], split: str, path: Path) -> dict[str, dict[str, Any]]:
    if not split:
        return images
    chosen = {key: image for key, image in images.items() if PurePosixPath(image["path"]).parts[:1] == (split,)}
    if not chosen:
        known = ", ".join(sorted({"/".join(PurePosixPath(i["path"]).parts[:1]) for i in images.values()})) or "none"
        raise InvalidValueError(
            f"data set {name!r}: no image of {path} is of the split {split!r}; splits there: {known}"
        )
    return chosen


def _size_hw(file_name: Path, key: str, path: Path) -> tuple[int, int]:
    try:
        return image_size(file_name)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: image {key!r}: the file {file_name} does not exist") from None
    except ValueError as error:
        raise InvalidValueError(f"{path}: image {key!r}: {error}") from None


def _category_and_box(item: Any, where: str) -> tuple[str, tuple[float, ...]]:
    category = item.get("category") if isinstance(item, Mapping) else None
    if not isinstance(category, str):
        raise InvalidValueError(f"{where}: it must have a 'category', a name; it is {str(item)[:80]}")
    corners = item.get("bbox")
    values = [corners.get(key) for key in CORNERS] if isinstance(corners, Mapping) else []
    numbers = tuple(float(value) for value in values if isinstance(value, int | float))
    if len(numbers) != len(CORNERS):
        raise InvalidValueError(f"{where}: 'bbox' must hold the numbers {', '.join(CORNERS)}, not {str(corners)[:80]}")
    return category, numbers


def _unlisted_warning(name: str, unlisted: Counter[str]) -> list[str]:
    if not unlisted:
        return []
    examples = ", ".join(repr(category) for category, _ in unlisted.most_common(5))
    return [
        f"{name}: objects whose category is not in the file's 'types' are left out: {unlisted.total()}, as {examples}"
    ]
