"""The files of Pascal VOC's form: XML with objects, boxes and sizes, and the lists beside them."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from detframe.data.findings import Findings
from detframe.data.formats.fields import Entry
from detframe.data.formats.json_and_xml import read_xml
from detframe.data.listing import IMAGE_SUFFIXES
from detframe.errors import InvalidValueError
from detframe.files import read_text

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
    x1, y1, x2, y2 = place.corners(x1, y1, x2, y2)
    if one_based and x2 > x1 and y2 > y1:
        # Corners are numbers of pixels, the first of them 1, and the last still belongs to the box.
        return x1 - 1, y1 - 1, x2, y2
    return x1, y1, x2, y2


def _number(text: str | None, key: str, place: Entry) -> float:
    if text is not None and len(text) < 10 and text.isascii() and text.isdigit():  # most are, and there are millions
        return float(text)
    return place.decimal(text, key)


def named_image(root: Element) -> str:
    """The name of the image by its <filename>, or else its <path>; "" where it has neither."""
    return (root.findtext("filename") or "").strip() or (root.findtext("path") or "").strip()


# ------------------------------------------------------------------ lists of images and of classes
_FLAG_COLUMN = re.compile(r"\s+[+-]?[01]$")
_QUOTED = re.compile(r'"([^"]*)"')
_LABELMAP = re.compile(r"([^:]+):[\d, ]*:[^:]*:[^:]*")


def list_path(annotations: Path, name: str) -> Path:
    """Where a list of images of VOC's own layout lies."""
    return annotations.parent / "ImageSets" / "Main" / f"{name}.txt"


def lists_beside(annotations: Path) -> dict[str, Path]:
    """The lists of images of VOC's own layout, by their names."""
    return {path.stem: path for path in sorted(list_path(annotations, "").parent.glob("*.txt"))}


def listed_keys(path: Path, known: Collection[str]) -> list[str]:
    """The images that a list names, as the paths of their XML files among `known`, without suffix."""
    lines = read_text(path, "the list").split("\n")
    return [_listed_key(line.strip(), known) for line in lines if line.strip()]


def _listed_key(line: str, known: Collection[str]) -> str:
    """The image that a line names: alone, or with a second column as lists of a single class have (1, 0 or -1).

    Names may hold spaces (CVAT writes those in quotes), and may end as those of images or XML files do.
    """
    quoted = _QUOTED.match(line)
    names = (quoted[1], quoted[1]) if quoted else (line, _FLAG_COLUMN.sub("", line))
    bare = (name[: -len(Path(name).suffix)] for name in names if Path(name).suffix.lower() in (*IMAGE_SUFFIXES, ".xml"))
    return next((name for name in (*names, *bare) if name in known), names[1])


def read_labelmap(text: str, path: Path) -> list[str]:
    """The classes of a list of names, one a line, or of CVAT's labelmap.txt (name:color:parts:actions), in its order.

    Raises:
        ValueError: no name, or one twice.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    names = [match[1].strip() if (match := _LABELMAP.fullmatch(line)) else line for line in lines]
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if not names or twice is not None:
        raise InvalidValueError(
            f"{path} must name each class in a line of its own, once; {twice or 'no class'} does not"
        )
    return names
