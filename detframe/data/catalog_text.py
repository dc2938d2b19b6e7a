"""A catalog as text, with a comment on each thing that was decided."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from detframe.data.entries import CatalogEntry
from detframe.data.findings import Finding
from detframe.storage import address_of, is_remote

_WIDTH = 100  # columns of a comment
_ABOUT = {
    "split": "which of the images: a share of them in a fixed order (of a list: each narrows the one before)",
    "classes": "the classes in the order of their labels, the same in each part",
    "others": "what objects of other classes are: background, or ignored",
}


def catalog_text(entries: Mapping[str, CatalogEntry], findings: Sequence[Finding], start: Path) -> str:
    """YAML that DATASETS.CATALOG takes, and that gives the same records.

    Args:
        entries: by split.
        findings: what was decided, said above the entries.
        start: the folder in which the text will lie; paths below it are written relative to it, others absolute.
    """
    head = [_comment(_sentence(finding)) for finding in findings]
    by_name = {entry.name: entry for entry in entries.values()}
    blocks = [_entry_text(entry, start.absolute()) for entry in by_name.values()]
    return "\n".join([*head, *([""] if head else []), *blocks])


def _sentence(finding: Finding) -> str:
    line = finding.line()
    return f"{line}; {finding.remedy}" if finding.remedy else line


def _comment(text: str) -> str:
    """Lines of a comment: a point of a list."""
    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, _WIDTH, break_long_words=False)]
    return "\n".join(f"# {' ' if number else '-'} {line}" for number, line in enumerate(lines))


def _entry_text(entry: CatalogEntry, start: Path) -> str:
    fields: dict[str, Any] = {
        "format": entry.format,
        "images": path_text(entry.images, start),
        "annotations": path_text(entry.annotations, start),
        **{key: plain(value) for key, value in entry.options.items()},
    }
    lines = [f"{_dumped(entry.name)}:"]
    for key, value in fields.items():
        about = _ABOUT.get(key, "")
        if about and (key != "split" or "%" in str(value)):  # a split of the format's own needs no word
            lines.append(f"  # {about}")
        lines.append(f"  {key}: {_dumped(value)}")
    return "\n".join(lines) + "\n"


def path_text(path: Path, start: Path) -> str:
    """A path as a catalog in the folder `start` names it."""
    if is_remote(path):
        return address_of(path)
    if not path.is_relative_to(start):
        return path.absolute().as_posix()
    text = path.relative_to(start).as_posix()
    return f"./{text}" if text.startswith("~") else text


def plain(value: Any) -> Any:
    """A value that YAML can hold: tuples as lists, paths as texts."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def _dumped(value: Any) -> str:
    """A value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").removesuffix("...").strip()
