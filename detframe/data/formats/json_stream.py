"""JSON files read member by member, in memory for one member, with the errors that reading them whole gives.

A file of a million images is a gigabyte of text, and ten as the objects of Python. Here `walk` goes through it once,
and `JsonValues` reads again what is wanted, by the bytes at which it lies.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from detframe.data.formats.json_and_xml import REFUSALS, RepeatedKeyError, fault_of, unique_keys
from detframe.errors import InvalidValueError
from detframe.files import decoded, not_in_encoding, open_regular

_BLOCK = 2**18  # bytes read at a time
_NEAR_END = 32  # characters; nearer to the end of what was read, a fault may be that the rest is missing
_PREVIEW = 13  # members of a list that a message may show
_BLANK = " \t\n\r\v\f"  # what bytes.strip() takes away
_SPACE = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*(?=[^ \t\n\r\]])")

# Called with a member of a list, the byte at which it begins and the one at which it has ended
Take = Callable[[Any, int, int], None]


@dataclass
class Outline:
    """What a document is, and of an object the keys in their order, each with the type of its value."""

    kind: type
    keys: dict[str, type] = field(default_factory=dict)


class JsonFile:
    """A JSON file, open for a `with`, in UTF-8; one in UTF-16 or UTF-32 is held in memory.

    Raises:
        ValueError: it is no file with content.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = open_regular(path)
        head = file.read(4)
        encoding = json.detect_encoding(head)
        if not encoding.startswith("utf-8"):
            with file:
                text = decoded(head + file.read(), str(path), encoding)
            file = io.BytesIO(text.encode("utf-8", "surrogatepass"))
        self._file = file
        self.begin = 3 if head.startswith(codecs.BOM_UTF8) and encoding == "utf-8-sig" else 0
        self.size = file.seek(0, os.SEEK_END)

    def walk(self, lists: Mapping[str, Take]) -> Outline:
        """Go through the file once. The members of the lists of these names are handed over, all else is only checked.

        Raises:
            ValueError: as `read_json`.
        """
        self._file.seek(self.begin)
        return _Walk(self._file, str(self.path), self.begin, lists).document()

    def bytes_at(self, start: int, size: int) -> bytes:
        """So many bytes, or as many as there are."""
        self._file.seek(start)
        return self._file.read(size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()


class JsonValues:
    """Reads values of a file again. Those that lie one behind another are read in blocks, others one by one."""

    def __init__(self, file: JsonFile) -> None:
        self._file = file
        self._block, self._begin = b"", 0
        self._decode = json.JSONDecoder().raw_decode

    def read(self, start: int, end: int) -> Any:
        """The value that begins at a byte; `end` is a byte behind it, before that of the next value."""
        at = start - self._begin
        if at < 0 or end - self._begin > len(self._block):
            follows = 0 <= at <= len(self._block)
            self._block, self._begin = self._file.bytes_at(start, max(end - start, _BLOCK * follows)), start
            at = 0
        return self._decode(self._block[at : at + end - start].decode("utf-8", "surrogatepass"))[0]


class _Window:
    """The part of a file that is held as text; `at` is where reading has come to in it."""

    def __init__(self, file: BinaryIO, name: str, begin: int) -> None:
        self._file, self.name = file, name
        self.text, self.at, self.ended = "", 0, False
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._ascii = True
        self._known = (0, begin)  # a character of the text, and the byte of the file at which it lies
        self._line, self._column = 1, 0  # of the first character

    def more(self) -> bool:
        """Read on, and forget what lies before `at`; False where the file has no more."""
        text = self._read(max(_BLOCK, len(self.text) - self.at), self._line + self.text.count("\n"))
        if self.ended:
            return False
        self._forget()
        self.text += text
        self._ascii = self.text.isascii()
        return True

    def check_rest(self) -> None:
        """Read the file to its end. Raises ValueError where it is no UTF-8."""
        line = self._line + self.text.count("\n")
        while not self.ended:
            line += self._read(_BLOCK, line).count("\n")

    def _read(self, size: int, line: int) -> str:
        """The next so many bytes as text, which begins on a line."""
        data = b"" if self.ended else self._file.read(size)
        self.ended = not data
        try:
            return self._decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            raise InvalidValueError(not_in_encoding(self.name, "UTF-8", line, error)) from None

    def _forget(self) -> None:
        gone = self.text[: self.at]
        self._known = (0, self.byte(self.at))
        lines = gone.count("\n")
        self._column = len(gone) - gone.rfind("\n") - 1 + (0 if lines else self._column)
        self._line += lines
        self.text, self.at = self.text[self.at :], 0

    def byte(self, at: int) -> int:
        """Where in the file a character lies; asked for from the front to the back."""
        character, byte = self._known
        between = at - character if self._ascii else len(self.text[character:at].encode())
        self._known = (at, byte + between)
        return byte + between

    def peek(self, skipped: int = 0) -> str:
        """The next character that is no space, behind so many others; "" at the end of the file."""
        while True:
            found = _SPACE.match(self.text, self.at + skipped)
            at = len(self.text) if found is None else found.end()
            if not skipped:
                self.at = at
            if at < len(self.text):
                return self.text[at]
            if not self.more():
                return ""

    def place(self, at: int) -> tuple[int, int]:
        """Line and column of a character, from 1 on."""
        lines = self.text.count("\n", 0, at)
        column = at - self.text.rfind("\n", 0, at)
        return self._line + lines, column + (0 if lines else self._column)


class _Walk:
    """One way through a document."""

    def __init__(self, file: BinaryIO, name: str, begin: int, lists: Mapping[str, Take]) -> None:
        self._window, self._name, self._lists = _Window(file, name, begin), name, lists
        self._decode = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode

    def document(self) -> Outline:
        """The whole of it."""
        window = self._window
        first = window.peek()
        while not window.text.strip(_BLANK) and window.more():
            pass
        if not window.text.strip(_BLANK):
            raise InvalidValueError(f"{self._name} is empty; a JSON file was expected")
        if first == "{":
            outline = Outline(dict, self._object())
        elif first == "[":
            self._members(_nothing)
            outline = Outline(list)
        else:
            outline = Outline(type(self._value()))
        if window.peek():
            raise self._fault(json.JSONDecodeError("Extra data", window.text, window.at))
        return outline

    def _object(self) -> dict[str, type]:
        """The object of the document, with a list of each of its keys taken member by member."""
        window, pairs = self._window, list[tuple[str, Any]]()
        kinds: dict[str, type] = {}
        more = self._begins("{", "}")
        while more:
            if window.peek() != '"':
                raise self._said_by_python("{")
            key = self._value()
            if window.peek() != ":":
                raise self._said_by_python('{""')
            window.at += 1
            if window.peek() == "[":
                value = self._members(self._lists.get(key, _nothing))
            else:
                value = self._value()
            kinds[key] = type(value)
            pairs.append((key, value if len(pairs) < 3 else None))
            more = self._goes_on("}", '{"":{}')
        if len(kinds) < len(pairs):
            raise self._fault(RepeatedKeyError(pairs))
        return kinds

    def _members(self, take: Take) -> list[Any]:
        """The members of a list, handed over one by one; returns the first few."""
        window, first = self._window, list[Any]()
        more = self._begins("[", "]")
        while more:
            window.peek()
            at = window.byte(window.at)
            member = self._value()
            take(member, at, window.byte(window.at))
            if len(first) < _PREVIEW:
                first.append(member)
            found = _COMMA.match(window.text, window.at)
            if found is not None:
                window.at = found.end()
            else:
                more = self._goes_on("]", "[{}")
        return first

    def _begins(self, bracket: str, close: str) -> bool:
        """Pass over the bracket at the window's place; whether something lies in it, else over the closing one too."""
        window = self._window
        window.at += len(bracket)
        if window.peek() != close:
            return True
        window.at += 1
        return False

    def _goes_on(self, close: str, before: str) -> bool:
        """Pass over the comma behind a member or the closing bracket; whether another one follows.

        Args:
            before: what Python's parser takes for the same place in a document, for its message of what else is there.
        """
        window = self._window
        sign = window.peek()
        if sign not in (",", close) or (sign == "," and window.peek(1) in ("]", "}", "")):
            raise self._said_by_python(before)
        window.at += 1
        return sign == ","

    def _value(self) -> Any:
        """The value at the window's place, which goes on behind it."""
        window = self._window
        while True:
            try:
                value, end = self._decode(window.text, window.at)
            except REFUSALS as error:
                if not self._may_be_cut(error) or not window.more():
                    raise self._fault(error) from None
            else:
                # of a number cut at "1." or "1e+" the first part alone is one too
                if window.text[window.at] in '{["' or end + 3 < len(window.text) or not window.more():
                    window.at = end
                    return value

    def _may_be_cut(self, error: Exception) -> bool:
        """Whether there may be nothing wrong but that the rest of the value was not read yet."""
        if self._window.ended or not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._window.text) - _NEAR_END

    def _said_by_python(self, before: str) -> InvalidValueError:
        """What is wrong at the window's place, in the words of Python's parser."""
        window = self._window
        try:
            self._decode(before + window.text[window.at :])
        except json.JSONDecodeError as error:
            at = window.at + error.pos - len(before)
            return self._fault(json.JSONDecodeError(error.msg, window.text, at))
        return self._fault(json.JSONDecodeError("Unexpected text", window.text, window.at))

    def _fault(self, error: Exception) -> InvalidValueError:
        self._window.check_rest()  # what is no text at all is told first
        return fault_of(error, self._name, self._window.text, self._window.place)


def _nothing(member: Any, start: int, end: int) -> None:
    """Let a member go."""
