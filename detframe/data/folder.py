"""From a path to a data set: recognised, split, with one list of classes, and written down as a catalog."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from detframe.config.paths import expanded
from detframe.data import formats  # noqa: F401  (fills DATASET_FORMATS)
from detframe.data.archives import archive_suffix, unpacked
from detframe.data.candidates import Candidate
from detframe.data.catalog import load_entry, records_of
from detframe.data.catalog_text import catalog_text
from detframe.data.choosing import choose
from detframe.data.class_union import Classes, unify
from detframe.data.entries import CatalogEntry
from detframe.data.findings import Finding
from detframe.data.listing import Listing, files_below
from detframe.data.recognition import Recognised
from detframe.data.records import Records
from detframe.data.splits import make_entries, validating
from detframe.errors import InvalidValueError, MissingFileError, listed
from detframe.storage import refuse_address

# Names that say nothing about a data set: that of the folder above it says more
_NO_NAMES = re.compile(
    r"(data|dataset|datasets|images|annotations|labels|train|training|val|valid|test|result|"
    r"(instances|person_keypoints)(_\w+)?|"
    r"annotations\.coco|via_\w+|obj|classes|all|default|labels_my-project-name.*)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class FolderData:
    """A data set that was recognised at a path.

    Attributes:
        name: entries of the catalog are called NAME_SPLIT.
        path: the file or folder; of an archive, the folder into which it was unpacked.
        recognised: the format, by what it was recognised, and the parts.
        entries: for "train" and "val", and for "test" where there is one.
        findings: what was decided on the way.
        class_names: of all entries, in the order of the labels.
    """

    name: str
    path: Path
    recognised: Recognised
    entries: Mapping[str, CatalogEntry]
    findings: tuple[Finding, ...] = ()
    class_names: tuple[str, ...] = field(default=())

    @property
    def listing(self) -> Listing:
        """The files below the path."""
        return files_below(self.path)

    def records(self, split: str, on_missing: str = "skip") -> Records:
        """The records of one of the entries; errors, and what `on_missing` says, are as of `load_records`."""
        return records_of([self.entries[split]], on_missing=on_missing)

    def all_records(self) -> dict[str, Records]:
        """The records of each entry, by split."""
        return {split: self.records(split) for split in self.entries}

    def catalog_text(self, start: Path) -> str:
        """The catalog that DATASETS.CATALOG takes, for a file in the folder `start`."""
        return catalog_text(self.entries, self.findings, start)


def read_folder(
    path: str | Path,
    format: str = "",
    classes: Classes = None,
    others: str = "background",
    val_share: float = 0.2,
    val: str | Path = "",
    needs: str = "",
) -> FolderData:
    """Recognise the data set at a path: a folder, a data.yaml, a file of annotations, or an archive.

    Args:
        format: its name in DATASET_FORMATS, where several formats are there.
        classes: those to select, in the order of the labels; a mapping also renames them. None takes all.
        others: what objects of other classes are: "background", or "ignore" (neither trained on nor counted).
        val_share: how much is set apart for validation where the data set does not say.
        val: another path, whose data validate in place of a part of these.
        needs: "masks" or "keypoints": of several files or formats, those that have some are taken, where any has.

    Raises:
        FileNotFoundError: there is no such path; names the nearest.
        ValueError: no format recognises it, or it holds several data sets; lists what was found, and what to do.
        KeyError: there is no such format or class.
    """
    files_below.cache_clear()
    name, path, chosen, findings = _found(path, format, needs)
    val_entry = None
    if str(val):
        _, val_path, val_chosen, about = _found(val, "", needs)
        findings += about
        val_entry = validating(val_chosen.recognised, val_path)
    entries, decided = make_entries(chosen.recognised, name, path, val_share, val_entry)
    names = {split: load_entry(entry).metadata.class_names for split, entry in entries.items()}
    entries, unified = unify(entries, names, classes, others)
    class_names = load_entry(entries["train"]).metadata.class_names
    return FolderData(
        name, path, chosen.recognised, entries, tuple([*findings, *decided, *unified]), tuple(class_names)
    )


def _found(path: str | Path, format: str, needs: str) -> tuple[str, Path, Candidate, list[Finding]]:
    """The name of the data set at a path, the folder where it lies, itself, and what there is to say of it."""
    shown_path, path = str(path), expanded(path).absolute()
    if not shown_path.strip():
        raise InvalidValueError("no path is given; a folder, a data.yaml, a file of annotations or an archive is one")
    if not os.path.exists(path):
        refuse_address(shown_path, "name its images and annotations in a catalog (docs/storage.md), or download it")
        raise _missing(path, shown_path)
    if not (os.path.isdir(path) or os.path.isfile(path)):
        raise InvalidValueError(f"{shown_path} is neither a file nor a folder, but a pipe or a device")
    path = Path(os.path.normpath(path))
    name, findings = name_of(path), list[Finding]()
    if path.is_file() and archive_suffix(path):
        path, findings = unpacked(path)
        if not files_below(path).names:
            raise InvalidValueError(f"{shown_path} has no file in it. A data set has images and annotations")
        shown_path = str(path)
    chosen, about = choose(path, shown_path, format, needs)
    return name, path, chosen, [*findings, *about]


def _missing(path: Path, shown_path: str) -> MissingFileError:
    """The error for a path that does not exist.

    Names it where data sets are kept, or the nearest names in the deepest folder of it that does exist.
    """
    for root in filter(None, (os.environ.get("DETFRAME_DATASETS"), "datasets")):
        meant = expanded(root).absolute() / shown_path
        if os.path.exists(meant):
            return MissingFileError(f"{shown_path} does not exist; did you mean {meant}?")
    # a function of os.path, since methods of Path raise for names that are too long
    parent = next((folder for folder in path.parents if os.path.isdir(folder)), path.parent)
    wanted = path.relative_to(parent).parts[0]
    try:
        known = sorted(entry.name for entry in os.scandir(parent) if not entry.name.startswith("."))
    except OSError:
        known = []
    by_lower = {name.lower(): name for name in known}
    near = [by_lower[name] for name in difflib.get_close_matches(wanted.lower(), list(by_lower), n=3, cutoff=0.5)]
    hint = (
        f"did you mean {' or '.join(near)} in {parent}?" if near else f"{parent} holds {listed(known, 8) or 'nothing'}"
    )
    return MissingFileError(f"{shown_path} does not exist; {hint}")


def name_of(path: Path) -> str:
    """The name of the data set at a path, fit for a catalog and for files."""
    path = Path(os.path.abspath(path))  # a link is called as its owner calls it
    for place in (path, *path.parents):
        name = _without_suffix(place) if place == path and os.path.isfile(place) else place.name
        clean = re.sub(r"[^\w.-]+", "_", name).strip("._-")
        if clean and not _NO_NAMES.fullmatch(clean):
            return clean
    return "data"


def _without_suffix(path: Path) -> str:
    return path.name[: -len(archive_suffix(path) or path.suffix) or None]
