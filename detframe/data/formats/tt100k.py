"""Tsinghua-Tencent 100K: traffic signs in street panoramas (Zhu et al., CVPR 2016).

One JSON file holds `types`, the names of all classes, and `imgs`: for each image its path below the data folder, whose
first part is the split, and its objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from detframe.data.entries import CatalogEntry, check_names, check_text
from detframe.data.findings import Findings
from detframe.data.formats.fields import Entry, image_file, size_of_file
from detframe.data.formats.json_and_xml import read_json
from detframe.data.image_files import image_exists
from detframe.data.metadata import Metadata
from detframe.data.packing import PackedDataset, RecordBuilder
from detframe.errors import InvalidValueError, shown
from detframe.registry import DATASET_FORMATS, nearest

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
    path, findings = entry.annotations, Findings()
    types, images = _read_types_and_images(path, findings)
    names = _class_names(entry.name, classes, types, path)
    chosen = _of_split(entry.name, images, check_text(entry.name, "split", split), path)
    builder = RecordBuilder(Metadata(entry.name, names, tuple(range(1, len(names) + 1))), findings)
    labels, known = {name: label for label, name in enumerate(names, 1)}, set(types)
    unlisted: Counter[str] = Counter()
    for key, image in chosen.items():
        place = Entry(path, f"image {shown(key)}", findings)
        file_name = image_file(entry.images, image["path"], place)
        if not image_exists(file_name):
            builder.add_missing(image["path"])
            continue
        builder.add_image(file_name, int(image["id"]), size_of_file(file_name, place))
        for number, item in enumerate(image["objects"], 1):
            category, box = _category_and_box(item, Entry(path, f"{place.name}, object {number}", findings))
            unlisted[category] += category not in known
            if category in labels:
                builder.add_object(box, labels[category])
    _report_unlisted(+unlisted, findings)
    return builder.build()


def _read_types_and_images(path: Path, findings: Findings) -> tuple[list[str], dict[str, dict[str, Any]]]:
    data = read_json(path)
    for key, form, words in (("types", list, "a list"), ("imgs", dict, "an object")):
        if not isinstance(data, dict) or not isinstance(data.get(key), form):
            found = ", ".join(map(shown, list(data)[:10])) if isinstance(data, dict) else f"a {type(data).__name__}"
            raise InvalidValueError(f"{path} is not a TT100K data set: it needs {key!r}, {words}; found {found}")
    seen: dict[int, str] = {}
    for key, image in data["imgs"].items():
        _check_image(Entry(path, f"image {shown(key)}", findings), image)
        other = seen.setdefault(int(image["id"]), key)
        if other != key:
            raise InvalidValueError(f"{path}: the images {other!r} and {key!r} have the same 'id' {image['id']}")
    place = Entry(path, "the list of classes", findings)
    return [place.text(name, "types", numbers=True) for name in data["types"]], data["imgs"]


def _check_image(place: Entry, value: Any) -> None:
    image = place.mapping(value)
    for field, form, words in (
        ("id", int | float, "a whole number"),
        ("path", str, "text"),
        ("objects", list, "a list"),
    ):
        if not isinstance(image.get(field), form) or isinstance(image.get(field), bool):
            raise place.error(f"{field!r} must be {words}, not {shown(image.get(field))}")
    place.identity(image["id"], "id")
    place.text(image["path"], "path")


def _class_names(name: str, classes: Sequence[str] | str, types: list[str], path: Path) -> tuple[str, ...]:
    if isinstance(classes, str):
        if classes != "all":
            raise InvalidValueError(f"data set {name!r}: classes must be a list of names, or 'all', not {classes!r}")
        return tuple(check_names(name, "the 'types' of its file", types))
    names = tuple(check_names(name, "classes", classes))
    if not names:
        raise InvalidValueError(f"data set {name!r}: classes must name each class once, and one at least")
    for wanted in names:
        if wanted not in types:
            hint = nearest(wanted, types)
            raise InvalidValueError(f"data set {name!r}: the class {wanted!r} is not in the 'types' of {path}; {hint}")
    return names


def _of_split(name: str, images: dict[str, dict[str, Any]], split: str, path: Path) -> dict[str, dict[str, Any]]:
    if not split:
        return images
    folders = {key: _folder(image["path"]) for key, image in images.items()}
    chosen = {key: image for key, image in images.items() if folders[key] == split}
    if not chosen:
        known = ", ".join(sorted(set(folders.values()))) or "none"
        raise InvalidValueError(
            f"data set {name!r}: no image of {path} is of the split {split!r}; splits there: {known}"
        )
    return chosen


def _folder(path: str) -> str:
    """The first part of a path, which may have been written on Windows."""
    return "".join(PurePosixPath(path.replace("\\", "/")).parts[:1])


def _category_and_box(item: Any, place: Entry) -> tuple[str, tuple[float, ...]]:
    category = item.get("category") if isinstance(item, Mapping) else None
    if not isinstance(category, str):
        words = item[:80] if isinstance(item, str) else shown(item)
        raise place.error(f"it must have a 'category', a name; it is {words}")
    corners = item.get("bbox")
    values = [corners.get(key) for key in CORNERS] if isinstance(corners, Mapping) else []
    if not values or any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise place.error(f"'bbox' must hold the numbers {', '.join(CORNERS)}, not {shown(corners)}")
    return category, tuple(place.number(value, "bbox") for value in values)


def _report_unlisted(unlisted: Counter[str], findings: Findings) -> None:
    if unlisted:
        examples = ", ".join(repr(category) for category, _ in unlisted.most_common(5))
        text = f"objects whose category is not in the file's 'types' are left out: {unlisted.total()}, as {examples}"
        findings.say("category-not-listed", text, unlisted.total())
