"""VOC: every element of an XML file, its bytes, and the lists of image names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import cv2

from detframe.data import CatalogEntry
from tests.data.sets import pixels
from tests.malformed.contract import Case, check_apart
from tests.malformed.mutations import DEPTH, byte_changes, clear, lines_changed, no_files, text_changes
from tests.malformed.records import facts, judge_records, read_entry

XML = """<annotation>
 <folder>VOC</folder>
 <filename>a.png</filename>
 <size><width>60</width><height>40</height><depth>3</depth></size>
 <object>
  <name>cat</name><pose>Left</pose><difficult>0</difficult>
  <bndbox><xmin>11</xmin><ymin>5</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>
 </object>
 <object>
  <name>dog</name><difficult>1</difficult>
  <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>40</ymax></bndbox>
 </object>
</annotation>
"""
TEXTS = {
    "nothing": "",
    "spaces": "  \n ",
    "text": "some text",
    "word": "cat",
    "minus one": "-1",
    "zero": "0",
    "half": "0.5",
    "whole float": "40.0",
    "number with spaces": " 12 ",
    "thousand": "1000",
    "2**31": str(2**31),
    "2**64": str(2**64),
    "5000 digits": "9" * 5000,
    "nan": "nan",
    "inf": "inf",
    "1e308": "1e308",
    "1e999": "1e999",
    "underscores": "1_1",
    "other digits": "\u0661\u0662",
    "superscript": "\u00b2",
    "comma": "12,5",
    "hexadecimal": "0x10",
    "true": "true",
    "long text": "long " * 40_000,
}
ABSENT = ("removed", "renamed", "emptied", "in another element")
NUMBERS = (
    *("underscores", "other digits", "minus one", "zero", "half", "whole float", "number with spaces", "thousand"),
    *("2**31", "2**64", "1e308", "comma"),  # a comma may be a decimal point
)
# Places whose text means nothing here
FREE = ("folder", "filename", "size/depth", "object/pose")
BOMB = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
DOCUMENTS = {
    "entities of entities": f'<!DOCTYPE x [<!ENTITY e0 "lol">{BOMB}]><annotation>&e9;</annotation>',
    "a long entity often": f'<!DOCTYPE x [<!ENTITY e "{"a" * 50_000}">]><annotation>{"&e;" * 50_000}</annotation>',
    "a file as an entity": '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>',
    "an unknown entity": "<annotation>&nothing;</annotation>",
    "an unknown encoding": '<?xml version="1.0" encoding="klingon"?><annotation/>',
    "another encoding than declared": '<?xml version="1.0" encoding="utf-16"?><annotation/>',
    "another root": "<html><body/></html>",
    "an attribute": '<annotation verified="yes"/>',
    "a name space": '<annotation xmlns="http://example.com/voc"><object/></annotation>',
    "elements in elements": "<a>" * DEPTH + "</a>" * DEPTH,
    "an object without end": XML.replace("</object>", "", 1),
    "a comment": XML.replace("<object>", "<!-- <object> --><object>", 1),
    "character data": XML.replace("cat", "<![CDATA[cat]]>"),
    "a character that XML forbids": XML.replace("cat", "c&#0;t"),
    "an escape sequence": XML.replace("cat", "c\x1b[31mt"),
}


def elements(root: Element, at: str = "") -> Iterator[tuple[str, Element, Element]]:
    """(place, parent, element) of everything below the root."""
    for child in root:
        place = f"{at}/{child.tag}".strip("/")
        yield place, root, child
        yield from elements(child, place)


def documents() -> Iterator[tuple[str, bool, str]]:
    """(name, whether it may change the result without a word, XML) of every mutation of one element."""
    for number, (place, _, _) in enumerate(elements(ElementTree.fromstring(XML))):
        changes: dict[str, Callable[[Element, Element], object]] = {
            "removed": lambda parent, child: parent.remove(child),
            "twice": lambda parent, child: parent.append(copy.deepcopy(child)),
            "renamed": lambda _, child: setattr(child, "tag", child.tag + "_"),
            "emptied": lambda _, child: child.clear(),
            "in another element": _wrap,
            **{f"={name}": (lambda _, child, text=text: setattr(child, "text", text)) for name, text in TEXTS.items()},
        }  # fmt: skip
        for name, change in changes.items():
            root = ElementTree.fromstring(XML)
            _, parent, child = list(elements(root))[number]
            change(parent, child)
            yield f"{number} {place} {name}", _may_change(place, name), ElementTree.tostring(root, encoding="unicode")


def _wrap(parent: Element, child: Element) -> None:
    parent.remove(child)
    ElementTree.SubElement(parent, "x").append(child)


def _may_change(place: str, name: str) -> bool:
    """Whether the element may be absent, or the value may stand there."""
    if place in FREE or place.startswith("size"):
        return True
    if place == "object":
        return name in ("removed", "renamed", "in another element", "twice")
    if place == "object/difficult":
        return name in (*ABSENT, "=nothing", "=spaces", "=zero", "=true")
    if place == "object/name":
        return name[1:] in TEXTS
    return name[1:] in NUMBERS


def cases(folder: Path) -> Iterator[Case]:
    xml, names = folder / "Annotations" / "a.xml", folder / "ImageSets" / "Main" / "train.txt"
    for sub in (folder / "JPEGImages", xml.parent, names.parent):
        sub.mkdir(parents=True)
    for stem in ("a", "b"):
        cv2.imwrite(str(folder / "JPEGImages" / f"{stem}.png"), pixels(40, 60))
        (xml.parent / f"{stem}.xml").write_text(XML)
    sound = "a\nb\n"
    names.write_text(sound)
    entry = CatalogEntry("mine", "voc", folder / "JPEGImages", xml.parent, {"split": "train"}, folder / "catalog.yaml")
    usual = facts(read_entry(entry)[0])

    def read(path: Path, place: Callable[[], object], may_change: bool) -> str:
        for file, text in ((xml, XML), (names, sound)):
            clear(file)
            file.write_text(text)
        clear(path)
        place()
        return judge_records(entry, usual, may_change)

    def written(path: Path, content: bytes, may_change: bool) -> Callable[[], str]:
        return lambda: read(path, lambda: path.write_bytes(content), may_change)

    for what, may_change, document in documents():
        yield Case(what, written(xml, document.encode(), may_change), ("a.xml", "a.png"))
    for what, document in DOCUMENTS.items():
        yield Case(what, written(xml, document.encode(), True), ("a.xml",))
    for what, content in [*byte_changes(XML.encode()), *text_changes(XML)]:
        yield Case(f"XML {what}", written(xml, content, True), ("a.xml", "a.png"))
    for what, place in no_files(xml, endless=True):
        yield Case(f"XML {what}", lambda p=place: read(xml, p, False), ("a.xml",))
    lists = {
        "windows paths": b"C:\\a\n",
        "climbing": b"../../a\n",
        "very long": b"a" * 100_000,
        "many": b"a\n" * 50_000,
    }
    changes = [*byte_changes(sound.encode()), *text_changes(sound), *lines_changed(sound), *lists.items()]
    for what, content in changes:
        yield Case(f"list {what}", written(names, content, True), ("train.txt", "Annotations/", "mine"))
    for what, place in no_files(names, endless=True):
        yield Case(f"list {what}", lambda p=place: read(names, p, False), ("train.txt",))


def test_every_case_is_read_repaired_or_refused(tmp_path: Path):
    check_apart("voc", tmp_path, at_least=800)
