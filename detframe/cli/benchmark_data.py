"""How many images a second the training loader gives."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from detframe.errors import InvalidValueError

if TYPE_CHECKING:
    from detframe.config import ConfigNode
    from detframe.data import Records

logger = logging.getLogger(__name__)
PLAIN_READING = (("INPUT.DECODE", "exact"), ("DATALOADER.CACHE_RAM", 0.0))


def benchmark_data(cfg: ConfigNode, rounds: int) -> dict[str, float]:
    """Images per second of the training loader alone, over `rounds` times 20 batches after a warm-up.

    Where the config decodes small or keeps images in memory, also of one that does neither, 20 batches in turn.
    """
    from detframe.engine.inputs import load_train_records

    if not cfg.DATASETS.TRAIN:
        raise InvalidValueError(
            "--what data needs a data set: give a --config-file, or the override DATASETS.TRAIN NAME"
        )
    records, plain = load_train_records(cfg), cfg.changed(PLAIN_READING)
    ways = {"images_per_s": cfg} | ({"plain_images_per_s": plain} if plain != cfg else {})
    loaders = {name: _warm_loader(of, records) for name, of in ways.items()}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    clock = time.perf_counter if cfg.DATALOADER.NUM_WORKERS else time.process_time  # other programs do not count
    for _ in range(rounds):
        for name, loader in loaders.items():
            start = clock()
            count = sum(len(next(loader)[0]) for _ in range(20))
            rates[name].append(count / (clock() - start))
    out = {name: statistics.median(row) for name, row in rates.items()}
    for name, row in rates.items():
        how = f"INPUT.DECODE {ways[name].INPUT.DECODE}, DATALOADER.CACHE_RAM {ways[name].DATALOADER.CACHE_RAM:g}"
        numbers = ", ".join(cfg.DATASETS.TRAIN), how, out[name], min(row), max(row)
        logger.info("data      %s (%s): %.0f images/s (spread %.0f-%.0f)", *numbers)
    return out


def _warm_loader(cfg: ConfigNode, records: Records) -> Iterator[Any]:
    """A training loader that has given some batches; an epoch, where it keeps the images."""
    from detframe.config import resolve_durations
    from detframe.data import build_train_loader, images_per_epoch

    epoch = images_per_epoch(cfg, records)
    loader = iter(build_train_loader(resolve_durations(cfg, epoch), records))
    for _ in range(5 + (epoch // cfg.SOLVER.IMS_PER_BATCH if cfg.DATALOADER.CACHE_RAM else 0)):
        next(loader)
    return loader
