"""The contract of what is around a detector: transforms, formats, evaluators."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from detframe.config import ConfigNode
from detframe.contracts.inputs import SIZE_HW, Place, target
from detframe.contracts.results import BrokenContractError, LeftOutError, Test
from detframe.contracts.words import need, shape_of
from detframe.data import CatalogEntry, PackedDataset, Records, load_records
from detframe.data.catalog import find_entry, read_anew, read_catalogs
from detframe.data.images import image_size
from detframe.data.transforms.lists import build_step
from detframe.evaluation import build_evaluator
from detframe.registry import DATASET_FORMATS, EVALUATORS, TRANSFORMS

FILES = 20  # of each data set, whose sizes are compared with what a format says


def tests_of(place: Place) -> list[Test]:
    """The tests of a member of TRANSFORMS, EVALUATORS or DATASET_FORMATS, in the order in which they are made."""
    return {TRANSFORMS.name: _of_transform, EVALUATORS.name: _of_evaluator, DATASET_FORMATS.name: _of_format}[
        place.registry
    ](place)


# --------------------------------------------------------------------------------------------------------- transforms
def _of_transform(place: Place) -> list[Test]:
    return [
        ("it is built", lambda: _transform(place) and None),
        ("images and targets", lambda: _changes(place, _target())),
        ("images without objects", lambda: _changes(place, _target(empty=True))),
        ("the same seed gives the same", lambda: _repeats(place)),
        ("what came is left as it was", lambda: _leaves_alone(place)),
        ("it travels to workers", lambda: _travels(place)),
    ]


def _transform(place: Place) -> Any:
    return build_step(place.read({}), (), 1, place.name, {}).transform


def _image() -> Tensor:
    return torch.randint(0, 256, (3, *SIZE_HW), dtype=torch.uint8, generator=Generator().manual_seed(0))


def _target(empty: bool = False) -> Any:
    made = target([] if empty else [[10, 12, 40, 44], [20, 10, 110, 90]], [] if empty else [1, 3], 5)
    return {"boxes": made["boxes"], "labels": made["labels"]}


def _called(transform: Any, image: Tensor, given: Any, seed: int) -> tuple[Tensor, Any]:
    """What a transform makes of an image; of one that mixes, with the same image as its partners."""
    generator = Generator().manual_seed(seed)
    number = getattr(transform, "partners", 0)
    if number:
        out = transform.mix(image, given, [(image, given)] * number, generator)
    else:
        out = transform(image, given, generator)
    need(isinstance(out, tuple) and len(out) == 2, f"it must return (image, target), not {shape_of(out)}")
    return out


def _changes(place: Place, given: Any) -> None:
    transform, image = _transform(place), _image()
    for seed in range(5):
        out, found = _called(transform, image, given, seed)
        need(isinstance(out, Tensor) and out.ndim == 3, f"the image must be a tensor (C, H, W), not {shape_of(out)}")
        need(out.dtype == image.dtype, f"the image must stay {image.dtype}, not become {out.dtype}")
        need(len(out) == len(image), f"the image must keep its {len(image)} channels, not have {len(out)}")
        if getattr(transform, "keeps_size", False):
            said = f"it says `keeps_size`, but made {tuple(out.shape[1:])} of {tuple(image.shape[1:])}"
            need(out.shape == image.shape, said)
        boxes, labels = found["boxes"], found["labels"]
        right = boxes.dtype == torch.float32 and boxes.ndim == 2 and boxes.shape[1] == 4
        need(right, f"boxes must be float32 (N, 4), not {shape_of(boxes)}")
        need(labels.dtype == torch.int64, f"labels must be int64 (N,), not {shape_of(labels)}")
        need(len(boxes) == len(labels), f"there are {len(boxes)} boxes but {len(labels)} labels: remove whole objects")
        need(bool(torch.isfinite(boxes).all()), "boxes are not finite")


def _repeats(place: Place) -> None:
    results = []
    for chance in range(6):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(chance)
            results.append(_called(_transform(place), _image(), _target(), 3))
    (image, first), *others = results
    same = all(torch.equal(image, x) and torch.equal(first["boxes"], y["boxes"]) for x, y in others)
    need(same, "the same seed gave two results: all that is random must be drawn from `generator`")


def _leaves_alone(place: Place) -> None:
    image, given = _image(), _target()
    before = copy.deepcopy((image, given))
    for seed in range(5):
        _called(_transform(place), image, given, seed)
    need(torch.equal(image, before[0]), "it changed the image that it was given: work on a copy (image.clone())")
    same = set(given) == set(before[1]) and all(torch.equal(given[key], before[1][key]) for key in given)
    need(same, "it changed the target that it was given: return a new dict, {**target, ...}")


def _travels(place: Place) -> None:
    try:
        pickle.dumps(_transform(place))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BrokenContractError(f"workers that load images cannot be sent it (pickle): {error}") from None


# --------------------------------------------------------------------------------------------------------- evaluators
def _of_evaluator(place: Place) -> list[Test]:
    return [
        ("it is built", lambda: _evaluator(place) and None),
        ("metrics", lambda: _metrics(place)),
        ("images without objects and detections", lambda: _no_detections(place)),
        ("reset forgets, and an image counts once", lambda: _forgets(place)),
    ]


class _Pictures(list[Any]):
    """Records of some images; the last one shows nothing."""

    def __init__(self) -> None:
        boxes = [[[10, 12, 40, 44], [20, 10, 110, 90]], [[60, 30, 100, 80]], []]
        super().__init__(_record(i, rows, [1, 2][: len(rows)]) for i, rows in enumerate(boxes, 1))
        names = ("dark", "light")
        self.metadata = SimpleNamespace(
            name="pictures", class_names=names, category_ids=(1, 2), keypoint_names=(), keypoint_sigmas=()
        )


def _record(number: int, boxes: list[list[int]], labels: list[int]) -> dict[str, Any]:
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    sides = rows[:, 2:] - rows[:, :2]
    return {
        "file_name": f"/pictures/{number}.png",
        "image_id": number,
        "size_hw": SIZE_HW,
        "boxes": rows,
        "labels": torch.tensor(labels, dtype=torch.int64),
        "iscrowd": torch.zeros(len(rows), dtype=torch.bool),
        "area": sides[:, 0] * sides[:, 1],
        "ann_ids": torch.arange(len(rows)) + 10 * number,
        "segmentations": None,
        "keypoints": None,
    }


def _evaluator(place: Place) -> Any:
    evaluator = build_evaluator(place.read({"TEST.EVALUATOR": place.name}), _Pictures())
    lacking = [name for name in ("reset", "update", "compute", "table", "diagnosis") if not hasattr(evaluator, name)]
    need(not lacking, f"it has no method {' and no '.join(lacking)}")
    return evaluator


def _measured(evaluator: Any, shift: float, kept: int | None = None) -> dict[str, float]:
    """The metrics of the objects as predictions, moved by some pixels."""
    for record in _Pictures():
        rows = slice(kept)
        scores = torch.linspace(0.9, 0.8, len(record["labels"]))
        found = {"boxes": record["boxes"][rows] + shift, "labels": record["labels"][rows], "scores": scores[rows]}
        evaluator.update([{"image_id": record["image_id"], "orig_size_hw": record["size_hw"]}], [found])
    metrics = evaluator.compute()
    right = isinstance(metrics, dict) and all(
        isinstance(key, str) and isinstance(value, (int, float)) for key, value in metrics.items()
    )
    need(right and bool(metrics), f"compute() must give a dict of numbers by name, not {metrics!r}")
    return dict(metrics)


def _metrics(place: Place) -> None:
    evaluator = _evaluator(place)
    evaluator.reset()
    metrics = _measured(evaluator, 0.0)
    need(isinstance(evaluator.table(metrics), str), "table(metrics) must give a text for the log")
    said = evaluator.diagnosis()
    need(said is None or isinstance(said, str), f"diagnosis() must give a text or None, not a {type(said).__name__}")
    evaluator.reset()
    far = _measured(evaluator, 500.0)
    need(
        set(far) == set(metrics),
        "the names of the metrics depend on what is found: a log needs the same ones each time",
    )
    need(_words(far) != _words(metrics), "the metrics of perfect predictions are those of predictions that are far off")


def _no_detections(place: Place) -> None:
    evaluator = _evaluator(place)
    evaluator.reset()
    _measured(evaluator, 0.0, kept=0)


def _forgets(place: Place) -> None:
    evaluator, other = _evaluator(place), _evaluator(place)
    evaluator.reset()
    first = _words(_measured(evaluator, 0.0))
    need(_words(_measured(evaluator, 0.0)) == first, "an image that comes twice, as from two processes, counts twice")
    other.reset()
    _measured(other, 500.0)
    other.reset()
    need(_words(_measured(other, 0.0)) == first, "reset() does not forget what came before")


def _words(metrics: dict[str, float]) -> str:
    return str({key: round(float(value), 6) for key, value in metrics.items()})


# ------------------------------------------------------------------------------------------------------------ formats
def _of_format(place: Place) -> list[Test]:
    return [
        ("boxes, labels and names", lambda: _reads(place)),
        ("two readings are equal", lambda: _reads_again(place)),
    ]


def _sets(place: Place) -> tuple[ConfigNode, list[CatalogEntry]]:
    """The config, and the data sets of this format that it names.

    Raises:
        LeftOutError: it names none.
    """
    cfg = place.read({})
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    entries = read_catalogs(cfg.DATASETS.CATALOG)
    chosen = [find_entry(name, entries) for name in names] if place.config else []
    found = [entry for entry in chosen if entry.format == place.name]
    if not found:
        raise LeftOutError("there is no data of it: --config-file names a config whose catalog has a data set")
    return cfg, found


def _reads(place: Place) -> None:
    cfg, entries = _sets(place)
    for entry in entries:
        made, name = read_anew(entry), entry.name
        right = isinstance(made, PackedDataset)
        need(right, f"it must return a PackedDataset, RecordBuilder(...).build(), not a {type(made).__name__}")
        records = load_records([name], cfg.DATASETS.CATALOG)
        need(len(records) > 0, f"{name} has no images")
        count = len(records.metadata.class_names)
        ids = [record["image_id"] for record in records]
        need(len(set(ids)) == len(ids), f"{name}: images have the same id")
        _check_sizes(name, records)
        for record in records:
            height, width = record["size_hw"]
            boxes, labels = record["boxes"], record["labels"]
            where = f"{name}, {record['file_name']}"
            inside = boxes.numel() == 0 or bool(((boxes >= 0) & (boxes <= torch.tensor([width, height] * 2))).all())
            need(inside, f"{where}: a box lies outside of the image")
            need(bool(((labels >= 1) & (labels <= count)).all()), f"{where}: a label is not from 1 to {count}")


def _check_sizes(name: str, records: Records) -> None:
    """Whether some images have the sizes that their files have; those on other machines are not fetched."""
    for record in itertools.islice(records, FILES):
        if Path(record["file_name"]).is_file():
            (height, width), (own_height, own_width) = record["size_hw"], image_size(record["file_name"])
            need(
                (height, width) == (own_height, own_width),
                f"{name}, {record['file_name']}: the file has height {own_height} and width {own_width}, and add_image "
                f"was given ({height}, {width})",
            )


def _reads_again(place: Place) -> None:
    for entry in _sets(place)[1]:
        first, second = (read_anew(entry) for _ in range(2))
        same = first.metadata.class_names == second.metadata.class_names and set(first.arrays) == set(second.arrays)
        same = same and all(np.array_equal(first.arrays[key], second.arrays[key]) for key in first.arrays)
        need(same, f"{entry.name} was read twice with different results: sort what comes from sets and folders")
