"""Reading JSON and XML files, with errors that say where."""

from __future__ import annotations

import codecs
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from detframe.errors import InvalidValueError, shown
from detframe.files import decoded, read_bytes

_LONG_NUMBER = re.compile(r"\d{4300}")  # from there on, Python makes no number of the digits


def read_json(path: Path, unread: str = "") -> Any:
    """What a JSON file holds, in UTF-8, UTF-16 or UTF-32.

    Args:
        unread: a key whose text is not wanted, as that of an image in base64: null stands in its place where the text
            can be passed over without reading it.

    Raises:
        ValueError: malformed JSON (with line and column), an object with a key that stands twice in it, text in another
            encoding, nesting or numbers beyond all bounds, or no file with content. The message names the file.
    """
    data = read_bytes(path)
    if not data.strip():
        raise InvalidValueError(f"{path} is empty; a JSON file was expected")
    encoding = json.detect_encoding(data)
    if unread and encoding.startswith("utf-8"):
        data = _without(data, unread)
    return parse_json(decoded(data, str(path), "utf-8-sig" if encoding == "utf-8" else encoding), str(path))


def parse_json(text: str, where: str) -> Any:
    """What a JSON text says; `where` is for messages. Raises ValueError as `read_json`."""
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except REFUSALS as error:
        raise fault_of(error, where, text, lambda at: _place(text, at)) from None


class RepeatedKeyError(Exception):
    """An object has a key twice, and which of the values was meant cannot be known."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        super().__init__(f"an object has the key {shown(twice)} twice; it begins with {shown(dict(pairs[:3]))}")


# What Python's parser raises with `unique_keys`
REFUSALS = (RepeatedKeyError, RecursionError, ValueError)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file. Raises RepeatedKeyError where a key stands twice in it."""
    out = dict(pairs)
    if len(out) < len(pairs):
        raise RepeatedKeyError(pairs)
    return out


def fault_of(error: Exception, where: str, text: str, place: Callable[[int], tuple[int, int]]) -> InvalidValueError:
    """What to raise for one of REFUSALS.

    Args:
        text: what was parsed.
        place: gives the line and the column of a character of it.
    """
    start = f"malformed JSON in {where}"
    if isinstance(error, json.JSONDecodeError):
        return InvalidValueError("{}, line {}, column {}: {}".format(start, *place(error.pos), error.msg))
    if isinstance(error, RepeatedKeyError):
        return InvalidValueError(f"{start}: {error}")
    if isinstance(error, RecursionError):
        return InvalidValueError(f"{start}: its lists and objects lie thousands deep in one another")
    found = _LONG_NUMBER.search(text)
    return InvalidValueError(
        f"{start}, line {place(found.start() if found else 0)[0]}: a number of thousands of digits"
    )


def _place(text: str, at: int) -> tuple[int, int]:
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _without(data: bytes, key: str) -> bytes:
    """A document with null for the texts of a key; those with escapes stay, since their end is not plain to see."""
    kept, at = [], 0
    for found in re.finditer(rb'"%s"\s*:\s*(?=")' % re.escape(key.encode()), data):
        end = data.find(b'"', found.end() + 1)
        if found.start() >= at and end > 0 and data[end - 1 : end] != b"\\":
            kept += [data[at : found.end()], b"null"]
            at = end + 1
    return b"".join([*kept, data[at:]])


# ------------------------------------------------------------------ XML, in the encoding that it declares
_DECLARED = re.compile(rb"""\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]{1,40})["']""")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)


def read_xml(path: Path) -> Element:
    """The root of an XML file.

    Raises:
        ValueError: malformed XML (with line and column), text that is not in the declared encoding (UTF-8 where none is
            declared), entities of its own, or no file with content. The message names the file.
        FileNotFoundError: there is no such file.
    """
    data = read_bytes(path)
    text = decoded(data, str(path), _encoding(data))
    if "<!ENTITY" in text:  # a few lines of them can stand for gigabytes, or for other files
        raise InvalidValueError(f"{path} defines entities (<!ENTITY ...>), which annotations do not need; remove them")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        line, column = error.position
        raise InvalidValueError(f"malformed XML in {path}, line {line}, column {column + 1}: {error}") from None


def _encoding(data: bytes) -> str:
    """The encoding by the file's first bytes, else the declared one, else UTF-8."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return encoding
    declared = _DECLARED.match(data)
    name = declared[1].decode() if declared else "utf-8"
    # a declaration that can be read byte by byte is not in UTF-16, whatever it says of itself
    return "utf-8-sig" if name.lower().replace("_", "-").startswith(("utf-8", "utf8", "utf-16", "utf16")) else name
