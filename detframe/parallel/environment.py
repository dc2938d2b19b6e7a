"""What a process finds around it, numbers in environment variables and cores, and what its share of a whole is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from detframe.errors import InvalidValueError

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")  # Linux


def env_number(name: str, default: int, env: Mapping[str, str] | None = None) -> int:
    """The whole number in an environment variable, `default` where it is not set or empty.

    Raises:
        ValueError: it holds something else; names the variable.
    """
    text = (os.environ if env is None else env).get(name, "").strip()
    if text == "":
        return default
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise InvalidValueError(
            f"the environment variable {name} is {text[:40]!r}; it must be a whole number, or unset"
        )
    return int(text)


def cpu_cores() -> int:
    """The cores that this process may use: those that it is bound to, or as many as its container may keep busy."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([bound, *_quotas()])


def share_of_cores(processes: int) -> int:
    """The cores for each of some processes on one machine, at least one."""
    return max(1, cpu_cores() // max(1, processes))


def main_memory() -> int:
    """Bytes of main memory for this process: the machine's, or what its container or job may take; 0 unknown."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return 0
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_limits()])


def free_memory() -> int:
    """Bytes of main memory that are there for this process, beside what other programs hold; 0 unknown."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", _text(_PROC / "meminfo"), re.MULTILINE)
    return min(main_memory(), 1024 * int(found[1])) if found else main_memory()


def _limits() -> Iterator[int]:
    """The limits of memory of the control groups that this process is in."""
    for folder, version in _control_groups("memory"):
        limit = _text(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")).strip()
        if limit.isdigit():
            yield int(limit)


def _quotas() -> Iterator[int]:
    """The time of processors that the control groups of this process get, in whole processors."""
    for folder, version in _control_groups("cpu"):
        names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        quota, period, *_ = [*" ".join(_text(folder / name) for name in names).split(), "", ""]
        if quota.isdigit() and period.isdigit() and int(period):  # else "max", or -1: no limit
            yield max(1, -(-int(quota) // int(period)))


def _control_groups(controller: str) -> Iterator[tuple[Path, int]]:
    """The folders of the control groups that this process is in, from the innermost on, and their version, 2 or 1."""
    for line in _text(_PROC / "self" / "cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        home = _CGROUPS / controller if controllers else _CGROUPS
        place = home / group.lstrip("/")
        for folder in (place, *place.parents):  # in a container its own group is the root of all
            if folder.is_relative_to(home):
                yield folder, 1 if controllers else 2


def _text(path: Path) -> str:
    """What a file of the system says; "" where there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def process_identity(pid: int) -> str:
    """When the machine and a process were started, as numbers that no other process shares; "" where unknown."""
    boot = _text(_PROC / "sys/kernel/random/boot_id").strip()
    start = _text(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    return f"{boot} {start[19]}" if boot and len(start) > 19 else ""


def parent_without(variable: str) -> int:
    """The nearest process above this one that was started without a variable in its environment; 0 where unknown.

    A launcher sets variables for those whom it starts, perhaps by way of a script, and has none of them itself.
    """
    pid = os.getppid()
    while pid > 1 and f"\0{variable}=" in f"\0{_text(_PROC / str(pid) / 'environ')}":
        pid = _parent(pid)
    return pid


def _parent(pid: int) -> int:
    fields = _text(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def ranks_that_share(batch: int, accumulate: int, ranks: int) -> int:
    """The largest number up to `ranks` that times the accumulation steps divides a batch; 0 where none does."""
    return next((number for number in range(ranks, 0, -1) if batch % (number * accumulate) == 0), 0)


def share_of_batch(batch: int, ranks: int, accumulate: int = 1) -> int:
    """Images per rank and forward pass.

    Raises:
        ValueError: ranks times accumulation steps do not divide the global batch.
    """
    parts = ranks * accumulate
    if batch % parts:
        below = batch // parts * parts
        nearest = " and ".join(str(number) for number in (below, below + parts) if number > 0)
        raise InvalidValueError(
            f"SOLVER.IMS_PER_BATCH {batch} cannot be divided among {ranks} ranks x SOLVER.ACCUMULATE_STEPS "
            f"{accumulate}; the nearest batches that can: {nearest}"
        )
    return batch // parts
