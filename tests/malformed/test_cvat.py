"""CVAT's XML: every attribute and element of a file, and its bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import cv2

from detframe.data import CatalogEntry
from tests.data.sets import pixels
from tests.malformed.contract import Case, check_apart
from tests.malformed.mutations import byte_changes, clear, no_files, text_changes
from tests.malformed.records import facts, judge_records, read_entry
from tests.malformed.test_voc import DOCUMENTS, TEXTS

XML = """<annotations><version>1.1</version>
<meta><task><start_frame>0</start_frame><stop_frame>1</stop_frame>
<labels><label><name>dog</name></label><label><name>cat</name><type>any</type></label></labels>
<original_size><width>60</width><height>40</height></original_size></task></meta>
<image id="5" name="a.png" width="60" height="40" subset="Train">
 <box label="cat" xtl="5" ytl="6" xbr="20" ybr="21" rotation="10" occluded="0"/>
 <polygon label="dog" points="5,6;20,6;20,21"/>
 <ellipse label="dog" cx="30" cy="20" rx="9" ry="4" rotation="5"/>
 <mask label="cat" rle="1, 2, 1, 2, 2" left="10" top="20" width="4" height="2"/>
</image>
<track id="1" label="cat">
 <box frame="0" outside="0" xtl="5" ytl="6" xbr="20" ybr="21"/>
 <box frame="1" outside="1" xtl="5" ytl="6" xbr="20" ybr="21"/>
</track>
</annotations>
"""
FEW = (
    *("nothing", "word", "minus one", "half", "number with spaces", "2**31", "2**64", "5000 digits", "nan", "1e308"),
    *("superscript", "comma", "long text"),
)
CHANGES: dict[str, Callable[[Element, Element], object]] = {
    "removed": lambda parent, child: parent.remove(child),
    "twice": lambda parent, child: parent.append(copy.deepcopy(child)),
    "renamed": lambda _, child: setattr(child, "tag", child.tag + "_"),
    "emptied": lambda _, child: child.clear(),
}


def documents() -> Iterator[tuple[str, str]]:
    """(name, XML) of every mutation of one element or attribute."""
    count = sum(1 for _ in ElementTree.fromstring(XML).iter())
    for number in range(1, count):
        for what, change in CHANGES.items():
            root, parent, child = _at(number)
            change(parent, child)
            yield f"{number} {child.tag} {what}", ElementTree.tostring(root, encoding="unicode")
        attributes = _at(number)[2].attrib
        texts = {"absent": None, **{what: TEXTS[what] for what in FEW}}
        for key, (what, text) in product((*attributes, "text"), texts.items()):
            root, _, child = _at(number)
            if key == "text":
                child.text = text
            elif text is None:
                del child.attrib[key]
            else:
                child.set(key, text)
            yield f"{number} {child.tag} {key}={what}", ElementTree.tostring(root, encoding="unicode")


def _at(number: int) -> tuple[Element, Element, Element]:
    """The root, and an element with its parent."""
    root = ElementTree.fromstring(XML)
    pairs = [(parent, child) for parent in root.iter() for child in parent]
    order = list(root.iter())
    child = order[number]
    return root, next(parent for parent, other in pairs if other is child), child


def cases(folder: Path) -> Iterator[Case]:
    path = folder / "annotations.xml"
    for image in ("a.png", "frame_000000.png", "frame_000001.png"):
        cv2.imwrite(str(folder / image), pixels(40, 60))
    path.write_text(XML)
    entry = CatalogEntry("mine", "cvat", folder, path, {}, folder / "catalog.yaml")
    usual = facts(read_entry(entry)[0])

    def read(place: Callable[[], object], may_change: bool) -> str:
        clear(path)
        place()
        return judge_records(entry, usual, may_change)

    def written(content: bytes) -> Callable[[], str]:
        return lambda: read(lambda: path.write_bytes(content), True)

    for what, document in [*documents(), *DOCUMENTS.items()]:
        yield Case(what, written(document.encode()), ("annotations.xml", ".png"))
    for what, content in [*byte_changes(XML.encode()), *text_changes(XML)]:
        yield Case(what, written(content), ("annotations.xml", ".png"))
    for what, place in no_files(path, endless=True):
        yield Case(what, lambda p=place: read(p, False), ("annotations.xml",))


def test_every_case_is_read_repaired_or_refused(tmp_path: Path):
    check_apart("cvat", tmp_path, at_least=700)
