"""What MODEL.COMPILE brings and costs: steps with and without graphs in turn, and the first, with a cache or none."""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from detframe.cli.benchmark_steps import interleave, training_step

if TYPE_CHECKING:
    from detframe.config import ConfigNode

logger = logging.getLogger(__name__)
KINDS = ("dense", "step")


@dataclass(frozen=True)
class Measured:
    """What is measured in a process of its own."""

    cfg: ConfigNode
    kind: str  # MODEL.COMPILE
    cache: str  # the folder of the compiler
    size_hw: tuple[int, int]
    batch: int
    bf16: bool
    rounds: int  # 0: the first step alone
    threads: int  # 0: PyTorch's choice
    make_batch: Callable[..., Any]  # number, height, width, device -> images and targets


def benchmark_compile(
    cfg: ConfigNode, base: str, num_classes: int, measured: dict[str, Any], precisions: list[str]
) -> dict[str, Any]:
    """A training step with graphs beside one without, for each kind and precision.

    The process that times them makes its graphs from nothing; another one then takes them from the cache.

    Args:
        base: a config file over the config, or "".
        num_classes: at least.
        measured: what `Measured` needs beside.
    """
    cfg = cfg.clone()
    cfg.defrost()
    if base:
        cfg.merge_from_file(base)
    cfg.MODEL.NUM_CLASSES = max(cfg.MODEL.NUM_CLASSES, num_classes)
    out: dict[str, Any] = {}
    for kind in KINDS:
        for precision in precisions:
            with tempfile.TemporaryDirectory(prefix="detframe_compile_") as cache:
                work = Measured(cfg, kind, cache, bf16=precision == "bf16", **measured)
                cold = _in_a_process(work)
                kept = _in_a_process(Measured(**{**vars(work), "rounds": 0}))
            row = {**cold, "first_step_from_cache_s": kept["first_step_s"]}
            logger.info(
                "compile   %-5s %s  eager %8.1f ms  compiled %8.1f ms  ratio %.2f  first step %.1f s, from the kept "
                "cache %.1f s, %d graphs",
                kind, precision, 1e3 * row["eager_s"], 1e3 * row["compiled_s"], row["ratio"], row["first_step_s"],
                row["first_step_from_cache_s"], row["graphs"],
            )  # fmt: skip
            out[f"{kind}/{precision}"] = row
    return out


def _in_a_process(work: Measured) -> dict[str, Any]:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found: dict[str, Any] = pool.submit(measure, work).result()
    return found


def measure(work: Measured) -> dict[str, Any]:
    """Seconds of the first compiled step, its graphs, and the medians of steps with and without graphs in turn."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = work.cache
    import torch

    from detframe.modeling import build_detection_model
    from detframe.parallel.device import resolve_device

    if work.threads:
        torch.set_num_threads(work.threads)
    device = resolve_device(work.cfg.MODEL.DEVICE)
    images, targets = work.make_batch(work.batch, *work.size_hw, device)
    steps, models = [], []
    for kind in ("off", work.kind):
        torch.manual_seed(0)
        models.append(build_detection_model(work.cfg.changed([("MODEL.COMPILE", kind)])))
        steps.append(training_step(models[-1], images, targets, work.bf16, device))
    begun = time.perf_counter()
    steps[1]()
    first = time.perf_counter() - begun
    out = {"first_step_s": first, "graphs": len(models[1].graphs.made)}
    if not work.rounds:
        return out
    rows = interleave(steps, work.rounds, device)
    eager, compiled = (statistics.median(row) for row in rows)
    return {**out, "eager_s": eager, "compiled_s": compiled, "ratio": eager / compiled, "rounds_s": rows}
