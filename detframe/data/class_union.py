"""One list of class names for all parts of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from detframe.data.entries import CatalogEntry
from detframe.data.findings import NOTE, WARNING, Finding, sentence
from detframe.data.metadata import folded
from detframe.errors import InvalidValueError, UnknownNameError, listed
from detframe.registry import nearest

NAMELESS = "object"  # what readers call objects of which the data say no class
Classes = Sequence[str] | Mapping[str, str] | None


def unify(
    entries: Mapping[str, CatalogEntry], names: Mapping[str, Sequence[str]], classes: Classes, others: str
) -> tuple[dict[str, CatalogEntry], list[Finding]]:
    """The entries with the fields `classes` and `others` that give all parts the same classes in the same order.

    Args:
        names: the class names of each part, as its reader gives them.
        classes: what the user selects and renames; None takes all.
        others: what becomes of objects of other classes, "background" or "ignore".

    Raises:
        KeyError: a selected class that no part has, with the nearest ones.
        ValueError: `others` is something else, or `classes` is empty.
    """
    if others not in ("background", "ignore"):
        raise InvalidValueError(f"others must be background or ignore, not {others!r}")
    if classes is not None:
        fields: dict[str, Any] = {"classes": _checked(classes, names)}
        if others != "background":
            fields["others"] = others
        return {split: _with(entry, fields) for split, entry in entries.items()}, []
    findings: list[Finding] = []
    renamed = _respelt(names, findings)
    union = list(dict.fromkeys(renamed.get(name, name) for part in names.values() for name in part))
    _report_strays(names, renamed, findings)
    if not renamed and all(list(part) == union for part in names.values()):
        return dict(entries), findings
    fields = {"classes": {name: name for name in union} | renamed if renamed else union}
    return {split: _with(entry, fields) for split, entry in entries.items()}, findings


def _with(entry: CatalogEntry, fields: Mapping[str, Any]) -> CatalogEntry:
    return replace(entry, options={**entry.options, **fields})


def _checked(classes: Sequence[str] | Mapping[str, str], names: Mapping[str, Sequence[str]]) -> Any:
    """The selected classes, each of which some part has."""
    known = list(dict.fromkeys(name for part in names.values() for name in part))
    selected = [classes] if isinstance(classes, str) else list(classes)
    if not selected:
        raise InvalidValueError(f"classes names none; the data set has {listed(known, 20)}")
    for name in selected:
        if name not in known:
            raise UnknownNameError(f"the data set has no class {name!r}; {nearest(str(name), known)}")
    return dict(classes) if isinstance(classes, Mapping) else selected


def _respelt(names: Mapping[str, Sequence[str]], findings: list[Finding]) -> dict[str, str]:
    """Names of one part that are another spelling of a name of the parts before it, and nothing in those."""
    known: list[str] = []
    out: dict[str, str] = {}
    for split, part in names.items():
        for name in part:
            alike = [other for other in known if folded(other) == folded(name)]
            if name in known or name in out or len(alike) != 1 or alike[0] in part:
                continue
            out[name] = alike[0]
            text = (
                f"the class {name!r} of {split} is taken for {alike[0]!r}: they differ by case, spaces or hyphens only"
            )
            findings.append(sentence("class-spelling", WARNING, text))
        known += [name for name in part if name not in known and name not in out]
    return out | _nameless(names, findings)


def _nameless(names: Mapping[str, Sequence[str]], findings: list[Finding]) -> dict[str, str]:
    """Where the objects of one part have no class, and those of all others one and the same: that one."""
    without = [split for split, part in names.items() if list(part) == [NAMELESS]]
    named = {name for split, part in names.items() if split not in without for name in part}
    if not without or len(named) != 1:
        return {}
    (name,) = named
    text = f"the objects of {' and '.join(without)} have no class; they count as {name!r}, the only one there is"
    findings.append(sentence("class-assumed", WARNING, text, len(without)))
    return {NAMELESS: name}


def _report_strays(names: Mapping[str, Sequence[str]], renamed: Mapping[str, str], findings: list[Finding]) -> None:
    """Classes that only some parts have: what is not in train cannot be learnt."""
    train = {renamed.get(name, name) for name in names.get("train", ())}
    for split, part in names.items():
        strays = [name for name in part if renamed.get(name, name) not in train]
        if strays and split != "train":
            text = (
                f"{split} has {_class(strays)} that train does not have, and that cannot be learnt: {listed(strays, 8)}"
            )
            findings.append(sentence("class-not-in-train", WARNING, text, len(strays)))
    spelt: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for part in names.values() for name in part if name not in renamed):
        spelt.setdefault(folded(name), []).append(name)
    for alike in spelt.values():
        if len(alike) > 1:
            text = (
                f"the classes {' and '.join(map(repr, alike))} differ by case, spaces or hyphens only, and count apart"
            )
            remedy = f"to make one of them: classes: {{{', '.join(f'{name}: {alike[0]}' for name in alike)}, ...}}"
            findings.append(sentence("class-spelling", NOTE, text, len(alike), remedy))


def _class(names: Sequence[str]) -> str:
    return "a class" if len(names) == 1 else f"{len(names)} classes"
