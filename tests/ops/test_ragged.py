"""Rows of unequal length."""

import pytest
import torch

from detframe.ops.ragged import members, places, starts


@pytest.mark.parametrize("counts", [[2, 0, 1], [0, 0], [3], [0, 4, 0, 0, 2], []])
def test_as_lists_would_do_it(counts):
    row, place = members(torch.tensor(counts, dtype=torch.int64))
    pairs = [(row, place) for row, count in enumerate(counts) for place in range(count)]
    assert list(zip(row.tolist(), place.tolist(), strict=True)) == pairs
    assert places(row, len(counts)).tolist() == [place for _, place in pairs]
    assert starts(torch.tensor(counts, dtype=torch.int64)).tolist() == [sum(counts[:i]) for i in range(len(counts))]
