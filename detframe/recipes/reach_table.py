"""What the objects of each size reach, as a table for 80 columns; how numbers and settings are written."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan
from typing import Any

from detframe.engine.fit import percent
from detframe.texts import counted


@dataclass(frozen=True)
class SizeClass:
    """The objects of some sizes in training, and shares of them from 0 to 1; NaN where the detector cannot tell.

    The last three are of anchors or locations that are ranked (MODEL.RPN.ASSIGNER): NaN where thresholds assign them.
    """

    name: str
    count: int
    full: float  # reached as training is meant to reach them
    weak: float  # overlapped less, yet more than background
    missed: float  # out of reach
    below_cell: float  # narrower than a cell of the map that the second stage pools; NaN without such a stage
    positives: float = nan  # anchors that an object gets, mean
    overlap: float = nan  # their IoU with it, mean over the objects that get any
    scale: float = nan  # its side over theirs, median over these objects


def class_lines(classes: Sequence[SizeClass], total: SizeClass, words: tuple[str, str]) -> Iterator[str]:
    """The table of the sizes that there are, and what its columns mean.

    Args:
        words: what it is to be reached and to be out of reach, in clauses about objects.
    """
    ranked, pooled = not isnan(total.positives), not isnan(total.below_cell)
    what = "locations" if "location" in words[0] else "anchors"
    if not isnan(total.full):
        yield f"of the {counted(total.count, 'object')} in training (sides after resizing),"
        yield f"  reached: {words[0]}"
        yield f"  missed:  {words[1]}"
    if ranked:
        yield f"  each:    {what} that an object gets"
        yield "  IoU:     of these with it, on average"
        yield "  size:    its side over theirs; 1 fits, below 1 they are too large"
    names = ("reached", "missed", "each", "IoU", "size") if ranked else ("reached", "between", "missed")
    widths = (9, 8, 8, 7, 7) if ranked else (10, 10, 10)
    titles = "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    yield f"  {'side':<16}{'objects':>9}{titles}" + ("  below a cell" * pooled)
    for c in (*(c for c in classes if c.count), replace(total, name="all")):
        cells = (
            (share(c.full), share(c.missed), _number(c.positives, 1), _number(c.overlap, 2), _number(c.scale, 2))
            if ranked
            else (share(c.full), share(c.weak), share(c.missed))
        )
        columns = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        yield f"  {c.name:<16}{c.count:>9}{columns}" + (f"{share(c.below_cell):>14}" * pooled)


def pixels(value: float) -> str:
    """A length, with a decimal where that says more."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def share(value: float) -> str:
    """A share as percents, "-" for NaN."""
    return "-" if isnan(value) else percent(value)


def _number(value: float, decimals: int) -> str:
    return "-" if isnan(value) else f"{value:.{decimals}f}"


def written(value: Any) -> str:
    """A value as YAML has it, without spaces."""
    if isinstance(value, tuple | list):
        return f"[{','.join(written(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def wrapped(text: str, indent: int, width: int = 80) -> Iterator[str]:
    """Lines of a text that is cut between words; the lines after the first are indented."""
    yield from textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
