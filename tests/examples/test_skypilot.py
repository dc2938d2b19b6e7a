"""examples/skypilot.yaml, by SkyPilot itself where it is installed, and its script as SkyPilot would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.engine.conftest import datasets
from tests.engine.ranks import tiny_config
from tests.examples.conftest import free_port

__all__ = ["datasets"]
FILE = ROOT / "examples" / "skypilot.yaml"


def test_skypilot_reads_it(tmp_path):
    sky = pytest.importorskip("sky")
    task = sky.Task.from_yaml(str(FILE))
    assert task.num_nodes == 2 and list(task.storage_mounts) == ["/runs"]
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(FILE.read_text().replace("num_nodes:", "num_node:"))
    with pytest.raises(ValueError, match="num_node"):
        sky.Task.from_yaml(str(wrong))


@pytest.mark.slow
def test_its_script_trains_on_two_machines(datasets, tmp_path):
    """Both on the loopback, of one process each; the mounted bucket is a folder."""
    task = yaml.safe_load(FILE.read_text())
    assert Path(task["envs"]["OUTPUT_DIR"]).is_relative_to("/runs") and "/runs" in task["file_mounts"]
    assert (ROOT / task["envs"]["CONFIG"]).is_file()
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny_config(("SOLVER.MAX_ITER", 3, "SOLVER.STEPS", ())).dump())
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "torchrun").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m torch.distributed.run "$@"\n')
    (bin_folder / "torchrun").chmod(0o755)
    own = {
        **task["envs"],
        "CONFIG": str(config),
        "OUTPUT_DIR": str(tmp_path / "out"),
        "PORT": str(free_port()),
        "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "1",
        "SKYPILOT_TASK_ID": "sky-managed-test",
        "DETFRAME_DATASETS": str(datasets),
        "DETFRAME_CACHE": str(datasets / "cache"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
    }
    machines = [
        subprocess.Popen(
            ["bash", "-c", task["run"]],
            env={**os.environ, **own, "SKYPILOT_NODE_RANK": str(rank)},
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    texts = [machine.communicate(timeout=300)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], texts
    assert (tmp_path / "out" / "model_final.pth").is_file() and (tmp_path / "out" / "log_rank1.txt").is_file()
