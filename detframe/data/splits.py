"""Which part of a data set trains and which one validates: as folders or lists say, else made, the same each time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detframe.data.candidates import entry_of
from detframe.data.catalog import load_entry
from detframe.data.entries import CatalogEntry
from detframe.data.findings import NOTE, WARNING, Finding, sentence
from detframe.data.recognition import SPLITS, Part, Recognised
from detframe.data.source_groups import source_groups
from detframe.errors import InvalidValueError


def make_entries(
    recognised: Recognised, name: str, path: Path, val_share: float = 0.2, val: CatalogEntry | None = None
) -> tuple[dict[str, CatalogEntry], list[Finding]]:
    """Catalog entries for "train" and "val", and for "test" where there is one; and what was decided.

    Training images never come from a test part where there is another one, and those of a made validation part never
    from it at all.

    Args:
        name: each entry is called NAME_SPLIT.
        path: where the data set was recognised, for messages.
        val_share: of the training images, for validation where no part is for it.
        val: what validates in place of any part of the data set.
    """
    if not 0 < val_share < 1:
        raise InvalidValueError(f"val_share must lie between 0 and 1, not be {val_share}")
    parts = {part.split: part for part in recognised.parts}
    findings: list[Finding] = []
    roles = _roles(parts, findings)
    if val is not None and (own := roles.pop("val", None)) is not None:
        text = f"{own.annotations} is the data set's own part for validation, and is not used, since another is named"
        findings.append(sentence("unused-part", WARNING, text))
    entries = {split: entry_of(part, recognised, f"{name}_{split}", path) for split, part in roles.items()}
    if val is not None:
        entries["val"] = replace(val, name=f"{name}_val")
    elif "val" not in entries:
        entries |= _cut(entries, val_share, findings)
        entries["val"] = replace(entries["val"], name=f"{name}_val")
    return {split: entries[split] for split in SPLITS if split in entries}, findings


def validating(recognised: Recognised, path: Path) -> CatalogEntry:
    """The entry of the part of a data set that is to validate for another one: val, test, or what there is."""
    parts = {part.split: part for part in recognised.parts}
    part = next(parts[split] for split in ("val", "test", "", "train") if split in parts)
    return entry_of(part, recognised, "val", path)


def _roles(parts: Mapping[str, Part], findings: list[Finding]) -> dict[str, Part]:
    """The parts by what they are used for; there always is one to train on."""
    roles = {split: parts[split] for split in SPLITS if split in parts}
    if "train" in roles:
        if "" in parts:
            text = f"{parts[''].annotations} belongs to no split, and is not used"
            findings.append(sentence("unused-part", WARNING, text))
        return roles
    if "" in parts:
        return {"train": parts[""], **roles}
    source = "val" if "val" in roles else "test"
    text = f"there is a {source} part ({roles[source].annotations}) and none to train on, so it is used for training"
    findings.append(sentence("no-train", WARNING, text))
    return {"train": roles.pop(source), **roles}


def _cut(entries: Mapping[str, CatalogEntry], val_share: float, findings: list[Finding]) -> dict[str, CatalogEntry]:
    """Training and validation entries, cut from the training entry; from few images, the best that there is."""
    whole = entries["train"]
    train, val = f"{percent(1 - val_share)}%", f"-{percent(val_share)}%"
    cut = {"train": _narrowed(whole, train), "val": _narrowed(whole, val)}
    packed = load_entry(whole)
    paths, total = [packed.file_name(row) for row in range(len(packed))], len(packed)
    parted = len(source_groups(paths, paths)) > 1
    counts = {split: len(load_entry(entry)) for split, entry in cut.items()} if parted else {}
    if counts.get("train") and counts.get("val"):
        text = (
            f"no folder or list says which images are for validation: {counts['val']} of {total} "
            f"{'was' if counts['val'] == 1 else 'were'} set apart, the same each time; images of one source stay "
            f"together"
        )
        remedy = "name your own in lists (split: val.txt) or folders (train, val)"
        findings.append(sentence("split-made", NOTE, text, counts["val"], remedy))
        return cut
    return {"train": whole, "val": _without_val(entries, total, findings)}


def _without_val(entries: Mapping[str, CatalogEntry], total: int, findings: list[Finding]) -> CatalogEntry:
    """What validates where the training images cannot be parted."""
    if not total:
        text = "not one training image was found, so there is nothing to learn from and nothing to measure"
        findings.append(sentence("no-pictures", WARNING, text, remedy="see what the annotations name"))
        return entries.get("test", entries["train"])
    pictures = "there is 1 training image" if total == 1 else f"the {total} training images are of one source"
    if "test" in entries:
        text = f"{pictures}, so the test part validates; its AP is not that of unseen images"
        findings.append(sentence("val-is-test", WARNING, text, total))
        return entries["test"]
    text = (
        f"{pictures}, which cannot be parted: the same one trains and validates. AP says how well it was "
        f"memorised, and nothing about others"
    )
    findings.append(sentence("val-is-train", WARNING, text, total, "add images"))
    return entries["train"]


def _narrowed(entry: CatalogEntry, share: str) -> CatalogEntry:
    """The entry with a share of its images, after the format's own split where it has one."""
    own: Any = entry.options.get("split")
    split = [*(own if isinstance(own, list) else [own]), share] if own else share
    return replace(entry, options={**entry.options, "split": split})


def percent(share: float) -> str:
    """A share as a number of per cent, without a point where it has none."""
    return f"{round(100 * share, 4):g}"
