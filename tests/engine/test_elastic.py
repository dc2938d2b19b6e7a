"""torchrun starts processes anew: the run goes on by itself, with the same batches in the same order."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch

from tests.engine.elastic_run import pauses, repeated
from tests.engine.fakes import last_state

LAUNCH = (
    *(sys.executable, "-m", "torch.distributed.run", "--max-restarts=2"),
    *("--rdzv-backend=c10d", "--rdzv-conf=last_call_timeout=1", "--rdzv-endpoint=localhost:0"),
)


def launched(root: Path, folder: Path, options=(), words=(), **env):
    """A training by torchrun in a folder."""
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [*LAUNCH, *options, str(root / "tests/engine/elastic_run.py"), str(folder), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **env},
        timeout=300,
        capture_output=True,
        text=True,
    )


def told_at(said: str, words: str) -> float:
    """When torchrun said so first: its lines begin with "W1127 17:21:04.211000"."""
    day, clock = next(line.split()[:2] for line in said.splitlines() if words in line)
    stamp = f"{datetime.now().year}{day[1:]} {clock}"
    return datetime.strptime(stamp, "%Y%m%d %H:%M:%S.%f").timestamp()


def final(folder: Path):
    return torch.load(folder / "out" / "model_final.pth", weights_only=True)["model"]


@pytest.fixture(scope="module")
def undisturbed(root, datasets, tmp_path_factory):
    """A run of two ranks that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    environment = {"DETFRAME_DATASETS": str(datasets), "DETFRAME_CACHE": str(datasets / "cache")}
    done = launched(root, folder, ["--nproc-per-node=2"], **environment)
    assert done.returncode == 0, done.stderr
    return final(folder)


def assert_final(folder, undisturbed):
    for name, value in final(folder).items():
        assert torch.equal(value, undisturbed[name]), name


@pytest.mark.slow
def test_a_killed_rank_costs_the_steps_since_the_newest_checkpoint(root, tiny, tmp_path, undisturbed):
    harm = {"6": {"rank": 1, "what": "kill"}}
    done = launched(root, tmp_path, ["--nproc-per-node=2"], HARM=json.dumps(harm))
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "restart 1 of this run (a process failed or was lost): 2 processes -> 2" in log
    assert "restarts for failures: 1 of 2" in log
    assert not list((tmp_path / "out").glob("previous_*"))
    seen = told_at(done.stderr, "closing signal SIGTERM") - (tmp_path / "harm_6").stat().st_mtime
    sys.stdout.write(f"seen after {seen:.1f} s, steps again {repeated(tmp_path)}, pause {pauses(tmp_path, 1)} s\n")
    assert repeated(tmp_path) <= 4  # CHECKPOINT_PERIOD
    assert_final(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_stopped_rank_is_seen_by_the_others_and_killed_by_torchrun(root, tiny, tmp_path, undisturbed):
    """SIGSTOP, as of a machine that swaps or a debugger: its connections stay, and nothing comes through them."""
    harm = {"6": {"rank": 1, "what": "stop"}}
    done = launched(root, tmp_path, ["--nproc-per-node=2"], ("PROCESS_GROUP_TIMEOUT", 0.1), HARM=json.dumps(harm))
    assert done.returncode == 0, done.stderr
    assert "rank 0 of 2 on host" in done.stderr and "waited 0.1 minutes for another process" in done.stderr
    seen = told_at(done.stderr, "closing signal SIGTERM") - (tmp_path / "harm_6").stat().st_mtime
    sys.stdout.write(f"seen after {seen:.1f} s, steps again {repeated(tmp_path)}, pause {pauses(tmp_path, 1)} s\n")
    assert seen >= 6 and repeated(tmp_path) <= 4
    assert_final(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_budget_of_minutes_goes_on_over_a_restart(root, tiny, tmp_path):
    """The clock goes on from what the checkpoint says was used, so the whole run takes its time and no more."""
    harm = {"10": {"rank": 1, "what": "kill"}}
    words = ("SOLVER.MAX_MINUTES", 0.3, "SOLVER.LR_SCHEDULE", "cosine", "SOLVER.MAX_ITER", 90000, "TEST.VISUALIZE", 0)
    done = launched(root, tmp_path, ["--nproc-per-node=2"], words, HARM=json.dumps(harm), PAUSE="0.2")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "restart 1 of this run (a process failed or was lost): 2 processes -> 2" in log
    (used,) = re.findall(r"SOLVER\.MAX_MINUTES 0\.3: the last iteration was (\d+), and the run took", log)
    state = last_state(tmp_path / "out")
    assert state["finished"] and state["iteration"] == state["max_iter"] == int(used) > 10
    assert repeated(tmp_path) <= 4 and 0.6 * 18 < state["hooks"]["time_budget"]["used"] < 18 + 30
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    rates = [row["lr"] for row in rows if "lr" in row]
    assert rates[-1] < 0.1 * max(rates)


@pytest.mark.slow
def test_a_rank_too_many_stands_by(root, tiny, tmp_path, undisturbed):
    harm = {"5": {"rank": 1, "what": "fail"}}
    done = launched(root, tmp_path, ["--nproc-per-node=3"], HARM=json.dumps(harm))
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "2 ranks" in log
    assert "3 processes cannot share the batch evenly: 2 of them train" in done.stderr
    assert_final(tmp_path, undisturbed)


@pytest.mark.slow
def test_the_summary_of_torchrun_shows_what_failed_first(root, tiny, tmp_path):
    harm = {"3": {"rank": 1, "what": "fail"}}
    done = launched(root, tmp_path, ["--nproc-per-node=2", "--max-restarts=0"], HARM=json.dumps(harm))
    assert done.returncode == 1
    summary = done.stderr.partition("Root Cause (first observed failure)")[2]
    assert "rank      : 1" in summary
    assert "RuntimeError: this rank fails in its own words" in summary
