"""A training in the real Ray: a worker that is killed costs nothing but the steps since the newest checkpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from tests.conftest import ROOT
from tests.engine.conftest import datasets, tiny
from tests.engine.ranks import tiny_config
from tests.examples.conftest import load_example

__all__ = ["datasets", "tiny"]
MEASURED = ("images_per_s", "data_wait", "memory_mb")
SECONDS = 300  # a busy machine starts Ray's processes slowly


@pytest.fixture
def config(datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("ray.train", reason="ray_train.py needs ray")
    for name, value in {
        "DETFRAME_DATASETS": datasets,
        "DETFRAME_CACHE": datasets / "cache",
        "PYTHONPATH": ROOT,
        "PYTHONUNBUFFERED": 1,
        "OMP_NUM_THREADS": 1,
        "RAY_worker_niceness": 0,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": 0,
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": SECONDS,
    }.items():
        monkeypatch.setenv(name, str(value))
    words = ("SOLVER.MAX_ITER", 40, "SOLVER.STEPS", (30,), "SOLVER.CHECKPOINT_PERIOD", 10, "TEST.EVAL_PERIOD", 20)
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_config(words).dump())
    return path


def wait_for(what, process: subprocess.Popen, log: Path):
    """What `what()` returns, when it returns something."""
    for _ in range(10 * SECONDS):
        found = what()
        if found:
            return found
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def rows(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in found]


@pytest.mark.slow
def test_a_run_with_a_killed_worker_ends_as_an_undisturbed_one(config: Path, tmp_path: Path):
    alone, storage, log = tmp_path / "alone", tmp_path / "ray", tmp_path / "ray.log"
    command = [sys.executable, ROOT / "tools" / "train_net.py", "--num-gpus", "2", "--config-file", config]
    subprocess.run([*map(str, command), "OUTPUT_DIR", str(alone)], check=True, capture_output=True)

    example = [ROOT / "examples" / "ray_train.py", "--config-file", config, "--storage", storage, "--name", "killed"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *map(str, example)], stdout=file, stderr=file, cwd=tmp_path, start_new_session=True
        )
    try:
        snapshot = storage / "killed" / "checkpoint_manager_snapshot.json"
        wait_for(lambda: snapshot.is_file() and "checkpoint_" in snapshot.read_text(), process, log)
        os.kill(int(re.findall(r"pid=(\d+)\) world_rank=1", log.read_text())[-1]), signal.SIGKILL)
        assert process.wait(timeout=2 * SECONDS) == 0, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)

    kept = sorted((storage / "killed").glob("checkpoint_*/model_final.pth"))[-1].parent
    gone_on = re.findall(r"going on from \S+model_(\d+)\.pth at iteration \d+ of 40", (kept / "log.txt").read_text())
    assert [int(number) for number in gone_on] in ([10], [20], [30])
    one, two = (torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (alone, kept))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert rows(kept) == rows(alone)
    for row in json.loads(snapshot.read_text())["checkpoint_results"]:
        newest = (storage / "killed" / row["checkpoint_dir_name"] / "last_checkpoint").read_text().strip()
        assert newest == f"model_{row['metrics']['iteration']:07d}.pth"
    assert "'iteration': 40" in log.read_text() and "bbox/AP" in log.read_text()
    assert not Path("/tmp/detframe_killed").exists()


def test_the_last_report_has_the_iteration_that_the_run_reached(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run whose time is over at once takes one step of its eight; one that is finished already takes none."""
    example, reports = load_example("ray_train"), []
    worker = {"get_world_rank": lambda: 0, "get_local_rank": lambda: 0, "get_experiment_name": lambda: tmp_path.name}
    monkeypatch.setattr(example.ray.train, "get_context", lambda: SimpleNamespace(**worker))
    monkeypatch.setattr(example.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(example.ray.train, "get_checkpoint", lambda: reports[-1][1] if reports else None)

    def report(metrics, checkpoint):
        kept = example.Checkpoint.from_directory(tmp_path / f"kept_{len(reports)}")
        checkpoint.to_directory(kept.path)
        reports.append((metrics, kept))

    monkeypatch.setattr(example.ray.train, "report", report)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        for _ in range(2):
            example.train_on_worker({"cfg": tiny("SOLVER.MAX_MINUTES", 0.0001)})
    finally:
        dist.destroy_process_group()
    assert [metrics["iteration"] for metrics, _ in reports] == [1, 1] and "bbox/AP" in reports[0][0]
