"""Recognising YOLO data sets that no file describes: by label files that have the names of images."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detframe.data.formats.locate import image_root
from detframe.data.formats.yolo_classes import names_option
from detframe.data.formats.yolo_labels import NO_LABELS, listed_images, place_of, rows_look_like_labels
from detframe.data.formats.yolo_places import LABEL_FOLDERS
from detframe.data.listing import IMAGE_SUFFIXES, Listing
from detframe.data.recognition import Part, Recognised, split_of
from detframe.errors import UserError, listed

_SAMPLE = 12  # label files of a folder that are looked into


def of_layout(path: Path, listing: Listing, options: Mapping[str, Any], notes: Sequence[str]) -> Recognised | None:
    """A data set that only its folders show."""
    groups = _label_folders(listing)
    if not groups:
        return None
    images = _image_folders(path, listing, groups)
    if not images:
        return None
    options = options or names_option(path, [listing.root / folder for folder in groups])
    lists = _split_lists(listing)
    parts, found_notes = dict[str, Part](), list(notes)
    if lists and len(images) == 1:
        ((folder, place),) = images.items()
        for split, file in lists.items():
            parts[split] = Part(split, place, listing.root / folder, {**options, "include": [listing.root / file]})
    else:
        _add_parts(parts, found_notes, listing.root, images, options)
    count = sum(len(groups[folder]) for folder in images)
    files = f"{count} label file{'s lie' if count > 1 else ' lies'}"
    reason = f"{files} in {_some(images)}, with the names of images in {_places(listing.root, images)}"
    return Recognised("yolo", reason, tuple(parts.values()), tuple(found_notes))


def _label_folders(listing: Listing) -> dict[Path, list[Path]]:
    """The folders with label files, and the files in each."""
    groups: dict[Path, list[Path]] = defaultdict(list)
    stems = {file.stem for file in listing.images()}
    for file in listing.with_suffix(".txt"):
        if file.stem in stems or file.stem.lower() not in NO_LABELS:
            groups[file.parent].append(file)
    return {folder: files for folder, files in groups.items() if _are_labels(listing.root, folder, files, stems)}


def _are_labels(root: Path, folder: Path, files: Sequence[Path], stems: set[str]) -> bool:
    """Whether the texts of a folder are label files, by their names and by the rows of a few of them."""
    named = [file for file in files if file.stem in stems] if stems else list(files)
    if not named or (stems and folder.name.lower() not in LABEL_FOLDERS and 2 * len(named) < len(files) - 6):
        return False
    step = max(1, len(named) // _SAMPLE)
    lenient = "labels" in folder.as_posix().lower().split("/")
    return rows_look_like_labels([root / file for file in named[::step]], lenient)


def _image_folders(path: Path, listing: Listing, groups: Mapping[Path, Sequence[Path]]) -> dict[Path, Path]:
    """For each folder of label files, the folder of their images, absolute; without those that have none."""
    stems: dict[Path, set[str]] = defaultdict(set)
    for image in listing.images():
        stems[image.parent].add(image.stem)
    out: dict[Path, Path] = {}
    for folder, files in groups.items():
        own = {file.stem for file in files}
        best = max(stems, key=lambda other: _fit(folder, own, other, stems[other]), default=None)
        if best is not None and own & stems[best]:
            out[folder] = listing.root / best
        elif not stems and (root := image_root(listing.root / folder, sorted(own))) is not None:
            out[folder] = root
    return out


def _fit(labels: Path, own: set[str], images: Path, stems: set[str]) -> tuple[bool, int, int, int]:
    """How well a folder of images fits one of labels: the same split, many names, the same place, near."""
    same = place_of(f"{labels.as_posix()}/x") == place_of(f"{images.as_posix()}/x")
    near = next(
        (at for at, pair in enumerate(zip(labels.parts, images.parts, strict=False)) if pair[0] != pair[1]),
        min(len(labels.parts), len(images.parts)),
    )
    shared = len(own & stems)
    return shared > 0 and _split(labels) == _split(images), shared, same, near


def _split(folder: Path) -> str:
    return split_of(folder / "x", by_name=False)


def _add_parts(
    parts: dict[str, Part], notes: list[str], root: Path, images: Mapping[Path, Path], options: Mapping[str, Any]
) -> None:
    """Add a part for each split that the folders name."""
    by_split: dict[str, list[Path]] = defaultdict(list)
    for folder, place in images.items():
        inside = place.relative_to(root) if place.is_relative_to(root) else Path()
        by_split[_split(folder) or _split(inside)].append(folder)
    if len(by_split) > 1 and "" in by_split:
        others = listed([f"{folder.as_posix()}/" for folder in by_split.pop("")], 3)
        notes.append(f"{others} belongs to no split, and was left out")
    for split, folders in by_split.items():
        places = [images[folder] for folder in folders]
        part = Part(split, _common(places), _common(root / folder for folder in folders), options)
        if len(folders) > 1 and len(by_split) > 1 and not _split(part.annotations.relative_to(root)):
            part = Part(split, part.images, part.annotations, {**options, "include": sorted(set(places))})
        parts[split] = part


def _common(paths: Iterable[Path]) -> Path:
    return Path(os.path.commonpath(list(paths)))


def _split_lists(listing: Listing) -> dict[str, Path]:
    """Lists of images beside the folders: train.txt, val.txt, test.txt."""
    texts = [file for file in listing.with_suffix(".txt") if len(file.parts) <= 2]
    named = {split: file for file in reversed(texts) if (split := split_of(Path(file.name)))}
    return {split: file for split, file in named.items() if is_image_list(listing.root / file)}


def _some(folders: Iterable[Path]) -> str:
    return listed([f"{folder.as_posix()}/" if folder.parts else "the folder" for folder in folders], 3)


def _places(root: Path, images: Mapping[Path, Path]) -> str:
    return listed([f"{short(place, root)}/" if place != root else "it" for place in dict.fromkeys(images.values())], 3)


def is_image_list(path: Path) -> bool:
    """Whether the first line of a text names an image."""
    try:
        lines = listed_images(path)
    except (OSError, UserError):
        return False
    return bool(lines) and lines[0].lower().endswith(IMAGE_SUFFIXES)


def short(path: Path, folder: Path) -> str:
    """A path relative to a folder, where it lies below it."""
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
