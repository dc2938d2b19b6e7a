"""Recognising YOLO data sets: by a data.yaml or obj.data, by lists of images, or by label files beside images alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detframe.data.formats.locate import IMAGE_FOLDERS, image_root
from detframe.data.formats.yolo_classes import DATA_FILES, names_option
from detframe.data.formats.yolo_data_file import YAML_SUFFIXES, DataFile, below, is_data_file, read_data_file
from detframe.data.formats.yolo_labels import LabelIndex, is_label_file, listed_images, place_of
from detframe.data.formats.yolo_layout import is_image_list, of_layout, short
from detframe.data.formats.yolo_places import LABEL_FOLDERS, Places, images_and_labels, locate_parts
from detframe.data.listing import Listing, files_below, folders_in
from detframe.data.recognition import Part, Recognised, split_of
from detframe.errors import MissingFileError, UserError, listed

LOOKS_FOR = "a data.yaml or obj.data, or .txt files with a class and four numbers a line that have the names of images"
_MOST_DATA_FILES, _MOST_BYTES = 20, 2**20  # of files that may describe the data set
_LISTED = 200  # images of a list that are looked for


def recognise(path: Path) -> Recognised | None:
    """The YOLO data set at a path: a folder, a data.yaml, an obj.data, or a list of images.

    Raises:
        FileNotFoundError: a data.yaml names folders of which none exists, and nothing beside it is a data set.
        ValueError: the path is a malformed data.yaml.
    """
    if path.is_file():
        return _of_file(path)
    listing = files_below(path)
    file = _data_file(listing)
    return of_layout(path, listing, {}, []) if file is None else _of_data_file(file, path, listing)


def _of_file(path: Path) -> Recognised | None:
    suffix = path.suffix.lower()
    if suffix in (*YAML_SUFFIXES, ".data") and is_data_file(path, malformed=path.name.lower() in DATA_FILES):
        return _of_data_file(path, path.parent, files_below(path.parent), named=True)
    if suffix == ".txt" and is_image_list(path):
        part = _of_lists(split_of(Path(path.name)), [path], path.parent, names_option(path.parent))
        reason = f"{path.name} lists images, and label files have their names"
        return None if part is None else Recognised("yolo", reason, (part,))
    return None


def _of_data_file(file: Path, folder: Path, listing: Listing, named: bool = False) -> Recognised | None:
    """The data set that a file describes; where it leads nowhere, what label files show, or an error.

    Args:
        named: the user has named this very file, which must then be readable.
    """
    try:
        data = read_data_file(file)
    except UserError as error:
        if named:
            raise
        found = of_layout(folder, listing, {}, [f"{file.name} was left out, since it cannot be read: {error}"])
        if found is None:
            raise
        return found
    return _of_data(data) or of_layout(folder, listing, _options(data), [_dead(data)]) or _raise_dead(data)


# ------------------------------------------------------------------ data.yaml and obj.data
def _data_file(listing: Listing) -> Path | None:
    """The file that describes the data set: the highest one, and of several the one with the usual name."""
    files = listing.with_suffix(*YAML_SUFFIXES, ".data")
    files.sort(key=lambda file: (len(file.parts), _order(file.name.lower(), DATA_FILES), file))
    for path in (listing.root / file for file in files[:_MOST_DATA_FILES]):
        if os.path.getsize(path) <= _MOST_BYTES and is_data_file(path, malformed=path.name.lower() in DATA_FILES):
            return path
    return None


def _order(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else len(names)


def _of_data(data: DataFile) -> Recognised | None:
    """The splits that a data file names, as far as they exist."""
    places = locate_parts(data)
    twins = _twins(places, data.path.parent)
    parts, notes = dict[str, Part](), [*places.notes, *twins.values(), *data.disagreement()]
    for split, paths in places.parts.items():
        folders = [path for path in paths if path.is_dir()]
        if len(paths) == 1 and folders:
            images, labels = images_and_labels(folders[0])
            part: Part | None = Part(split, images, labels, _options(data))
        else:
            part = _of_lists(split, paths, data.path.parent, _options(data))
        if part is None:
            named = listed([path.name for path in paths], 3)
            notes.append(f"{split} of {data.path.name} is {named}, whose images do not exist, and was left out")
        else:
            parts[split] = part
    if not parts:
        return None
    names = f"names {len(data.names)} class{'es' * (len(data.names) != 1)}" if data.names else "names no classes"
    splits = ", ".join(f"{split} is {short(part.images, data.path.parent)}" for split, part in parts.items())
    return Recognised("yolo", f"{data.path.name} {names}; {splits}", tuple(parts.values()), tuple(notes), tuple(twins))


def _options(data: DataFile) -> dict[str, Any]:
    """What a data file says of classes and keypoints, as fields of an entry."""
    options: dict[str, Any] = {}
    if data.names:
        counted = list(data.names) == list(range(len(data.names)))
        options["names"] = list(data.names.values()) if counted else dict(data.names)
    if data.keypoints is not None:
        options["kpt_shape"] = [data.keypoints.count, data.keypoints.numbers]
        options["kpt_names"] = list(data.keypoint_names)
    if data.flip_idx:
        options["flip_idx"] = list(data.flip_idx)
    return options if data.names else {**options, **names_option(data.path.parent)}


def _twins(places: Places, folder: Path) -> dict[Path, str]:
    """Folders beside those taken that have another name of the same split, valid/ and val/, each with a note."""
    notes = {}
    taken = {path for paths in places.parts.values() for path in paths}
    for split, paths in places.parts.items():
        for path in filter(os.path.isdir, paths):
            top = path.relative_to(folder).parts[:1] if path.is_relative_to(folder) else ()
            others = [p for p in folders_in(folder) if split_of(Path(p.name, "x"), by_name=False) == split]
            for other in others:
                if top and other.name != top[0] and not any(other == p or other in p.parents for p in taken):
                    notes[other] = f"{split} is {short(path, folder)}, and {other.name}/ beside it was left out"
    return notes


def _dead(data: DataFile) -> str:
    """What is said where nothing that a data file names exists."""
    named = "; ".join(f"{split}: {', '.join(items)}" for split, items in data.parts.items())
    base = f" (path: {data.base})" if data.base else ""
    return f"nothing that {data.path} names exists: {named}{base}"


def _raise_dead(data: DataFile) -> Recognised | None:
    folders = listed([f"{path.name}/" for path in folders_in(data.path.parent)], 8)
    there = f"Beside it lies {folders}, and no image there has a label file" if folders else "No folder lies beside it"
    raise MissingFileError(
        f"{_dead(data)}. {there}. Write train: and val: relative to the folder of {data.path.name}, with the images in "
        f"images/ and the label files in labels/"
    )


# ------------------------------------------------------------------ lists of images
def _of_lists(split: str, paths: Sequence[Path], folder: Path, options: Mapping[str, Any]) -> Part | None:
    """A split that is a list of images, several of them, or several folders; None where no image exists."""
    names = [name for path in paths if path.is_file() for name in listed_images(path)]
    roots = [path for path in paths if path.is_dir()]
    if names:
        root = image_root(folder, names)
        roots += [root] if root is not None else []
    if not roots:
        return None
    images = Path(os.path.commonpath(roots))
    labels = _labels_of_list(names, folder, images) if names else Path(os.path.commonpath(list(map(_labels_of, roots))))
    if names and len(paths) == 1 and _is_whole(names, labels):
        return Part(split, images, labels, options)
    return Part(split, images, labels, {**options, "include": list(paths)})


def _labels_of(place: Path) -> Path:
    return images_and_labels(place)[1]


def _labels_of_list(names: Sequence[str], folder: Path, images: Path) -> Path:
    """The folder that holds the label files of the images of a list."""
    step = max(1, len(names) // _LISTED)
    found = set()
    for name in names[::step]:
        stem = os.path.splitext(name.replace("\\", "/"))[0]
        versions = [stem, *(_with_labels(stem, word) for word in LABEL_FOLDERS[:2])]
        label = next((path for version in versions if (path := below(folder, f"{version}.txt")) is not None), None)
        if label is not None:
            found.add(label.parent)
    return Path(os.path.commonpath(found)) if found else _labels_of(images)


def _with_labels(stem: str, word: str) -> str:
    """A path whose last folder of images is called as a folder of labels."""
    parts = stem.split("/")
    at = next((at for at in reversed(range(len(parts) - 1)) if parts[at].lower() in IMAGE_FOLDERS[:-1]), None)
    return stem if at is None else "/".join([*parts[:at], word, *parts[at + 1 :]])


def _is_whole(names: Sequence[str], labels: Path) -> bool:
    """Whether a list names the images of all label files of a folder, so that it chooses nothing."""
    listed_places = {place_of(name.replace("\\", "/")).rpartition("/")[2] for name in names}
    files = LabelIndex(labels).files
    return all(place_of(file).rpartition("/")[2] in listed_places or not is_label_file(labels / file) for file in files)
