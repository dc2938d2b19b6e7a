"""labelme: one JSON file for each image, with the shapes that were annotated on it."""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detframe.data.entries import CatalogEntry, check_text
from detframe.data.findings import Findings, Kind
from detframe.data.formats.annotation_files import beginning, ending, spread
from detframe.data.formats.fields import Entry
from detframe.data.formats.json_and_xml import read_json
from detframe.data.formats.locate import image_root
from detframe.data.formats.named_objects import (
    NO_BOX,
    ONE_OBJECT,
    TURNED,
    UNKNOWN_SHAPE,
    NamedObjects,
)
from detframe.data.formats.shapes import Box, Point, around, ellipse_box, union
from detframe.data.image_files import ImageReadError
from detframe.data.image_headers import read_header
from detframe.data.listing import IMAGE_SUFFIXES, Listing, files_below
from detframe.data.packing import PackedDataset
from detframe.data.recognition import SPLITS, Part, Recognised, recognised_by, split_of
from detframe.errors import InvalidValueError, MissingFileError, listed, shown
from detframe.registry import DATASET_FORMATS

NOT_LABELLED = Kind(
    "image has no labelme file: it counts as not labelled yet, not as background, and was left out",
    "images have no labelme file: they count as not labelled yet, not as background, and were left out",
    code="image-not-labelled",
    remedy="save those without objects in labelme too (a file with an empty list of shapes makes them background)",
)
OTHER_JSON = Kind(
    "JSON file is of another kind and was not read",
    "JSON files are of other kinds and were not read",
    code="not-labelme",
)
STALE_NAME = Kind(
    "file names another image than the one of its own name beside it, which was taken",
    "files name other images than those of their own names beside them, which were taken",
    code="stale-image-name",
)
EMBEDDED = Kind(
    "image does not exist but as text (imageData) in its labelme file, where it is not read",
    "images do not exist but as text (imageData) in their labelme files, where they are not read",
    code="embedded-image",
    remedy="write it to a file with `labelme_export_json`, or copy the original beside the labelme file",
)
_PIXELS = re.compile(rb'"imageData"\s*:\s*"')
_LINES = ("point", "points", "line", "linestrip")
_AREAS = ("polygon", "rectangle", "circle", "mask", "rotation")
_LOOKED_AT = 5  # files of a folder that decide what it holds
_FOLDERS = 200
_IMAGE_NAMES = 200


def recognise(path: Path) -> Recognised | None:
    """Folders in which most JSON files have `shapes` and `imagePath`; the splits are folders."""
    listing = files_below(path)
    own = _labelme_folders(listing)
    if not own:
        return None
    if path.is_file():
        return Recognised(
            "labelme", f"{path.name} has shapes and imagePath", (_part("", path, [path.stem], False, listing.root),)
        )
    splits: dict[str, list[Path]] = defaultdict(list)
    for folder in own:
        splits[split_of(folder / "x.json", by_name=False)].append(folder)
    notes = []
    if len(splits) > 1 and (rest := splits.pop("", None)):
        count = sum(len(own[folder]) for folder in rest)
        notes.append(f"{count} labelme files lie in no folder of a split, and were left out")
    parts = []
    for split, folders in sorted(splits.items(), key=lambda item: (*SPLITS, "").index(item[0])):
        common = Path(os.path.commonpath([listing.root / folder for folder in folders]))
        others = [listing.root / folder for folder in own if folder not in folders]
        stems = [file.stem for folder in folders for file in own[folder]]
        by_split = any(other.is_relative_to(common) for other in others)
        parts.append(_part(split, common, stems, by_split, listing.root))
    count = sum(len(own[folder]) for folders in splits.values() for folder in folders)
    files = "1 JSON file has" if count == 1 else f"{count} JSON files have"
    return Recognised("labelme", f"{files} the shapes of one image each", tuple(parts), tuple(notes))


def _labelme_folders(listing: Listing) -> dict[Path, list[Path]]:
    """The JSON files by folder, of folders that hold labelme files for the most part. Of many folders some decide."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for file in listing.with_suffix(".json"):
        folders[file.parent].append(file)
    looked_at = dict(spread(list(folders.items()), _FOLDERS))
    own = {
        folder: files for folder, files in looked_at.items() if _holds_labelme([listing.root / file for file in files])
    }
    if len(folders) > len(looked_at) and 2 * len(own) > len(looked_at):
        return {folder: files for folder, files in folders.items() if folder in own or folder not in looked_at}
    return own


def _holds_labelme(files: Sequence[Path]) -> bool:
    chosen = spread(files, _LOOKED_AT)
    return 2 * sum(map(_is_labelme, chosen)) > len(chosen)


def _is_labelme(path: Path) -> bool:
    start = beginning(path)
    if not start.lstrip().startswith("{"):
        return False
    text = start + ending(path)
    return ('"imagePath"' in text and '"shapes"' in text) or ('"imageData"' in text and '"imagePath"' in text)


def _part(split: str, annotations: Path, stems: Sequence[str], by_split: bool, root: Path) -> Part:
    images = image_root(annotations, spread(stems, _IMAGE_NAMES), root)
    folder = annotations if annotations.is_dir() else annotations.parent
    return Part(split, images or folder, annotations, {"split": split} if by_split else {})


# -------------------------------------------------------------------------------- reading
@dataclass(frozen=True)
class _File:
    """One labelme file: its shapes by their objects, and its image."""

    place: Entry
    image_path: str
    image: Path | None
    size_hw: tuple[int, int] | None
    objects: list[tuple[str, list[_Shape]]]


@dataclass(frozen=True)
class _Shape:
    kind: str
    points: list[Point]
    mask: Any
    place: Entry


@DATASET_FORMATS.register("labelme")
@recognised_by(recognise, looks_for="JSON files of labelme, one for each image, with shapes and imagePath")
def read_labelme(entry: CatalogEntry, *, split: str = "") -> PackedDataset:
    """Read labelme files: those in and below a folder, or a single one.

    Polygons and masks that share label and group_id are the parts of one object; rectangles and circles are objects of
    their own. Points and lines are left out. The image of a file is the one of its own name beside it, else that of its
    imagePath, else the one of that name below the image folder; imageData is never read. An image without a file is not
    labelled, and left out.

    Args:
        split: only the files in folders whose names say so; empty is every file.

    Raises:
        ValueError: malformed JSON, or a shape without label or points; names the file and the shape.
        FileNotFoundError: there is no labelme file.
    """
    findings, split = Findings(), check_text(entry.name, "split", split)
    paths = _json_files(entry, split)
    beside = _Beside()
    files = [file for path in paths if (file := _read(path, findings, beside)) is not None]
    if not files:
        raise InvalidValueError(
            f"{entry.annotations}: no JSON file is one of labelme, with 'shapes' and 'imagePath'; looked at "
            f"{listed([path.name for path in paths], 3)}"
        )
    names = sorted({name for file in files for name, _ in file.objects})
    packer = NamedObjects(entry, names, findings)
    numbers = {path: number for number, path in enumerate(paths, 1)}
    used: set[Path] = set()
    for file in files:
        place = file.place
        image = file.image or packer.find([file.image_path, place.path.stem], place.path.parent)
        if image is None and _PIXELS.search(place.path.read_bytes()):
            findings.add(EMBEDDED, f"{file.image_path} in {place.path.name}")
        if packer.begin(image, file.image_path, numbers[place.path], file.size_hw, place):
            _add_objects(packer, file)
        used.update([image] if image else [])
    _count_not_labelled(entry, paths, used, packer)
    return packer.build()


def _json_files(entry: CatalogEntry, split: str) -> list[Path]:
    if not entry.annotations.is_dir():
        return [entry.annotations]
    files = Listing(entry.annotations).with_suffix(".json")
    if not files:
        raise MissingFileError(f"data set {entry.name!r}: no JSON file in or below {entry.annotations}")
    splits = {file: split_of(file, by_name=False) for file in files}
    chosen = [file for file in files if not split or splits[file] == (split_of(Path(split)) or split)]
    if not chosen:
        known = ", ".join(sorted({name for name in splits.values() if name})) or "none"
        raise InvalidValueError(
            f"data set {entry.name!r}: no labelme file in {entry.annotations} lies in a folder of the split {split!r}; "
            f"splits there: {known}"
        )
    return [entry.annotations / file for file in chosen]


class _Beside:
    """The images beside annotation files, by folder and stem."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, str]] = {}

    def find(self, path: Path) -> Path | None:
        """The image of a file's own name beside it."""
        folder = path.parent
        if folder not in self._folders:
            with os.scandir(folder) as entries:
                names = sorted(e.name for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES) and e.is_file())
            self._folders[folder] = {os.path.splitext(name)[0]: name for name in names}
        name = self._folders[folder].get(path.stem)
        return folder / name if name else None


def _read(path: Path, findings: Findings, beside: _Beside) -> _File | None:
    """One file; None where its JSON is of another kind."""
    data = read_json(path, unread="imageData")
    if not isinstance(data, dict) or not ("shapes" in data or "imagePath" in data):
        findings.add(OTHER_JSON, path.name)
        return None
    place = Entry(path, f"the size of {path.stem}", findings)
    size_hw = place.size_hw(data.get("imageHeight"), data.get("imageWidth"))
    place = Entry(path, "the file", findings)
    shapes = data.get("shapes")
    if not isinstance(shapes, list):
        raise place.error(f"'shapes' must be a list, not {shown(shapes)}; without objects it is []")
    image_path = place.text(data.get("imagePath"), "imagePath")
    image = beside.find(path)
    if image is not None and Path(image_path.replace("\\", "/")).stem != path.stem:
        findings.add(STALE_NAME, f"{image_path} in {path.name}")
    objects = list(_objects(shapes, path, findings))
    return _File(place, image_path, image, size_hw, objects)


def _objects(shapes: Sequence[Any], path: Path, findings: Findings) -> Iterator[tuple[str, list[_Shape]]]:
    """(label, shapes) of each object, in the order of their first shapes."""
    groups: dict[Any, tuple[str, list[_Shape]]] = {}
    for number, item in enumerate(shapes):
        place = Entry(path, f"shapes[{number}]", findings)
        values = place.mapping(item)
        label = place.text(values.get("label"), "label", numbers=True).strip()
        kind = values.get("shape_type", "polygon")
        if kind in _LINES:
            findings.add(NO_BOX, f"{kind} {label!r} in {path.name}")
        elif kind not in _AREAS:
            findings.add(UNKNOWN_SHAPE, f"{shown(kind)} {label!r} in {path.name}")
        else:
            shape = _Shape(kind, _points(values.get("points"), place), values.get("mask"), place)
            group = _group(values.get("group_id"), place)
            key = (label, group) if group is not None and kind in ("polygon", "mask") else number
            groups.setdefault(key, (label, []))[1].append(shape)
    for label, members in groups.values():
        if len(members) > 1:
            findings.add(ONE_OBJECT, f"{label!r} in {path.name}")
        yield label, members


def _group(value: Any, place: Entry) -> Any:
    if value is not None and not isinstance(value, int | str):
        raise place.error(f"'group_id' must be a number or null, not {shown(value)}")
    return value


def _points(value: Any, place: Entry) -> list[Point]:
    if not isinstance(value, list) or not value:
        raise place.error(f"'points' must be a list of [x, y], not {shown(value)}")
    for point in value:
        if not isinstance(point, list) or len(point) != 2:
            raise place.error(f"'points' must be a list of [x, y], and has {shown(point)}")
    return [(place.number(x, "points"), place.number(y, "points")) for x, y in value]


def _count_not_labelled(entry: CatalogEntry, paths: Sequence[Path], used: set[Path], packer: NamedObjects) -> None:
    """Count the images in the folders of labelled ones that no file is about, neither one of another split."""
    if not entry.annotations.is_dir():
        return
    splits = entry.annotations.parent if split_of(Path(entry.annotations.name)) else entry.annotations
    stems = {path.stem for path in (*paths, *Listing(splits).with_suffix(".json"))}
    labelled = {os.path.normpath(path) for path in used}
    folders = {os.path.dirname(path) for path in labelled}
    for name in packer.finder.files:
        path = os.path.normpath(packer.finder.folder / name)
        if os.path.dirname(path) in folders and path not in labelled and Path(path).stem not in stems:
            packer.findings.add(NOT_LABELLED, name)


# -------------------------------------------------------------------------------- shapes
def _add_objects(packer: NamedObjects, file: _File) -> None:
    for label, shapes in file.objects:
        drawn = [found for shape in shapes if (found := _drawn(shape, packer)) is not None]
        if drawn:
            box = around([corner for (x1, y1, x2, y2), _ in drawn for corner in ((x1, y1), (x2, y2))])
            packer.add(label, box, _joined([part for _, part in drawn], packer.size_hw), shapes[0].place)


def _drawn(shape: _Shape, packer: NamedObjects) -> tuple[Box, Any] | None:
    """The box and the segmentation of a shape; None where it is left out, with a word in the findings."""
    points, place = shape.points, shape.place
    if shape.kind == "polygon":
        return packer.outline(points, place)
    needed = {"rectangle": 2, "circle": 2, "rotation": 3, "mask": 2}[shape.kind]
    if len(points) < needed:
        raise place.error(f"a {shape.kind} needs {needed} points, and has {len(points)}")
    if shape.kind == "mask":
        return _mask(shape, packer)
    if shape.kind == "circle":
        (x, y), (x2, y2) = points[:2]
        radius = float(np.hypot(x2 - x, y2 - y))
        return ellipse_box((x, y), (radius, radius)), None
    if shape.kind == "rotation":
        packer.findings.add(TURNED, place.in_file)
    return around(points), None


def _mask(shape: _Shape, packer: NamedObjects) -> tuple[Box, Any] | None:
    left, top = (min(point[axis] for point in shape.points) for axis in (0, 1))
    if not (abs(left) < 2**31 and abs(top) < 2**31):
        raise shape.place.error(f"'points' of a mask must be the corners of its box, not {shown(shape.points)}")
    return packer.mask(_pixels(shape, packer.size_hw), round(left), round(top), shape.place)


def _pixels(shape: _Shape, size_hw: tuple[int, int]) -> np.ndarray:
    """The mask of a shape, a PNG in base64, as bool (h, w)."""
    text = shape.place.text(shape.mask, "mask")
    try:
        data = base64.b64decode(text)
        header = read_header(io.BytesIO(data), "the mask")
        height, width = header.stored_hw
        if header.format != "PNG" or height > size_hw[0] + 1 or width > size_hw[1] + 1:
            raise shape.place.error(f"'mask' is {header.format} of {width}x{height}, which is no part of the image")
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except (binascii.Error, UnicodeError, ImageReadError, cv2.error) as error:
        raise shape.place.error(f"'mask' must be a PNG in base64: {error}") from None
    if pixels is None:
        raise shape.place.error("'mask' must be a PNG in base64, and this one is damaged")
    return np.asarray(pixels > 0)


def _joined(parts: Sequence[Any], size_hw: tuple[int, int]) -> Any:
    """One segmentation of the parts of an object: their polygons, or where one is a mask, the pixels of all."""
    if len(parts) == 1:
        return parts[0]
    if any(isinstance(part, Mapping) for part in parts):
        return union(parts, size_hw)
    return [polygon for part in parts for polygon in part]
