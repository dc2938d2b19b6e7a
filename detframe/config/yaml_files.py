"""Config files: YAML with bases, every value with the line that it stands on.

Nothing in a file is executed. The one expression that detectron2's files hold, anchor sizes as a list comprehension
under the tag `!!python/object/apply:eval`, is computed by a reader of numbers, lists and comprehensions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from detframe.config.keys import all_keys
from detframe.config.paths import expanded, find_config, find_shipped, nearest_config
from detframe.config.yaml_text import Document, compose, construct, names, pairs, place
from detframe.errors import InvalidValueError, MissingFileError
from detframe.files import read_text

BASE_KEY = "_BASE_"
MAX_SIZE = 2**23  # bytes of a file that is read at all
MAX_FILES = 100  # that one file's bases lead to
Row = tuple[str, Any, str]


def read_yaml(path: Path) -> list[Row]:
    """(dotted key, value, "file:line") of every leaf of a config file, those of its bases first.

    A value holds `Written` for each word that is read as anything but text.

    Raises:
        FileNotFoundError: the file, or one of its bases, does not exist.
        ValueError: malformed YAML, a key given twice, bases in a circle, or Python objects.
    """
    return _read(find_config(path), (), [])


def _read(path: Path, outer: tuple[Path, ...], opened: list[Path]) -> list[Row]:
    """`outer` are the files whose bases lead here, `opened` all that were read so far."""
    if path.resolve() in outer:
        raise InvalidValueError(f"_BASE_ runs in a circle: {' -> '.join(str(p) for p in (*outer, path))}")
    opened.append(path)
    if len(opened) > MAX_FILES:
        raise InvalidValueError(f"_BASE_ leads to more than {MAX_FILES} files, the last of them {path}")
    if path.stat().st_size > MAX_SIZE:
        raise InvalidValueError(f"{path} has {path.stat().st_size} bytes, too many for a config file")
    rows = yaml_rows(read_text(path, "the config file"), str(path))
    out: list[Row] = []
    for base in _bases(rows):
        out += _read(_find_base(base, path), (*outer, path.resolve()), opened)
    return out + [row for row in rows if row[0] != BASE_KEY]


def yaml_rows(text: str, source: str) -> list[Row]:
    """(dotted key, value, "source:line") of every leaf of a config text; `_BASE_` is a key as any other.

    Raises:
        ValueError: malformed YAML, a key given twice, or Python objects.
    """
    document = compose(text, f"{source} is not valid YAML")
    if document.root is None:
        return []
    if not isinstance(document.root, yaml.MappingNode):
        raise InvalidValueError(f"{source} must hold KEY: VALUE pairs at the top, not a {document.root.id}")
    return list(_flatten(document.root, "", source, set(), document))


def _bases(rows: list[Row]) -> Iterator[str]:
    """The files that `_BASE_` names. Raises ValueError where it names something else."""
    for key, value, where in rows:
        if key.startswith(f"{BASE_KEY}."):
            raise InvalidValueError(f"_BASE_ must be a config file or a list of them, not a section ({where})")
        if key == BASE_KEY:
            listed = names(value)
            for base in listed if isinstance(listed, (list, tuple)) else [listed]:
                if not isinstance(base, str) or not base.strip():
                    shown = repr(base) if base else "nothing"
                    raise InvalidValueError(f"_BASE_ must be a config file or a list of them, not {shown} ({where})")
                yield base


def _find_base(base: str, owner: Path) -> Path:
    """The file that a `_BASE_` names: relative to its owner, else a shipped config."""
    beside = Path(os.path.normpath(owner.parent / expanded(base)))
    found = beside if os.path.isfile(beside) else find_shipped(base)
    if found is None:
        raise MissingFileError(f"config file {beside} does not exist (_BASE_ of {owner}){nearest_config(beside)}")
    return found


def _flatten(node: yaml.MappingNode, prefix: str, source: str, seen: set[str], document: Document) -> Iterator[Row]:
    """A section that stands twice, as in some published files, is the two together; a key that does is an error.

    A top entry in small letters whose anchor is used is no key but the place where the shared values stand.
    """
    for key_node, value_node in pairs(node, source):
        name, where = str(key_node.value), place(key_node, source)
        if not prefix and name.islower() and id(value_node) in document.shared:
            continue
        if isinstance(value_node, yaml.MappingNode) and value_node.value and not _takes_mapping(prefix + name):
            yield from _flatten(value_node, f"{prefix}{name}.", source, seen, document)
            continue
        if prefix + name in seen:
            raise InvalidValueError(f"{prefix}{name} is given twice ({where})")
        seen.add(prefix + name)
        yield prefix + name, construct(value_node, source, prefix + name), where


def _takes_mapping(key: str) -> bool:
    """Whether a mapping is the value of a key, and no section."""
    statement = all_keys().get(key)
    return statement is not None and getattr(statement.rule, "takes_mapping", False)


def write_yaml(tree: Mapping[str, Any], **kwargs: Any) -> str:
    """A tree of sections and values as YAML: a line for each key, lists on one line."""
    return yaml.dump(_lists(tree), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120, **kwargs)


class _Dumper(yaml.SafeDumper):
    """Sections in block style, lists on one line."""


_Dumper.add_representer(
    list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _lists(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_lists(v) for v in value]
    return value
