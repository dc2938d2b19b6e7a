"""Joining the processes that train together: torchrun, torch.distributed.launch, SLURM's srun, or our own `launch`."""

from __future__ import annotations

import itertools
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from detframe.errors import InvalidValueError, ProcessFailedError, UserError
from detframe.parallel.collectives import gather_objects, world_size
from detframe.parallel.device import WITH_FALLBACK, resolve_device
from detframe.parallel.elastic import Attempt, attempt_of, finish, is_elastic, may_stand_by, muster, own_names, stand_by
from detframe.parallel.environment import env_number, share_of_cores

logger = logging.getLogger(__name__)
MINUTES = 60.0  # an evaluation keeps the other ranks waiting for rank 0
_LOST = re.compile("Connection (closed|reset) by peer|Connection timed out|Broken pipe|Timed out|timed out")
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_joins = itertools.count()
_SPECIAL_STEPS = 0xFFFFFFF0  # ids from here on are SLURM's own: the batch script, an interactive shell, "extern"


@dataclass(frozen=True)
class Membership:
    """This process as one of those that train together."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    master_addr: str
    master_port: int


def find_membership(env: Mapping[str, str]) -> Membership | None:
    """What the environment says about the group of processes; None where this one works alone.

    torchrun's variables (also set by torch.distributed.launch and by `launch`) come before those of SLURM, which count
    only inside a job step with several tasks: the shell of `salloc` and the script of `sbatch` are single processes.

    Raises:
        ValueError: WORLD_SIZE without RANK, a rank beyond it, or a value that is not a number.
    """
    if "WORLD_SIZE" in env and "RANK" in env:
        member = _torchrun_membership(env)
    elif env_number("WORLD_SIZE", 1, env) > 1:
        raise InvalidValueError(
            f"WORLD_SIZE is {env['WORLD_SIZE']}, but RANK is not set; start the processes with torchrun"
        )
    elif _in_slurm_step(env):
        member = _slurm_membership(env)
    else:
        return None
    if not 0 <= member.rank < max(member.world_size, 1):
        raise InvalidValueError(
            f"the environment says that this is process {member.rank} of {member.world_size} (RANK and WORLD_SIZE, or "
            "SLURM's variables), but ranks run from 0 on"
        )
    return member if member.world_size > 1 else None


def _torchrun_membership(env: Mapping[str, str]) -> Membership:
    world, index = env_number("WORLD_SIZE", 1, env), env_number("RANK", 0, env)
    return Membership(
        rank=index,
        world_size=world,
        local_rank=env_number("LOCAL_RANK", index, env),
        local_world_size=env_number("LOCAL_WORLD_SIZE", world, env),
        master_addr=env.get("MASTER_ADDR", "127.0.0.1"),
        master_port=env_number("MASTER_PORT", 29500, env),
    )


def _in_slurm_step(env: Mapping[str, str]) -> bool:
    if "SLURM_PROCID" not in env or _slurm_tasks(env) < 2:
        return False
    step = env.get("SLURM_STEP_ID", "")
    if step.isdigit():
        return int(step) < _SPECIAL_STEPS
    return env.get("ENVIRONMENT") != "BATCH"


def _slurm_tasks(env: Mapping[str, str]) -> int:
    given = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")
    return env_number(next((name for name in given if env.get(name)), given[0]), 1, env)


def _slurm_membership(env: Mapping[str, str]) -> Membership:
    nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST") or "127.0.0.1"
    per_node = env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_TASKS_PER_NODE") or str(_slurm_tasks(env))
    counts = expand_counts(per_node)
    node = env_number("SLURM_NODEID", 0, env)
    port = 20000 + (env_number("SLURM_JOB_ID", 0, env) * 7 + env_number("SLURM_STEP_ID", 0, env)) % 20000
    return Membership(
        rank=env_number("SLURM_PROCID", 0, env),
        world_size=_slurm_tasks(env),
        local_rank=env_number("SLURM_LOCALID", 0, env),
        local_world_size=counts[min(node, len(counts) - 1)],
        master_addr=env.get("MASTER_ADDR") or first_host(nodes),
        master_port=env_number("MASTER_PORT", port, env),
    )


def first_host(nodes: str) -> str:
    """The first host of a SLURM node list: "node[03-05,9],gpu1" gives "node03"."""
    head = re.match(r"[^,\[]*(?:\[[^\]]*\][^,\[]*)*", nodes)
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", head[0] if head else nodes)


def expand_counts(tasks_per_node: str) -> list[int]:
    """SLURM's tasks per node, "2(x3),1", as [2, 2, 2, 1]."""
    out: list[int] = []
    for part in tasks_per_node.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise InvalidValueError(f"cannot read {tasks_per_node!r} as SLURM's tasks per node")
        out += [int(match[1])] * int(match[2] or 1)
    return out


@contextmanager
def process_group(
    device_name: str, minutes: float = MINUTES, usable: Callable[[int], int] | None = None
) -> Iterator[None]:
    """Join the group that the environment describes, if there is one, and leave it at the end.

    Without such an environment, or inside a group that somebody else made, nothing happens. NCCL serves CUDA tensors,
    Gloo those on the CPU.

    Args:
        minutes: how long a process waits for the others (PROCESS_GROUP_TIMEOUT).
        usable: how many of some ranks can work together; where torchrun starts processes again, the others stand by.

    Raises:
        ProcessFailedError: inside the `with`, another process was lost, or did not answer in that time.
        StoodBy: this process was left over, and the others have finished.
    """
    if dist.is_initialized():
        yield
        return
    member = find_membership(os.environ)
    if member is None:
        with _share_of_threads(1):
            yield
        return
    before = {name: os.environ.get(name) for name in _VARIABLES}
    _export(member)
    try:
        with _share_of_threads(member.local_world_size), _losses_told(member, minutes):
            ranks = usable(member.world_size) if usable is not None and may_stand_by() else 0
            store = _store_of(member, ranks or member.world_size)
            _join(member, ranks or member.world_size, store, resolve_device(device_name), timedelta(minutes=minutes))
            yield
            # Not after an error: the other ranks may never get here, and leaving the group would make them fail before
            # this rank has told its error, which would then look like a consequence of theirs
            dist.barrier()
            dist.destroy_process_group()
            if store is not None and member.rank == 0:
                finish(store, range(ranks or member.world_size, member.world_size))
    finally:
        _put_back(before)


def _store_of(member: Membership, ranks: int) -> dist.Store | None:
    """Where this group of torchrun's processes meets, and nobody was before; who is left over stays here."""
    if not is_elastic():
        return None
    store = dist.PrefixStore(str(next(_joins)), _mustered(member)[1])  # an earlier group has left its addresses
    if ranks < member.world_size and member.rank in (0, ranks):
        logger.warning(
            "%d processes cannot share the batch evenly: %d of them train, the others stand by until a host is lost",
            *(member.world_size, ranks),
        )
    if member.rank >= ranks:
        stand_by(store, member.rank)
    return store


def attempt_in_work() -> Attempt | None:
    """Who works together here by torchrun's doing; None where torchrun has not started this process.

    Inside a group it is called by every rank, and outside of one by every process that is going to join.
    """
    if not is_elastic():
        return None
    member = find_membership(os.environ)
    if member is None:
        return attempt_of([own_names()])
    if dist.is_initialized() and not _mustered.cache_info().currsize:  # a group that somebody else made
        return attempt_of(gather_objects(own_names()))
    return _mustered(member)[0]


@cache
def _mustered(member: Membership) -> tuple[Attempt, dist.Store]:
    """As `muster`, once in the life of a process."""
    return muster(member.rank, member.world_size, member.master_addr, member.master_port)


@contextmanager
def _losses_told(member: Membership, minutes: float) -> Iterator[None]:
    """What PyTorch says of a connection becomes the news that a process is lost."""
    try:
        yield
    except RuntimeError as error:
        found = _LOST.search(str(error))
        if isinstance(error, UserError) or found is None:
            raise
        who = f"rank {member.rank} of {member.world_size} on host {socket.gethostname()}"
        if found[0].lower() == "timed out":
            text = (
                f"{who} waited {minutes:g} minutes for another process, which may be lost or at other work "
                "(PROCESS_GROUP_TIMEOUT, in minutes, is how long it waits)"
            )
        else:
            text = f"{who} lost another process, which has ended or cannot be reached"
        raise ProcessFailedError(f"{text}: {error}") from error


@contextmanager
def _share_of_threads(processes: int) -> Iterator[None]:
    """Inside the `with`, PyTorch computes with as many threads as each of some processes on this machine has cores.

    By itself it knows nothing of the other processes, nor of what a container may use. OMP_NUM_THREADS comes before;
    but with several processes it is torchrun that sets it to 1. A number that is smaller already stays.
    """
    before, said = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS", "")
    if not said or (processes > 1 and said == "1"):
        share = share_of_cores(processes)
        torch.set_num_threads(share if said else min(before, share))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _export(member: Membership) -> None:
    os.environ.update(
        RANK=str(member.rank),
        WORLD_SIZE=str(member.world_size),
        LOCAL_RANK=str(member.local_rank),
        LOCAL_WORLD_SIZE=str(member.local_world_size),
        MASTER_ADDR=member.master_addr,
        MASTER_PORT=str(member.master_port),
    )


def _put_back(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _join(member: Membership, ranks: int, store: dist.Store | None, device: torch.device, timeout: timedelta) -> None:
    if device.type in WITH_FALLBACK and member.world_size > 1:
        raise InvalidValueError(
            f"{member.world_size} processes cannot train together on {device.type}; start one, or set MODEL.DEVICE cpu"
        )
    where: dict[str, Any] = {"timeout": timeout}
    if store is not None:
        where |= {"store": store, "rank": member.rank, "world_size": ranks}
    if device.type == "cuda":
        check_gpus(member.local_world_size, torch.cuda.device_count(), bound="SLURM_LOCALID" in os.environ)
        torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device, **where)
        return
    dist.init_process_group("gloo", **where)


def check_gpus(local_ranks: int, gpus: int, bound: bool) -> None:
    """Every rank needs a GPU of its own; under SLURM each may see only the one that it is bound to.

    Raises:
        ValueError: there are fewer.
    """
    if local_ranks > gpus and not (bound and gpus == 1):
        raise InvalidValueError(
            f"{local_ranks} processes on this machine, but it shows {gpus} GPU(s): start as many processes as GPUs, "
            "or set MODEL.DEVICE cpu"
        )


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model in DistributedDataParallel where several ranks train.

    Every trainable parameter gets a gradient in every step, so unused ones are not looked for. Before each forward pass
    the running statistics of batch norm become rank 0's, as they are in a checkpoint, so that resuming changes nothing.

    Raises:
        ValueError: batch norms over all ranks on CPUs, for which PyTorch has none.
    """
    if world_size() == 1:
        return model
    if device.type == "cpu" and any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        raise InvalidValueError(
            "the NORM of a part of the model is 'SyncBN', which PyTorch has for GPUs alone where several processes "
            "train: set it to 'GN' or 'BN', or train in one process"
        )
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
