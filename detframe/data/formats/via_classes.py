"""Which attribute of a region of VIA is its class, and what its values are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from detframe.data.findings import NOTE, Findings
from detframe.data.formats.fields import Entry
from detframe.data.formats.named_objects import NO_CLASS, TWO_CLASSES
from detframe.errors import InvalidValueError, listed, shown
from detframe.registry import nearest

Declared = dict[str, dict[str, str]]  # attribute -> id of a choice -> what it is called

NAMELESS = "object"  # the class where nobody gave any
NO_CLASS_OF_REGION = replace(
    NO_CLASS, remedy="give them a class in VIA, or say with `unnamed: NAME` in the catalog which one they all have"
)
# What attributes with classes are usually called, in several languages
_USUAL = ("class", "label", "classname", "class_name", "category", "name", "type", "object", "object_name", "species")
_MANY_VALUES = 20  # an attribute with more, and a value for every second region, numbers or describes them


def declared_options(value: Any, path: Path) -> Declared:
    """The choices of attributes in a project's `_via_attributes`, each by its text where it has one."""
    regions = value.get("region") if isinstance(value, Mapping) else None
    if regions is None:
        return {}
    if not isinstance(regions, Mapping):
        raise InvalidValueError(f"{path}: 'region' of '_via_attributes' must be an object, not {shown(regions)}")
    out: Declared = {}
    for attribute, facts in regions.items():
        options = facts.get("options") if isinstance(facts, Mapping) else None
        if isinstance(options, Mapping):
            texts = ((key, text.strip() if isinstance(text, str) else "") for key, text in options.items())
            out[attribute] = {key: text or key for key, text in texts if key.strip()}
    return out


@dataclass
class Classes:
    """The classes of a set of regions.

    Attributes:
        attribute: whose values they are; "" where no region has any.
        names: in the order of their labels.
        unnamed: the class of regions that have none; "" where they are left out.
        without: how many regions have none.
        others: attributes that might have been meant.
    """

    attribute: str
    names: list[str]
    unnamed: str
    without: int
    declared: Mapping[str, str]
    others: list[str] = field(default_factory=list)

    def name_of(self, attributes: Mapping[str, Any], place: Entry) -> str:
        """The class of a region; "" where it is left out, with a word in the findings."""
        found = values_of(attributes.get(self.attribute), self.declared, place)
        if len(found) > 1:
            place.findings.add(TWO_CLASSES, f"{place.name}: {listed(found, 3)}")
        if not found and not self.unnamed:
            place.findings.add(NO_CLASS_OF_REGION, place.in_file)
        return found[0] if found else self.unnamed

    def choice(self) -> str:
        """What to say where another attribute might have been meant; "" where none might."""
        if not self.others:
            return ""
        return (
            f"the class of a region is its attribute {self.attribute!r}; {listed(self.others, 3)} might be meant "
            f"too, and `attribute: NAME` in the catalog chooses it"
        )

    def report(self, findings: Findings) -> None:
        """Say what was decided."""
        if self.others:
            findings.say("class-attribute", self.choice(), severity=NOTE)
        if self.without and self.unnamed:
            regions = (
                "1 region has no class and was"
                if self.without == 1
                else f"{self.without} regions have no class and were"
            )
            findings.say(
                "region-of-the-only-class",
                f"{regions} taken for {self.unnamed!r}",
                self.without,
                NOTE,
                "`unnamed: NAME` in the catalog gives another class",
            )


def choose_classes(
    regions: Sequence[Mapping[str, Any]], declared: Declared, attribute: str, unnamed: str, where: str
) -> Classes:
    """The classes of regions by their attributes.

    The attribute that most regions have; of several, one that is called as such attributes usually are, or that has
    choices, or else the first.

    Args:
        attribute, unnamed: what the user says; "" is nothing.
        where: the file or folder, for messages.

    Raises:
        ValueError: regions have attributes, and none has the one that the user says.
    """
    counts: dict[str, Counter[str]] = {}
    for attributes in regions:
        for key, value in attributes.items():
            for name in _names(value, declared.get(key, {})) or ():
                counts.setdefault(key, Counter())[name] += 1
    if attribute and attribute not in counts and counts:
        raise InvalidValueError(
            f"{where}: no region has the attribute {attribute!r}; {nearest(attribute, list(counts))}"
        )
    ranked = sorted(counts, key=lambda key: _rank(key, counts[key], declared))
    chosen = attribute or (ranked[0] if ranked else "")
    options = declared.get(chosen, {})
    found = sorted(counts.get(chosen, ()))
    without = sum(not _names(attributes.get(chosen), options) for attributes in regions)
    if without and not unnamed and len(found) < 2:
        unnamed = found[0] if found else NAMELESS
    names = list(dict.fromkeys([*options.values(), *found, *([unnamed] if unnamed else [])]))
    others = [] if attribute else [key for key in ranked[1:] if _might_be(key, chosen, counts, regions, declared)]
    return Classes(chosen, names if options else sorted(names), unnamed, without, options, others)


def _might_be(
    other: str,
    chosen: str,
    counts: Mapping[str, Counter[str]],
    regions: Sequence[Mapping[str, Any]],
    declared: Declared,
) -> bool:
    """Whether an attribute that was not chosen is on as many regions, and divides them in another way."""
    if counts[other].total() < counts[chosen].total() or _rank(other, counts[other], declared)[0]:
        return False
    pairs = {
        tuple(tuple(_names(attributes.get(key), declared.get(key, {})) or ()) for key in (chosen, other))
        for attributes in regions
    }
    return len(pairs) > max(len({first for first, _ in pairs}), len({second for _, second in pairs}))


def _rank(attribute: str, values: Counter[str], declared: Declared) -> tuple[bool, int, int, bool]:
    numbering = len(values) > _MANY_VALUES and 2 * len(values) > values.total()
    word = attribute.strip().lower()
    usual = _USUAL.index(word) if word in _USUAL else len(_USUAL)
    return numbering, -values.total(), usual, attribute not in declared


def values_of(value: Any, declared: Mapping[str, str], place: Entry) -> list[str]:
    """The names that the value of an attribute stands for: a text, or choices of which several may be checked."""
    names = _names(value, declared)
    if names is None:
        raise place.error(f"the class must be a text or choices, not {shown(value)}")
    return [place.text(name, "region_attributes") for name in names]


def _names(value: Any, declared: Mapping[str, str]) -> list[str] | None:
    """None where the value is none of a class."""
    if isinstance(value, Mapping):
        return [declared.get(key, key) for key, checked in value.items() if checked in (True, "true", "1")]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        value = str(value)
    if value is None or isinstance(value, str):
        text = (value or "").strip()
        return [declared.get(text, text)] if text else []
    return None
