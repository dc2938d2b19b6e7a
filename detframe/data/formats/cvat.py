"""CVAT's own XML: "CVAT for images 1.1", with one element for each image, and "CVAT for video 1.1", with tracks."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from detframe.data.entries import CatalogEntry, check_text
from detframe.data.findings import NOTE, Findings, Kind
from detframe.data.formats.annotation_files import beginning, files_of, parts_by_split
from detframe.data.formats.fields import ID_RANGE, MAX_PIXELS, Entry
from detframe.data.formats.json_and_xml import read_xml
from detframe.data.formats.named_objects import (
    NO_BOX,
    TURNED,
    UNKNOWN_SHAPE,
    NamedObjects,
)
from detframe.data.formats.shapes import Box, Point, ellipse_box, turned_box
from detframe.data.listing import files_below
from detframe.data.packing import PackedDataset
from detframe.data.recognition import SPLITS, Part, Recognised, recognised_by, split_of
from detframe.errors import InvalidValueError, listed
from detframe.registry import DATASET_FORMATS, nearest

OUTSIDE = Kind(
    "box of a track is marked as outside of its frame, and was left out",
    "boxes of tracks are marked as outside of their frames, and were left out",
    code="outside-frame",
    severity=NOTE,
)
_LINES = ("polyline", "points", "cuboid", "skeleton")
_OTHER_LABELS = ("tag", "points", "polyline", "skeleton", "cuboid")  # types of labels that no object with a box has
_BLOCK, _LONGEST_TAG = 2**22, 2**16  # bytes read at a time, and of the beginning of an element
_START = re.compile(r"<annotations\b[^>]*>")
_IMAGE = re.compile(rb"<image\b[^>]*>")
_SUBSET, _NAME = re.compile(rb"""\ssubset="([^"]*)\""""), re.compile(rb"""\sname="([^"]*)\"""")
_FRAME_NAMES = ("frame_{:06d}", "{:06d}")
_FRAME_FILE = re.compile(r"(?:frame_)?(\d{6})", re.ASCII | re.IGNORECASE)
_FIRST_FRAMES = tuple(_FRAME_NAMES[0].format(number) for number in range(20))
_MOST_FRAMES = 999_999


# -------------------------------------------------------------------------------- recognising
def recognise(path: Path) -> Recognised | None:
    """XML files whose root is <annotations> with <meta>, <image> or <track>; splits are files, folders or subsets."""
    listing = files_below(path)
    files = [listing.root / file for file in listing.with_suffix(".xml")]
    own = [file for file in files if _is_cvat(file)] if len(files) <= 200 or _is_cvat(files[0]) else []
    if not own:
        return None
    facts = {file: _facts(file) for file in own}
    count = sum(len(names) for names, _ in facts.values())
    images = f"{count} image{'s' * (count != 1)}" if count else "the tracks of a video"
    reason = f"{listed([str(file.relative_to(listing.root)) for file in own], 2)} is XML of CVAT with {images}"
    parts, notes = parts_by_split(listing.root, own, lambda file: facts[file][0] or _FIRST_FRAMES)
    if len(parts) == 1 and not parts[0].split:
        parts = _by_subset(parts[0], sorted({subset for _, subsets in facts.values() for subset in subsets}))
    return Recognised("cvat", reason, parts, notes)


def _is_cvat(path: Path) -> bool:
    text = beginning(path)
    found = _START.search(text)
    inside = text[found.end() :].lstrip() if found else ""
    return bool(re.match(r"<(version|meta|image|track)\b", inside))


def _facts(path: Path) -> tuple[list[str], set[str]]:
    """The names of the images, and their subsets; the file is passed over block by block."""
    names, subsets, rest = list[str](), set[str](), b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            text = rest + block
            end = 0
            for found in _IMAGE.finditer(text):
                end = found.end()
                names.append(_value(_NAME, found[0]))
                subsets.add(_value(_SUBSET, found[0]))
            rest = text[end:][-_LONGEST_TAG:]
    return names, subsets


def _value(pattern: re.Pattern[bytes], tag: bytes) -> str:
    found = pattern.search(tag)
    return html.unescape(found[1].decode("utf-8", "replace")) if found else ""


def _by_subset(whole: Part, subsets: Sequence[str]) -> tuple[Part, ...]:
    """A part for each subset of the images that is a split by its name; the whole where there are not two."""
    splits = {split_of(Path(subset)): subset for subset in subsets if subset and split_of(Path(subset))}
    if len(splits) < 2:
        return (whole,)
    order = [split for split in SPLITS if split in splits]
    return tuple(Part(s, whole.images, whole.annotations, {**whole.options, "split": splits[s]}) for s in order)


# -------------------------------------------------------------------------------- reading
@dataclass
class _Image:
    """One image or frame: what it is called, and its shapes by their labels."""

    names: list[str]  # what it may be called, the likeliest first
    number: int
    size_hw: tuple[int, int] | None
    place: Entry
    subset: str = ""
    shapes: list[tuple[str, Element, Entry]] = field(default_factory=list)


@DATASET_FORMATS.register("cvat")
@recognised_by(
    recognise, looks_for="annotations.xml of CVAT, for images or for video, with <image> or <track> elements"
)
def read_cvat(entry: CatalogEntry, *, split: str = "") -> PackedDataset:
    """Read an XML file of CVAT, or all of them in and below a folder.

    Classes have the order of the labels of the task or project. Masks and polygons are kept, ellipses and turned boxes
    become the upright boxes around them; polylines, points, cuboids and skeletons are left out, and so are boxes of
    tracks that are outside of their frames. Frames of a video are images called frame_000000 and so on; those between
    the first and the last that have an image and no box are background.

    Args:
        split: only the images of this subset, or of files whose path names this split; empty is all.

    Raises:
        ValueError: malformed XML, an image or shape that lacks something; names the file and the element.
        FileNotFoundError: there is no such file in the folder.
    """
    findings, split = Findings(), check_text(entry.name, "split", split)
    roots = [(path, _root(path)) for path in files_of(entry, "", (".xml",), _is_cvat)]
    images = [image for path, root in roots for image in _images(path, root, findings)]
    labels = list(
        dict.fromkeys(label for path, root in roots for label in _labels(root, Entry(path, "label", findings)))
    )
    found = {label for image in images for label, _, _ in image.shapes}
    packer = NamedObjects(entry, [*labels, *sorted(found.difference(labels))], findings)
    images += [image for path, root in roots for image in _frames_without_boxes(path, root, images, packer)]
    images = _of_split(entry, images, split)
    numbers = [image.number for image in images]
    if len(set(numbers)) < len(numbers):  # of several tasks
        numbers = list(range(1, len(images) + 1))
    for number, image in zip(numbers, images, strict=True):
        path = packer.find(image.names, image.place.path.parent)
        if packer.begin(path, image.names[0], number, image.size_hw, image.place):
            _add_shapes(packer, image)
    return packer.build()


def _root(path: Path) -> Element:
    root = read_xml(path)
    if root.tag != "annotations":
        raise InvalidValueError(f"{path} is no XML file of CVAT: its root is <{root.tag}>, not <annotations>")
    if not any(child.tag in ("image", "track", "meta") for child in root):
        tags = ", ".join(sorted({f"<{child.tag}>" for child in root})) or "nothing"
        raise InvalidValueError(f"{path} has neither <image> nor <track> in <annotations>; it has {tags[:200]}")
    return root


def _labels(root: Element, place: Entry) -> Iterator[str]:
    """The labels of the task or project in their order, but for those of other things than boxes and outlines."""
    for label in root.iterfind("meta/*/labels/label"):
        if label.find("parent") is None and (label.findtext("type") or "").strip() not in _OTHER_LABELS:
            yield place.text(label.findtext("name"), "name").strip()


def _of_split(entry: CatalogEntry, images: list[_Image], split: str) -> list[_Image]:
    if not split:
        return images
    start = entry.annotations if entry.annotations.is_dir() else entry.annotations.parent
    wanted = {split, split_of(Path(split)) or split}
    names = [
        {image.subset, split_of(Path(image.subset or ".")) or split_of(image.place.path.relative_to(start))}
        for image in images
    ]
    chosen = [image for image, own in zip(images, names, strict=True) if wanted & own]
    if not chosen:
        known = sorted({name for own in names for name in own if name})
        raise InvalidValueError(
            f"data set {entry.name!r}: no image of {entry.annotations} is of the split {split!r}; "
            f"{nearest(split, known) if known else 'its images have no subsets'}"
        )
    return chosen


# -------------------------------------------------------------------------------- images and frames
def _images(path: Path, root: Element, findings: Findings) -> Iterator[_Image]:
    for index, element in enumerate(root.iterfind("image")):
        place = Entry(path, f"image {element.get('id', f'number {index + 1}')[:80]}", findings, texts=True)
        name = place.text(element.get("name"), "name")
        number = place.whole(element.get("id", str(index)), "id", 0, ID_RANGE[1])
        size_hw = place.size_hw(element.get("height"), element.get("width"))
        image = _Image([name], number, size_hw, place, element.get("subset", "").strip())
        for position, shape in enumerate(element, 1):
            if shape.tag not in ("tag", "attribute"):
                own = Entry(path, f"{shape.tag[:40]} {position} of {place.name}", findings, texts=True)
                image.shapes.append((own.text(shape.get("label"), "label").strip(), shape, own))
        yield image
    yield from _frames(path, root, findings)


def _frames(path: Path, root: Element, findings: Findings) -> Iterator[_Image]:
    """The frames that have a box of some track, in their order."""
    frames: dict[int, _Image] = {}
    for index, track in enumerate(root.iterfind("track")):
        place = Entry(path, f"track {track.get('id', f'number {index + 1}')[:80]}", findings, texts=True)
        label = place.text(track.get("label"), "label").strip()
        for shape in track:
            number = place.whole(shape.get("frame"), "frame", 0, _MOST_FRAMES)
            own = Entry(path, f"frame {number} of {place.name}", findings, texts=True)
            if number not in frames:
                frames[number] = _frame(number, path, root, findings, track.get("subset", ""))
            if own.flag(shape.get("outside", "0"), "outside"):
                findings.add(OUTSIDE, own.name)
            else:
                frames[number].shapes.append((label, shape, own))
    yield from (frames[number] for number in sorted(frames))


def _frame(number: int, path: Path, root: Element, findings: Findings, subset: str) -> _Image:
    place = Entry(path, f"frame {number}", findings, texts=True)
    size = root.find("meta/*/original_size")
    if size is None:
        size = root.find("meta/original_size")
    size_hw = None if size is None else place.size_hw(size.findtext("height"), size.findtext("width"))
    return _Image([form.format(number) for form in _FRAME_NAMES], number, size_hw, place, subset.strip())


def _frames_without_boxes(
    path: Path, root: Element, images: Sequence[_Image], packer: NamedObjects
) -> Iterator[_Image]:
    """The frames of a video that have an image and no box: background."""
    task = next(iter(root.iterfind("meta/*/start_frame/..")), None)
    if task is None or root.find("track") is None:
        return
    place = Entry(path, "meta", packer.findings, texts=True)
    first, last = (place.whole(task.findtext(key), key, 0, _MOST_FRAMES) for key in ("start_frame", "stop_frame"))
    known = {image.number for image in images if image.place.path == path}
    for name in packer.finder.files:
        found = _FRAME_FILE.fullmatch(Path(name).stem)
        if found and first <= int(found[1]) <= last and int(found[1]) not in known:
            frame = _frame(int(found[1]), path, root, packer.findings, "")
            frame.names = [name]
            yield frame


# -------------------------------------------------------------------------------- shapes
def _add_shapes(packer: NamedObjects, image: _Image) -> None:
    for label, shape, place in image.shapes:
        name = f"{place.name} ({label!r}) of {place.path.name}"
        if shape.tag in _LINES:
            packer.findings.add(NO_BOX, name)
        elif shape.tag not in _READERS:
            packer.findings.add(UNKNOWN_SHAPE, name)
        elif (found := _READERS[shape.tag](shape, place, packer)) is not None:
            packer.add(label, *found, place)


_Found = tuple[Box, Any] | None  # a box and a segmentation; None where there is nothing


def _numbers(shape: Element, place: Entry, *keys: str) -> list[float]:
    return [place.decimal(shape.get(key), key) for key in keys]


def _rotation(shape: Element, place: Entry, packer: NamedObjects) -> float:
    degrees = place.number(shape.get("rotation", "0"), "rotation")
    if shape.tag == "box" and degrees % 180:
        packer.findings.add(TURNED, place.in_file)
    return degrees


def _box(shape: Element, place: Entry, packer: NamedObjects) -> _Found:
    x1, y1, x2, y2 = _numbers(shape, place, "xtl", "ytl", "xbr", "ybr")
    degrees = _rotation(shape, place, packer)
    box = place.corners(x1, y1, x2, y2)
    return (turned_box(box, degrees, ((x1 + x2) / 2, (y1 + y2) / 2)) if degrees % 180 else box), None


def _ellipse(shape: Element, place: Entry, packer: NamedObjects) -> _Found:
    x, y, radius_x, radius_y = _numbers(shape, place, "cx", "cy", "rx", "ry")
    return ellipse_box((x, y), (radius_x, radius_y), _rotation(shape, place, packer)), None


def _polygon(shape: Element, place: Entry, packer: NamedObjects) -> _Found:
    points: list[Point] = []
    for word in (shape.get("points") or "").split(";"):
        x, _, y = word.partition(",")
        points.append((place.number(x, "points"), place.number(y, "points")))
    return packer.outline(points, place)


def _mask(shape: Element, place: Entry, packer: NamedObjects) -> _Found:
    """A mask: run lengths of the rows of a part of the image, the first of them outside."""
    side = max(packer.size_hw)
    left, top = (place.whole(shape.get(key), key, -side, side) for key in ("left", "top"))
    width, height = (place.whole(shape.get(key), key, 1, side) for key in ("width", "height"))
    runs = [place.whole(word.strip(), "rle", 0, MAX_PIXELS) for word in (shape.get("rle") or "").split(",")]
    if sum(runs) != width * height or width * height > MAX_PIXELS:
        raise place.error(
            f"the run lengths of 'rle' sum up to {sum(runs)}, and the mask has {width} x {height} = {width * height} "
            f"pixels (width x height)"
        )
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
    return packer.mask(pixels, left, top, place)


_READERS = {"box": _box, "ellipse": _ellipse, "polygon": _polygon, "mask": _mask}
