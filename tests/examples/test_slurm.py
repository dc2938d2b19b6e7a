"""examples/slurm.sbatch, executed with stand-ins for srun and scontrol: warned, saved, queued again, and on."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import datasets  # noqa: F401 - a fixture
from tests.engine.ranks import TINY

# Two tasks as SLURM starts them; the highest of their exit codes is srun's
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_ID=0 SLURM_NODEID=0 \\
        SLURM_STEP_NODELIST=localhost SLURM_STEP_TASKS_PER_NODE=2 "$@" &
    pids+=($!)
done
echo "${pids[@]}" > "$STANDINS/tasks"
worst=0
for pid in "${pids[@]}"; do
    wait "$pid"; code=$?
    while kill -0 "$pid" 2> /dev/null; do wait "$pid"; code=$?; done
    ((code > worst)) && worst=$code
done
exit $worst
"""
SCONTROL = '#!/bin/bash\necho "$@" >> "$STANDINS/asked"\n'
WORDS = {**TINY, "SOLVER.MAX_ITER": 40, "SOLVER.CHECKPOINT_PERIOD": 0, "SOLVER.STEPS": "(30,)", "TEST.VISUALIZE": 0}


@pytest.fixture
def queue(root, datasets, tmp_path):  # noqa: F811 - the fixture
    """Start the job: queue(OUTPUT_DIR, restarts)."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o755)
    started = []

    def start(out: Path, restarts: int) -> subprocess.Popen[str]:
        words = [str(word) for pair in {**WORDS, "OUTPUT_DIR": out}.items() for word in pair]
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "PYTHONPATH": str(root),
            "OMP_NUM_THREADS": "1",
            "STANDINS": str(tmp_path),
            "SLURM_JOB_ID": str(os.getpid()),  # the port follows from it
            "SLURM_RESTART_COUNT": str(restarts),
            "DETFRAME_DATASETS": str(datasets),
            "DETFRAME_CACHE": str(datasets / "cache"),
        }
        command = ["bash", str(root / "examples" / "slurm.sbatch"), *words]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def train_rows(out: Path) -> int:
    path = out / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("warning", [signal.SIGUSR1, signal.SIGTERM], ids=["time", "pre-emption"])
def test_a_job_that_is_warned_saves_is_queued_again_and_goes_on(queue, tmp_path, warning):
    out = tmp_path / "out"
    job = queue(out, 0)
    deadline = time.monotonic() + 240
    while train_rows(out) < 3:
        assert time.monotonic() < deadline and job.poll() is None, job.communicate()[0]
        time.sleep(0.05)
    for pid in (tmp_path / "tasks").read_text().split():
        os.kill(int(pid), warning)
    if warning == signal.SIGTERM:  # goes to the script as well
        job.send_signal(warning)
    text, _ = job.communicate(timeout=120)
    assert job.returncode == 0, text
    assert f"saved; job {os.getpid()} goes back into the queue (start 1 has ended)" in text
    assert (tmp_path / "asked").read_text() == f"requeue {os.getpid()}\n"
    assert not (out / "model_final.pth").exists()
    if warning == signal.SIGTERM:
        return
    job = queue(out, 1)
    text, _ = job.communicate(timeout=300)
    assert job.returncode == 0, text
    assert (tmp_path / "asked").read_text() == f"requeue {os.getpid()}\n"
    undisturbed = queue(tmp_path / "still", 0)
    assert undisturbed.wait(300) == 0
    one, two = (torch.load(f / "model_final.pth", weights_only=True)["model"] for f in (out, tmp_path / "still"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_an_error_is_not_queued_again(queue, tmp_path, root):
    (tmp_path / "srun").write_text("#!/bin/bash\nexit 2\n")
    job = queue(tmp_path / "out", 0)
    job.communicate(timeout=120)
    assert job.returncode == 2
    assert not (tmp_path / "asked").exists()


def test_what_sbatch_is_asked_for(root):
    lines = (root / "examples" / "slurm.sbatch").read_text().splitlines()
    asked = [line.split(maxsplit=1)[1] for line in lines if line.startswith("#SBATCH")]
    assert {"--requeue", "--signal=USR1@180", "--open-mode=append"} <= set(asked)
    code = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[code:])  # sbatch reads none behind the first command
