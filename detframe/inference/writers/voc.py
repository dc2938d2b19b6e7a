"""Pascal VOC: Annotations/NAME.xml for each image, as labelImg writes it, with the lists that CVAT wants beside it."""

from __future__ import annotations

import os
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from detframe.arrays.results import ImageResult
from detframe.files import GrowingFile
from detframe.inference.writers.base import Box, Found, Picture, Writer, save, stem_of, without_controls


class VocWriter(Writer):
    """Boxes alone, in whole pixels that are counted from 1 on; the last one belongs to the box.

    A box therefore comes back rounded to the nearest sides of pixels: no side moves by more than half a pixel, but
    that of a box that would have no pixel left.
    """

    @staticmethod
    def key(name: str) -> str:
        """The XML file of an image."""
        return f"Annotations/{stem_of(name)}.xml"

    def _begin(self) -> None:
        path = self.folder / "ImageSets" / "Main" / "default.txt"
        self._list = self._stack.enter_context(GrowingFile(path))

    def _add(self, picture: Picture, result: ImageResult) -> None:
        folder, _, file = picture.name.rpartition("/")
        path = picture.source if self._is_remote(picture) else os.path.abspath(self._path(picture))
        root = Element("annotation")
        _add(root, "folder", folder)
        _add(root, "filename", file)
        _add(root, "path", path)
        _add(SubElement(root, "source"), "database", "Unknown")
        size = SubElement(root, "size")
        for side, value in (("width", picture.size_hw[1]), ("height", picture.size_hw[0]), ("depth", 3)):
            _add(size, side, value)
        _add(root, "segmented", 0)
        for one in self._found(result):
            _add_object(root, one, picture.size_hw)
        ElementTree.indent(root, "\t")
        save(self.folder / self.key(picture.name), ElementTree.tostring(root, encoding="unicode") + "\n")
        self._list.write(f"{without_controls(stem_of(picture.name))}\n")

    def _finish(self) -> None:
        rows = [f"{name}:::\n" for name in self.classes.names]
        save(self.folder / "labelmap.txt", "".join(["# label:color_rgb:parts:actions\n", *rows]))


def _add(parent: Element, tag: str, value: object) -> None:
    """An element with a text; what XML cannot hold becomes a question mark."""
    SubElement(parent, tag).text = without_controls(str(value))


def _add_object(root: Element, found: Found, size_hw: tuple[int, int]) -> None:
    item = SubElement(root, "object")
    rows = (("name", found.name), ("pose", "Unspecified"), ("truncated", 0), ("difficult", 0))
    for tag, value in (*rows, ("confidence", f"{found.score:.6f}")):
        _add(item, tag, value)
    box = SubElement(item, "bndbox")
    for tag, number in zip(("xmin", "ymin", "xmax", "ymax"), _pixels(found.box, size_hw), strict=True):
        _add(box, tag, number)


def _pixels(box: Box, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """The numbers of the first and the last column and row."""
    (x1, x2), (y1, y2) = (_span(box[axis], box[axis + 2], size_hw[1 - axis]) for axis in (0, 1))
    return x1, y1, x2, y2


def _span(start: float, end: float, limit: int) -> tuple[int, int]:
    """Readers take a box whose corners coincide for a slip: there are two pixels at least, where the image has them."""
    first = min(max(round(start), 0), max(limit - 2, 0))
    return first + 1, min(max(round(end), first + 2), limit)
