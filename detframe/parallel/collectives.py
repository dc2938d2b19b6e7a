"""The few collective operations that models, evaluators and trainers share; without a process group they are no-ops.

All of them must be called by every rank.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from detframe.errors import ProcessFailedError

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process among them; 0 writes files."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        dist.barrier()


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, without gradient."""
    value = value.detach()
    if world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over all ranks, without gradient; losses are divided by a `global_normalizer` instead."""
    return sum_over_ranks(value) / world_size()


def any_rank(flag: Tensor | bool, device: torch.device | str = "cpu") -> bool:
    """Whether the flag is set on at least one rank."""
    if world_size() == 1:
        return bool(flag)
    value = torch.as_tensor(flag, device=device).float().reshape(1)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item() > 0)


def max_over_ranks(values: Sequence[float]) -> list[float]:
    """The highest of each value over all ranks. It goes through the CPU, so no GPU is waited for."""
    if world_size() == 1:
        return list(values)
    device = "cpu" if "cpu:" in dist.get_backend_config() else torch.device("cuda", torch.cuda.current_device())
    tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [float(value) for value in tensor.tolist()]


def all_reduce_seconds(size: int, device: torch.device, repeats: int = 3) -> float:
    """The shortest of some times that an all-reduce of so many bytes takes; one before them opens the connections."""
    value = torch.zeros(max(1, size // 4), device=device)
    shortest = math.inf
    for attempt in range(repeats + 1):
        barrier()
        begin = time.perf_counter()
        dist.all_reduce(value)
        value[0].item()  # on a GPU, waits for it
        if attempt:
            shortest = min(shortest, time.perf_counter() - begin)
    return max_over_ranks([shortest])[0]


def gather_objects(value: Any) -> list[Any]:
    """The values of all ranks in rank order, on every rank. The objects must be picklable."""
    if world_size() == 1:
        return [value]
    out: list[Any] = [None] * world_size()
    dist.all_gather_object(out, value)
    return out


def gather_on_rank_zero(value: Any) -> list[Any] | None:
    """The values of all ranks in rank order on rank 0, None on the others. The objects must be picklable."""
    if world_size() == 1:
        return [value]
    out: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(value, out, dst=0)
    return out


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_rank_zero(work: Callable[[], T], what: str) -> T:
    """Rank 0's result of `work()`, on every rank; an error there is an error everywhere, so that no rank waits in vain.

    Raises:
        Exception: on rank 0 what `work` raised; on the others RuntimeError with its message.
    """
    result, failure = _attempt(work) if rank() == 0 else (None, None)
    _fail_together([broadcast_object(_message(failure))], failure, what)
    box: T = broadcast_object(result)
    return box


def on_every_rank(work: Callable[[], T], what: str) -> list[T] | None:
    """Every rank's result of its own `work()`: on rank 0 all of them in rank order, None on the others.

    Raises:
        Exception: on a rank whose `work` raised, that; on the others RuntimeError with the first rank's message.
    """
    result, failure = _attempt(work)
    _fail_together(gather_objects(_message(failure)), failure, what)
    return gather_on_rank_zero(result)


def _attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _message(failure: Exception | None) -> str | None:
    return None if failure is None else f"{type(failure).__name__}: {failure}"


def _fail_together(messages: Sequence[str | None], failure: Exception | None, what: str) -> None:
    if failure is not None:
        raise failure
    for number, message in enumerate(messages):
        if message is not None:
            raise ProcessFailedError(f"rank {number} failed {what}: {message}")
