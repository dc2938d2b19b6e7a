"""Reading XML files, in the encoding that they declare."""

from __future__ import annotations

import codecs
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from xml.etree.ElementTree import Element

from detframe.errors import InvalidValueError
from detframe.files import decoded, read_bytes

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
