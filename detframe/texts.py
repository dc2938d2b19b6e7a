"""Quantities in words, as logs and terminals show them."""

from __future__ import annotations


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


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: "1 image", "2 images"."""
    return f"{number} {one if number == 1 else many or one + 's'}"
