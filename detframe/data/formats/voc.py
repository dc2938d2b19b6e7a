"""Pascal VOC: one XML file per image, and lists of image names in ImageSets/Main."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element

from detframe.data.findings import Findings, Kind
from detframe.data.formats.fields import Entry, check_flag, check_names, check_text, size_of_file
from detframe.data.formats.xml_file import read_xml
from detframe.data.metadata import Metadata
from detframe.data.packing import PackedDataset, RecordBuilder
from detframe.errors import InvalidValueError, MissingFileError
from detframe.files import read_text
from detframe.registry import DATASET_FORMATS, nearest

if TYPE_CHECKING:
    from detframe.data.entries import CatalogEntry

CORNERS = ("xmin", "ymin", "xmax", "ymax")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SAME_STEM = Kind(
    "image has the name of another one but for its suffix, and was taken in its place",
    "images have the names of others but for their suffixes, and were taken in their place",
    code="image-of-two-suffixes",
)
_FLAG_COLUMN = re.compile(r"\s+[+-]?[01]$")


@DATASET_FORMATS.register("voc")
def read_voc(
    entry: CatalogEntry,
    *,
    split: str = "",
    classes: Sequence[str] = (),
    one_based: bool = True,
    difficult: str = "ignore",
) -> PackedDataset:
    """Read VOC annotations; the fields are explained in datasets/catalog.yaml.

    An image is the file of the XML's own name in the image folder, whatever the XML says about it. Image ids count the
    XML files of the folder, so that those of two splits differ. A box whose corners coincide is a slip, not one pixel.

    Raises:
        ValueError: malformed XML (with its position), an object without name or corners, a class that `classes` does
            not have, or a bad field of the entry. The message names the file.
        FileNotFoundError: the list of the split, an XML file or an image does not exist.
    """
    if difficult not in ("ignore", "keep"):
        raise InvalidValueError(f"data set {entry.name!r}: difficult must be ignore or keep, not {difficult!r}")
    one_based = check_flag(entry.name, "one_based", one_based)
    split, classes = check_text(entry.name, "split", split), check_names(entry.name, "classes", classes)
    all_stems = sorted(path.stem for path in entry.annotations.glob("*.xml"))
    if not all_stems:
        raise MissingFileError(f"data set {entry.name!r}: no XML file in {entry.annotations}")
    stems = _read_split(entry, split, set(all_stems)) if split else all_stems
    trees = {stem: _root(entry, stem) for stem in (stems if classes else {*all_stems, *stems})}
    names = list(classes) or sorted(
        {_text(o, "name", path) for path, root in trees.values() for o in root.findall("object")}
    )
    findings = Findings()
    builder = RecordBuilder(Metadata(entry.name, tuple(names), tuple(range(1, len(names) + 1))), findings)
    labels = {name: label for label, name in enumerate(names, 1)}
    files = _image_files(entry.images, findings)
    numbers = {stem: number for number, stem in enumerate(all_stems, 1)}
    for stem in stems:
        path, root = trees[stem]
        if stem not in files:
            builder.add_missing(stem)
            continue
        builder.add_image(files[stem], numbers[stem], _size_hw(root, files[stem], path, findings))
        for number, item in enumerate(root.findall("object"), 1):
            place = Entry(path, f"object {number}", findings, texts=True)
            difficulty = place.flag((item.findtext("difficult") or "0"), "difficult")
            ignored = difficult == "ignore" and difficulty
            builder.add_object(_box(item, path, one_based, place), _label(item, labels, path), iscrowd=ignored)
    return builder.build()


def _read_split(entry: CatalogEntry, split: str, known_stems: Collection[str]) -> list[str]:
    path = entry.annotations.parent / "ImageSets" / "Main" / f"{split}.txt"
    if not os.path.isfile(path):  # a method of Path raises for a name that is too long
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise MissingFileError(f"data set {entry.name!r}: the split {path} does not exist; splits there: {known}")
    lines = read_text(path, "the list").split("\n")
    stems = [_listed_stem(line.strip(), known_stems) for line in lines if line.strip()]
    repeated = len(stems) - len(set(stems))
    if repeated:
        raise InvalidValueError(f"{path} names {repeated} images twice")
    return stems


def _listed_stem(line: str, known: Collection[str]) -> str:
    """The image that a line names: alone, or with a second column as lists of a single class have (1, 0 or -1).

    Names may hold spaces, and may end as those of images or XML files do.
    """
    names = (line, _FLAG_COLUMN.sub("", line))
    bare = (name[: -len(Path(name).suffix)] for name in names if Path(name).suffix.lower() in (*IMAGE_SUFFIXES, ".xml"))
    return next((name for name in (*names, *bare) if name in known), names[1])


def _root(entry: CatalogEntry, stem: str) -> tuple[Path, Element]:
    path = entry.annotations / f"{stem}.xml"
    try:
        root = read_xml(path)
    except FileNotFoundError:
        raise MissingFileError(f"data set {entry.name!r}: the split names {stem}, but {path} does not exist") from None
    if root.tag != "annotation" and root.find("object") is None:
        raise InvalidValueError(f"{path} is no VOC annotation: its root is <{root.tag}>, not <annotation>")
    if root.find("object") is None and (found := _box_parent(root)):
        raise InvalidValueError(
            f"{path}: a <bndbox> stands in <{found}>, and boxes are read from each <object> directly in <annotation>; "
            f"write it so, or the image counts as empty"
        )
    return path, root


def _box_parent(root: Element) -> str | None:
    """The element that holds the first box, wherever it is, in whatever letters."""
    return next((item.tag for item in root.iter() if any(child.tag.lower() == "bndbox" for child in item)), None)


def _text(item: Element, key: str, path: Path) -> str:
    text = (item.findtext(key) or "").strip()
    if not text:
        raise InvalidValueError(
            f"{path}: an object has no <{key}>; it has {', '.join(f'<{c.tag}>' for c in item) or 'nothing'}"
        )
    return text


def _label(item: Element, labels: dict[str, int], path: Path) -> int:
    name = _text(item, "name", path)
    if name not in labels:
        raise InvalidValueError(
            f"{path}: the class {name!r} is not in the entry's classes; {nearest(name, list(labels))}"
        )
    return labels[name]


def _box(item: Element, path: Path, one_based: bool, place: Entry) -> tuple[float, ...]:
    corners = item.find("bndbox")
    texts = [corners.findtext(key) if corners is not None else None for key in CORNERS]
    try:
        x1, y1, x2, y2 = (place.number(text, key) for text, key in zip(texts, CORNERS, strict=True))
    except ValueError:
        found = ", ".join(f"{key} {text}" for key, text in zip(CORNERS, texts, strict=True))
        raise InvalidValueError(
            f"{path}: an object {item.findtext('name')!r} has no proper <bndbox>: {found[:200]}"
        ) from None
    if one_based and x2 > x1 and y2 > y1:
        # Corners are numbers of pixels, the first of them 1, and the last still belongs to the box.
        return x1 - 1, y1 - 1, x2, y2
    return x1, y1, x2, y2


def _size_hw(root: Element, image: Path, path: Path, findings: Findings) -> tuple[int, int]:
    """From the XML, or from the image where the XML has none."""
    place = Entry(path, f"the size of {image.name}", findings, texts=True)
    height, width = ((root.findtext(f"size/{side}") or "").strip() or None for side in ("height", "width"))
    return place.size_hw(height, width) or size_of_file(image, place)


def _image_files(folder: Path, findings: Findings) -> dict[str, Path]:
    """The images of a folder by their names without suffix."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            if path.stem in files:
                findings.add(SAME_STEM, f"{path.name} for {files[path.stem].name}")
            files[path.stem] = path
    return files
