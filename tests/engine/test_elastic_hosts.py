"""Two hosts train together, and one of them is cut off and comes back."""

import json
import sys

import pytest
import torch

from tests.engine.elastic_run import pauses, repeated, steps
from tests.engine.hosts import hosts, wait_for

ITERATIONS = 32
WORDS = ("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.STEPS", "(24,)", "PROCESS_GROUP_TIMEOUT", 0.1)


def reached(folder, iteration):
    return lambda: any(number >= iteration for number, _ in steps(folder))


def losses(folder):
    rows = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    return {row["iteration"]: row["total_loss"] for row in rows if "total_loss" in row}


def compared(folder, undisturbed):
    """The largest difference of a weight, relative to the largest of its tensor."""
    one, two = (torch.load(f / "out" / "model_final.pth", weights_only=True)["model"] for f in (folder, undisturbed))
    assert one.keys() == two.keys()
    return max(float((one[n] - two[n]).abs().max() / two[n].abs().max().clamp(min=1e-6)) for n in one if two[n].numel())


def train_on_hosts(root, datasets, folder, while_it_runs, whole=True, extra=()):
    """Train on two hosts in a folder; `while_it_runs(hosts)` does something to them, and it is waited for the end."""
    environment = {
        "DETFRAME_DATASETS": str(datasets),
        "DETFRAME_CACHE": str(datasets / "cache"),
        "PYTHONPATH": str(root),
        "PAUSE": "0.2",
    }
    folder.mkdir()
    words = [str(root / "tests/engine/elastic_run.py"), str(folder), *map(str, (*WORDS, *extra))]
    with hosts(2) as made:
        made.meet(folder / "meet.log")
        running = [made.torchrun(name, 1, words, folder / f"{name}.log", environment) for name in made.names]
        while_it_runs(made)
        if whole:
            assert [process.wait(300) for process in running] == [0, 0]


@pytest.fixture(scope="module")
def undisturbed(root, datasets, tmp_path_factory):
    """The folder of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("still") / "run"
    train_on_hosts(root, datasets, folder, lambda made: None)
    return folder


@pytest.mark.slow
def test_the_second_host_is_cut_off_and_comes_back(root, datasets, tmp_path, undisturbed):
    check_cut_off("b", root, datasets, tmp_path, undisturbed)


@pytest.mark.slow
def test_the_first_host_with_rank_zero_is_cut_off_and_comes_back(root, datasets, tmp_path, undisturbed):
    check_cut_off("a", root, datasets, tmp_path, undisturbed)


def check_cut_off(name, root, datasets, tmp_path, undisturbed):
    folder = tmp_path / "run"

    def cut(made):
        wait_for(reached(folder, 10), 300)
        made.cut(name)
        wait_for(lambda: repeated(folder) > 0, 200)
        wait_for(reached(folder, 18), 200)
        made.mend(name)

    train_on_hosts(root, datasets, folder, cut)
    log = (folder / "out" / "log.txt").read_text()
    difference = compared(folder, undisturbed)
    sys.stdout.write(f"steps again {repeated(folder)}, pauses {pauses(folder, 2)} s, weights within {difference:.1e}\n")
    assert f"host host-{name} is gone" in log
    assert f"host host-{name} has come" in log
    assert repeated(folder) <= 4  # CHECKPOINT_PERIOD
    assert difference < 1e-3
    assert losses(folder).keys() == losses(undisturbed).keys()


@pytest.mark.slow
def test_the_kernel_may_see_a_lost_host_long_before_the_timeout(root, datasets, tmp_path):
    """tcp_retries2 5 instead of Linux' 15, and PROCESS_GROUP_TIMEOUT as it is by default, an hour."""
    folder, found = tmp_path / "run", {}

    def cut(made):
        made.retry("a", 5)
        wait_for(reached(folder, 10), 300)
        made.cut("b")
        found["seen"] = wait_for(lambda: "error: rank 0 of 2" in (folder / "a.log").read_text(), 100)
        wait_for(lambda: repeated(folder) > 0, 100)

    train_on_hosts(root, datasets, folder, cut, whole=False, extra=("PROCESS_GROUP_TIMEOUT", 60))
    said = f"seen after {found['seen']:.1f} s, steps again {repeated(folder)} or more, pause {pauses(folder, 1)} s\n"
    sys.stdout.write(said)
    assert "lost another process, which has ended or cannot be reached" in (folder / "a.log").read_text()
    assert 3 < found["seen"] < 60
