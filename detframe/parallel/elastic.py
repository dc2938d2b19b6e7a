"""Processes that torchrun has started, and starts anew when one fails or a host comes or goes: who stands together.

torchrun hands the same store to the processes of every attempt, and what those before have left in it would be taken
for news: a group that is joined through it anew fails or hangs (PyTorch 2.6 to 2.14). Nor do its variables tell
one attempt from the next, as TORCHELASTIC_RESTART_COUNT does not grow when the membership changes, and is each
launcher's own. So the processes first find out, through that store, which of them live, and then join where nobody was
before.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import torch.distributed as dist

from detframe.errors import ProcessFailedError
from detframe.parallel.environment import env_number, parent_without, process_identity

RUN_ID = "TORCHELASTIC_RUN_ID"
_PLACE = "detframe"
_PAUSE_SECONDS = 0.1
_STANDING_SECONDS, _PARTING_SECONDS = 0.5, 10.0
TIMEOUT = timedelta(minutes=10)  # torchrun starts them together; what differs is how long they take to import


@dataclass(frozen=True)
class Attempt:
    """The processes that torchrun has started together.

    Attributes:
        launchers: by rank, the torchrun that started it, as `Launcher` writes itself; "" where that cannot be told.
        workers: by rank, the process itself.
        failures: how often rank 0's launcher has started processes again because one failed.
        allowed: --max-restarts.
    """

    launchers: tuple[str, ...]
    workers: tuple[str, ...]
    failures: int
    allowed: int

    @property
    def hosts(self) -> list[str]:
        """Of the launchers, each once."""
        return list(dict.fromkeys(host_of(launcher) for launcher in self.launchers))


def host_of(launcher: str) -> str:
    """The host in what a launcher or worker is known by."""
    return launcher.partition(" ")[0]


def is_elastic(env: Mapping[str, str] | None = None) -> bool:
    """Whether torchrun has started this process."""
    return RUN_ID in (os.environ if env is None else env)


@cache
def own_names() -> tuple[str, str]:
    """What this process and its launcher are known by, here and on every other host; "" for a launcher unknown."""
    launcher, own = parent_without(RUN_ID), os.getpid()
    identity = process_identity(launcher) if launcher > 1 or _is_init_of_container(launcher) else ""
    return (
        f"{socket.gethostname()} {launcher} {identity}" if identity else "",
        f"{socket.gethostname()} {own} {_token()}",
    )


def _is_init_of_container(pid: int) -> bool:
    """Process 1 is a launcher only where this process is its child."""
    return pid == 1 == os.getppid()


@cache
def _token() -> str:
    return uuid.uuid4().hex


def attempt_of(names: list[tuple[str, str]]) -> Attempt:
    """The attempt whose ranks are known by these names of launchers and workers."""
    launchers, workers = zip(*names, strict=True)
    failures, allowed = env_number("TORCHELASTIC_RESTART_COUNT", 0), env_number("TORCHELASTIC_MAX_RESTARTS", 0)
    return Attempt(tuple(launchers), tuple(workers), failures, allowed)


# ---------------------------------------------------------------------------------------------- finding each other
def muster(rank: int, world: int, address: str, port: int) -> tuple[Attempt, dist.Store]:
    """Wait for all processes of this attempt; returns who they are, and a store in which nobody has been before.

    Each writes its names, which are new in every process. Rank 0 lists what it finds, until every rank has answered to
    the list that it is in: names that a process of an earlier attempt has left get no answer.

    Raises:
        ProcessFailedError: some did not come in time; names them.
    """
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    base = dist.TCPStore(address, port, None, serves, TIMEOUT, wait_for_workers=False, multi_tenant=True)
    store = dist.PrefixStore(_PLACE, base)
    store.set(f"names/{rank}", json.dumps(own_names()))
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    names = _call(store, world, deadline) if rank == 0 else _answer(store, rank, deadline)
    return attempt_of(names), dist.PrefixStore(f"{_PLACE}/{_key(names)}", base)


def _key(names: list[tuple[str, str]]) -> str:
    return uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(names)).hex


def _call(store: dist.Store, world: int, deadline: float) -> list[tuple[str, str]]:
    """Rank 0: list the names until all who are listed have answered."""
    names: list[tuple[str, str]] = []
    missing = list(range(world))
    while time.monotonic() < deadline:
        missing = [index for index in range(world) if not store.check([f"names/{index}"])]
        if not missing:
            found = [_names(store, f"names/{index}") for index in range(world)]
            if found != names:
                names = found
                store.set("list", json.dumps(names))
            missing = [index for index in range(1, world) if not store.check([f"{_key(names)}/answer/{index}"])]
            if not missing:
                store.set(f"{_key(names)}/go", "1")
                return names
        time.sleep(_PAUSE_SECONDS)
    raise ProcessFailedError(f"of {world} processes these did not come in time: ranks {', '.join(map(str, missing))}")


def _answer(store: dist.Store, rank: int, deadline: float) -> list[tuple[str, str]]:
    """The other ranks: answer to a list that has this very process in it, and wait for all to have done so."""
    while time.monotonic() < deadline:
        if store.check(["list"]):
            names = [(launcher, worker) for launcher, worker in json.loads(store.get("list"))]
            if len(names) > rank and names[rank] == own_names():
                store.set(f"{_key(names)}/answer/{rank}", "1")
                if store.check([f"{_key(names)}/go"]):
                    return names
        time.sleep(_PAUSE_SECONDS)
    raise ProcessFailedError(f"rank {rank} waited for rank 0, which did not call in time")


def _names(store: dist.Store, key: str) -> tuple[str, str]:
    launcher, worker = json.loads(store.get(key))
    return launcher, worker


# ---------------------------------------------------------------------------------------------- more than are needed
class StoodBy(Exception):  # noqa: N818 - the end of a process that was not needed is no error
    """The others have finished the run."""


def may_stand_by(env: Mapping[str, str] | None = None) -> bool:
    """Whether torchrun starts processes again, so that their number is what was left of the hosts."""
    return is_elastic(env) and env_number("TORCHELASTIC_MAX_RESTARTS", 0, env) > 0


def stand_by(store: dist.Store, rank: int) -> None:
    """Wait until the others have finished: they are as many as can share the batch evenly, and this one is left over.

    Raises:
        StoodBy: they have.
        ProcessFailedError: the store is gone, and with it the others.
    """
    try:
        while not store.check(["finished"]):
            time.sleep(_STANDING_SECONDS)
        store.set(f"seen/{rank}", "1")
    except RuntimeError as error:  # a class of PyTorch's own, of which it is one
        raise ProcessFailedError(f"rank {rank} stood by, and the others are gone: {error}") from error
    raise StoodBy


def finish(store: dist.Store, spare: Sequence[int]) -> None:
    """Tell those who stand by that they can go; rank 0 does, and waits a little, as the store may end with it."""
    store.set("finished", "1")
    deadline = time.monotonic() + _PARTING_SECONDS
    while time.monotonic() < deadline and not all(store.check([f"seen/{rank}"]) for rank in spare):
        time.sleep(_PAUSE_SECONDS)
