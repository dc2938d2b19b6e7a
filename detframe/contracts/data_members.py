"""The contract of what is around a detector: transforms, formats, evaluators."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from detframe.config import ConfigNode
from detframe.contracts.inputs import SIZE_HW, Place, target
from detframe.contracts.moving import called, moves_along
from detframe.contracts.ranks import in_two_processes
from detframe.contracts.results import BrokenContractError, LeftOutError, Test, described
from detframe.contracts.words import listed, need, shape_of
from detframe.data import CatalogEntry, Metadata, PackedDataset, RecordBuilder, Records, join, load_records
from detframe.data.catalog import find_entry, read_anew, read_catalogs
from detframe.data.images import image_size
from detframe.data.transforms.lists import build_step
from detframe.evaluation import build_evaluator
from detframe.registry import DATASET_FORMATS, EVALUATORS, TRANSFORMS
from detframe.texts import counted

# By how many pixels predictions are moved off the objects of each image
_RIGHT, _FAR, _MIXED = (0.0, 0.0, 0.0), (500.0, 500.0, 500.0), (0.0, 500.0, 0.0)
HASH_SEEDS = (1, 2, 3)  # two classes have one order by chance every other time
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
        ("images and targets", lambda: _changes(place, _target(place))),
        ("images without objects", lambda: _changes(place, _target(place, empty=True))),
        ("what has coordinates moves along", lambda: moves_along(lambda: _transform(place))),
        ("images of other channels and types", lambda: _other_channels(place)),
        ("the same seed gives the same", lambda: _repeats(place)),
        ("what came is left as it was", lambda: _leaves_alone(place)),
        ("it travels to workers", lambda: _travels(place)),
    ]


def _transform(place: Place) -> Any:
    return build_step(place.read({}), (), 1, place.name, {}).transform


def _image() -> Tensor:
    return torch.randint(0, 256, (3, *SIZE_HW), dtype=torch.uint8, generator=Generator().manual_seed(0))


def _target(place: Place, empty: bool = False) -> Any:
    """What a transform is given with the image; masks only where it says that it needs them."""
    made = target([] if empty else [[10, 12, 40, 44], [20, 10, 110, 90]], [] if empty else [1, 3], 5)
    masks = ("masks",) if getattr(TRANSFORMS.get(place.name), "needs_masks", False) else ()
    return {key: made[key] for key in ("boxes", "labels", *masks)}


def _changes(place: Place, given: Any) -> None:
    transform, image = _transform(place), _image()
    for seed in range(5):
        out, found = called(transform, image, given, seed)
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


def _other_channels(place: Place) -> None:
    """Images as their files have them (INPUT.DEPTH file): any number of channels, of 16 bits or floating-point."""
    if getattr(_transform(place), "of_colours", False):
        return  # it is refused where images are no colours of 8 bits
    for channels, dtype in ((4, torch.float32), (1, torch.uint16)):
        image = (_image().float()[:1] * 40).expand(channels, *SIZE_HW).to(dtype)
        given, what = _target(place), f"an image of {counted(channels, 'channel')} ({dtype})"
        try:
            out, _ = called(_transform(place), image, given, 0)
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
            raise BrokenContractError(
                f"{what} ends in {described(error, place.file)}: write it for any channels and types, or say "
                "`of_colours = True`"
            ) from None
        right = isinstance(out, Tensor) and out.dtype == dtype and len(out) == channels
        need(right, f"{what} became {shape_of(out)}: keep channels and type, or say `of_colours = True`")


def _repeats(place: Place) -> None:
    results = []
    for chance in range(6):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(chance)
            results.append(called(_transform(place), _image(), _target(place), 3))
    (image, first), *others = results
    same = all(torch.equal(image, x) and torch.equal(first["boxes"], y["boxes"]) for x, y in others)
    need(same, "the same seed gave two results: all that is random must be drawn from `generator`")
    transform = _transform(place)
    for call in (1, 2, 3):
        again, found = called(transform, _image(), _target(place), 3)
        same = torch.equal(image, again) and torch.equal(first["boxes"], found["boxes"])
        need(same, f"call {call} with the same seed gave something else: nothing may be kept from one call to the next")


def _leaves_alone(place: Place) -> None:
    image, given = _image(), _target(place)
    before = copy.deepcopy((image, given))
    for seed in range(5):
        called(_transform(place), image, given, seed)
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
        ("two processes compute as one", lambda: _on_ranks(place)),
    ]


def _pictures() -> Records:
    """Records of some images; the last one shows nothing."""
    boxes = [[[10, 12, 40, 44], [20, 10, 110, 90]], [[60, 30, 100, 80]], []]
    builder = RecordBuilder(Metadata("pictures", ("dark", "light"), (1, 2)))
    for number, rows in enumerate(boxes, 1):
        builder.add_image(f"/pictures/{number}.png", number, SIZE_HW)
        for label, box in enumerate(rows, 1):
            builder.add_object(box, label)
    return join([builder.build()])


def _evaluator(place: Place) -> Any:
    evaluator = build_evaluator(place.read({"TEST.EVALUATOR": place.name}), _pictures())
    lacking = [name for name in ("reset", "update", "compute", "table", "diagnosis") if not hasattr(evaluator, name)]
    need(not lacking, f"it has no method {' and no '.join(lacking)}")
    return evaluator


def _shown(evaluator: Any, shifts: Sequence[float], images: Sequence[int] = (0, 1, 2), kept: int | None = None) -> None:
    """Hand over the objects of some images as predictions, moved by some pixels in each image."""
    records = _pictures()
    for image in images:
        record, rows = records[image], slice(kept)
        scores = torch.linspace(0.9, 0.8, len(record["labels"]))
        found = {"boxes": record["boxes"][rows] + shifts[image], "labels": record["labels"][rows]}
        found["scores"] = scores[rows]
        before = copy.deepcopy(found)
        evaluator.update([{"image_id": record["image_id"], "orig_size_hw": record["size_hw"]}], [found])
        same = set(found) == set(before) and all(torch.equal(found[key], before[key]) for key in before)
        need(same, "update() changed the predictions that it was given: work on a copy")


def _computed(evaluator: Any) -> dict[str, float]:
    metrics = evaluator.compute()
    right = isinstance(metrics, dict) and all(isinstance(key, str) and _is_number(x) for key, x in metrics.items())
    need(right and bool(metrics), f"compute() must give a dict of numbers by name, not {metrics!r}")
    return dict(metrics)


def _is_number(value: Any) -> bool:
    """Python's, NumPy's, or a tensor without dimensions, as a run takes them."""
    return isinstance(value, (int, float, np.number)) or (isinstance(value, Tensor) and value.ndim == 0)


def _metrics(place: Place) -> None:
    evaluator = _evaluator(place)
    evaluator.reset()
    _shown(evaluator, _RIGHT)
    metrics = _computed(evaluator)
    need(isinstance(evaluator.table(metrics), str), "table(metrics) must give a text for the log")
    said = evaluator.diagnosis()
    need(said is None or isinstance(said, str), f"diagnosis() must give a text or None, not a {type(said).__name__}")
    evaluator.reset()
    _shown(evaluator, _FAR)
    far = _computed(evaluator)
    _need_same_names(far, metrics)
    need(_words(far) != _words(metrics), "the metrics of perfect predictions are those of predictions that are far off")


def _need_same_names(found: dict[str, float], metrics: dict[str, float]) -> None:
    need(
        set(found) == set(metrics),
        "the names of the metrics depend on what is found: a log needs the same ones each time",
    )


def _no_detections(place: Place) -> None:
    evaluator, other = _evaluator(place), _evaluator(place)
    evaluator.reset()
    _shown(evaluator, _RIGHT, kept=0)
    other.reset()
    _shown(other, _RIGHT)
    _need_same_names(_computed(evaluator), _computed(other))


def _forgets(place: Place) -> None:
    evaluator, other = _evaluator(place), _evaluator(place)
    evaluator.reset()
    _shown(evaluator, _MIXED)
    first = _words(_computed(evaluator))
    for images in ((1,), (0, 1, 2)):
        _shown(evaluator, _MIXED, images)
        twice = "an image that comes twice, as from two processes, counts twice"
        need(_words(_computed(evaluator)) == first, twice)
    other.reset()
    _shown(other, _FAR)
    other.reset()
    _shown(other, _MIXED)
    need(_words(_computed(other)) == first, "reset() does not forget what came before")


def _on_ranks(place: Place) -> None:
    """One process sees the first two images, the other one the last two."""
    alone = _evaluator(place)
    alone.reset()
    _shown(alone, _MIXED)
    metrics = _words(_computed(alone))
    waited = (
        "two processes waited for each other in vain: compute() is called on every one, and must gather on every one"
    )
    for rank, words in enumerate(in_two_processes(_on_rank, place, waited)):
        need(
            words == metrics,
            f"process {rank} of two that share the images computes {words}, and one that sees all of them {metrics}: "
            "gather what all processes have seen (detframe.parallel.collectives.gather_objects), each image once",
        )


def _on_rank(place: Place, rank: int) -> str:
    place.load()
    evaluator = _evaluator(place)
    evaluator.reset()
    _shown(evaluator, _MIXED, (rank, rank + 1))
    return _words(_computed(evaluator))


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
    own = digests(place)
    for other in _in_other_processes(place):
        differ = [name for name in own if other.get(name) != own[name]]
        need(
            not differ,
            f"another process reads {listed(differ)} in another way: what comes from a set has another order in each "
            "process (PYTHONHASHSEED); sort it",
        )


def digests(place: Place) -> dict[str, str]:
    """A word for all that a format reads of each data set."""
    out = {}
    for entry in _sets(place)[1]:
        packed = read_anew(entry)
        parts = [repr(packed.metadata.class_names).encode()]
        parts += [part for key in sorted(packed.arrays) for part in (key.encode(), packed.arrays[key].tobytes())]
        out[entry.name] = hashlib.sha256(b"\0".join(parts)).hexdigest()
    return out


_DIGESTS = (
    "import json, pickle, sys; from detframe.contracts.data_members import digests; "
    "print(json.dumps(digests(pickle.loads(bytes.fromhex(sys.argv[1])))))"
)


def _in_other_processes(place: Place) -> list[dict[str, str]]:
    """`digests` of processes in which sets of texts have other orders."""
    with ThreadPoolExecutor(len(HASH_SEEDS)) as pool:
        return list(pool.map(lambda seed: _in_another_process(place, seed), HASH_SEEDS))


def _in_another_process(place: Place, seed: int) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", _DIGESTS, pickle.dumps(place).hex()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": str(seed)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    last = done.stderr.decode("utf-8", errors="replace").strip().rpartition("\n")[2]
    need(done.returncode == 0, f"a process of its own cannot read the data: {last}")
    found: dict[str, str] = json.loads(done.stdout.decode().splitlines()[-1])
    return found
