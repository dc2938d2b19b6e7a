"""ConfigNode: a yacs tree that is closed, typed, and knows where each value came from.

A key that the defaults do not have is an error that names the nearest key, whether it comes from a file, a command-line
override or an assignment. Types follow from the statement of each key (detframe.config.keys).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from detframe.config.bounds import shown
from detframe.config.foreign.program import Program
from detframe.config.foreign.translation import OVERRIDE, Foreign, data_of, override, recognise, word_of
from detframe.config.key import Key, Section
from detframe.config.keys import ADDED, SCHEMA, all_keys
from detframe.config.plugins import declared, unused_sections
from detframe.config.yaml_files import read_yaml, write_yaml, yaml_rows
from detframe.config.yaml_text import read_word, values
from detframe.errors import InvalidTypeError, InvalidValueError, ReadOnlyError, UnknownNameError
from detframe.registry import missing_packages, nearest


class ConfigKeyError(UnknownNameError, AttributeError):
    """A key that the config does not have."""


def get_cfg() -> ConfigNode:
    """A fresh copy of the default config, closed: unknown keys are errors in files, overrides and assignments."""
    cfg = ConfigNode()
    cfg._take_in()
    return cfg


class ConfigNode(CfgNode):
    """A node of the config tree; `close()` it and no new key can enter."""

    def __init__(
        self, init_dict: dict[str, Any] | None = None, key_list: list[str] | None = None, new_allowed: bool = False
    ) -> None:
        super().__init__(init_dict, key_list, new_allowed)
        self.__dict__["_closed"] = False
        self.__dict__["_path"] = ""
        self.__dict__["_sources"] = {}
        self.__dict__["_foreign"] = None
        self.__dict__["_waiting"] = ()

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
            raise ReadOnlyError(f"the config is frozen; {self.full_key(name)} cannot change to {shown(value)}")
        if name not in self:
            raise self._unknown(name)
        if not isinstance(value, ConfigNode):
            full = self.full_key(name)
            statement = all_keys().get(full)  # None of outside code that this process has not imported
            value = value if statement is None else statement.read(full, value, self[name])
        elif not isinstance(self[name], ConfigNode):
            raise InvalidValueError(f"{self.full_key(name)} is a value, not a section")
        super().__setitem__(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            raise ReadOnlyError(f"{name!r} is an attribute of the config itself, not a key")
        if isinstance(value, dict) and not isinstance(value, ConfigNode):
            raise InvalidValueError(f"{self.full_key(name)} is a section; assign its keys one by one")
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

    def changed(self, settings: Iterable[tuple[str, Any]]) -> ConfigNode:
        """A frozen copy with other values at these dotted keys, as overrides."""
        out = self.clone()
        out.defrost()
        out.merge_from_list([word for pair in settings for word in pair])
        out.freeze()
        return out

    def __reduce__(self) -> tuple[Any, ...]:
        own = self.__dict__
        state = {"_sources": dict(own["_sources"]), "_foreign": own["_foreign"], "_waiting": own["_waiting"]}
        return _rebuild, (self.to_dict(), own["_closed"], self.is_frozen(), state)

    # ------------------------------------------------------------------ merging
    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Set what a YAML file says, after the files that its `_BASE_` names (relative to it).

        A file of detectron2, maskrcnn-benchmark or FCOS is translated; the log and `translation` say how.

        Raises:
            FileNotFoundError: the file, or one of its bases, does not exist.
            KeyError: an unknown key, named with file, line and the nearest known key.
            ValueError: malformed YAML, a key given twice, or a value of the wrong type.
        """
        self._take_in()
        rows = read_yaml(Path(cfg_filename))
        keys, native = [key for key, _, _ in rows], self._keys()
        if native.isdisjoint(keys) and (data := data_of(str(cfg_filename), keys)):
            raise ConfigKeyError(data)
        program, strangers = recognise(keys, native)
        if program is not None and strangers:
            lines = [f"  {key} ({where})" for key, _, where in rows if key in strangers]
            raise ConfigKeyError(
                f"{cfg_filename} is written for {program.name}, but these keys are known neither there nor here:\n"
                + "\n".join(lines)
                + "\nLeave them out; keys of a module of your own belong in the config that detframe translate-config "
                "writes of the rest (docs/own_keys.md)"
            )
        if program is not None:
            self._merge_foreign(program, [row for row in rows if row[0] in program.defaults])
            rows = [row for row in rows if row[0] not in program.defaults]
        self._assign_all(rows)

    def merge_from_text(self, text: str, source: str) -> None:
        """Set what a config says that `dump` wrote; it has no bases, and none are read.

        Args:
            source: where the text is from, for messages.

        Raises KeyError and ValueError as `merge_from_file` does.
        """
        self._take_in()
        self._assign_all(yaml_rows(text, source))

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Set keys from `["SOLVER.BASE_LR", 0.001, "MODEL.DEVICE", "cpu"]`; strings are read as Python literals.

        After a file of another program, its words are understood as well; some are always ("MODEL.WEIGHT").

        Raises KeyError and ValueError as `merge_from_file` does.
        """
        self._take_in()
        rows = [(key, read_word(value), OVERRIDE) for key, value in self._pairs(cfg_list)]
        foreign: Foreign | None = self.__dict__["_foreign"]
        if foreign is not None:
            theirs = [row for row in rows if row[0] in foreign.program.defaults]
            if theirs:
                self._merge_foreign(foreign.program, theirs)
            rows = [row for row in rows if row[0] not in foreign.program.defaults]
        native, ours = self._keys(), []
        for key, value, where in rows:
            became = None if key in native else override(key, value)
            ours += [(name, meaning, where) for name, meaning in ({key: value} if became is None else became).items()]
        self._assign_all(ours)

    def _pairs(self, words: Sequence[Any]) -> list[tuple[str, Any]]:
        """The words of an override as (key, value). Raises TypeError and ValueError where they are no such list."""
        if not isinstance(words, (list, tuple)):
            raise InvalidTypeError(f"overrides are a list [KEY, VALUE, ...], not {shown(words)}")
        joined = [word for word in words[0::2] if isinstance(word, str) and "=" in word]
        known = self._keys() if joined else set()
        hint = " (write KEY VALUE, not KEY=VALUE)" if any(word.split("=")[0] in known for word in joined) else ""
        if len(words) % 2 or hint:
            got = f"{len(words)} word{'s' * (len(words) != 1)}"
            raise InvalidValueError(f"overrides come in pairs KEY VALUE; got {got}: {shown(list(words))}{hint}")
        return [(str(key), value) for key, value in zip(words[0::2], words[1::2], strict=True)]

    def _keys(self) -> set[str]:
        """Every dotted key, sections as well."""
        leaves = [key for key, _ in self.leaves()]
        return {".".join(key.split(".")[: i + 1]) for key in leaves for i in range(key.count(".") + 1)}

    def _merge_foreign(self, program: Program, rows: Sequence[tuple[str, Any, str]]) -> None:
        """Set what another program's keys mean here, as far as these rows change it."""
        foreign: Foreign | None = self.__dict__["_foreign"]
        before = foreign if foreign is not None and foreign.program is program else Foreign(program)
        after = before.with_rows(rows)
        for key, (value, where) in after.native.items():
            if key not in before.native or before.native[key][0] != value:
                self._assign(key, value, where)
        self.__dict__["_foreign"] = after

    @property
    def translation(self) -> tuple[tuple[int, str], ...]:
        """What was said while another program's config was translated: (logging level, line)."""
        foreign: Foreign | None = self.__dict__["_foreign"]
        return () if foreign is None else foreign.notes

    # ------------------------------------------------------------------ sections of outside code
    def complete(self, leniently: bool = False) -> None:
        """Take in the sections that outside code has added by now, and the values that waited for them.

        Keys of a section that nobody knows wait for it where there are plugins, or CUSTOM_IMPORTS names modules, that
        may add it.

        Args:
            leniently: leave out what nobody has added, as in an exported file, which holds what it was for.

        Raises:
            KeyError: nobody has added it; names the key as `merge_from_file` does. ValueError as there.
        """
        self._take_in()
        waiting, frozen = self.__dict__["_waiting"], self.is_frozen()
        self.__dict__["_waiting"] = ()
        self.defrost()
        try:
            known = self._keys() if leniently else ()
            for key, value, where in waiting:
                if not leniently or key in known:
                    self._assign(key, value, where)
        finally:
            if frozen:
                self.freeze()

    def _take_in(self) -> None:
        if _add_missing(self, SCHEMA):
            frozen = self.is_frozen()
            self.close()
            if frozen:
                self.freeze()

    def _assign_all(self, rows: Sequence[tuple[str, Any, str]]) -> None:
        known = self._keys() | {""}
        for key, value, where in sorted(rows, key=lambda row: row[0] not in ("CUSTOM_IMPORTS", "PLUGINS")):
            if key.rpartition(".")[0] not in known and (self.CUSTOM_IMPORTS or self.PLUGINS or declared()):
                self.__dict__["_waiting"] += ((key, value, where),)
            else:
                self._assign(key, value, where)

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
            if values(value) is None or value == {}:
                return
            raise InvalidValueError(f"{key} is a section, not a value; got {shown(value)} ({where})")
        try:
            node[last] = value
        except ValueError as error:
            raise InvalidValueError(f"{error} ({where})") from None
        sources = self.__dict__["_sources"]
        sources.pop(key, None)  # so that their order is that in which keys were last set
        sources[key] = where

    def at(self, key: str) -> Any:
        """The value or the section of a dotted key.

        Raises:
            KeyError: there is none; the nearest are named.
        """
        node: Any = self
        for name in key.split("."):
            if not isinstance(node, ConfigNode) or name not in node:
                raise ConfigKeyError(f"unknown config key {key}; {nearest(key, [k for k, _ in self.leaves()])}")
            node = node[name]
        return node

    def source(self, key: str) -> str:
        """Where the value of a key was last set from: "path.yaml:12", "an override" or "the default"."""
        return self.__dict__["_sources"].get(key, "the default")

    def overlaid(self, key: str, by: str) -> bool:
        """Whether `by` was set later than `key`, and in another file or by an override."""
        sources: dict[str, str] = self.__dict__["_sources"]
        if key not in sources or by not in sources or _place(sources[key]) == _place(sources[by]):
            return False
        order = list(sources)
        return order.index(key) < order.index(by)

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

    def statements(self) -> Iterator[tuple[str, Key, Any]]:
        """Every (dotted key, its statement, value), in the order of the defaults."""
        known = all_keys()  # not those of outside code that this process has not imported
        return ((key, known[key], value) for key, value in self.leaves() if key in known)

    def used_sections(self) -> list[str]:
        """The sections of outside code of which somebody has set a key, by their dotted paths."""
        own = [row for row in self.statements() if row[0].startswith(tuple(f"{path}." for path in ADDED))]
        set_keys = [key for key, of, value in own if value != of.default or self.source(key) != "the default"]
        return [path for path in ADDED if any(key.startswith(f"{path}.") for key in set_keys)]

    def dump(self, **kwargs: Any) -> str:
        """The tree as YAML that `merge_from_file` reads back: a line for each key, lists on one line.

        Sections of plugins that the config does not use are left out, so that nobody needs them to read it.

        Raises:
            KeyError: values wait for a section that nobody has added yet; see `complete`.
        """
        for key, _, where in self.__dict__["_waiting"]:
            raise _unknown_anywhere(self, key, where)
        tree = self.to_dict()
        for path in unused_sections(self.PLUGINS, self.used_sections()) if not self.__dict__["_path"] else ():
            *parents, last = path.split(".")
            node = tree
            for name in parents:
                node = node.get(name, {})
            node.pop(last, None)
        return write_yaml(tree, **kwargs)


def _place(source: str) -> str:
    """The file of "path.yaml:12"; an override is a place of its own."""
    return source.rpartition(":")[0] or source


def _add_missing(node: ConfigNode, section: Section) -> bool:
    """Give a node the keys and sections that it lacks, with their defaults; whether it lacked any."""
    changed = False
    for name, member in section.items():
        missing = name not in node
        if missing:
            dict.__setitem__(node, name, ConfigNode() if isinstance(member, Section) else member.default)
        below = isinstance(member, Section) and _add_missing(node[name], member)
        changed = changed or missing or below
    return changed


def _rebuild(values: dict[str, Any], closed: bool, frozen: bool, state: dict[str, Any]) -> ConfigNode:
    node = ConfigNode(values)
    node.__dict__.update(state)
    if closed:
        node.close()
    if frozen:
        node.freeze()
    return node


def _unknown_anywhere(root: ConfigNode, key: str, where: str) -> ConfigKeyError:
    known = [name for name, _ in root.leaves()]
    above = next((name for name in known if key.startswith(f"{name}.")), "")
    if above:
        return ConfigKeyError(
            f"{above} has a value, and no key {key} below it ({where}); a list has dashes or brackets"
        )
    said = f"unknown config key {key} ({where}); {word_of(key) or nearest(key, known)}"
    section = key.rpartition(".")[0]
    missing = "" if any(name.startswith(f"{section}.") for name in known) else missing_packages()
    return ConfigKeyError(f"{said if not missing or said.endswith('?') else said + '.'}{missing}")
