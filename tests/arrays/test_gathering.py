"""Batches of one shape, in the order of what goes in."""

from __future__ import annotations

import pytest

from detframe.arrays.gathering import Gathering


def gathered(shapes: str, size: int, window: int) -> tuple[list[str], list[str]]:
    """What came out, and the batches that were run; "-" is let through."""
    batches: list[str] = []

    def run(items: list[str]) -> list[str]:
        batches.append("".join(items))
        return [item.upper() for item in items]

    gathering, out = Gathering(run, window), []
    for shape in shapes:
        out += gathering.pass_by("-", size) if shape == "-" else gathering.take(shape, shape, size)
    return [*out, *gathering.rest()], batches


@pytest.mark.parametrize("shapes", ["", "a", "abcabc", "a-a--b", "---", "abbbbbbbbbbbbbb", "abcdefgh" * 4])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 4])
def test_the_order_stays_and_no_batch_mixes_shapes_or_is_too_large(shapes: str, size: int, window: int):
    out, batches = gathered(shapes, size, window)
    assert out == list(shapes.upper())
    assert all(len(set(batch)) == 1 and len(batch) <= size for batch in batches)


def test_a_shape_waits_for_no_more_than_the_window():
    assert gathered("abab", 2, 4)[1] == ["aa", "bb"]
    assert gathered("abbbbbbbb", 2, 2)[1] == ["bb", "bb", "a", "bb", "bb"]
