"""Pascal VOC: one XML file per image, and lists of image names in ImageSets/Main."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from detframe.data.images import image_size
from detframe.data.metadata import Metadata
from detframe.data.packing import PackedDataset, RecordBuilder
from detframe.errors import InvalidValueError, MissingFileError
from detframe.registry import DATASET_FORMATS, nearest

if TYPE_CHECKING:
    from detframe.data.entries import CatalogEntry

CORNERS = ("xmin", "ymin", "xmax", "ymax")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


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
    all_stems = sorted(path.stem for path in entry.annotations.glob("*.xml"))
    if not all_stems:
        raise MissingFileError(f"data set {entry.name!r}: no XML file in {entry.annotations}")
    stems = _read_split(entry, split) if split else all_stems
    trees = {stem: _read_xml(entry, stem) for stem in (stems if classes else {*all_stems, *stems})}
    names = list(classes) or sorted(
        {_text(o, "name", path) for path, root in trees.values() for o in root.findall("object")}
    )
    builder = RecordBuilder(Metadata(entry.name, tuple(names), tuple(range(1, len(names) + 1))))
    labels = {name: label for label, name in enumerate(names, 1)}
    files = _image_files(entry.images)
    numbers = {stem: number for number, stem in enumerate(all_stems, 1)}
    for stem in stems:
        path, root = trees[stem]
        if stem not in files:
            raise MissingFileError(
                f"data set {entry.name!r}: no image called {stem} in {entry.images}, but there is {path}"
            )
        builder.add_image(files[stem], numbers[stem], _size_hw(root, files[stem]))
        for item in root.findall("object"):
            ignored = difficult == "ignore" and item.findtext("difficult", "0").strip() == "1"
            builder.add_object(_box(item, path, one_based), _label(item, labels, path), iscrowd=ignored)
    return builder.build()


def _read_split(entry: CatalogEntry, split: str) -> list[str]:
    path = entry.annotations.parent / "ImageSets" / "Main" / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise MissingFileError(f"data set {entry.name!r}: the split {path} does not exist; splits there: {known}")
    # Lists of a single class have a second column, 1 or -1
    stems = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    repeated = len(stems) - len(set(stems))
    if repeated:
        raise InvalidValueError(f"{path} names {repeated} images twice")
    return stems


def _read_xml(entry: CatalogEntry, stem: str) -> tuple[Path, Element]:
    path = entry.annotations / f"{stem}.xml"
    try:
        return path, ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        line, column = error.position
        raise InvalidValueError(f"malformed XML in {path}, line {line}, column {column + 1}: {error}") from None
    except FileNotFoundError:
        raise MissingFileError(f"data set {entry.name!r}: the split names {stem}, but {path} does not exist") from None


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


def _box(item: Element, path: Path, one_based: bool) -> tuple[float, ...]:
    corners = item.find("bndbox")
    texts = [corners.findtext(key) if corners is not None else None for key in CORNERS]
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts)
    except ValueError:
        found = ", ".join(f"{key} {text}" for key, text in zip(CORNERS, texts, strict=True))
        raise InvalidValueError(
            f"{path}: an object {item.findtext('name')!r} has no proper <bndbox>: {found}"
        ) from None
    if one_based and x2 > x1 and y2 > y1:
        # Corners are numbers of pixels, the first of them 1, and the last still belongs to the box.
        return x1 - 1, y1 - 1, x2, y2
    return x1, y1, x2, y2


def _size_hw(root: Any, image: Path) -> tuple[int, int]:
    """From the XML, or from the image where the XML has none."""
    texts = (root.findtext("size/height", "0"), root.findtext("size/width", "0"))
    height, width = (int(text) if text.strip().isdigit() else 0 for text in texts)
    return (height, width) if height and width else image_size(image)


def _image_files(folder: Path) -> dict[str, Path]:
    """The images of a folder by their names without suffix."""
    files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES)
    return {path.stem: path for path in files}
