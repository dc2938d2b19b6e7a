"""Annotation files that are no such files, or were made to do harm: one sentence that names them, at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from detframe.data import load_records
from detframe.data.formats.json_and_xml import read_json, read_xml
from detframe.errors import UserError
from tests.data.sets import pixels, voc_object, write_catalog, write_coco, write_voc
from tests.data.tt100k_sets import TYPES, sign, write_annotations

XML = "<annotation><object><name>{}</name></object></annotation>"
JSON_FILES = {
    "deep lists": (b"[" * 100_000 + b"]" * 100_000, "thousands deep in one another"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "thousands deep in one another"),
    "a number of 5000 digits": (b'{"a":\n' + b"9" * 5000 + b"}", "line 2: a number of thousands of digits"),
    "a key twice": (b'{"images": [], "images": [1]}', "an object has the key 'images' twice; it begins with"),
    "cut off": (b'{"images": [1, 2', "line 1, column 17"),
    "empty": (b"", "is empty; a JSON file was expected"),
    "blank": (b" \n\n", "is empty; a JSON file was expected"),
    "zeros": (b"\0" * 64, "line 1, column 1"),
    "Latin-1": ('{\n"name": "Größe"}'.encode("latin-1"), "is not UTF-8 text: line 2 holds the byte 0xf6"),
    "a picture": (b"\x89PNG\r\n\x1a\n\xff\xfe", "is not UTF-8 text: line 1 holds the byte 0x89"),
}


@pytest.mark.parametrize("case", JSON_FILES)
def test_json_that_cannot_be_read(tmp_path: Path, case: str) -> None:
    content, match = JSON_FILES[case]
    catalog = write_coco(tmp_path, [])
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"data\.json.*{match}"):
        load_records(["mine"], str(catalog))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_in_any_unicode(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_bytes('{"name": "Größe 图"}'.encode(encoding))
    assert read_json(tmp_path / "a.json") == {"name": "Größe 图"}


@pytest.mark.parametrize("value", [[], 5, None, "text", {"images": 1}, {}, {"images": {}, "categories": []}])
def test_json_of_something_else(tmp_path: Path, value: Any) -> None:
    catalog = write_coco(tmp_path, [])
    (tmp_path / "data.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=r"data\.json is not a COCO data set: it needs a list 'images'; found"):
        load_records(["mine"], str(catalog))


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    catalog = write_coco(tmp_path, [])
    (tmp_path / "data.json").unlink()
    if kind == "pipe":
        os.mkfifo(tmp_path / "data.json")
    else:
        (tmp_path / "data.json").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"data\.json are neither a file nor a folder, but a pipe or a device"):
        load_records(["mine"], str(catalog))
    with pytest.raises(UserError, match=r"data\.json is no file with content, but a pipe or a device"):
        read_json(tmp_path / "data.json")


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    catalog = write_coco(tmp_path, [])
    (tmp_path / "data.json").unlink()
    (tmp_path / "data.json").mkdir()
    with pytest.raises(UserError, match=r"data\.json is a folder; a file was expected"):
        load_records(["mine"], str(catalog))
    catalog.unlink()
    os.mkfifo(catalog)
    with pytest.raises((UserError, FileNotFoundError), match=r"catalog\.yaml"):
        load_records(["mine"], str(catalog))


def test_a_pipe_among_xml_files(tmp_path: Path) -> None:
    catalog = write_voc(tmp_path, {"a": voc_object("cat", (1, 1, 9, 9))})
    os.mkfifo(tmp_path / "Annotations/b.xml")
    with pytest.raises(UserError, match=r"b\.xml is no file with content"):
        load_records(["mine"], str(catalog))


# ---------------------------------------------------------------------- XML
@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("gbk", "图"),
        ("iso-8859-1", "Größe"),
        ("windows-1252", "€"),
        ("shift_jis", "図"),
        ("utf-16", "图"),
        ("utf-8", "图"),
        ("UTF-8", "图"),
        ("koi8-r", "знак"),
    ],
)
def test_xml_is_read_in_the_encoding_that_it_declares(tmp_path: Path, encoding: str, name: str) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes((f"<?xml version='1.0' encoding='{encoding}'?>" + XML.format(name)).encode(encoding))
    assert read_xml(path).findtext("object/name") == name


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_xml_that_declares_nothing(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(XML.format("图").encode(encoding))
    assert read_xml(path).findtext("object/name") == "图"


def test_xml_that_says_utf_16_and_is_not(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<?xml version='1.0' encoding='utf-16'?>" + XML.format("图"), encoding="utf-8")
    assert read_xml(tmp_path / "a.xml").findtext("object/name") == "图"


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
XML_FILES = {
    "entities of entities": (
        f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><annotation>&l9;</annotation>',
        "defines entities",
    ),
    "an entity of another file": (
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
        "defines entities",
    ),
    "another file's entities": ('<!DOCTYPE a SYSTEM "/etc/passwd">\n<annotation>&x;</annotation>', "line 2"),
    "empty": ("", "line 1, column 1: no element"),
    "cut off": ("<annotation>\n<object>", "line 2"),
    "another root": ("<svg><path/></svg>", "is no VOC annotation: its root is <svg>, not <annotation>"),
    "no encoding": (
        "<?xml version='1.0' encoding='nonsense'?><annotation/>",
        "'nonsense', which is no encoding of text",
    ),
    "an encoding of bytes": (
        "<?xml version='1.0' encoding='zlib'?><annotation/>",
        "'zlib', which is no encoding of text",
    ),
    "text": ("xmin 1", "line 1, column 1"),
}


@pytest.mark.parametrize("case", XML_FILES)
def test_xml_that_cannot_be_read(tmp_path: Path, case: str) -> None:
    content, match = XML_FILES[case]
    catalog = write_voc(tmp_path, {"a": ""})
    (tmp_path / "Annotations/a.xml").write_text(content)
    with pytest.raises(UserError, match=rf"a\.xml.*{match}"):
        load_records(["mine"], str(catalog))


def test_xml_in_another_encoding_than_it_says(tmp_path: Path) -> None:
    catalog = write_voc(tmp_path, {"a": ""})
    path = tmp_path / "Annotations/a.xml"
    path.write_bytes(b"<annotation>\n<name>\xe4</name></annotation>")
    with pytest.raises(UserError, match=r"a\.xml is not UTF-8 text: line 2 holds the byte 0xe4; save it as UTF-8"):
        load_records(["mine"], str(catalog))
    path.write_bytes(b"<?xml version='1.0' encoding='ascii'?>\n<annotation>\xe4</annotation>")
    with pytest.raises(UserError, match=r"a\.xml is not ascii text: line 2 holds the byte 0xe4"):
        load_records(["mine"], str(catalog))


# ---------------------------------------------------------------------- VOC: fields and lists
def voc(folder: Path, xml: str = "", size: str = "<width>60</width><height>40</height>", **entry: Any) -> Any:
    """The records of one VOC image."""
    catalog = write_voc(folder, {"a": xml}, size)
    fields = yaml.safe_load(catalog.read_text())["mine"]
    return load_records(["mine"], str(write_catalog(folder, {"mine": {**fields, **entry}})))


@pytest.mark.parametrize("size", ["<width>60.0</width><height> 40 </height>", "<width>-1</width>", "<width/><height/>"])
def test_voc_sizes(tmp_path: Path, size: str) -> None:
    assert voc(tmp_path, size=size)[0]["size_hw"] == (40, 60)


@pytest.mark.parametrize(
    "size",
    [
        "<width>wide</width><height>40</height>",
        "<width>²</width><height>40</height>",
        f"<width>{'9' * 5000}</width><height>40</height>",
    ],
)
def test_voc_sizes_that_are_none(tmp_path: Path, size: str) -> None:
    with pytest.raises(UserError, match=r"a\.xml: the size of a\.jpg: 'width' must be a whole number"):
        voc(tmp_path, size=size)


@pytest.mark.parametrize(
    ("text", "crowd"), [("0", False), ("1", True), (" true ", True), ("", False), ("False", False)]
)
def test_voc_flags(tmp_path: Path, text: str, crowd: bool) -> None:
    xml = voc_object("cat", (1, 1, 9, 9)).replace("<difficult>0<", f"<difficult>{text}<")
    assert voc(tmp_path, xml)[0]["iscrowd"].tolist() == [crowd]


def test_voc_fields_that_are_none(tmp_path: Path) -> None:
    xml = voc_object("cat", (1, 1, 9, 9))
    with pytest.raises(UserError, match=r"a\.xml: object 1: 'difficult' must be 0 or 1, not 'hard'"):
        voc(tmp_path / "1", xml.replace("<difficult>0<", "<difficult>hard<"))
    for text in ("nan", "1_0", "9" * 5000, "one"):
        with pytest.raises(UserError, match=r"a\.xml: an object 'cat' has no proper <bndbox>: xmin"):
            voc(tmp_path / "2", xml.replace("<xmin>1<", f"<xmin>{text}<"))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"classes": "cat"}, "classes must be a list of names, not 'cat'"),
        ({"classes": [["cat"], "cat"]}, r"classes must be a list of names, and has \['cat'\]"),
        ({"classes": ["cat", "cat"]}, "classes must name each class once"),
        ({"one_based": "false"}, "one_based must be true or false, not 'false'"),
        ({"split": ["train"]}, r"split must be a name, not \['train'\]"),
        ({"images": [5]}, "images of entry 'mine' of .* must be a name or a path"),
        ({"format": ["voc"]}, r"format of entry 'mine' of .* must be a name or a path"),
    ],
)
def test_fields_of_the_entry(tmp_path: Path, fields: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        voc(tmp_path, voc_object("cat", (1, 1, 9, 9)), **fields)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("img 1\nimg 2\n", ["img 1", "img 2"]),
        ("img\r\nimg 1\r\n", ["img", "img 1"]),
        ("img -1\nimg 1 1\nimg 2  0\n", ["img", "img 1", "img 2"]),
        ("img\t-1\nimg 1\t 1\n", ["img", "img 1"]),
        ("img.jpg\nimg 1.JPG\nimg 2.xml\n", ["img", "img 1", "img 2"]),
        ("img.jpg -1\n\n  img 2.jpg 1  \n", ["img", "img 2"]),
        ("a.b\n", ["a.b"]),
        ("\ufeffimg\n", ["img"]),
    ],
)
def test_lists_of_images(tmp_path: Path, text: str, expected: list[str]) -> None:
    catalog = write_voc(tmp_path, dict.fromkeys(["img", "img 1", "img 2", "a.b"], ""))
    (tmp_path / "ImageSets/Main/all.txt").write_text(text, newline="")
    assert [Path(r["file_name"]).stem for r in load_records(["mine"], str(catalog))] == expected


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    catalog = write_voc(tmp_path, {"a": ""})
    path = tmp_path / "ImageSets/Main/all.txt"
    path.write_bytes("a\ngröße\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"the list .*all\.txt is not UTF-8 text: line 2 holds the byte 0xf6"):
        load_records(["mine"], str(catalog))
    path.write_text("a\na b c\n")
    with pytest.raises(FileNotFoundError, match=r"the split names a b c, but .*a b c\.xml does not exist"):
        load_records(["mine"], str(catalog))
    catalog.write_bytes("# für später\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"the catalog .*catalog\.yaml is not UTF-8 text: line 1 holds the byte 0xfc"):
        load_records(["mine"], str(catalog))


def test_two_images_of_one_name_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import cv2

    write_voc(tmp_path, {"a": ""})
    cv2.imwrite(str(tmp_path / "JPEGImages/a.png"), pixels(40, 60))
    voc(tmp_path)
    assert "1 image has the name of another one but for its suffix, and was taken in its place, as a.png for a.jpg" in (
        caplog.text
    )


# ---------------------------------------------------------------------- TT100K
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"id": 2**63}, "image '7' has 'id' 9223372036854775808, which does not fit into 64 bits"),
        ({"id": 7.5}, "image '7' has 'id' 7.5; ids must be whole numbers"),
        ({"path": ""}, "image '7': 'path' must be text"),
        ({"path": "a\ud800.jpg"}, r"image '7': 'path' is 'a\\ud800.jpg'"),
        ({"path": None}, "image '7': 'path' must be text, not None"),
        ({"objects": [sign("i2", (True, 1, 5, 5))]}, "object 1: 'bbox' must hold the numbers"),
        ({"objects": [sign("i2", (10**400, 1, 5, 5))]}, "object 1: 'bbox' must be a number"),
        ({"objects": [None]}, "object 1: it must have a 'category', a name; it is None"),
    ],
)
def test_tt100k_fields(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.jpg"), pixels(40, 60))
    data = {"types": TYPES, "imgs": {"7": {"id": 7, "path": "a.jpg", "objects": [], **change}}}
    with pytest.raises(UserError, match=rf"annotations\.json: .*{match}"):
        load_records(["signs"], str(write_annotations(tmp_path, data)))


def test_tt100k_windows_paths(tmp_path: Path) -> None:
    import cv2

    (tmp_path / "train").mkdir()
    cv2.imwrite(str(tmp_path / "train/a.jpg"), pixels(40, 60))
    data = {"types": TYPES, "imgs": {"7": {"id": 7.0, "path": "train\\a.jpg", "objects": []}}}
    records = load_records(["signs"], str(write_annotations(tmp_path, data, split="train")))
    assert records[0]["file_name"] == str(tmp_path / "train/a.jpg") and records[0]["image_id"] == 7


@pytest.mark.parametrize(
    "fields",
    [
        {"keypoint_sigmas": ["a", "b"]},
        {"keypoint_sigmas": "ab"},
        {"keypoint_sigmas": [float("nan"), 1.0]},
        {"keypoint_sigmas": 5},
        {"keypoint_flip_pairs": "ab"},
        {"keypoint_flip_pairs": [["left_ear", ["right_ear"]]]},
        {"keypoint_flip_pairs": [5]},
    ],
)
def test_keypoint_fields_of_the_entry(tmp_path: Path, fields: dict[str, Any]) -> None:
    write_coco(tmp_path, [], categories=[{"id": 1, "name": "cat", "keypoints": ["left_ear", "right_ear"]}])
    entry = {"format": "coco", "images": "images", "annotations": "data.json", **fields}
    with pytest.raises(UserError, match=r"data set 'mine': keypoint_\w+ (must|has)"):
        load_records(["mine"], str(write_catalog(tmp_path, {"mine": entry})))
