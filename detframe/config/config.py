"""ConfigNode: a yacs tree that is closed, typed, and knows where each value came from.

A key that the defaults do not have is an error that names the nearest key, whether it comes from a file, a command-line
override or an assignment. Types follow the default: an int widens to a float, a list to a tuple, a single value to a
tuple of one; nothing else changes type.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from detframe.config.paths import find_config, find_shipped, nearest_shipped
from detframe.registry import nearest

BASE_KEY = "_BASE_"
# Keys whose value may be of another type than the default: durations, as 90000 or "12ep"
DURATION_KEYS = {
    "SOLVER.MAX_ITER",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.IMAGE_PERIOD",
    "TEST.EVAL_PERIOD",
}


class ConfigKeyError(KeyError, AttributeError):
    """A key that the config does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


class ConfigNode(CfgNode):
    """A node of the config tree; `close()` it and no new key can enter."""

    def __init__(
        self, init_dict: dict[str, Any] | None = None, key_list: list[str] | None = None, new_allowed: bool = False
    ) -> None:
        super().__init__(init_dict, key_list, new_allowed)
        self.__dict__["_closed"] = False
        self.__dict__["_path"] = ""
        self.__dict__["_sources"] = {}

    # ------------------------------------------------------------------ closed tree
    def close(self) -> ConfigNode:
        """Refuse new keys from now on, in this node and below; returns the node."""
        self._close("", self.__dict__["_sources"])
        return self

    def _close(self, path: str, sources: dict[str, str]) -> None:
        self.__dict__.update(_closed=True, _path=path, _sources=sources)
        for key, value in self.items():
            if isinstance(value, ConfigNode):
                value._close(f"{path}.{key}" if path else key, sources)

    def full_key(self, name: str) -> str:
        """The dotted path of `name` from the root, as in "SOLVER.BASE_LR"."""
        path = self.__dict__["_path"]
        return f"{path}.{name}" if path else name

    def _unknown(self, name: str, where: str = "") -> ConfigKeyError:
        full = self.full_key(name)
        known = [self.full_key(key) for key in self]
        at = f" ({where})" if where else ""
        return ConfigKeyError(f"unknown config key {full}{at}; {nearest(full, known)}")

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._unknown(name)

    def __setitem__(self, name: str, value: Any) -> None:
        if not self.__dict__.get("_closed"):
            super().__setitem__(name, value)
            return
        if self.is_frozen():
            raise AttributeError(f"the config is frozen; {self.full_key(name)} cannot change to {value!r}")
        if name not in self:
            raise self._unknown(name)
        if not isinstance(value, ConfigNode):
            value = coerce(self.full_key(name), value, self[name])
        elif not isinstance(self[name], ConfigNode):
            raise ValueError(f"{self.full_key(name)} is a value, not a section")
        super().__setitem__(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            raise AttributeError(f"{name!r} is an attribute of the config itself, not a key")
        if isinstance(value, dict) and not isinstance(value, ConfigNode):
            raise ValueError(f"{self.full_key(name)} is a section; assign its keys one by one")
        self[name] = value

    # ------------------------------------------------------------------ copies
    def __deepcopy__(self, memo: dict[int, Any]) -> ConfigNode:
        new = ConfigNode()
        for key, value in self.items():
            dict.__setitem__(new, key, value.__deepcopy__(memo) if isinstance(value, ConfigNode) else value)
        new.__dict__.update({k: v for k, v in self.__dict__.items() if k != "_sources"})
        new.__dict__["_sources"] = dict(self.__dict__["_sources"])
        if new.__dict__["_closed"] and not new.__dict__["_path"]:
            new._close("", new.__dict__["_sources"])
        return new

    def clone(self) -> ConfigNode:
        """An independent copy; a frozen config has an open-for-changes clone after `defrost()`."""
        return self.__deepcopy__({})

    def __reduce__(self) -> tuple[Any, ...]:
        sources = dict(self.__dict__["_sources"])
        return _rebuild, (self.to_dict(), self.__dict__["_closed"], self.is_frozen(), sources)

    # ------------------------------------------------------------------ merging
    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Set what a YAML file says, after the files that its `_BASE_` names (relative to it).

        Raises:
            FileNotFoundError: the file, or one of its bases, does not exist.
            KeyError: an unknown key, named with file, line and the nearest known key.
            ValueError: malformed YAML, a key given twice, or a value of the wrong type.
        """
        for key, value, where in read_yaml(Path(cfg_filename)):
            self._assign(key, value, where)

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Set keys from `["SOLVER.BASE_LR", 0.001, "MODEL.DEVICE", "cpu"]`; strings are read as Python literals.

        Raises KeyError and ValueError as `merge_from_file` does.
        """
        if len(cfg_list) % 2:
            hint = " (write KEY VALUE, not KEY=VALUE)" if any("=" in str(word) for word in cfg_list) else ""
            raise ValueError(f"overrides come in pairs KEY VALUE; got {len(cfg_list)} words: {list(cfg_list)}{hint}")
        for key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=True):
            self._assign(str(key), _literal(value), "an override")

    def _assign(self, key: str, value: Any, where: str) -> None:
        node: ConfigNode = self
        *parents, last = key.split(".")
        for name in parents:
            if name not in node or not isinstance(node[name], ConfigNode):
                raise _unknown_anywhere(self, key, where)
            node = node[name]
        if last not in node:
            raise _unknown_anywhere(self, key, where)
        if isinstance(node[last], ConfigNode):
            if value is None or value == {}:
                return
            raise ValueError(f"{key} is a section, not a value; got {value!r} ({where})")
        try:
            node[last] = value
        except ValueError as error:
            raise ValueError(f"{error} ({where})") from None
        self.__dict__["_sources"][key] = where

    def source(self, key: str) -> str:
        """Where the value of a key was last set from: "path.yaml:12", "an override" or "the default"."""
        return self.__dict__["_sources"].get(key, "the default")

    # ------------------------------------------------------------------ output
    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and values."""
        return {k: v.to_dict() if isinstance(v, ConfigNode) else v for k, v in self.items()}

    def leaves(self) -> Iterator[tuple[str, Any]]:
        """Every (dotted key, value) below this node, in the order of the defaults."""
        for key, value in self.items():
            if isinstance(value, ConfigNode):
                yield from value.leaves()
            else:
                yield self.full_key(key), value

    def dump(self, **kwargs: Any) -> str:
        """The tree as YAML that `merge_from_file` reads back: a line for each key, lists on one line."""
        return yaml.dump(
            _lists(self.to_dict()), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120, **kwargs
        )


class _Dumper(yaml.SafeDumper):
    """Sections in block style, lists on one line."""


_Dumper.add_representer(
    list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def _rebuild(values: dict[str, Any], closed: bool, frozen: bool, sources: dict[str, str]) -> ConfigNode:
    node = ConfigNode(values)
    node.__dict__["_sources"].update(sources)
    if closed:
        node.close()
    if frozen:
        node.freeze()
    return node


def _unknown_anywhere(root: ConfigNode, key: str, where: str) -> ConfigKeyError:
    known = [name for name, _ in root.leaves()]
    return ConfigKeyError(f"unknown config key {key} ({where}); {nearest(key, known)}")


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _lists(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_lists(v) for v in value]
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def _literal(value: Any) -> Any:
    """A word of the command line as a Python value; what is no literal stays a string."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def coerce(key: str, value: Any, default: Any) -> Any:
    """`value` in the type of `default`, or a ValueError that names the key, both types and the value."""
    if key in DURATION_KEYS and isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    wanted, convert = _TYPES[int if key in DURATION_KEYS else type(default)]
    converted = convert(value)
    if converted is None:
        kind = type(value).__name__
        raise ValueError(f"{key} must be {wanted} (it is {default!r} now), not {value!r} of type {kind}")
    return converted


def _bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _str(value: Any) -> str | None:
    if isinstance(value, bool):  # YAML 1.1 reads the words on and off as booleans
        return "on" if value else "off"
    return value if isinstance(value, str) else None


def _tuple(value: Any) -> tuple[Any, ...] | None:
    if isinstance(value, (list, tuple)):
        return _tuples(value)
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return (value,) if value != "" else ()
    return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            return None
    return None


# type of a default -> what its values are called, and the conversion, which gives None for what it cannot convert
_TYPES: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bool: ("True or False", _bool),
    int: ("a whole number", _int),
    float: ("a number", _number),
    str: ("a string", _str),
    tuple: ("a list", _tuple),
}


def read_yaml(path: Path, _open: tuple[Path, ...] = ()) -> list[tuple[str, Any, str]]:
    """(dotted key, value, "file:line") of every leaf of a config file, those of its bases first."""
    path = path if _open else find_config(path)
    if path.resolve() in _open:
        raise ValueError(f"_BASE_ runs in a circle: {' -> '.join(str(p) for p in (*_open, path))}")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{path} must hold KEY: VALUE pairs at the top, not a {root.id}")
    rows = list(_flatten(root, "", path))
    bases = [value for key, value, _ in rows if key == BASE_KEY]
    out: list[tuple[str, Any, str]] = []
    for base in [b for group in bases for b in ([group] if isinstance(group, str) else group)]:
        out += read_yaml(_find_base(base, path), (*_open, path.resolve()))
    return out + [row for row in rows if row[0] != BASE_KEY]


def _find_base(base: str, owner: Path) -> Path:
    """The file that a `_BASE_` names: relative to its owner, else a shipped config."""
    beside = Path(os.path.normpath(owner.parent / Path(base).expanduser()))
    found = beside if beside.is_file() else find_shipped(base)
    if found is None:
        raise FileNotFoundError(f"config file {beside} does not exist (_BASE_ of {owner}){nearest_shipped(beside)}")
    return found


def _flatten(node: yaml.MappingNode, prefix: str, path: Path) -> Iterator[tuple[str, Any, str]]:
    seen: set[str] = set()
    for key_node, value_node in node.value:
        name, where = str(key_node.value), f"{path}:{key_node.start_mark.line + 1}"
        if name in seen:
            raise ValueError(f"{prefix}{name} is given twice ({where})")
        seen.add(name)
        if isinstance(value_node, yaml.MappingNode):
            yield from _flatten(value_node, f"{prefix}{name}.", path)
        else:
            loader = yaml.SafeLoader("")
            yield prefix + name, loader.construct_object(value_node, deep=True), where
