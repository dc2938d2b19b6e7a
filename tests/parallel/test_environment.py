"""What falls to one process of several."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from detframe.parallel import environment
from detframe.parallel.environment import cpu_cores, free_memory, main_memory, share_of_batch, share_of_cores
from detframe.parallel.joining import process_group


@pytest.mark.parametrize(("ranks", "accumulate", "share"), [(1, 1, 16), (2, 1, 8), (1, 2, 8), (2, 4, 2)])
def test_a_batch_that_is_divided(ranks: int, accumulate: int, share: int):
    assert share_of_batch(16, ranks, accumulate) == share


@pytest.mark.parametrize(
    ("batch", "ranks", "accumulate", "nearest"),
    [(16, 1, 3, "15 and 18"), (16, 3, 2, "12 and 18"), (4, 2, 4, "8"), (1, 2, 1, "2")],
)
def test_one_that_is_not(batch: int, ranks: int, accumulate: int, nearest: str):
    said = f"IMS_PER_BATCH {batch} cannot be divided among {ranks} ranks x SOLVER.ACCUMULATE_STEPS {accumulate}.*: "
    with pytest.raises(ValueError, match=f"{said}{nearest}$"):
        share_of_batch(batch, ranks, accumulate)


def test_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "cpu_cores", lambda: 6)
    assert [share_of_cores(n) for n in (0, 1, 2, 4, 6, 7)] == [6, 6, 3, 1, 1, 1]


def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, limits: dict[str, str]) -> None:
    """A machine whose control groups say so."""
    for name, text in {"proc/self/cgroup": groups, **{f"groups/{name}": text for name, text in limits.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(environment, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(environment, "_CGROUPS", tmp_path / "groups")


@pytest.mark.parametrize(
    ("groups", "limits", "cores"),
    [
        ("0::/", {}, 12),
        ("0::/", {"cpu.max": "max 100000"}, 12),
        ("0::/", {"cpu.max": "250000 100000"}, 3),
        ("0::/", {"cpu.max": "10000 100000"}, 1),
        ("0::/", {"cpu.max": "6400000 100000"}, 12),
        ("0::/job/step", {"job/cpu.max": "400000 100000", "job/step/cpu.max": "max 100000"}, 4),
        ("1:cpu,cpuacct:/job\n4:memory:/job", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 12),
        ("1:cpu,cpuacct:/job", {"cpu/job/cpu.cfs_quota_us": "150000", "cpu/job/cpu.cfs_period_us": "50000"}, 3),
        ("1:cpu:/job", {"cpu/job/cpu.cfs_quota_us": "150000"}, 12),
    ],
)
def test_cores_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, limits: dict[str, str], cores: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    system(tmp_path, monkeypatch, groups, limits)
    assert cpu_cores() == cores


@pytest.mark.parametrize(
    ("groups", "limits", "most"),
    [
        ("0::/", {}, None),
        ("0::/job/step", {"job/memory.max": "4096000", "job/step/memory.max": "max"}, 4096000),
        ("0::/job/step", {"memory.max": "8192000"}, 8192000),  # in a container, whose root is a group outside
        ("4:memory:/job\n1:cpu:/job", {"memory/job/memory.limit_in_bytes": "2048000", "memory.max": "9"}, 2048000),
        ("4:cpu,memory:/job", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),  # no limit
    ],
)
def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, limits: dict[str, str], most: int | None):
    system(tmp_path, monkeypatch, groups, limits)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert main_memory() == free_memory() == (most or physical)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:  24 kB\nMemAvailable:      1000 kB\n")
    assert free_memory() == 1024000 and main_memory() == (most or physical)


@pytest.mark.parametrize(
    ("said", "before", "inside"),
    [("", 8, 3), ("", 2, 2), ("1", 1, 1), ("8", 8, 8)],
)
def test_a_process_has_no_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch, said: str, before: int, inside: int):
    """Where the environment says nothing else; PyTorch does not see what a container may use."""
    monkeypatch.setattr(environment, "cpu_cores", lambda: 3)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    own = torch.get_num_threads()
    try:
        torch.set_num_threads(before)
        with process_group("cpu"):
            assert torch.get_num_threads() == inside
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(own)
