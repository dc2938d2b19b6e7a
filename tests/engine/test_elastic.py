"""torchrun starts processes anew: the run goes on by itself, with the same batches in the same order."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.engine.elastic_run import pauses, repeated

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
    sys.stdout.write(f"steps again {repeated(tmp_path)}, pause {pauses(tmp_path, 1)} s\n")
    assert repeated(tmp_path) <= 4  # CHECKPOINT_PERIOD
    assert_final(tmp_path, undisturbed)


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
