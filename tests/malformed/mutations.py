"""Mutations of trees (JSON, YAML, nested dicts of a checkpoint), of bytes, and of files: deterministic, and named.

A name says where and what, as "images[0].width=huge" or "cut at 7/16", so that the same name makes the same input.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Path_ = tuple[Any, ...]  # of keys and indices, from the root of a tree

DIGITS, DEPTH, LENGTH, MEMBERS = 5000, 100_000, 200_000, 20_000
# Values by name: as Python has them, for trees in memory
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "false": False,
    "text": "some text",
    "number as text": "7",
    "empty text": "",
    "minus one": -1,
    "zero": 0,
    "half": 0.5,
    "whole float": 640.0,
    "thousand": 1000,
    "2**31": 2**31,
    "2**63": 2**63,
    "2**64": 2**64,
    "-2**63-1": -(2**63) - 1,
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "1e8": 1e8,
    "1e308": 1e308,
    "-1e308": -1e308,
    "empty list": [],
    "empty dict": {},
    "list of one": [1],
    "list of seven": [1, 2, 3, 4, 5, 6, 7],
    "mixed list": [None, "x", {}],
    "dict": {"a": 1},
    "lists in lists": [[[[[1]]]]],
    "control characters": "a\x00b\x1b[31mc\r\nd",
    "climbing path": "../../../etc/passwd",
    "backslashes": "C:\\images\\1.png",
    "lone surrogate": "x\ud800y",
    "long text": "long " * (LENGTH // 5),
    "long list": [1] * MEMBERS,
}
# The kinds of them that differ for readers of trees in memory
FEW = {
    name: VALUES[name]
    for name in (
        "null", "true", "text", "number as text", "minus one", "zero", "half", "2**63", "nan", "inf", "empty list",
        "empty dict", "list of one", "mixed list", "dict", "lone surrogate",
    )
}  # fmt: skip
FEWEST = {name: FEW[name] for name in ("null", "true", "text", "minus one", "half", "nan", "mixed list")}
# ... and as JSON or YAML in flow style writes them; what Python cannot hold in one value is here alone
TEXTS: dict[str, str] = {
    **{name: json.dumps(value) for name, value in VALUES.items()},
    "5000 digits": "9" * DIGITS,
    "1e999": "1e999",
    "100000 lists": "[" * DEPTH + "]" * DEPTH,
    "900 lists": "[" * 900 + "]" * 900,
    "100000 dicts": '{"a":' * DEPTH + "1" + "}" * DEPTH,
}
LARGE = ("long text", "long list", "100000 lists", "100000 dicts")  # one place in a tree is enough for these
_MARK = "\u2603 here \u2603"


# ---------------------------------------------------------------------------------------------- trees
def places(tree: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Every place in a tree, the root first; of a long list the first two and the last element."""
    yield at
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*at, key))
    elif isinstance(tree, (list, tuple)):
        for index in sorted({*range(min(2, len(tree))), len(tree) - 1} if tree else ()):
            yield from places(tree[index], (*at, index))


def label(at: Path_) -> str:
    """A place as text: "images[0].width"."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in at).lstrip(".") or "the whole"


def pattern(at: Path_) -> str:
    """A place without its indices: "images[].width"."""
    return "".join("[]" if isinstance(step, int) else f".{step}" for step in at).lstrip(".")


def value_at(tree: Any, at: Path_) -> Any:
    """What stands at a place."""
    for step in at:
        tree = tree[step]
    return tree


def replaced(tree: Any, at: Path_, value: Any) -> Any:
    """The tree with another value at a place; the original stays as it was."""
    return _changed(tree, at, lambda parent, step: parent.__setitem__(step, value)) if at else value


def removed(tree: Any, at: Path_) -> Any:
    """The tree without what stands at a place."""
    return _changed(tree, at, lambda parent, step: parent.__delitem__(step))


def doubled(tree: Any, at: Path_) -> Any:
    """The tree with an element of a list twice."""
    return _changed(tree, at, lambda parent, step: parent.insert(step, copy.deepcopy(parent[step])))


def renamed(tree: Any, at: Path_, name: Any) -> Any:
    """The tree with another key in place of that at a place."""
    return _changed(tree, at, lambda parent, step: parent.__setitem__(name, parent.pop(step)))


def _changed(tree: Any, at: Path_, change: Callable[[Any, Any], Any]) -> Any:
    root = parent = _copied(tree)
    for step in at[:-1]:
        parent[step] = _copied(parent[step])
        parent = parent[step]
    change(parent, at[-1])
    return root


def _copied(value: Any) -> Any:
    """A copy whose own members can be changed."""
    return list(value) if isinstance(value, tuple) else copy.copy(value)


def trees(tree: Any, values: dict[str, Any] = VALUES) -> Iterator[tuple[str, Path_, Any, Any]]:
    """(name, place, the value put there or None, the changed tree) of every mutation of a tree in memory."""
    for at in places(tree):
        for name, value in values.items():
            yield f"{label(at)}={name}", at, value, replaced(tree, at, value)
        yield from _structural(tree, at)


def _structural(tree: Any, at: Path_) -> Iterator[tuple[str, Path_, Any, Any]]:
    if not at:
        return
    yield f"{label(at)} removed", at, None, removed(tree, at)
    if isinstance(value_at(tree, at[:-1]), (list, tuple)):
        yield f"{label(at)} twice", at, value_at(tree, at), doubled(tree, at)
    else:
        yield f"{label(at)} renamed", at, None, renamed(tree, at, f"{at[-1]}_")


def json_texts(
    tree: Any, large_at: Sequence[Path_] = ((),), texts: Mapping[str, str] = TEXTS
) -> Iterator[tuple[str, Path_, str, str]]:
    """(name, place, the text put there, the changed document) of every mutation of a tree, written as JSON.

    Args:
        large_at: the places where values of many megabytes are tried.
        texts: the values, as they are written.
    """
    for at in places(tree):
        before, after = json.dumps(replaced(tree, at, _MARK), ensure_ascii=True).split(json.dumps(_MARK))
        for name, text in texts.items():
            if name not in LARGE or at in large_at:
                yield f"{label(at)}={name}", at, text, before + text + after
        for name, _, _, changed in _structural(tree, at):
            yield name, at, "", json.dumps(changed)


# ---------------------------------------------------------------------------------------------- bytes and files
def byte_changes(data: bytes, flips: int = 16, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(name, changed bytes): cut short, a flipped bit, other bytes between, other encodings, nothing at all."""
    rng = random.Random(seed)
    yield "empty", b""
    for part in range(1, 16):
        yield f"cut at {part}/16", data[: len(data) * part // 16]
    yield "last byte missing", data[:-1]
    yield "first byte missing", data[1:]
    for number in range(flips):
        at, bit = rng.randrange(len(data)), rng.randrange(8)
        yield f"bit {bit} of byte {at} flipped ({number})", data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
    for number in range(6):
        start, end = sorted(rng.randrange(len(data)) for _ in range(2))
        yield f"bytes {start} to {end} at random ({number})", data[:start] + rng.randbytes(end - start) + data[end:]
        yield f"bytes {start} to {end} missing ({number})", data[:start] + data[end:]
        yield f"bytes {start} to {end} twice ({number})", data[:end] + data[start:]
    yield "zeros", b"\0" * len(data)
    yield "random bytes", rng.randbytes(len(data))
    yield "zeros after the end", data + b"\0" * 64
    yield "text after the end", data + b"\nand more\n"
    yield "a web page", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
    yield "a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"


def text_changes(text: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of a text in other encodings, with other line ends, and with characters that do not belong."""
    accented = text + "\n# \u00e9\u00fc\u4e2d\n"
    yield "with a byte-order mark", b"\xef\xbb\xbf" + text.encode()
    for encoding in ("utf-16", "utf-16-be", "utf-32", "cp037"):
        yield f"as {encoding}", text.encode(encoding)
    yield "in latin-1", (text + "\n# \u00e9\u00fc").encode("latin-1")
    yield "in GBK", (text + "\n# \u4e2d").encode("gbk")
    yield "with characters beyond ASCII", accented.encode()
    yield "with CRLF", text.replace("\n", "\r\n").encode()
    yield "with CR alone", text.replace("\n", "\r").encode()
    yield "with NULs", text.replace("\n", "\n\0").encode()
    yield "with an escape sequence", text.replace("\n", "\n\x1b[2J", 1).encode()
    yield "with tabs", text.replace(" ", "\t").encode()
    yield "with a surrogate in UTF-8", text.encode() + b"\xed\xa0\x80"
    yield "with form feeds", text.replace("\n", "\f\n").encode()


def lines_changed(text: str) -> Iterator[tuple[str, bytes]]:
    """(name, bytes): each line missing, twice, or moved to the end."""
    lines = text.splitlines(keepends=True)
    for number in range(len(lines)):
        rest = lines[:number] + lines[number + 1 :]
        yield f"line {number + 1} missing", "".join(rest).encode()
        yield f"line {number + 1} twice", "".join([*lines[:number], lines[number], *lines[number:]]).encode()
        yield f"line {number + 1} at the end", "".join([*rest, lines[number]]).encode()


def clear(path: Path) -> None:
    """Remove what is at a path, whatever it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def no_files(path: Path, endless: bool = False) -> Iterator[tuple[str, Callable[[], object]]]:
    """(name, what puts it there) of things that are no file of the wanted kind; `clear` the path before each.

    Args:
        endless: also a file that never ends, for processes whose memory is limited.
    """
    yield "nothing there", lambda: None
    yield "a folder", lambda: path.mkdir()
    yield "a FIFO", lambda: os.mkfifo(path)
    yield "a link to nowhere", lambda: path.symlink_to(path.parent / "nowhere")
    yield "a link to itself", lambda: path.symlink_to(path)
    if endless:
        yield "a device without end", lambda: path.symlink_to("/dev/zero")
    yield "a device with nothing", lambda: path.symlink_to("/dev/null")
    if os.geteuid() != 0:
        yield "without permission", lambda: (path.write_bytes(b"x"), path.chmod(0))


# ---------------------------------------------------------------------------------------------- formats
def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header states a size, with the pixels of one row."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b""))
    body = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)
