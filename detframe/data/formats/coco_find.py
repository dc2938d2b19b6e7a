"""Recognising COCO data sets: which JSON files are some, of which splits, and where their images lie."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from detframe.data.formats.json_and_xml import read_json
from detframe.data.formats.locate import ImageFinder, image_root
from detframe.data.listing import Listing, files_below
from detframe.data.recognition import Part, Recognised, split_of
from detframe.errors import UserError, listed
from detframe.texts import counted

LOOKS_FOR = "a JSON file with images, categories and annotations (COCO)"
_HEAD = 4096  # bytes at the beginning of a file that say whether it may be one
_PARSED = 2**25  # bytes; a larger file is searched for its keys, and not parsed
_SEVERAL = 25  # JSON files in one folder; where there are more, each is of one image, but for usual names
_MOST = 40  # files that are looked into
_NAMES = 200  # images that are looked for
_USUAL = re.compile(r"instances|coco|annotations?\b|^result|^labels\b|train|val|test", re.IGNORECASE)
_KEYS = re.compile(rb'"(images|annotations|categories|info|licenses|type)"\s*:')
_OTHERS = re.compile(rb'"(shapes|imageData|imagePath|regions|_via_\w+)"\s*:')
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*"((?:[^"\\]|\\.){1,500})"')


@dataclass(frozen=True)
class _Summary:
    """What a COCO file has, without its annotations."""

    names: tuple[str, ...]  # of some images
    images: int  # 0 where they were not counted
    categories: tuple[str, ...]
    objects: int  # 0 where they were not counted
    keypoints: bool = False
    scores: bool = False  # its annotations are detections


def recognise(path: Path) -> Recognised | None:
    """The COCO data set at a path: a folder with one JSON file or one for each split, or a file alone.

    Raises:
        ValueError: the only file that looks like one is malformed.
    """
    if path.is_file() and path.suffix.lower() != ".json":
        return None
    listing = files_below(path)
    found: dict[Path, _Summary] = {}
    broken: list[UserError] = []
    for file in _candidates(listing):
        try:
            summary = _summary_of(listing.root / file)
        except UserError as error:
            broken.append(error)
            continue
        if summary is not None:
            found[file] = summary
    if not found:
        if broken:
            raise broken[0]
        return None
    return _recognised(listing, found, broken)


def _recognised(listing: Listing, found: dict[Path, _Summary], broken: Sequence[UserError]) -> Recognised | None:
    notes = [f"a file was left out, since it cannot be read: {error}" for error in broken]
    truth = {file: summary for file, summary in found.items() if not summary.scores}
    if not truth:
        return None
    left_out = sorted(set(found) - set(truth))
    notes += [f"{file.as_posix()} holds detections with scores, and was left out" for file in left_out]
    whole = _taken(listing, truth, notes, left_out)
    keypoints = {file: summary for file, summary in truth.items() if summary.keypoints}
    if not keypoints or all(part.annotations.relative_to(listing.root) in keypoints for part in whole.parts):
        return whole
    others = sorted(set(truth) - set(keypoints))
    notes += [f"{file.as_posix()} has no keypoints, and was left out" for file in others]
    return replace(whole, with_keypoints=_taken(listing, keypoints, notes, [*left_out, *others]))


def _taken(listing: Listing, truth: dict[Path, _Summary], notes: Sequence[str], left_out: Sequence[Path]) -> Recognised:
    """The data set of some files, one of each split; `notes` and `left_out` are of the others."""
    notes, left_out = list(notes), list(left_out)
    by_split: dict[str, list[Path]] = defaultdict(list)
    for file in truth:
        by_split[split_of(file)].append(file)
    if len(by_split) > 1 and "" in by_split:
        notes += [f"{file.as_posix()} belongs to no split, and was left out" for file in by_split.pop("")]
    parts = []
    for split in sorted(by_split, key=("", "train", "val", "test").index):
        best, *others = sorted(by_split[split], key=lambda file: _preference(file, truth[file]))
        copies = [file for file in others if _is_copy(file, truth[file], truth[best])]
        left_out += copies
        notes += [_note(split, best, file, truth[file]) for file in others]
        parts.append(_part(split, listing, best, truth[best], notes))
    files = [part.annotations.relative_to(listing.root) for part in parts]
    reason = ", ".join(_counted(file, truth[file]) for file in files)
    return Recognised("coco", reason, tuple(parts), tuple(notes), tuple(listing.root / file for file in left_out))


def _preference(file: Path, summary: _Summary) -> tuple[Any, ...]:
    """The order of several files of one split: boxes of all classes before keypoints, train before trainval, more
    images before fewer."""
    return summary.keypoints, "trainval" in file.name.lower(), -summary.images, len(file.parts), file


def _is_copy(file: Path, summary: _Summary, taken: _Summary) -> bool:
    """Whether a file is another view of the images of the one that was taken, so that it is no data set of its own."""
    same = summary.keypoints and bool(set(summary.names) & set(taken.names))
    return same or "trainval" in file.name.lower()


def _note(split: str, best: Path, file: Path, summary: _Summary) -> str:
    what = "has keypoints, and " if summary.keypoints else ""
    part = f" as {split}" if split else ""
    return f"{best.as_posix()} was taken{part}; {file.as_posix()} beside it {what}was left out"


def _counted(file: Path, summary: _Summary) -> str:
    if not summary.images:
        return f"{file.as_posix()} has images, categories and annotations"
    images, objects = counted(summary.images, "image"), counted(summary.objects, "annotation")
    return f"{file.as_posix()} has {images}, {counted(len(summary.categories), 'category', 'categories')} and {objects}"


# ------------------------------------------------------------------ where the images lie
def _part(split: str, listing: Listing, file: Path, summary: _Summary, notes: list[str]) -> Part:
    path = listing.root / file
    root = image_root(path, summary.names, listing.root) or _folder_of_split(split, listing, summary.names)
    if root is None:
        notes.append(f"no image of {file.as_posix()} was found, as {listed(summary.names, 2)}")
    return Part(split, path.parent if root is None else _start(root, summary.names), path)


def _start(root: Path, names: Sequence[str]) -> Path:
    """The folder below `root` from which all names are the paths of images; `root` itself where they are not."""
    found = ImageFinder(root).find(names[0])
    depth = len(Path(names[0]).parts)
    if found is None or found.parts[-depth:] != Path(names[0]).parts:
        return root
    start = Path(*found.parts[:-depth])
    return start if all(os.path.isfile(start / name) for name in names) else root


def _folder_of_split(split: str, listing: Listing, names: Sequence[str]) -> Path | None:
    """The folder of images called like the split, where folders of several splits hold the same names."""
    wanted = {name.replace("\\", "/").rpartition("/")[2] for name in names}
    counts: dict[Path, int] = defaultdict(int)
    for image in listing.images():
        if image.name in wanted and split_of(image, by_name=False) == split:
            counts[image.parent] += 1
    best = max(counts, key=lambda folder: (counts[folder], -len(folder.parts)), default=None)
    return None if best is None else listing.root / best


# ------------------------------------------------------------------ what a file is
def _candidates(listing: Listing) -> list[Path]:
    """The JSON files that may be COCO's by their names and their first bytes."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for file in listing.with_suffix(".json"):
        by_folder[file.parent].append(file)
    few = [
        file for files in by_folder.values() for file in (files if len(files) <= _SEVERAL else filter(_is_usual, files))
    ]
    few.sort(key=lambda file: (len(file.parts), not _is_usual(file), file))
    return [file for file in few[: 5 * _MOST] if _may_be_coco(listing.root / file)][:_MOST]


def _is_usual(file: Path) -> bool:
    return _USUAL.search(file.stem) is not None


def _may_be_coco(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:4]:  # UTF-16 or UTF-32
        return True
    return text.startswith(b"{") and _KEYS.search(head) is not None and _OTHERS.search(head) is None


def _summary_of(path: Path) -> _Summary | None:
    stat = os.stat(path)
    return _cached_summary(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _cached_summary(path: Path, size: int, time_ns: int) -> _Summary | None:
    return _parsed(read_json(path)) if size <= _PARSED else _searched(path)


def _parsed(data: Any) -> _Summary | None:
    """The summary of what a file holds; None where it is no data set: results, captions, panoptic segments."""
    if not isinstance(data, dict):
        return None
    images, categories, annotations = (data.get(key) for key in ("images", "categories", "annotations"))
    if not isinstance(images, list) or not isinstance(categories, list) or not isinstance(annotations, list):
        return None
    first = next((item for item in annotations if isinstance(item, dict)), None)
    if first is not None and not ("category_id" in first and {"bbox", "segmentation"} & set(first)):
        return None
    names = [item["file_name"] for item in images if isinstance(item, dict) and isinstance(item.get("file_name"), str)]
    if images and not names:
        return None
    step = max(1, len(names) // _NAMES)
    classes = tuple(str(item.get("name")) for item in categories if isinstance(item, dict))
    return _Summary(
        tuple(names[::step][:_NAMES]),
        len(images),
        classes,
        len(annotations),
        any(isinstance(item, dict) and bool(item.get("keypoints")) for item in (*categories, *annotations)),
        first is not None and "score" in first,
    )


def _searched(path: Path) -> _Summary | None:
    """The summary of a large file, by searching it for keys: parsing it takes as long as reading the data set."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if any(data.find(b'"%s"' % key) < 0 for key in (b"images", b"annotations", b"categories", b"category_id")):
            return None
        if data.find(b'"bbox"') < 0 or data.find(b'"segments_info"') >= 0:
            return None
        names = tuple(_first_names(data))
        return _Summary(names, 0, (), 0, data.find(b'"keypoints"') >= 0, data.find(b'"score"') >= 0) if names else None


def _first_names(data: mmap.mmap) -> Iterator[str]:
    for count, found in enumerate(_FILE_NAME.finditer(data)):
        if count >= _NAMES:
            return
        try:
            yield str(json.loads(b'"%s"' % found[1], strict=False))
        except ValueError:  # no UTF-8, or an escape of nothing: reading the file says where
            continue
