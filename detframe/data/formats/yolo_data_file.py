"""The file that describes a YOLO data set: data.yaml (ultralytics, Roboflow), obj.data (darknet), or names alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from detframe.config.yaml_text import names as words_of
from detframe.config.yaml_text import read_tree, values
from detframe.data.formats.yolo_rows import KeypointForm
from detframe.data.listing import folders_in
from detframe.errors import InvalidValueError, UserError, shown
from detframe.files import read_text

YAML_SUFFIXES = (".yaml", ".yml")
# What each split is called, the usual word first
SPLIT_KEYS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "validate", "dev"),
    "test": ("test", "testing"),
}
DRIVE = re.compile(r"[A-Za-z]:")
_QUOTES = '. A name that holds a colon stands in quotes: "size: large"'
_COLON = "mapping values are not allowed"  # what YAML says of a second colon in a line
MAX_CLASSES, MAX_KEYPOINTS = 100_000, 10_000


@dataclass(frozen=True)
class DataFile:
    """What such a file says.

    Attributes:
        names: class id -> name; empty where it has none.
        count: `nc`, or `classes` of darknet; None where it says none.
        base: the folder that it says its paths are relative to, as written; "" where it says none.
        parts: split -> folders or lists of images, as written.
        flip_idx: for each keypoint, the one that takes its place in a mirrored image; () where it says nothing.
    """

    path: Path
    names: Mapping[int, str]
    count: int | None = None
    base: str = ""
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keypoints: KeypointForm | None = None
    flip_idx: tuple[int, ...] = ()
    keypoint_names: tuple[str, ...] = ()

    def disagreement(self) -> list[str]:
        """What there is to say where it gives another number of classes than it names."""
        if not self.names or self.count in (None, len(self.names)):
            return []
        return [f"{self.path.name} says {self.count} classes and names {len(self.names)}; the names count"]


def read_data_file(path: Path) -> DataFile:
    """A data.yaml, or an obj.data.

    Raises:
        ValueError: malformed, or a key of a wrong form; names the file and the key.
    """
    if not _is_yaml(path):
        return _of_darknet(path)
    tree, error = _tree(path)
    if error is not None:
        raise error
    return _of_tree(path, tree)


def _tree(path: Path) -> tuple[Any, UserError | None]:
    """What a YAML file holds, or what is wrong with it; read once, since recognising a data set asks several times."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return _read_tree(path)
    return _cached_tree(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _cached_tree(path: Path, size: int, time_ns: int) -> tuple[Any, UserError | None]:
    return _read_tree(path)


def _read_tree(path: Path) -> tuple[Any, UserError | None]:
    try:
        return read_tree(read_text(path, "the data file"), str(path)), None
    except UserError as error:
        hint = _QUOTES if _COLON in str(error) else ""
        return None, InvalidValueError(f"{error}{hint}") if hint else error


def has_keys(path: Path) -> bool:
    """Whether a file of names is a data.yaml or an obj.data, with keys, and no list of names alone."""
    return path.suffix.lower() in (*YAML_SUFFIXES, ".data")


def is_data_file(path: Path, splits: bool = True, malformed: bool = False) -> bool:
    """Whether a YAML or .data file is one that describes a YOLO data set, by its keys.

    Args:
        splits: it must name folders or lists of images; else names of classes are enough.
        malformed: the answer for a file that cannot be read, or that holds no fields.
    """
    try:
        tree, error = _tree(path) if _is_yaml(path) else (_darknet_fields(read_text(path)), None)
    except (OSError, UserError):
        return malformed
    if error is not None:
        return malformed
    tree = values(tree)
    if not isinstance(tree, dict):
        return malformed
    if not any(_is_places(tree.get(key)) for keys in SPLIT_KEYS.values() for key in keys):
        return not splits and "names" in tree
    return any(key in tree for key in ("names", "nc", "path", "classes"))


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in YAML_SUFFIXES


def read_names(path: Path) -> dict[int, str]:
    """Class names by id: of a data.yaml, of an obj.data, or of a text with one name a line (classes.txt, obj.names).

    Raises:
        ValueError: malformed, or without a name.
    """
    if has_keys(path):
        return dict(read_data_file(path).names)
    lines = [line.strip() for line in read_text(path, "the list of class names").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return {number: name for number, name in enumerate(lines) if name}


# ------------------------------------------------------------------ paths that were written elsewhere
def parts_of(text: str) -> list[str]:
    """The names in a path of any system, without drive, root, `.` and `..`."""
    return [part for part in DRIVE.sub("", text.replace("\\", "/"), count=1).split("/") if part not in ("", ".", "..")]


def below(folder: Path, written: str) -> Path | None:
    """What a path that was written elsewhere means in a folder: the longest end of it that exists there."""
    parts = parts_of(written)
    ends = [parts[start:] for start in range(len(parts))]
    exact = next((path for end in ends if exists(path := folder.joinpath(*end))), None)
    return exact or next(filter(None, (_of_any_case(folder, end) for end in ends)), None)


def _of_any_case(folder: Path, parts: Sequence[str]) -> Path | None:
    """What a path means whose folders are written with other capitals: Windows and macOS take them for the same."""
    for name in parts:
        at = folder / name
        if not exists(at):
            found = [path for path in folders_in(folder) if path.name.lower() == name.lower()]
            if len(found) != 1:
                return None
            at = found[0]
        folder = at
    return folder


def exists(path: Path) -> bool:
    """Whether there is anything at a path, however long it is."""
    return os.path.exists(path)  # a method of Path raises for names that are too long


# ------------------------------------------------------------------ data.yaml
def _of_tree(path: Path, tree: Any) -> DataFile:
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else f"holds {shown(values(tree))} and no fields"
        raise InvalidValueError(f"{path} {what}; a data.yaml has `train:`, `val:` and `names:`")
    plain = values(tree)
    form, keypoint_names, flip_idx = keypoint_facts(
        str(path), plain.get("kpt_shape"), words_of(tree.get("kpt_names")), plain.get("flip_idx")
    )
    return DataFile(
        path,
        _names(path, None if plain.get("names") is None else words_of(tree["names"])),
        _count(path, "nc", plain.get("nc")),
        _base(path, words_of(tree.get("path"))),
        {split: places for split, keys in SPLIT_KEYS.items() if (places := _places(path, tree, keys))},
        form,
        flip_idx,
        keypoint_names,
    )


def _names(path: Path, found: Any) -> dict[int, str]:
    """As `class_names`; a text is the path of a file of names."""
    if isinstance(found, str) and found and os.path.isfile(path.parent / found):
        return read_names(path.parent / found)
    return class_names(str(path), found)


def class_names(where: str, found: Any) -> dict[int, str]:
    """Names by class id, given as a list, as {0: cat} or as {cat: 0}; {} where there are none.

    Args:
        where: what gives them, for messages.

    Raises:
        ValueError: they are none of these.
    """
    if found is None or (isinstance(found, str | Sequence | Mapping) and not found):
        return {}
    if isinstance(found, list | tuple):
        found = dict(enumerate(found))
    if not isinstance(found, Mapping):
        raise InvalidValueError(f"{where}: names must be a list of class names, not {shown(found)}")
    out: dict[int, str] = {}
    for key, name in found.items():
        number, text = (name, key) if not _is_id(key) and _is_id(name) else (key, name)
        if not _is_id(number):
            raise InvalidValueError(
                f"{where}: names has {shown(key)}, which is no class id from 0 to {MAX_CLASSES - 1}"
            )
        if not isinstance(text, str) or not text.strip() or "\0" in text:
            hint = _QUOTES if isinstance(text, Mapping) else ""
            raise InvalidValueError(f"{where}: names must be names, and has {shown(text)} for the class {number}{hint}")
        out[int(number)] = text.strip()
    return dict(sorted(out.items()))


def _is_id(value: Any) -> bool:
    text = str(value)
    return (
        isinstance(value, int | str) and text.isascii() and text.isdigit() and len(text) < 9 and int(text) < MAX_CLASSES
    )


def _count(path: Path, key: str, value: Any) -> int | None:
    if value is None:
        return None
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 9 else value
    if type(number) is not int or not 0 < number <= MAX_CLASSES:
        raise InvalidValueError(f"{path}: {key!r} must be the number of classes, not {shown(value)}")
    return number


def _base(path: Path, value: Any) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise InvalidValueError(f"{path}: 'path' must be a folder, not {shown(value)}")
    return value.strip()


def _is_places(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, str) and item.strip() for item in items)


def _places(path: Path, tree: dict[str, Any], keys: tuple[str, ...]) -> tuple[str, ...]:
    """The folders and lists of a split: of the first of its keys that has some."""
    for key in keys:
        found = words_of(tree.get(key))
        if found in (None, "", [], "null", "~") or values(tree.get(key)) is None:
            continue
        if not _is_places(found) or any("\0" in item for item in found):
            raise InvalidValueError(
                f"{path}: {key!r} must be a folder of images, a list of folders, or a .txt file that lists images, "
                f"not {shown(found)}"
            )
        return tuple(item.strip() for item in (found if isinstance(found, list) else [found]))
    return ()


def keypoint_facts(
    where: str, shape: Any, names: Any, flip_idx: Any
) -> tuple[KeypointForm | None, tuple[str, ...], tuple[int, ...]]:
    """The form of the keypoints, their names, and which pairs are swapped in a mirrored image.

    Args:
        where: what gives them, for messages.
        shape, names, flip_idx: kpt_shape, kpt_names and flip_idx of a data.yaml.

    Raises:
        ValueError: they are not what they should be.
    """
    if not shape:
        return None, (), ()
    form = _keypoint_form(where, shape)
    return form, _keypoint_names(where, names, form), _flip_idx(where, flip_idx, form)


def _keypoint_form(where: str, value: Any) -> KeypointForm:
    sound = isinstance(value, list | tuple) and len(value) == 2 and all(type(v) is int for v in value)
    if not sound or not 0 < value[0] <= MAX_KEYPOINTS or value[1] not in (2, 3):
        raise InvalidValueError(
            f"{where}: kpt_shape must be [keypoints, 2 or 3], as [17, 3] for 17 keypoints of x, y and visibility, "
            f"not {shown(value)}"
        )
    return KeypointForm(value[0], value[1])


def _flip_idx(where: str, value: Any, form: KeypointForm) -> tuple[int, ...]:
    if not value:
        return ()
    sound = isinstance(value, list | tuple) and all(type(v) is int for v in value)
    if not sound or sorted(value) != list(range(form.count)) or any(value[value[i]] != i for i in value):
        raise InvalidValueError(
            f"{where}: flip_idx must have a number for each of the {form.count} keypoints, that of the one which it "
            f"is swapped with in a mirrored image, not {shown(value)}"
        )
    return tuple(value)


def _keypoint_names(where: str, value: Any, form: KeypointForm) -> tuple[str, ...]:
    """Of the first class that has some; numbers where there are none."""
    if not value or value == "null":
        return tuple(f"keypoint_{number}" for number in range(1, form.count + 1))
    lists = list(value.values()) if isinstance(value, dict) else [value]
    for names in lists:
        if isinstance(names, list | tuple) and len({str(name) for name in names}) == len(names) == form.count:
            return tuple(str(name) for name in names)
    raise InvalidValueError(f"{where}: kpt_names must name {form.count} keypoints, each once, not {shown(value)}")


# ------------------------------------------------------------------ obj.data
def _darknet_fields(text: str) -> dict[str, str]:
    lines = (line.partition("#")[0].partition("=") for line in text.splitlines())
    return {key.strip(): value.strip() for key, sign, value in lines if sign and value.strip()}


def _of_darknet(path: Path) -> DataFile:
    fields = _darknet_fields(read_text(path, "the data file"))
    names: dict[int, str] = {}
    named = below(path.parent, fields["names"]) if "names" in fields else None
    if named is not None and named.is_file():
        names = read_names(named)
    parts = {split: (fields[key],) for split, keys in SPLIT_KEYS.items() for key in reversed(keys) if key in fields}
    return DataFile(path, names, _count(path, "classes", fields.get("classes")), "", parts)
