"""What belongs together, by a key or by way of others."""

from __future__ import annotations

import itertools

from detframe.data.grouping import alike, joined


def test_things_with_the_same_key() -> None:
    assert alike(["b", "A", "c", "a", "B"], str.lower) == [["b", "B"], ["A", "a"]]
    assert alike([1, 2, 3, 4], lambda n: None if n < 3 else "large") == [[3, 4]]
    assert alike([], str) == []


def test_groups_that_others_connect() -> None:
    assert joined([("a", "b"), ("c", "d"), ("b", "c")]) == [["a", "b", "c", "d"]]
    assert joined([(1,), (2,), (3,), (3, 1)]) == [[1, 3], [2]]
    assert joined([]) == []


def test_a_long_chain_and_a_group_of_many() -> None:
    many = range(50_000)
    assert joined(itertools.pairwise(many)) == [list(many)]
    assert joined([many]) == [list(many)]
