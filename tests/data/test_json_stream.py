"""JSON files read member by member: what Python's own parser reads, with its errors, wherever the file is cut."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from detframe.data.formats import json_stream
from detframe.data.formats.json_and_xml import read_json
from detframe.data.formats.json_stream import JsonFile, JsonValues
from detframe.errors import UserError

TREE = {
    "info": {"a": 1, "é": "ü"},
    "images": [{"id": 1, "n": "aé\n€"}, {"id": 2.5e3}, 12, "x", 1.25, None],
    "categories": [],
    "others": [[1], {}],
    "annotations": [{"id": 1, "s": [[1, 2, 3]]}, {"id": 2}],
    "end": None,
}
TEXTS = [
    json.dumps(TREE, ensure_ascii=False),
    json.dumps(TREE, ensure_ascii=False, indent=1),
    *("{}", "[]", "[1, 2, 3]", "3", '"a"', ' {"images" : [ 1 , 2 ] , "b":NaN}', '{"images": 1, "images": [2]}'),
]
LISTS = ("images", "categories", "annotations")
PIECES = (b",", b"}", b"]", b'"', b"\\", b"\n", b"1", b"\xff", b"{", b"[", b":", b" ", b'"a":1,', b".5", b"e")


def whole(path: Path) -> Any:
    try:
        return read_json(path)
    except UserError as error:
        return error


def streamed(path: Path) -> Any:
    """The tree again, from the members that were handed over and from those that were read again."""
    taken: dict[str, list[Any]] = {name: [] for name in LISTS}
    try:
        with JsonFile(path) as file:
            outline = file.walk({name: lambda m, a, e, n=name: taken[n].append((m, a, e)) for name in LISTS})
            values = JsonValues(file)
            for member, start, end in (item for items in taken.values() for item in items):
                assert repr(values.read(start, end)) == repr(member)
    except UserError as error:
        return error
    return outline, {name: [member for member, _, _ in items] for name, items in taken.items()}


def check_same(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    expected, found = whole(path), streamed(path)
    if isinstance(expected, UserError):
        assert (type(found), str(found)) == (type(expected), str(expected)), data
        return
    outline, members = found
    assert outline.kind is type(expected), data
    if isinstance(expected, dict):
        assert outline.keys == {key: type(value) for key, value in expected.items()}, data
        for name in LISTS:
            listed = expected.get(name) if isinstance(expected.get(name), list) else []
            assert repr(members[name]) == repr(listed), data


@pytest.mark.parametrize("block", [1, 3, 64, 2**18])
def test_every_text_is_read_as_by_python(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_BLOCK", block)
    for text in TEXTS:
        for data in (text.encode(), b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16"), text.encode("utf-32")):
            check_same(tmp_path / "a.json", data)
    for data in (b"", b" \n", b"\x0c", b'{"a": "', b"[" * 100_000, b"[" + b"1" * 5000 + b"]"):
        check_same(tmp_path / "a.json", data)


@pytest.mark.parametrize("block", [1, 7, 2**18])
def test_every_fault_is_told_as_by_python(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_BLOCK", block)
    draw = random.Random(block)
    for _ in range(250):
        data = bytearray(draw.choice(TEXTS).encode())
        at = draw.randrange(len(data) + 1)
        change = draw.randrange(4)
        if change == 0:
            del data[at : at + draw.randrange(1, 4)]
        elif change == 1:
            data[at:at] = draw.choice(PIECES)
        elif change == 2:
            del data[at:]
        else:
            data[at : at + 1] = bytes([draw.randrange(256)])
        check_same(tmp_path / "a.json", bytes(data))


def test_a_fault_late_in_a_file_has_its_line_and_column(tmp_path: Path) -> None:
    rows = ",\n".join('{"id": 1, "name": "ä"}' for _ in range(40_000))
    data = f'{{"images": [{rows}],\n"annotations": [{{"id": 1;}}]}}'.encode()
    check_same(tmp_path / "a.json", data)
    with JsonFile(tmp_path / "a.json") as file, pytest.raises(UserError, match="line 40001, column 25"):
        file.walk({})
