"""What each config key means, read from the defaults: for --print-config KEY and for docs/config_reference.md."""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detframe.config import defaults, model_defaults, roi_defaults
from detframe.config.config import ConfigKeyError, ConfigNode
from detframe.config.defaults import get_cfg
from detframe.config.limits import RULES
from detframe.config.paths import with_docs
from detframe.config.validate import CHOICES
from detframe.registry import nearest

HEADER = """\
# Config reference

Every key, its default and its meaning, generated from `detframe/config/*defaults.py` by `make docs`.
`tools/train_net.py --config-file FILE --print-config KEY` shows the same for one key, with the value that a config
gives it and the file and line that set it. Durations are iterations (`90000`) or epochs (`12ep`).
"""


@dataclass(frozen=True)
class KeyReference:
    """One key of the config tree."""

    key: str
    default: Any
    comment: str  # "" where the key stands under the comment of the key before it

    @property
    def section(self) -> str:
        """The dotted path above the key, "" at the top."""
        return self.key.rpartition(".")[0]


def key_references() -> dict[str, KeyReference]:
    """Every key of the defaults with the comment above it, in the order of the file."""
    values = dict(get_cfg().leaves())
    found = {}
    for module in (defaults, model_defaults, roi_defaults):
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        lines = source.splitlines()
        for statement in ast.parse(source).body:
            key = _assigned_key(statement)
            if key in values:
                comment = _comment_above(lines, statement.lineno)
                found[key] = KeyReference(key, values[key], comment)
    return {key: found[key] for key in values if key in found}


def _assigned_key(statement: ast.stmt) -> str:
    """ "SOLVER.BASE_LR" of `_C.SOLVER.BASE_LR = ...`, "" of any other statement."""
    if not isinstance(statement, ast.Assign):
        return ""
    root, _, key = ast.unparse(statement.targets[0]).partition(".")
    return key if root == "_C" else ""


def _comment_above(lines: list[str], lineno: int) -> str:
    comment: list[str] = []
    for line in reversed(lines[: lineno - 1]):
        if not line.startswith("# ") or line.startswith("# ---"):
            break
        comment.insert(0, line[2:].strip())
    return " ".join(comment)


def meaning(references: dict[str, KeyReference], key: str) -> str:
    """The comment of a key; where it has none of its own, that of the nearest key above it in its section."""
    text = ""
    for name, reference in references.items():
        if reference.section == references[key].section and reference.comment:
            text = reference.comment
        if name == key:
            break
    return text


def explain(cfg: ConfigNode, key: str) -> str:
    """A key's value, default, origin and meaning as lines of text; of a section, its part of the config as YAML.

    Raises:
        KeyError: there is no such key; the nearest are named.
    """
    node = _node(cfg, key)
    if isinstance(node, ConfigNode):
        return f"{key}:\n{textwrap.indent(node.dump(), '  ')}"
    references = key_references()
    rows = [
        ("value", format_value(node)),
        ("default", format_value(references[key].default)),
        ("set in", cfg.source(key)),
        ("meaning", with_docs(meaning(references, key))),
    ]
    if key in CHOICES:
        rows.append(("choices", ", ".join(format_value(c) for c in CHOICES[key])))
    elif limits(key):
        rows.append(("limits", limits(key)))
    return "\n".join([key, *(f"  {name + ':':<9}{text}" for name, text in rows)]) + "\n"


def limits(key: str) -> str:
    """What the values of a key may be, in words; "" where its type says it all."""
    return RULES[key].describe() if key in RULES else ""


def _node(cfg: ConfigNode, key: str) -> Any:
    node: Any = cfg
    for name in key.split("."):
        if not isinstance(node, ConfigNode) or name not in node:
            known = [k for k, _ in cfg.leaves()]
            raise ConfigKeyError(f"unknown config key {key}; {nearest(key, known)}")
        node = node[name]
    return node


def format_value(value: Any) -> str:
    """A value as one writes it in YAML."""
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(format_value(v) for v in value) + "]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def reference_page() -> str:
    """docs/config_reference.md as it must be for the present defaults."""
    references = key_references()
    sections: dict[str, list[KeyReference]] = {}
    for reference in references.values():
        sections.setdefault(reference.section, []).append(reference)
    parts = [HEADER]
    for section, members in sections.items():
        parts.append(f"\n## {section or 'Top level'}\n\n| key | default | meaning |\n|---|---|---|\n")
        parts += [_row(references, member) for member in members]
    return "".join(parts)


def _row(references: dict[str, KeyReference], reference: KeyReference) -> str:
    name = reference.key.rpartition(".")[2]
    text = reference.comment or f"see above: {meaning(references, reference.key)}"
    if reference.key in CHOICES:
        text += " (choices: " + ", ".join(f"`{format_value(c)}`" for c in CHOICES[reference.key]) + ")"
    elif limits(reference.key):
        text += f" (limits: {limits(reference.key)})"
    text = text.replace("|", "\\|")
    return f"| `{name}` | `{format_value(reference.default)}` | {text} |\n"
