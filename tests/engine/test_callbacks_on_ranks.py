"""Callbacks in whole runs of two ranks: called alike on both, one that stops, one that fails, and going on after it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detframe.parallel.launching import launch
from tests.engine import called
from tests.engine.fakes import last_state
from tests.engine.written import weights

EVALUATED = ("TEST.EVAL_PERIOD", 4, "TEST.VISUALIZE", 0, "PROCESS_GROUP_TIMEOUT", 1.0)
FIRST = ["begin 0 0", "step 1", "step 2", "step 3", "step 4", "evaluating 4", "AP 4", "metrics"]
SECOND = ["step 5", "step 6", "step 7", "step 8", "evaluating 8", "AP 8", "metrics", "last", "end True ", "closed"]


def lines(folder: Path) -> list[list[str]]:
    """What each rank's callback was called for; the metrics were the same on both."""
    ranks = [(folder / f"rank{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    one, two = ([line for line in rank if line.startswith("metrics")] for rank in ranks)
    assert all("bbox/AP" in line for line in one) and one[: len(two)] == two[: len(one)]
    return [["metrics" if line.startswith("metrics") else line for line in rank] for rank in ranks]


def run(cfg, folder: Path, deed: str = "", resume: bool = False) -> list[list[str]]:
    folder.mkdir(exist_ok=True)
    launch(called.whole_run, 2, (cfg, str(folder), deed, resume))
    return lines(folder)


@pytest.mark.slow
def test_a_run_whose_callback_failed_on_one_rank_goes_on_as_if_it_had_not(tiny, tmp_path: Path):
    """Each rank's callback has the state that rank 0's had, the one that the checkpoint holds."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(tiny(*EVALUATED, "OUTPUT_DIR", str(whole / "out")), whole) == [[*FIRST, *SECOND]] * 2
    cfg = tiny(*EVALUATED, "OUTPUT_DIR", str(cut / "out"))
    with pytest.raises(ZeroDivisionError, match="of the callback of rank 1") as caught:
        run(cfg, cut, "raise step 6")
    assert "in note" in str(caught.value.__cause__)  # where, in the callback's own file
    assert [rank[:10] for rank in lines(cut)] == [[*FIRST, *SECOND[:2]]] * 2
    assert last_state(cut / "out")["iteration"] == 4
    for rank in (0, 1):
        (cut / f"rank{rank}.txt").unlink()
    assert run(cfg, cut, resume=True) == [["begin 4 4", *SECOND]] * 2
    one, two = weights(whole / "out"), weights(cut / "out")
    assert all(torch.equal(value, two[name]) for name, value in one.items())


STOPPED = {
    "before the first step": ("stop begin 0 0", ["begin 0 0"], True),
    "after a step": ("stop step 3", FIRST[:4], True),
    "after an evaluation": ("stop AP 4", FIRST, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("when", STOPPED)
def test_one_rank_stops_both(tiny, tmp_path: Path, when: str):
    """At the same step; weights that have no evaluation yet get theirs, and the run is a whole one."""
    deed, before, evaluated = STOPPED[when]
    step = sum(line.startswith("step") for line in before)
    last = [f"evaluating {step}", f"AP {step}", "metrics"] if evaluated else []
    end = ["last", *last, "end True rank 1 has had enough", "closed"]
    assert run(tiny(*EVALUATED), tmp_path / "run", deed) == [[*before, *end]] * 2
    state = last_state(tmp_path / "out")
    assert (state["iteration"], state["finished"], state["stop_reason"]) == (step, True, "rank 1 has had enough")
