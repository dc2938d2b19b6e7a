"""What has to hold of records that were read without an error, for every annotation format (docs: targets)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from detframe.data import CatalogEntry, Records, join, load_image
from detframe.registry import DATASET_FORMATS
from detframe.structures import LazyMasks
from tests.malformed.contract import READ, REPAIRED, Case, NonsenseError
from tests.malformed.mutations import Path_, byte_changes, clear, json_texts, no_files, pattern, text_changes

Facts = list[Any]  # everything that a record says, as plain lists
Meant = Mapping[str, Callable[[Any], bool]]  # pattern of a place -> whether a value may stand there


# ---------------------------------------------------------------------------------------------- cases
def json_cases(
    entry: CatalogEntry,
    tree: Any,
    meant: Meant,
    optional: Sequence[str],
    large_at: Sequence[Path_],
    named: tuple[str, ...],
    entries: tuple[str, ...],
) -> Iterator[Case]:
    """Every mutation of an annotation file in JSON.

    Args:
        tree: what the sound file holds.
        meant: what may stand at a place and then may change the result without a word; anywhere else nothing may.
        optional: fields that may be absent.
        large_at: places for values of many megabytes.
        named, entries: words in refusals, as of `Case`; the second below the root.
    """
    path = entry.annotations
    path.write_text(json.dumps(tree))
    usual = facts(read_entry(entry)[0])

    def read(place: Callable[[], object], is_meant: bool) -> str:
        clear(path)
        place()
        return judge_records(entry, usual, is_meant)

    def written(content: bytes, is_meant: bool) -> Callable[[], str]:
        return lambda: read(lambda: path.write_bytes(content), is_meant)

    for what, at, text, document in json_texts(tree, large_at):
        right = _is_meant(what, at, text, meant, optional)
        yield Case(what, written(document.encode(), right), named, entries if at else ())
    document = json.dumps(tree, indent=1)
    for what, content in [*byte_changes(document.encode()), *text_changes(document)]:
        yield Case(what, written(content, True), named)
    for what, place in no_files(path, endless=True):
        yield Case(what, lambda p=place: read(p, False), named)


def _is_meant(what: str, at: Path_, text: str, meant: Meant, optional: Sequence[str]) -> bool:
    if what.endswith((" removed", " renamed")):
        return at[-1] in optional or isinstance(at[-1], int)
    if what.endswith(" twice"):
        return f"{pattern(at)} twice" in meant
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return meant.get(pattern(at), lambda _: False)(value)


def whole(value: Any) -> bool:
    """A whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: Any) -> bool:
    """A finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def name(value: Any) -> bool:
    """Text that is not empty."""
    return isinstance(value, str) and value != ""


# ---------------------------------------------------------------------------------------------- judging


def read_entry(entry: CatalogEntry) -> tuple[Records, tuple[str, ...]]:
    """The records of an entry, without a cache, and what its reader had to say."""
    entry.check_exists()
    packed = DATASET_FORMATS.get(entry.format)(entry, **entry.options)
    return join([packed]), packed.warnings


def judge_records(entry: CatalogEntry, usual: Facts, meant: bool) -> str:
    """Read an entry and check its records.

    Args:
        usual: what the records are without the mutation.
        meant: whether the mutation is a value that may stand there, so that another result is right.

    Raises:
        NonsenseError: invariants are broken, or a value that may not stand there was taken without a word.
    """
    records, warnings = read_entry(entry)
    check_records(records)
    if facts(records) == usual:
        return READ
    if not meant and not warnings:
        raise NonsenseError("another result than that of the sound file, without a word")
    return REPAIRED if warnings else READ


def facts(records: Records) -> Facts:
    """Everything that the records say, for comparison."""
    return [records.metadata.class_names, records.metadata.category_ids, [_facts(record) for record in records]]


def _facts(record: Any) -> Facts:
    masks = record["segmentations"]
    drawn = None if masks is None else LazyMasks(masks, record["size_hw"]).decode().sum((1, 2)).tolist()
    keypoints = record["keypoints"]
    columns = [record[key].tolist() for key in ("boxes", "labels", "iscrowd", "area", "ann_ids")]
    return [record["file_name"], record["image_id"], record["size_hw"], columns, drawn, keypoints_of(keypoints)]


def keypoints_of(keypoints: Any) -> Any:
    """Keypoints as lists, None where there are none."""
    return None if keypoints is None else keypoints.tolist()


def check_records(records: Records) -> None:
    """Raise NonsenseError where records break an invariant; images of another size are refused on loading."""
    classes, points = records.metadata.num_classes, len(records.metadata.keypoint_names)
    _require(all(isinstance(name, str) and name for name in records.metadata.class_names), "a class without a name")
    _require(len(set(records.metadata.class_names)) == classes, "two classes of one name")
    ids = [record["image_id"] for record in records]
    _require(len(set(ids)) == len(ids), f"image ids {ids} are not unique")
    own = torch.cat([record["ann_ids"] for record in records]) if len(records) else torch.zeros(0)
    _require(len(own.unique()) == len(own) and bool((own >= 1).all()), f"annotation ids {own.tolist()}")
    for record in records:
        load_image(record["file_name"], record["size_hw"])
        _check_rows(record, classes, points)


def _check_rows(record: Any, classes: int, points: int) -> None:
    (height, width), boxes, labels = record["size_hw"], record["boxes"], record["labels"]
    rows = len(labels)
    _require(height > 0 and width > 0, f"size {record['size_hw']}")
    _require(boxes.dtype == torch.float32 and boxes.shape == (rows, 4), f"boxes of shape {tuple(boxes.shape)}")
    low, high = boxes[:, :2], boxes[:, 2:]
    inside = (low >= 0) & (low < high) & (high <= torch.tensor([width, height]))
    _require(torch.isfinite(boxes).all() and inside.all(), f"boxes {boxes.tolist()} in {width}x{height}")
    _require(bool(((labels >= 1) & (labels <= classes)).all()), f"labels {labels.tolist()} of {classes} classes")
    area = record["area"]
    _require(torch.isfinite(area).all() and (area > 0).all() and area.shape == (rows,), f"areas {area.tolist()}")
    _require(record["iscrowd"].dtype == torch.bool and record["iscrowd"].shape == (rows,), "iscrowd")
    if record["segmentations"] is not None:
        drawn = LazyMasks(record["segmentations"], (height, width)).decode()
        _require(drawn.shape == (rows, height, width), f"masks of shape {tuple(drawn.shape)}")
    if points:
        keypoints = record["keypoints"]
        _require(keypoints.shape == (rows, points, 3), f"keypoints of shape {tuple(keypoints.shape)}")
        _require(torch.isfinite(keypoints).all(), f"keypoints {keypoints.tolist()}")
        _require(np.isin(keypoints[..., 2].numpy(), (0, 1, 2)).all(), f"visibility {keypoints[..., 2].tolist()}")


def _require(condition: Any, what: str) -> None:
    if not bool(condition):
        raise NonsenseError(what)
