"""Two hosts train together, and one of them is cut off and comes back."""

import json

import pytest
import torch

from tests.engine.hosts import hosts, wait_for

ITERATIONS = 32
WORDS = ("SOLVER.MAX_ITER", ITERATIONS, "SOLVER.STEPS", "(24,)", "PROCESS_GROUP_TIMEOUT", 0.1)


def steps(folder, rank=0):
    """The iterations that a rank has done, in the order in which it did them, and when."""
    path = folder / f"steps_rank{rank}.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(line.split()[0]), float(line.split()[1])) for line in lines]


def reached(folder, iteration):
    return lambda: any(number >= iteration for number, _ in steps(folder))


def repeated(folder):
    """The steps that were done again."""
    numbers = [number for number, _ in steps(folder)]
    return len(numbers) - len(set(numbers))


def losses(folder):
    rows = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    return {row["iteration"]: row["total_loss"] for row in rows if "total_loss" in row}


def compared(folder, undisturbed):
    """The largest difference of a weight, relative to the largest of its tensor."""
    one, two = (torch.load(f / "out" / "model_final.pth", weights_only=True)["model"] for f in (folder, undisturbed))
    assert one.keys() == two.keys()
    return max(float((one[n] - two[n]).abs().max() / two[n].abs().max().clamp(min=1e-6)) for n in one if two[n].numel())


@pytest.fixture
def environment(root, datasets):
    return {
        "DETFRAME_DATASETS": str(datasets),
        "DETFRAME_CACHE": str(datasets / "cache"),
        "PYTHONPATH": str(root),
        "PAUSE": "0.2",
    }


@pytest.mark.slow
def test_a_host_is_cut_off_and_comes_back(root, tmp_path, environment):
    script = str(root / "tests/engine/elastic_run.py")
    with hosts(2) as made:
        made.meet(tmp_path / "meet.log")
        still, cut = tmp_path / "still", tmp_path / "cut"
        for folder in (still, cut):
            folder.mkdir()
            words = [script, str(folder), *map(str, WORDS)]
            running = [made.torchrun(name, 1, words, folder / f"{name}.log", environment) for name in made.names]
            if folder == cut:
                wait_for(reached(folder, 10), 300)
                made.cut("b")
                seconds = wait_for(lambda: repeated(cut) > 0, 200)
                wait_for(reached(folder, 18), 200)
                made.mend("b")
            assert [process.wait(300) for process in running] == [0, 0]
        log = (cut / "out" / "log.txt").read_text()
        difference = compared(cut, still)
        print(seconds, repeated(cut), difference, log)
        assert "host host-b is gone" in log
        assert "host host-b has come" in log
        assert difference < 1e-3
        assert losses(cut).keys() == losses(still).keys()
