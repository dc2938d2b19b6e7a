"""The XML files of Pascal VOC's form: their objects, boxes and sizes."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from detframe.data.findings import Findings
from detframe.data.formats.fields import Entry
from detframe.data.formats.xml_file import read_xml
from detframe.errors import InvalidValueError

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_START = 4096  # bytes that tell whether a file is of this form


def is_voc(path: Path) -> bool:
    """Whether a file begins as an annotation of one image does."""
    try:
        with open(path, "rb") as file:
            start = file.read(_START).replace(b"\0", b"")  # of UTF-16, every other byte
    except OSError:  # whoever reads it says why
        return False
    return b"<annotation>" in start or b"<annotation " in start


def read_annotation(path: Path) -> Element:
    """The root of an annotation.

    Raises:
        ValueError: malformed XML, another root, or boxes in elements that are not read.
        FileNotFoundError: there is no such file.
    """
    root = read_xml(path)
    if root.tag != "annotation" and root.find("object") is None:
        raise InvalidValueError(f"{path} is no VOC annotation: its root is <{root.tag}>, not <annotation>")
    if root.find("object") is None and (found := _box_parent(root)):
        raise InvalidValueError(
            f"{path}: a <bndbox> stands in <{found}>, and boxes are read from each <object> directly in <annotation>; "
            f"write it so, or the image counts as empty"
        )
    return root


def _box_parent(root: Element) -> str | None:
    """The element that holds the first box, wherever it is, in whatever letters."""
    return next((item.tag for item in root.iter() if any(child.tag.lower() == "bndbox" for child in item)), None)


@dataclass(frozen=True, slots=True)
class VocObject:
    """One <object>: its class, box (x1, y1, x2, y2) and whether it is marked as difficult."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True, slots=True)
class Annotation:
    """What an XML file says of its image, without the tree, which would take a hundred times the memory.

    Attributes:
        named: the image by its <filename>, or else its <path>; "" where it has neither.
        sides: the texts of height and width, None where there are none.
    """

    path: Path
    named: str
    sides: tuple[str | None, str | None]
    objects: tuple[VocObject, ...]


def annotation_of(root: Element, path: Path, one_based: bool, findings: Findings) -> Annotation:
    """The objects of an annotation, and what it says of its image.

    Raises:
        ValueError: an object without name or corners, or a flag that is none.
    """
    objects = []
    for number, item in enumerate(root.findall("object"), 1):
        place = Entry(path, f"object {number}", findings, texts=True)
        flag = item.findtext("difficult") or "0"
        difficult = flag != "0" and place.flag(flag, "difficult")
        objects.append(VocObject(class_name(item, path), _box(item, path, one_based, place), difficult))
    height, width = ((root.findtext(f"size/{side}") or "").strip() or None for side in ("height", "width"))
    return Annotation(path, named_image(root), (height, width), tuple(objects))


def class_names(root: Element, path: Path) -> set[str]:
    """The classes of all objects."""
    return {class_name(item, path) for item in root.findall("object")}


def class_name(item: Element, path: Path) -> str:
    """The <name> of an object."""
    text = (item.findtext("name") or "").strip()
    if not text:
        raise InvalidValueError(
            f"{path}: an object has no <name>; it has {', '.join(f'<{c.tag}>' for c in item) or 'nothing'}"
        )
    return sys.intern(text)


def _box(item: Element, path: Path, one_based: bool, place: Entry) -> tuple[float, float, float, float]:
    """The box of an object; one whose corners coincide is a slip, not one pixel."""
    corners = item.find("bndbox")
    texts = [corners.findtext(key) if corners is not None else None for key in CORNERS]
    try:
        x1, y1, x2, y2 = (_number(text, key, place) for text, key in zip(texts, CORNERS, strict=True))
    except ValueError:
        found = ", ".join(f"{key} {text}" for key, text in zip(CORNERS, texts, strict=True))
        raise InvalidValueError(
            f"{path}: an object {item.findtext('name')!r} has no proper <bndbox>: {found[:200]}"
        ) from None
    if one_based and x2 > x1 and y2 > y1:
        # Corners are numbers of pixels, the first of them 1, and the last still belongs to the box.
        return x1 - 1, y1 - 1, x2, y2
    return x1, y1, x2, y2


def _number(text: str | None, key: str, place: Entry) -> float:
    if text is not None and len(text) < 10 and text.isascii() and text.isdigit():  # most are, and there are millions
        return float(text)
    return place.number(text, key)


def named_image(root: Element) -> str:
    """The name of the image by its <filename>, or else its <path>; "" where it has neither."""
    return (root.findtext("filename") or "").strip() or (root.findtext("path") or "").strip()
