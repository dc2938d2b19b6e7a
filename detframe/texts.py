"""Quantities in words and rows as tables, as logs and terminals show them."""

from __future__ import annotations

from collections.abc import Sequence


def format_seconds(seconds: float, short: bool = False) -> str:
    """ "1:02:03", with days in front where there are any; `short` leaves out hours that are none: "2:03"."""
    days, rest = divmod(round(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    clock = f"{rest // 60:02d}:{rest % 60:02d}"
    if short and not days and not hours:
        return clock.removeprefix("0")
    return f"{f'{days}d ' if days else ''}{hours}:{clock}"


def format_minutes(seconds: float) -> str:
    """ "3.5 minutes"."""
    return f"{seconds / 60:.1f} minutes"


def format_share(share: float) -> str:
    """ "12%"; what is more than nothing and less than half a percent is "<1%"."""
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def counted(number: float, one: str, many: str = "") -> str:
    """A number with its noun: "1 image", "2 images", "0.5 minutes"."""
    return f"{number if isinstance(number, int) else format(number, 'g')} {one if number == 1 else many or one + 's'}"


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words as aligned columns, the first row as header; the first column is flush left, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(w.rjust(width) for w, width in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([lines[0].rstrip(), "-" * len(lines[0]), *(line.rstrip() for line in lines[1:])])
