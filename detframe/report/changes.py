"""Which keys of a config differ from the defaults, and from the configs of other runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detframe.config import ConfigNode, get_cfg
from detframe.config.keys import all_keys

_PLACES = ("OUTPUT_DIR",)  # differ between any two runs, and say nothing of either
_LONGEST = 160  # characters of a value


@dataclass(frozen=True)
class ConfigChange:
    """A key whose values differ.

    Attributes:
        values: the base's first (or the first run's), each as text; None where a config has no such key.
        meaning: of the key.
        source: where the value was set, "" where nobody knows any more.
    """

    key: str
    values: tuple[str | None, ...]
    meaning: str
    source: str = ""


def config_changes(cfg: ConfigNode) -> list[ConfigChange]:
    """The keys that have another value than detframe's default, in the order of the reference."""
    default = dict(get_cfg().leaves())
    own = dict(cfg.leaves())
    changes = _differing([default, own])
    return [ConfigChange(c.key, c.values, c.meaning, _source(cfg, c.key)) for c in changes]


def differences(configs: Sequence[ConfigNode]) -> list[ConfigChange]:
    """The keys in which some configs differ from each other."""
    return _differing([dict(cfg.leaves()) for cfg in configs])


def _differing(trees: Sequence[Mapping[str, Any]]) -> list[ConfigChange]:
    known = all_keys()
    out = []
    for key in _union(trees):
        values = [tree.get(key) for tree in trees]
        if key not in _PLACES and any(value != values[0] for value in values):
            texts = tuple(None if key not in tree else as_text(tree[key]) for tree in trees)
            out.append(ConfigChange(key, texts, known[key].meaning if key in known else ""))
    return out


def _union(trees: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for tree in trees for key in tree))


def as_text(value: Any) -> str:
    """A value as a config file has it, shortened where it is very long."""
    if isinstance(value, bool):
        text = "True" if value else "False"
    elif isinstance(value, (list, tuple)):
        text = f"[{', '.join(as_text(item) for item in value)}]"
    elif isinstance(value, float):
        text = f"{value:.6g}"
    else:
        text = str(value) if value != "" else "''"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def _source(cfg: ConfigNode, key: str) -> str:
    source = cfg.source(key)
    return "" if source == "the default" else source
