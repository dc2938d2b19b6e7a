"""From a trial of a few steps to the pace of a training."""

from __future__ import annotations

import math
from typing import Any

import pytest

from detframe.recipes.trial import CLOSING, FULL_MODEL, SCORING, DoesNotFit, Trial, pace_of
from detframe.recipes.trying import TriedBatch


def batch(seconds: float, failure: str = "") -> TriedBatch:
    return TriedBatch("ordinary", 4, 9, (64, 64), seconds, 0, failure)


def trial(batches: list[TriedBatch], **values: Any) -> Trial:
    return Trial(
        **{
            "device": "cpu", "workers": 1, "parameters": 1, "trained": 1, "seconds_per_step": 0.5,
            "decode_seconds": 0.0, "eval_seconds": 0.1, "peak_memory": 0, "memory": 0, "max_iter": 10,
            "evaluations": 1, "eval_images": 50, "batches": tuple(batches), **values,
        }
    )  # fmt: skip


def test_the_pace_of_a_trial():
    pace = pace_of(trial([batch(1.0), batch(0.5)]), seconds=4.0)
    assert pace.step == 0.5
    assert pace.image == pytest.approx(0.1 * FULL_MODEL + SCORING)
    assert pace.start == pytest.approx(2.5 + CLOSING)


def test_processes_share_an_evaluation():
    assert pace_of(trial([batch(0.5)]), 1.0, ranks=2).image == pytest.approx((0.1 * FULL_MODEL + SCORING) / 2)


def test_a_trial_that_was_cut_short_counts_what_it_has():
    pace = pace_of(trial([batch(7.0)], seconds_per_step=math.nan, eval_seconds=math.nan), 8.0)
    assert pace.step == 7.0 and pace.image == pytest.approx(SCORING)


def test_memory_that_runs_out_asks_for_a_smaller_batch():
    with pytest.raises(DoesNotFit):
        pace_of(trial([batch(0.5), batch(math.nan, "out-of-memory")]), 1.0)
