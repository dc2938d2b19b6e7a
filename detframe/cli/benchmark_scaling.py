"""A step on many GPUs, computed from what is measured on one, and beside steps that several processes here take."""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from detframe.cli.arguments import positive, processes
from detframe.cli.benchmark_data import benchmark_data
from detframe.cli.benchmark_steps import autocast, interleave, now, training_step
from detframe.cli.scaling import Cluster, Link, Prediction, StepTimes, fill_buckets, predict
from detframe.errors import InvalidValueError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from detframe.config import ConfigNode

logger = logging.getLogger(__name__)
Batch = tuple[list["Tensor"], list[dict[str, "Tensor"]]]
GPUS = (8, 64, 256)
# What losses are divided by (two sums), whether the step is finite, and the buffers that DistributedDataParallel sends
SMALL_SUMS, HOST_SUMS = 4, 1
_PROBES = (4, 2**25)  # bytes: of the latency and of the bandwidth
_KILO, _MICRO, _GIGA = 1e3, 1e-6, 1e9


# ---------------------------------------------------------------------------------------------- arguments
def add_scaling_arguments(parser: argparse.ArgumentParser) -> None:
    """What --what scaling assumes of the machines."""
    group = parser.add_argument_group("--what scaling", "what is assumed of the machines")
    pair: dict[str, Any] = {"nargs": 2, "type": amount, "metavar": ("GB/S", "US")}
    group.add_argument("--gpus", nargs="+", type=positive, default=list(GPUS), metavar="N", help="how many (8 64 256)")
    group.add_argument("--gpus-per-node", type=positive, default=8, metavar="N", help="GPUs of a machine (8)")
    group.add_argument(
        "--node", **pair, default=[200.0, 10.0], help="link between GPUs of a machine: GB/s, us (200 10)"
    )
    group.add_argument("--network", **pair, default=[12.5, 20.0], help="all network adapters of a machine (12.5 20)")
    group.add_argument("--host-latency", type=amount, default=40.0, metavar="US", help="of TCP, in us (40)")
    group.add_argument("--cores-per-gpu", type=positive, default=8, metavar="N", help="cores that load images (8)")
    group.add_argument("--storage", type=amount, metavar="N", help="images/s for all machines together (no limit)")
    group.add_argument(
        "--step-ms",
        type=amount,
        metavar="MS",
        help="a step on one GPU, where it is known; its shares are measured",
    )
    group.add_argument(
        "--ranks",
        type=processes,
        metavar="N",
        help="also take real steps in N processes here",
    )


_MOST = 1e15  # of any amount here; beyond it is a slip


def amount(text: str) -> float:
    """An argument that is a number above 0."""
    number = float(text)  # argparse words the ValueError
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text}")
    if number > _MOST:
        raise argparse.ArgumentTypeError(f"must be at most {_MOST:g}, not {text}")
    return number


def cluster_of(args: argparse.Namespace, per_core: float) -> Cluster:
    """The machines that the arguments describe.

    Args:
        per_core: images per second that one core loads; inf where no data are loaded.
    """
    node, network = (Link(_GIGA * bandwidth, _MICRO * latency) for bandwidth, latency in (args.node, args.network))
    return Cluster(
        gpus_per_node=args.gpus_per_node,
        node=node,
        network=network,
        host=Link(math.inf, _MICRO * args.host_latency),
        loader=per_core * args.cores_per_gpu,
        storage=args.storage or math.inf,
    )


# ---------------------------------------------------------------------------------------------- the command
def benchmark_scaling(
    args: argparse.Namespace, cfg: ConfigNode, name: str, model: nn.Module, batch: Batch, device: torch.device
) -> dict[str, Any]:
    """For each precision, the measured step and what comes of it on each number of GPUs.

    Raises:
        ValueError: --step-ms together with --ranks, which measures.
    """
    if args.ranks and args.step_ms:
        raise InvalidValueError("--ranks takes real steps here, --step-ms says how long they are elsewhere: give one")
    per_core = _images_per_core(cfg, args.rounds)
    cluster = cluster_of(args, per_core)
    out: dict[str, Any] = {"images_per_core_s": per_core if math.isfinite(per_core) else None}
    for precision in args.precision:
        meter = StepMeter(model, batch, precision == "bf16", device)
        for _ in range(args.rounds + 2):
            meter.step()
        step = meter.medians()
        step = step.scaled(args.step_ms / _KILO) if args.step_ms else step
        _say_step(f"{name} {precision}", step, cluster)
        rows = [predict(step, gpus, cluster) for gpus in args.gpus]
        for row in rows:
            _say(row)
        out[precision] = {"step": asdict(step), "predictions": [asdict(row) for row in rows]}
        if args.ranks:
            out[precision]["ranks"] = _real(args, model, batch, precision == "bf16")
    return out


def _images_per_core(cfg: ConfigNode, rounds: int) -> float:
    """Images that one core loads in a second: in this process, by the time that it works."""
    if not cfg.DATASETS.TRAIN:
        logger.info("scaling   no data set (--config-file, DATASETS.TRAIN): the loader is taken to be fast enough")
        return math.inf
    return benchmark_data(cfg.changed([("DATALOADER.NUM_WORKERS", 0)]), rounds)["images_per_s"]


def _say_step(name: str, step: StepTimes, cluster: Cluster) -> None:
    parts = [_KILO * seconds for seconds in (step.forward, step.backward, step.optimizer)]
    logger.info(
        "scaling   %s  step of %d images %.1f ms (forward %.1f, backward %.1f, optimizer %.1f), %.1f MB of gradients "
        "in %d buckets, loader %.0f images/s for each GPU",
        name, step.images, _KILO * step.seconds, *parts, step.gradient_bytes / 1e6, len(step.buckets), cluster.loader,
    )  # fmt: skip


def _say(row: Prediction) -> None:
    cost = f" ({_KILO * row.cost:.1f} ms)" if row.cost else ""
    logger.info(
        "scaling   %5d GPUs  step %8.1f ms  %9.0f images/s  efficiency %.2f  sums %.1f ms, %.1f of them exposed  "
        "bound by: %s%s",
        row.gpus, _KILO * row.seconds, row.images_per_s, row.efficiency, _KILO * row.summing, _KILO * row.exposed,
        row.bound, cost,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- measuring
class StepMeter:
    """Takes training steps one by one, and knows how long their parts took; the first two do not count."""

    def __init__(self, model: nn.Module, batch: Batch, bf16: bool, device: torch.device) -> None:
        import torch

        self.model, self.batch, self.bf16, self.device = model, batch, bf16, device
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-9, momentum=0.9, weight_decay=1e-4, fused=True)
        self.arrivals = _Arrivals(parameters, device)
        self._parts: list[tuple[float, float, float]] = []

    def step(self) -> None:
        """One more."""
        self.model.train()
        start = now(self.device)
        with autocast(self.bf16, self.device):
            losses = self.model(*self.batch)
        loss, forward = sum(losses.values()), now(self.device)
        with self.arrivals.noted():
            loss.backward()
        backward = now(self.device)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._parts.append((forward - start, backward - forward, now(self.device) - backward))

    def medians(self) -> StepTimes:
        """Over the steps so far."""
        forward, backward, update = (statistics.median(row) for row in zip(*self._parts[2:], strict=True))
        gradients = [(p.numel() * p.element_size(), share * backward) for p, share in self.arrivals.in_order()]
        buckets = fill_buckets(gradients)
        return StepTimes(len(self.batch[0]), forward, backward, update, buckets, SMALL_SUMS, HOST_SUMS)


class _Arrivals:
    """When, as a share of the backward pass, each gradient is there; the first two passes do not count."""

    def __init__(self, parameters: Sequence[nn.Parameter], device: torch.device) -> None:
        self.parameters = parameters
        self.device = device
        self._passes: list[dict[int, float]] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside the `with` runs a backward pass."""
        marks: list[tuple[int, Any]] = []
        handles = [
            p.register_post_accumulate_grad_hook(lambda _, index=index: marks.append((index, self._mark())))
            for index, p in enumerate(self.parameters)
        ]
        start = self._mark()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        whole = self._between(start, self._mark())
        self._passes.append({index: self._between(start, mark) / whole for index, mark in marks})

    def in_order(self) -> list[tuple[nn.Parameter, float]]:
        """Parameters with the median of their shares, the first to get its gradient first."""
        counted = self._passes[2:]
        shares = {index: statistics.median(row[index] for row in counted) for index in counted[0]}
        return [(self.parameters[index], share) for index, share in sorted(shares.items(), key=lambda pair: pair[1])]

    def _mark(self) -> Any:
        import torch

        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, start: Any, end: Any) -> float:
        if self.device.type != "cuda":
            return float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end))


# ---------------------------------------------------------------------------------------------- several processes here
def _real(args: argparse.Namespace, model: nn.Module, batch: Batch, bf16: bool) -> dict[str, float]:
    """What is computed for some processes on this machine, and the steps that they really take."""
    from detframe.parallel.launching import launch

    arrays = (
        [image.cpu().numpy() for image in batch[0]],
        [{key: value.cpu().numpy() for key, value in target.items()} for target in batch[1]],
    )
    device = next(model.parameters()).device.type
    found: dict[str, float] = launch(_on_rank, args.ranks, (model.cpu(), arrays, bf16, device, args.rounds))
    model.to(device)
    logger.info(
        "scaling   %d processes here: computed %.1f ms, measured %.1f ms a step, ratio %.2f (alone in each %.1f ms; "
        "sums of gradients %.2f GB/s, %.0f us)",
        args.ranks, _KILO * found["computed_s"], _KILO * found["measured_s"],
        found["computed_s"] / found["measured_s"], _KILO * found["alone_s"],
        found["bandwidth"] / _GIGA, found["latency"] / _MICRO,
    )  # fmt: skip
    return found


def _on_rank(model: nn.Module, arrays: tuple[Any, Any], bf16: bool, device_name: str, rounds: int) -> dict[str, float]:
    """In each process, in turn: the step by itself, all processes at once; sums; the step with gradients summed."""
    import torch

    from detframe.parallel.collectives import barrier, max_over_ranks, sum_over_ranks, world_size
    from detframe.parallel.device import resolve_device
    from detframe.parallel.joining import process_group, wrap

    with process_group(device_name):
        device = resolve_device(device_name)
        model = model.to(device)
        images = [torch.from_numpy(image).to(device) for image in arrays[0]]
        targets = [{key: torch.from_numpy(value).to(device) for key, value in target.items()} for target in arrays[1]]
        alone = StepMeter(model, (images, targets), bf16, device)
        sums = [partial(sum_over_ranks, torch.zeros(size // 4, device=device)) for size in _PROBES]
        real = training_step(wrap(model, device), images, targets, bf16, device)
        works: tuple[Callable[[], Any], ...] = (alone.step, *sums, real)
        rows = interleave([step for work in works for step in (barrier, work)], rounds, device)
        small, large, measured = (statistics.median(row) for row in rows[3::2])
        link = fit_link(small, large, world_size())
        # what losses are divided by is summed in the forward pass of both
        step = replace(alone.medians(), small=0, host=0)
        computed = predict(step, world_size(), Cluster(world_size(), link, link, link)).seconds
        computed, measured = max_over_ranks([computed, measured])
        found = {"bandwidth": link.bandwidth, "latency": link.latency}
        return {"computed_s": computed, "measured_s": measured, "alone_s": step.seconds, **found}


def fit_link(small: float, large: float, ranks: int) -> Link:
    """What the formula of the ring makes of the seconds of two sums, of `_PROBES` bytes."""
    latency = small / (2 * (ranks - 1))
    return Link(2 * (ranks - 1) / ranks * _PROBES[1] / max(large - small, 1e-9), latency)
