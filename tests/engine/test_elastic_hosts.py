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


def train_on_hosts(root, datasets, folder, while_it_runs):
    """Train on two hosts in a folder; `while_it_runs(hosts)` does something to them."""
    environment = {
        "DETFRAME_DATASETS": str(datasets),
        "DETFRAME_CACHE": str(datasets / "cache"),
        "PYTHONPATH": str(root),
        "PAUSE": "0.2",
    }
    folder.mkdir()
    words = [str(root / "tests/engine/elastic_run.py"), str(folder), *map(str, WORDS)]
    with hosts(2) as made:
        made.meet(folder / "meet.log")
        running = [made.torchrun(name, 1, words, folder / f"{name}.log", environment) for name in made.names]
        while_it_runs(made)
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
