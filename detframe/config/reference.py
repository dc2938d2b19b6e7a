"""What each config key means, from its statement: for --print-config KEY and for docs/config_reference.md."""

from __future__ import annotations

import textwrap
from typing import Any

from detframe.config.bounds import Name
from detframe.config.key import Key
from detframe.config.keys import all_keys
from detframe.config.paths import with_docs
from detframe.config.tree import ConfigNode

HEADER = """\
# Config reference

Every key, its default and its meaning, generated from `detframe/config/keys/` by `make docs`.
`tools/train_net.py --config-file FILE --print-config KEY` shows the same for one key, with the value that a config
gives it and the file and line that set it. Durations are iterations (`90000`), epochs
(`12ep`) or a share of the training (`0.1`).
[Keys of your own](own_keys.md) are stated in the same way.
"""


def explain(cfg: ConfigNode, key: str) -> str:
    """A key's value, default, origin and meaning as lines of text; of a section, its part of the config as YAML.

    Raises:
        KeyError: there is no such key; the nearest are named.
    """
    node = cfg.at(key)
    if isinstance(node, ConfigNode):
        return f"{key}:\n{textwrap.indent(node.dump(), '  ')}"
    statement = all_keys()[key]
    rows = [
        ("value", format_value(node)),
        ("default", format_value(statement.default)),
        ("set in", cfg.source(key)),
        ("meaning", with_docs(statement.meaning)),
    ]
    if statement.choices:
        rows.append(("choices", _choices(statement)))
    elif statement.rule.describe():
        rows.append(("limits", statement.rule.describe()))
    return "\n".join([key, *(f"  {name + ':':<9}{text}" for name, text in rows)]) + "\n"


def format_value(value: Any) -> str:
    """A value as one writes it in YAML."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(format_value(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {format_value(v)}" for name, v in value.items()) + "}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _choices(statement: Key, mark: str = "") -> str:
    words = {f"{mark}{format_value(choice)}{mark}": what for choice, what in statement.choices.items()}
    return ", ".join(f"{word} ({what})" if what else word for word, what in words.items())


def reference_page() -> str:
    """docs/config_reference.md as it must be for the present statements."""
    sections: dict[str, list[str]] = {}
    for key, statement in all_keys().items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(_row(name, statement))
    parts = [HEADER]
    for section, rows in sections.items():
        parts.append(f"\n## {section or 'Top level'}\n\n| key | default | meaning |\n|---|---|---|\n")
        parts += rows
    return "".join(parts)


def _row(name: str, statement: Key) -> str:
    text = statement.meaning
    if statement.choices:
        text += f": {_choices(statement, '`')}"
        text += ", or one of your own" if isinstance(statement.rule, Name) else ""
    elif statement.rule.describe():
        text += f" (limits: {statement.rule.describe()})"
    text = text.replace("|", "\\|")
    return f"| `{name}` | `{format_value(statement.default)}` | {text} |\n"
