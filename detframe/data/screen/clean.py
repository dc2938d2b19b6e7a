"""A clean COCO file of a data set: without what the screen can mend, and nothing guessed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detframe.data.metadata import folded
from detframe.data.records import Record
from detframe.data.screen import Screened
from detframe.data.screen.classes import class_counts
from detframe.data.screen.files import MISSING
from detframe.data.screen.pictures import same_bytes
from detframe.data.screen.split import Split

# What readers leave out of the records, so that it is not in the file either: code -> what is said of it
_LEFT_OUT = {
    MISSING.code: "images whose file is missing",
    "box-without-area": "boxes without area inside their image",
    "infinite-box": "boxes with an infinite number",
}
_UNUSABLE = "images that cannot be read, or have another size than annotated"


@dataclass
class Cleaned:
    """COCO files by split, and how many things are left out or changed, by what they are."""

    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)


def clean(screened: Screened, start: Path, together: bool) -> Cleaned:
    """The splits as COCO data sets.

    Images that cannot be used are left out, of equal ones all but one (that with the most objects; of two splits the
    one of the later), and of equal objects all but one. Names of classes that differ by spelling become one. Classes
    keep the ids that they have in the data, unless one is below 1 or stands for two of them.

    Args:
        start: the folder in which the files will lie; the names of images are relative to it.
        together: all splits as one data set, whose name is "".
    """
    out = Cleaned()
    classes = _classes(screened.splits, out)
    kept = _kept_images(screened, out)
    ids = _category_ids(screened.splits, classes)
    for split in screened.splits:
        file = out.files.setdefault("" if together else split.name, _empty_file(split, ids))
        for i in kept[split.name]:
            _add(file, split.records[i], [ids[classes[name]] for name in split.classes], start, out)
        for finding in split.records.findings:
            if finding.code in _LEFT_OUT:
                out.changes[_LEFT_OUT[finding.code]] += finding.count
    return out


def _classes(splits: Sequence[Split], out: Cleaned) -> dict[str, str]:
    """Every name of a class -> the name that it has in the file: of several spellings, that with the most objects."""
    counts: Counter[str] = Counter()
    for split in splits:
        counts.update(class_counts(split))
    best: dict[str, str] = {}
    for name in counts:
        known = best.setdefault(folded(name), name)
        best[folded(name)] = name if counts[name] > counts[known] else known
    renamed = [name for name in counts if best[folded(name)] != name]
    if renamed:
        out.changes["spellings of class names, for others of the same name"] += len(renamed)
    return {name: best[folded(name)] for name in counts}


def _category_ids(splits: Sequence[Split], classes: Mapping[str, str]) -> dict[str, int]:
    """The id of each class of the file: that of the data where these are some, else counted from 1."""
    known: dict[str, int] = {}
    for split in splits:
        own = dict(zip(split.classes, split.records.metadata.category_ids, strict=True))
        for name in sorted(own, key=lambda name: name != classes[name]):  # of several spellings, that of the file
            known.setdefault(classes[name], own[name])
    names = list(dict.fromkeys(classes.values()))
    if len(set(known.values())) < len(names) or min(known.values(), default=1) < 1:
        return {name: number for number, name in enumerate(names, 1)}
    return {name: known[name] for name in names}


def _kept_images(screened: Screened, out: Cleaned) -> dict[str, list[int]]:
    """The images of each split that the file has."""
    group = {path: group[0] for group in same_bytes(screened.pictures) for path in group}
    taken: set[str] = set()
    kept: dict[str, list[int]] = {}
    for split in reversed(screened.splits):
        chosen: dict[str, int] = {}
        counts = split.records.num_objects
        for i, path in enumerate(split.paths):
            if not _is_usable(split, i):
                out.changes[_UNUSABLE if split.pictures[path].exists else _LEFT_OUT[MISSING.code]] += 1
                continue
            key = group.get(path, path)
            repeated = key in taken or key in chosen
            out.changes["images that are there twice"] += repeated
            if key not in taken and (key not in chosen or counts[i] > counts[chosen[key]]):
                chosen[key] = i
        taken |= set(chosen)
        kept[split.name] = sorted(chosen.values())
    return kept


def _is_usable(split: Split, i: int) -> bool:
    picture = split.pictures[split.paths[i]]
    stated = tuple(split.records.sizes_hw[i].tolist())
    return not picture.fault and picture.size_hw in (None, stated)


def _empty_file(split: Split, ids: Mapping[str, int]) -> dict[str, Any]:
    keypoints = list(split.records.metadata.keypoint_names)
    more = {"keypoints": keypoints} if keypoints else {}
    categories = [{"id": number, "name": name, **more} for name, number in ids.items()]
    return {"images": [], "annotations": [], "categories": categories}


def _add(file: dict[str, Any], record: Record, categories: Sequence[int], start: Path, out: Cleaned) -> None:
    """Append an image with its objects, the ids going on."""
    height, width = record["size_hw"]
    image_id = len(file["images"]) + 1
    name = _relative(record["file_name"], start)
    file["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
    seen: set[tuple[float, ...]] = set()
    for i, (box, label) in enumerate(zip(record["boxes"].tolist(), record["labels"].tolist(), strict=True)):
        key = (categories[label - 1], *box)
        crowd = bool(record["iscrowd"][i])
        if not crowd and key in seen:
            out.changes["objects that are there twice"] += 1
            continue
        seen |= set() if crowd else {key}
        file["annotations"].append(
            {
                "id": len(file["annotations"]) + 1,
                "image_id": image_id,
                "category_id": categories[label - 1],
                "bbox": _xywh(box),
                "area": round(float(record["area"][i]), 3),
                "iscrowd": int(crowd),
                **_shape(record, i),
            }
        )


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = (round(v, 3) for v in box)
    return [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)]


def _shape(record: Record, i: int) -> dict[str, Any]:
    """Segmentation and keypoints of an object, where the data set has them."""
    shape: dict[str, Any] = {}
    segmentation = record["segmentations"][i] if record["segmentations"] is not None else []
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        shape["segmentation"] = {"size": segmentation["size"], "counts": counts.decode("ascii")}
    elif len(segmentation):
        shape["segmentation"] = [np.asarray(polygon).tolist() for polygon in segmentation]
    if record["keypoints"] is not None:
        points = record["keypoints"][i]
        shape["keypoints"] = points.flatten().tolist()
        shape["num_keypoints"] = int((points[:, 2] > 0).sum())
    return shape


def _relative(path: str, start: Path) -> str:
    """The way from the file's folder to an image; its whole path where there is none, as on another drive."""
    try:
        return Path(os.path.relpath(path, start)).as_posix()
    except ValueError:
        return path
