"""What falls to one process of several."""

from __future__ import annotations

import pytest

from detframe.parallel import environment
from detframe.parallel.environment import share_of_batch, share_of_cores


@pytest.mark.parametrize(("ranks", "accumulate", "share"), [(1, 1, 16), (2, 1, 8), (1, 2, 8), (2, 4, 2)])
def test_a_batch_that_is_divided(ranks: int, accumulate: int, share: int):
    assert share_of_batch(16, ranks, accumulate) == share


@pytest.mark.parametrize(
    ("batch", "ranks", "accumulate", "nearest"),
    [(16, 1, 3, "15 and 18"), (16, 3, 2, "12 and 18"), (4, 2, 4, "8"), (1, 2, 1, "2")],
)
def test_one_that_is_not(batch: int, ranks: int, accumulate: int, nearest: str):
    said = f"IMS_PER_BATCH {batch} cannot be divided among {ranks} ranks x SOLVER.ACCUMULATE_STEPS {accumulate}.*: "
    with pytest.raises(ValueError, match=f"{said}{nearest}$"):
        share_of_batch(batch, ranks, accumulate)


def test_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environment, "cpu_cores", lambda: 6)
    assert [share_of_cores(n) for n in (0, 1, 2, 4, 6, 7)] == [6, 6, 3, 1, 1, 1]
