"""Quantities in words."""

from __future__ import annotations

from detframe.texts import counted, format_minutes, format_seconds


def test_seconds():
    assert [format_seconds(s) for s in (5, 3723, 90061)] == ["0:00:05", "1:02:03", "1d 1:01:01"]
    assert [format_seconds(59.6), format_seconds(3599.7)] == ["0:01:00", "1:00:00"]


def test_seconds_without_hours_that_are_none():
    values = (0, 5, 65, 754, 3723, 90061)
    texts = ["0:00", "0:05", "1:05", "12:34", "1:02:03", "1d 1:01:01"]
    assert [format_seconds(s, short=True) for s in values] == texts


def test_minutes():
    assert format_minutes(207) == "3.5 minutes"


def test_numbers_with_their_nouns():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert counted(2, "class", "classes") == "2 classes"
