"""`benchmark --weights A B C`: what checkpoints and exported files take and find, on the same images, in turn."""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from detframe.cli.benchmark_worker import Facts, Worker
from detframe.config.paths import expanded
from detframe.engine.terminal import RESULT
from detframe.errors import InvalidValueError
from detframe.texts import counted

if TYPE_CHECKING:
    from torch import Tensor

    from detframe.config import ConfigNode
    from detframe.data import Records
    from detframe.structures import Target

logger = logging.getLogger(__name__)

NUM_IMAGES = 100
SIZE_HW = (480, 640)  # of the noise that stands in for images where there are none
_WARM_UP = 2  # runs of each file that do not count
_PAUSE_S = 0.03  # before a run, in which the threads of the file before it fall asleep
_HEADER = ("file", "precision", "ms", "p90", "images/s", "times as fast", "load s", "peak MB", "file MB")


@dataclass
class Entry:
    """One file and its measurements.

    Args:
        seconds: of each batch.
        images: how many in all.
        evaluator: that of the data; None without data.
        metrics: name -> 0 to 100.
        memory: bytes of its process at most.
    """

    worker: Worker
    seconds: list[float] = field(default_factory=list)
    images: int = 0
    evaluator: Any = None
    metrics: dict[str, float] = field(default_factory=dict)
    memory: int = 0

    @property
    def facts(self) -> Facts:
        """What the process says of its file."""
        return self.worker.facts

    def row(self, first: Entry) -> dict[str, Any]:
        """The results, for JSON; `first` is the entry that latency is compared with."""
        ratios = [theirs / ours for theirs, ours in zip(first.seconds, self.seconds, strict=True)]
        return {
            "file": str(self.worker.path),
            "format": self.facts.format,
            "precision": self.facts.precision,
            "runtime": self.facts.runtime,
            "median_s": statistics.median(self.seconds),
            "p90_s": float(np.quantile(self.seconds, 0.9)),
            "images_per_s": self.images / sum(self.seconds),
            "ratio": statistics.median(ratios),
            "ratio_quartiles": [float(np.quantile(ratios, share)) for share in (0.25, 0.75)],
            "load_s": self.facts.load_s,
            "peak_memory_bytes": self.memory,
            "file_bytes": file_bytes(self.worker.path),
            "metrics": self.metrics,
        }


def benchmark_weights(args: argparse.Namespace, cfg: ConfigNode) -> dict[str, Any]:
    """Time the files of --weights in turn, each in a process of its own, and score what they find.

    Args:
        cfg: of the arguments; MODEL.DEVICE says where checkpoints and files run.

    Raises:
        FileNotFoundError, ValueError: a file that cannot be loaded, files of unlike classes, or data of others.
    """
    paths = [expanded(word) for word in args.weights]
    with ExitStack() as stack:
        entries = []
        for path in paths:
            logger.info("loading %s", path)
            worker = Worker(path, cfg.MODEL.DEVICE, args.threads, args.allow_custom_imports)
            entries.append(Entry(stack.enter_context(closing(worker))))
        _check(entries, args.batch)
        _measure(entries, args)
        for entry in entries:
            entry.memory = entry.worker.peak_memory()
    rows = [entry.row(entries[0]) for entry in entries]
    logger.info("%s", table(rows), extra=RESULT)
    return {"images": entries[0].images, "batch": args.batch, "threads": args.threads, "files": rows}


def without_overrides(weights: Sequence[str], opts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files and the overrides, where overrides KEY VALUE stand behind the files and were taken for some."""
    from detframe.config import get_cfg

    keys = {key for key, _ in get_cfg().leaves()}
    end = next((i for i, word in enumerate(weights) if word in keys), len(weights))
    return list(weights[:end]), [*weights[end:], *opts]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The results as text, one file a line; the ratio of latencies with its quartiles."""
    scores = sorted({key for row in rows for key in row["metrics"] if key.endswith("/AP") or key.endswith("/AR")})
    lines = [(*_HEADER, *scores)]
    for row in rows:
        low, high = row["ratio_quartiles"]
        numbers = (
            Path(row["file"]).name,
            row["precision"],
            f"{1e3 * row['median_s']:.1f}",
            f"{1e3 * row['p90_s']:.1f}",
            f"{row['images_per_s']:.1f}",
            f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})",
            f"{row['load_s']:.1f}",
            f"{row['peak_memory_bytes'] / 2**20:.0f}",
            f"{row['file_bytes'] / 2**20:.1f}",
        )
        lines.append((*numbers, *(f"{row['metrics'].get(key, float('nan')):.2f}" for key in scores)))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def file_bytes(path: Path) -> int:
    """Of a file and of those that belong to it: OpenVINO's .bin, and an ONNX file's weights beside it."""
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else [path.with_name(f"{path.name}.data")]
    return sum(part.stat().st_size for part in (path, *beside) if part.is_file())


def _check(entries: Sequence[Entry], batch: int) -> None:
    first = entries[0]
    for entry in entries[1:]:
        if entry.facts.class_names != first.facts.class_names:
            raise InvalidValueError(
                f"{entry.worker.path} finds {', '.join(entry.facts.class_names)}, but {first.worker.path} finds "
                f"{', '.join(first.facts.class_names)}: only files of the same classes can be compared"
            )
    for entry in entries:
        if entry.facts.batch not in (None, batch):
            raise InvalidValueError(
                f"{entry.worker.path} takes {entry.facts.batch} images at once and would be filled up with blank ones: "
                f"compare with --batch {entry.facts.batch}"
            )


# ---------------------------------------------------------------------------------------------- runs
def _measure(entries: Sequence[Entry], args: argparse.Namespace) -> None:
    from detframe.config import carried_config, import_carried
    from detframe.evaluation import build_evaluator
    from detframe.evaluation.tiled import as_loaded
    from detframe.export.validation import spread, validation_data

    facts, path = entries[0].facts, entries[0].worker.path
    cfg = carried_config(facts.config, path)
    import_carried(cfg, path, args.allow_custom_imports)
    cfg = cfg.changed([("MODEL.NUM_CLASSES", 0 if facts.class_agnostic else len(facts.class_names))])
    records, reason = validation_data(cfg, None if facts.class_agnostic else facts.class_names, args.data)
    if records is None:
        logger.warning("images of noise stand in for data, and nothing is scored: %s", reason)
    else:
        records = spread(records, args.images or NUM_IMAGES)
        for entry in entries:
            entry.evaluator = as_loaded(cfg, build_evaluator(cfg, records))
    size_hw = None if args.size is None else (args.size[0], args.size[1])
    shown = time.perf_counter()
    for number, (images, targets) in enumerate(_batches(cfg, records, args)):
        turn = number % len(entries)
        for entry in (*entries[turn:], *entries[:turn]):
            _run(entry, images, targets, size_hw, _WARM_UP if number == 0 else 0)
        if time.perf_counter() - shown > 10:
            shown = time.perf_counter()
            logger.info("%d images", entries[0].images, extra={"progress": True})
    sizes = "resized as their configs say" if size_hw is None else f"fitted into {size_hw[0]}x{size_hw[1]} pixels"
    source = "noise" if records is None else records.metadata.name
    logger.info("%s of %s, %d at once, %s", counted(entries[0].images, "image"), source, args.batch, sizes)
    for entry in entries:
        entry.metrics = {} if entry.evaluator is None else dict(entry.evaluator.compute())


def _run(
    entry: Entry,
    images: Sequence[Tensor],
    targets: Sequence[Target] | None,
    size_hw: tuple[int, int] | None,
    warm_up: int,
) -> None:
    """One batch in one process, timed and scored."""
    from detframe.backends.detections import on_planes
    from detframe.evaluation.exported import in_files, predictions

    plane_hw = entry.facts.static_hw or size_hw
    resized = [_resized(image, entry.facts, plane_hw) for image in images]
    planes, sizes = on_planes([image.numpy() for image in resized], plane_hw)
    for _ in range(warm_up):
        entry.worker.run(planes, sizes)
    time.sleep(_PAUSE_S)
    seconds, found = entry.worker.run(planes, sizes)
    entry.seconds.append(seconds)
    entry.images += len(images)
    if targets is not None:
        entry.evaluator.update(targets, in_files(predictions(found, sizes), sizes, targets, entry.facts.pixel))


def _resized(image: Tensor, facts: Facts, plane_hw: tuple[int, int] | None) -> Tensor:
    """An image (3, H, W) as the file's user would hand it over."""
    from torchvision.transforms.v2 import functional as transforms

    from detframe.arrays.resize import fitting_shape, resize_shape

    size_hw = (image.shape[-2], image.shape[-1])
    if plane_hw is not None:
        wanted = fitting_shape(size_hw, plane_hw)
    else:
        wanted = resize_shape(size_hw, facts.min_size, facts.max_size)
    return image if wanted == size_hw else transforms.resize(image, list(wanted), antialias=True)


def _batches(
    cfg: ConfigNode, records: Records | None, args: argparse.Namespace
) -> Iterator[tuple[Sequence[Tensor], Sequence[Target] | None]]:
    """Batches of images as the files have them, and their targets; of noise and None without data."""
    from detframe.data import build_test_loader

    if records is not None:
        unresized = [("INPUT.MIN_SIZE_TEST", 0), ("INPUT.MAX_SIZE_TEST", 0)]
        settings: list[tuple[str, Any]] = [
            *unresized,
            ("DATALOADER.NUM_WORKERS", 0),
            ("TEST.IMS_PER_BATCH", args.batch),
        ]
        yield from build_test_loader(cfg.changed(settings), records)
        return
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (3, *(args.size or SIZE_HW))
    for _ in range(-(-(args.images or NUM_IMAGES) // args.batch)):
        yield [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(args.batch)], None
