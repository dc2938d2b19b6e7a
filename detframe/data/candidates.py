"""What the formats recognise of a path: one data set, the same images in several formats, or several data sets.

Every format is asked about the path, about the folders below it and about single files of annotations. Where more
than one answers, what they read is compared by its images: that is the only thing which tells a second format of
the same data set from a second data set.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detframe.data.entries import CatalogEntry
from detframe.data.listing import IMAGE_SUFFIXES, Listing, files_below
from detframe.data.recognition import Part, Recognised
from detframe.errors import UserError
from detframe.files import safe_name
from detframe.registry import DATASET_FORMATS

FOLDERS_ASKED = 60  # below a path, the highest first
FILES_ASKED = 25  # of one suffix in one folder; where there are more, each is of one image
READ_AT_MOST = 40  # candidates that are read to be compared
SAME_SHARE = 0.9  # of the images of one candidate that another one must have to stand for it
_COMPARED = 2000  # images that are compared with their namesakes byte by byte
MASKS, KEYPOINTS = "masks", "keypoints"  # what a training may need of a data set besides boxes
DATA_FILES = (".json", ".csv", ".tsv", ".xml", ".yaml", ".yml")  # that may hold a data set each


@dataclass(frozen=True)
class Content:
    """What a candidate holds, once read; `problem` says why it cannot be."""

    pictures: frozenset[str] = frozenset()
    labelled: frozenset[str] = frozenset()  # those of them with objects
    objects: int = 0
    class_names: tuple[str, ...] = ()
    has_masks: bool = False
    has_keypoints: bool = False
    missing: int = 0
    problem: str = ""

    def has(self, needs: str) -> bool:
        """Whether it holds what is needed; everything holds nothing."""
        return {MASKS: self.has_masks, KEYPOINTS: self.has_keypoints}.get(needs, True)


@dataclass(frozen=True)
class Candidate:
    """A data set that one format recognises at a path."""

    path: Path
    recognised: Recognised
    content: Content = field(default=Content(), compare=False)

    @property
    def format(self) -> str:
        """Its name in DATASET_FORMATS."""
        return self.recognised.format


def recognisers(format_name: str = "") -> dict[str, object]:
    """The readers that can recognise, by name: all, or the one of that name."""
    known = {name: reader for name, reader in DATASET_FORMATS if hasattr(reader, "recognise")}
    if not format_name:
        return known
    reader = DATASET_FORMATS.get(format_name)
    return {format_name: reader} if hasattr(reader, "recognise") else {}


def find_candidates(path: Path, format_name: str = "", needs: str = "") -> list[Candidate]:
    """Everything that a format recognises at a path, in the folders below it and in its files of annotations.

    Args:
        needs: as of `detframe.data.folder.read_folder`.

    Raises:
        UserError: what a format says of a data set of its own that cannot be used, where there is no other.
    """
    formats, broken = recognisers(format_name), list[UserError]()
    found = _ask(path, formats, broken, needs)
    if path.is_dir():
        listing = files_below(path)
        for folder in _unexplained(listing, found)[:FOLDERS_ASKED]:
            found += _ask(path / folder, formats, broken, needs)
        known = {part.annotations for candidate in found for part in candidate.recognised.parts}
        for file in _data_files(listing):
            if path / file not in known:
                found += _ask(path / file, formats, broken, needs)
    if broken and not found:
        raise broken[0]
    whole: list[Candidate] = []
    for candidate in found:
        if not _is_mixture(candidate, found) and not any(_covers(other, candidate) for other in whole):
            whole.append(candidate)
    return whole


def _ask(path: Path, formats: dict[str, object], broken: list[UserError], needs: str) -> list[Candidate]:
    """What the formats recognise at one path; their errors are put to `broken`."""
    answers: list[Recognised | None] = []
    for reader in formats.values():
        try:
            answers.append(reader.recognise(path))  # type: ignore[attr-defined]
        except UserError as error:
            broken.append(error)
    known = [answer for answer in answers if answer is not None and answer.parts]
    if needs == KEYPOINTS:
        known = [answer.with_keypoints or answer for answer in known]
    return [Candidate(path, answer) for answer in known]


def _unexplained(listing: Listing, found: Sequence[Candidate]) -> list[Path]:
    """The folders with anything but images below them that is no annotation of what was found already."""
    known = {part.annotations for candidate in found for part in candidate.recognised.parts}
    folders = {os.path.dirname(name) for name in listing.names if not name.lower().endswith(IMAGE_SUFFIXES)}
    out: set[Path] = set()
    for folder in map(Path, folders):
        place = listing.root / folder
        if known.isdisjoint((place, *place.parents)):
            out.update((folder, *folder.parents))
    return sorted(out - {Path()}, key=lambda folder: (len(folder.parts), folder))


def _data_files(listing: Listing) -> list[Path]:
    """Files that may hold a data set each: few of a suffix in one folder."""
    by_folder: dict[tuple[Path, str], list[Path]] = {}
    for file in listing.with_suffix(*DATA_FILES):
        by_folder.setdefault((file.parent, file.suffix.lower()), []).append(file)
    few = [files for files in by_folder.values() if len(files) <= FILES_ASKED]
    return sorted((file for files in few[:FOLDERS_ASKED] for file in files), key=lambda f: (len(f.parts), f))


def _is_mixture(candidate: Candidate, found: Sequence[Candidate]) -> bool:
    """Whether a candidate has the train part of one data set and the validation part of another.

    So it is where a folder below has some of its parts, together with one that it does not have, and not all of them.
    """
    own = {part.annotations for part in candidate.recognised.parts}
    for other in found:
        theirs = {part.annotations for part in other.recognised.parts}
        below = other.format == candidate.format and candidate.path in other.path.parents
        if below and own & theirs and theirs - own and any(not a.is_relative_to(other.path) for a in own):
            return True
    return False


def _covers(whole: Candidate, part: Candidate) -> bool:
    """Whether a candidate is a part of one of the same format that was found above it, or what that one left out."""
    home = Path(os.path.commonpath([p for own in whole.recognised.parts for p in (own.annotations, own.images)]))
    left_out = [path for path in whole.recognised.left_out if path.is_relative_to(home)]
    return whole.format == part.format and all(
        any(_holds(theirs, own) for theirs in whole.recognised.parts)
        or any(own.annotations.is_relative_to(path) for path in left_out)
        for own in part.recognised.parts
    )


def _holds(whole: Part, part: Part) -> bool:
    if part.annotations.is_relative_to(whole.annotations):
        return True
    # a data.yaml names the folders of images, and each of them is recognised alone too
    by_images = whole.annotations.is_file() and part.annotations.is_dir()
    return by_images and part.images.is_relative_to(whole.images)


# -------------------------------------------------------------------------------- reading and comparing
def entry_of(part: Part, recognised: Recognised, name: str, path: Path) -> CatalogEntry:
    """The catalog entry of a part."""
    options = dict(part.options)
    return CatalogEntry(name, recognised.format, part.images, part.annotations, options, path)


def read_content(candidate: Candidate) -> Candidate:
    """The candidate with its content, from the record cache or put there."""
    from detframe.data.catalog import load_entry  # the catalog imports the formats

    pictures, labelled = set[str](), set[str]()
    names: dict[str, None] = {}
    objects = missing = 0
    masks = keypoints = False
    try:
        for part in candidate.recognised.parts:
            name = safe_name(f"{candidate.path.name}_{part.split or 'all'}")
            packed = load_entry(entry_of(part, candidate.recognised, name, candidate.path))
            files = [os.path.normpath(packed.file_name(row)) for row in range(len(packed))]
            pictures.update(files)
            labelled.update(files[row] for row in np.flatnonzero(np.diff(packed.arrays["object_start"])))
            names.update(dict.fromkeys(packed.metadata.class_names))
            objects += len(packed.arrays["labels"])
            missing += len(packed.missing)
            masks |= packed.has_masks
            keypoints |= bool(packed.metadata.keypoint_names)
    except (UserError, OSError) as error:
        content = Content(problem=str(error))
    else:
        content = Content(frozenset(pictures), frozenset(labelled), objects, tuple(names), masks, keypoints, missing)
    return Candidate(candidate.path, candidate.recognised, content)


def richness(candidate: Candidate) -> tuple[object, ...]:
    """The order in which formats of the same images are preferred, the greater the better.

    Masks before boxes, keypoints before none, classes with names before numbers, splits before none; then more
    images, fewer that are named and do not exist, more objects, fewer notes of the format's own; then the path that
    was given before a folder below it, then the alphabet.
    """
    content, parts = candidate.content, candidate.recognised.parts
    named = any(not name.isdigit() for name in content.class_names)
    splits = len({part.split for part in parts if part.split})
    depth = len(candidate.path.parts)
    last = tuple(-ord(letter) for letter in candidate.format)
    return (
        content.has_masks,
        content.has_keypoints,
        named,
        splits,
        len(content.pictures),
        -content.missing,
        content.objects,
        -len(candidate.recognised.notes),
        -depth,
        last,
    )


def stands_for(one: Candidate, other: Candidate) -> bool:
    """Whether nearly all images of `other` are among those of `one`, as the same files or as copies of them.

    So must be those with objects: where half of the images have labels of one format, and half of another, each
    format may list all of them.
    """
    return _among(other.content.pictures, one.content.pictures) and _among(other.content.labelled, one.content.labelled)


def _among(some: frozenset[str], pictures: frozenset[str]) -> bool:
    """Whether nearly all of some images are among others, as the same files or as copies of them."""
    wanted, lacking = SAME_SHARE * len(some), some - pictures
    here = len(some) - len(lacking)
    if here >= wanted or len(lacking) > _COMPARED:
        return here >= wanted
    by_name: dict[str, list[str]] = {}
    for picture in pictures:
        by_name.setdefault(os.path.basename(picture), []).append(picture)
    copies = sum(any(_same_bytes(p, q) for q in by_name.get(os.path.basename(p), [])[:9]) for p in lacking)
    return here + copies >= wanted


def _same_bytes(first: str, second: str) -> bool:
    try:
        return os.path.getsize(first) == os.path.getsize(second) and filecmp.cmp(first, second, shallow=False)
    except OSError:  # a file that cannot be read is the same as no other
        return False


def is_leftover(best: Candidate, other: Candidate) -> bool:
    """Whether a candidate is what a data set with splits left over: the same classes, in a folder among its own."""
    parts = best.recognised.parts
    home = os.path.commonpath([place for part in parts for place in (part.annotations, part.images)])
    return (
        len(parts) > 1
        and best.format == other.format
        and len(other.content.pictures) < len(best.content.pictures)
        and set(other.content.class_names) <= set(best.content.class_names)
        and all(part.annotations.is_relative_to(home) for part in other.recognised.parts)
    )


@dataclass(frozen=True)
class Cluster:
    """One data set: the candidate to take, the others that describe its images or some of them, and what belongs to
    it and is in none of its parts."""

    best: Candidate
    others: tuple[Candidate, ...] = ()
    leftovers: tuple[Candidate, ...] = ()


def clusters(candidates: Sequence[Candidate]) -> list[Cluster]:
    """The data sets among candidates that were read, the largest first.

    A data set is the richest candidate that stands for one with the most images, those with objects first, and all
    for which it stands.
    """
    left = [c for c in candidates if c.content.pictures]
    out: list[Cluster] = []
    while left:
        largest = max(left, key=lambda c: (len(c.content.labelled), len(c.content.pictures)))
        best = max((c for c in left if stands_for(c, largest)), key=richness)
        same = [c for c in left if c is not best and stands_for(best, c)]
        rest = [c for c in left if c is not best and c not in same]
        leftovers = [c for c in rest if is_leftover(best, c)]
        out.append(Cluster(best, tuple(same), tuple(leftovers)))
        left = [c for c in rest if c not in leftovers]
    return out
