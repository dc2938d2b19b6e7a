"""VGG Image Annotator (VIA), versions 1 and 2: annotations as JSON or CSV, and whole projects."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from detframe.data.entries import CatalogEntry, check_text
from detframe.data.findings import Findings, Kind
from detframe.data.formats.annotation_files import beginning, files_of, own_files, parts_by_split
from detframe.data.formats.fields import Entry
from detframe.data.formats.json_and_xml import parse_json, read_json
from detframe.data.formats.named_objects import NO_BOX, UNKNOWN_SHAPE, NamedObjects
from detframe.data.formats.shapes import Box, ellipse_box
from detframe.data.formats.via_classes import Classes, Declared, choose_classes, declared_options
from detframe.data.listing import files_below
from detframe.data.packing import PackedDataset
from detframe.data.recognition import Recognised, recognised_by
from detframe.errors import InvalidValueError, UserError, listed, shown
from detframe.files import read_text
from detframe.registry import DATASET_FORMATS

SAME_IMAGE = Kind(
    "image stands in several files; the regions of the file that has the most were taken",
    "images stand in several files each; the regions of the files that have the most were taken",
    code="image-in-several-files",
)
_SUFFIXES = (".json", ".csv")
_LINES = ("point", "polyline", "line")
_MOST_BYTES = 2**26  # of files that the recogniser reads whole, for the classes of all of them together
_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass
class Region:
    """One region: its shape, and what was written about it."""

    shape: Mapping[str, Any]
    attributes: Mapping[str, Any]
    place: Entry


@dataclass
class Picture:
    """One image of a file."""

    name: str
    regions: list[Region]
    place: Entry


# -------------------------------------------------------------------------------- recognising
def recognise(path: Path) -> Recognised | None:
    """JSON or CSV files that begin as those of VIA; splits are folders or files."""
    listing = files_below(path)
    own = own_files(listing, _SUFFIXES, _is_via)
    if not own:
        return None
    options, count, decided = _facts(own)
    names = {file: list(_names(beginning(file, 2**16))) for file in own}
    parts, notes = parts_by_split(listing.root, own, names.__getitem__, options)
    what = listed([str(file.relative_to(listing.root)) for file in own], 2)
    reason = f"{what} {'has' if len(own) == 1 else 'have'} the regions of VIA{count}"
    return Recognised("via", reason, parts, (*notes, *decided))


def _is_via(path: Path) -> bool:
    text = beginning(path).lstrip()
    if path.suffix.lower() == ".csv":
        return all(column in text.partition("\n")[0] for column in _COLUMNS)
    if not text.startswith(("{", "[")):
        return False
    return '"_via_img_metadata"' in text or '"_via_settings"' in text or bool(_IMAGE.search(text))


# the beginning of an image, whose fields have the same order in every version
_IMAGE = re.compile(
    r'\{\s*("fileref"\s*:\s*"[^"]*"\s*,\s*)?("size"\s*:\s*-?\d+\s*,\s*)?'
    r'"filename"\s*:.{0,2000}?"regions"\s*:\s*[\[{]',
    re.DOTALL,
)
_FILE_NAME = re.compile(r'"filename"\s*:\s*"((?:[^"\\]|\\.)*)"')


def _names(text: str) -> Iterator[str]:
    """Names of images in the beginning of a file."""
    rows = text.splitlines()
    if rows and all(column in rows[0] for column in _COLUMNS):
        yield from (row.partition(",")[0].strip('"') for row in rows[1:-1])
    yield from (name_of_image(found[1].replace("\\/", "/")) for found in _FILE_NAME.finditer(text))


def _facts(files: Sequence[Path]) -> tuple[dict[str, Any], str, list[str]]:
    """The fields of the entries, so that all splits have the same classes; what there is, as a clause; and notes."""
    if sum(file.stat().st_size for file in files) > _MOST_BYTES:
        return {}, "", []
    findings = Findings()
    try:
        pictures, declared = _read_all(files, findings)
        classes = choose_classes(_attributes(pictures), declared, "", "", "the data set")
    except UserError:  # the reader says it, with the entry's name
        return {}, "", []
    options = {"attribute": classes.attribute} if classes.attribute else {}
    if classes.without and classes.unnamed:
        options["unnamed"] = classes.unnamed
    regions = sum(len(picture.regions) for picture in pictures)
    return options, f": {regions} of them in {len(pictures)} images", [note] if (note := classes.choice()) else []


# -------------------------------------------------------------------------------- reading
@DATASET_FORMATS.register("via")
@recognised_by(recognise, looks_for="JSON (or CSV) files or projects of VIA, with filename and regions of each image")
def read_via(entry: CatalogEntry, *, attribute: str = "", unnamed: str = "", split: str = "") -> PackedDataset:
    """Read annotations of VIA: one file, or all of them in and below a folder.

    Polygons keep their outlines, circles and ellipses become the boxes around them, points and lines are left out. An
    image without regions is background. Where all regions with a class are of one class, or none has any, regions
    without one are of that class; where there are several classes, they are left out.

    Args:
        attribute: the region attribute whose value is the class; empty is the one that most regions have.
        unnamed: the class of regions that have none.
        split: of a folder, only the files whose path names this split; empty is all.

    Raises:
        ValueError: malformed JSON, a region of another form, or an attribute that no region has; names file and image.
        FileNotFoundError: there is no such file in the folder.
    """
    findings = Findings()
    attribute, unnamed, split = (
        check_text(entry.name, field, value).strip()
        for field, value in (("attribute", attribute), ("unnamed", unnamed), ("split", split))
    )
    pictures, declared = _read_all(files_of(entry, split, _SUFFIXES, _is_via), findings)
    classes = choose_classes(_attributes(pictures), declared, attribute, unnamed, str(entry.annotations))
    classes.report(findings)
    packer = NamedObjects(entry, classes.names, findings)
    for number, picture in enumerate(pictures, 1):
        name = name_of_image(picture.name)
        path = packer.find([name], picture.place.path.parent)
        if packer.begin(path, name, number, None, picture.place):
            for region in picture.regions:
                _add(packer, region, classes)
    return packer.build()


def _attributes(pictures: Sequence[Picture]) -> list[Mapping[str, Any]]:
    """Those of the regions that have a box."""
    return [r.attributes for picture in pictures for r in picture.regions if str(r.shape.get("name")) in _READERS]


def name_of_image(name: str) -> str:
    """The name of an image without the address that it was loaded from."""
    return unquote(urlsplit(name).path).lstrip("/") or name if _ADDRESS.match(name) else name


def _read_all(files: Sequence[Path], findings: Findings) -> tuple[list[Picture], Declared]:
    """The images of all files, in the order of their names, each once; and the choices that the files declare."""
    declared: Declared = {}
    found: dict[tuple[Path, str], Picture] = {}
    for path in files:
        pictures, own = _read_csv(path, findings) if path.suffix.lower() == ".csv" else _read(path, findings)
        for key, options in own.items():
            declared.setdefault(key, {}).update(options)
        for picture in pictures:
            key_ = (path.parent, picture.name)
            other = found.setdefault(key_, picture)
            if other is not picture:
                findings.add(SAME_IMAGE, f"{picture.name} in {other.place.path.name} and {path.name}")
                found[key_] = max(other, picture, key=lambda p: len(p.regions))
    return [found[key] for key in sorted(found, key=lambda key: (key[1], str(key[0])))], declared


def _read(path: Path, findings: Findings) -> tuple[list[Picture], Declared]:
    data = read_json(path, unread="base64_img_data")
    declared: Declared = {}
    if isinstance(data, dict) and "_via_img_metadata" in data:
        declared = declared_options(data.get("_via_attributes"), path)
        data = data["_via_img_metadata"]
    if isinstance(data, dict) and {"project", "metadata"} <= set(data):
        raise InvalidValueError(f"{path} is a project of VIA 3, which is not read; export it as COCO, or use VIA 2")
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list):
        items = list(enumerate(data))
    else:
        raise InvalidValueError(f"{path} is no file of VIA: it needs an object for each image; found {shown(data)}")
    return [_picture(str(key), item, path, findings) for key, item in items], declared


def _picture(key: str, item: Any, path: Path, findings: Findings) -> Picture:
    place = Entry(path, f"image {shown(key)}", findings)
    values = place.mapping(item)
    name = place.text(values.get("filename"), "filename")
    regions = values.get("regions")
    if isinstance(regions, dict):  # of version 1, by number
        regions = list(regions.values())
    if not isinstance(regions, list):
        raise place.error(f"'regions' must be a list or an object, not {shown(regions)}; without regions it is []")
    return Picture(name, [_region(i, r, place) for i, r in enumerate(regions)], place)


def _region(number: int, item: Any, image: Entry) -> Region:
    place = Entry(image.path, f"region {number} of {image.name}", image.findings)
    values = place.mapping(item)
    attributes = values.get("region_attributes")
    if attributes is not None and not isinstance(attributes, dict):
        raise place.error(f"'region_attributes' must be an object, not {shown(attributes)}")
    shape = values.get("shape_attributes")
    if not isinstance(shape, dict):
        raise place.error(f"'shape_attributes' must be an object, not {shown(shape)}")
    return Region(shape, attributes or {}, place)


def _read_csv(path: Path, findings: Findings) -> tuple[list[Picture], Declared]:
    """A table with a row for each region, whose cells hold JSON."""
    rows = csv.DictReader(io.StringIO(read_text(path).lstrip("#"), newline=""))
    absent = [column for column in _COLUMNS if column not in (rows.fieldnames or ())]
    if absent:
        raise InvalidValueError(f"{path} is no CSV of VIA: it lacks the column {absent[0]!r}")
    pictures: dict[str, Picture] = {}
    try:
        for row in rows:
            place = Entry(path, f"line {rows.line_num}", findings)
            name = place.text(row["filename"], "filename")
            picture = pictures.setdefault(name, Picture(name, [], Entry(path, f"image {shown(name)}", findings)))
            shape, attributes = (parse_json(row[key] or "{}", f"{place}, {key}") for key in _COLUMNS[1:])
            if shape != {}:  # an image without regions has one row
                picture.regions.append(_region_of(shape, attributes, place))
    except csv.Error as error:
        raise InvalidValueError(f"{path}, line {rows.line_num}: {error}") from None
    return list(pictures.values()), {}


def _region_of(shape: Any, attributes: Any, place: Entry) -> Region:
    for value, field in ((shape, "region_shape_attributes"), (attributes, "region_attributes")):
        if not isinstance(value, dict):
            raise place.error(f"{field!r} must hold an object, not {shown(value)}")
    return Region(shape, attributes, place)


# -------------------------------------------------------------------------------- shapes
def _add(packer: NamedObjects, region: Region, classes: Classes) -> None:
    kind, place = region.shape.get("name"), region.place
    name = place.in_file
    if kind in _LINES:
        packer.findings.add(NO_BOX, name)
        return
    if not isinstance(kind, str) or kind not in _READERS:
        packer.findings.add(UNKNOWN_SHAPE, f"{shown(kind)} in {name}")
        return
    label = classes.name_of(region.attributes, place)
    found = _READERS[kind](region, packer)
    if label and found:
        packer.add(label, *found, place)


_Found = tuple[Box, Any] | None


def _numbers(region: Region, *keys: str) -> list[float]:
    return [region.place.number(region.shape.get(key), key) for key in keys]


def _rect(region: Region, packer: NamedObjects) -> _Found:
    x, y, width, height = _numbers(region, "x", "y", "width", "height")
    return (x, y, x + width, y + height), None


def _circle(region: Region, packer: NamedObjects) -> _Found:
    x, y, radius = _numbers(region, "cx", "cy", "r")
    return ellipse_box((x, y), (radius, radius)), None


def _ellipse(region: Region, packer: NamedObjects) -> _Found:
    x, y, radius_x, radius_y = _numbers(region, "cx", "cy", "rx", "ry")
    turn = region.place.number(region.shape.get("theta", 0), "theta")  # radians
    return ellipse_box((x, y), (radius_x, radius_y), math.degrees(turn)), None


def _polygon(region: Region, packer: NamedObjects) -> _Found:
    place = region.place
    xs, ys = (region.shape.get(key) for key in ("all_points_x", "all_points_y"))
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
        raise place.error(
            f"'all_points_x' and 'all_points_y' must be lists of the same length, not {shown(xs)} and {shown(ys)}"
        )
    points = [(place.number(x, "all_points_x"), place.number(y, "all_points_y")) for x, y in zip(xs, ys, strict=True)]
    return packer.outline(points, place)


_READERS = {"rect": _rect, "circle": _circle, "ellipse": _ellipse, "polygon": _polygon}
