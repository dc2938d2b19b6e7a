"""The page about checking data names every finding of the screen, with its severity."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

from detframe.data import screen
from detframe.data.findings import Kind

PAGE = Path(__file__).resolve().parents[2] / "docs" / "checking_data.md"


def kinds() -> dict[str, str]:
    """code -> severity of every kind that the screen's modules define, those made for a split included."""
    found: dict[str, str] = {}
    for info in pkgutil.iter_modules(screen.__path__):
        module = importlib.import_module(f"{screen.__name__}.{info.name}")
        own = [value for value in vars(module).values() if isinstance(value, Kind)]
        makers = [vars(module).get(name) for name in ("_in_both", "_look_as_in", "_copies_of")]
        own += [maker("train") for maker in makers if maker is not None]
        found |= {kind.code: kind.severity for kind in own}
    return found


def test_every_finding_is_in_the_table():
    rows = dict(
        re.findall(r"^\| `([\w-]+)` \| (error|warning|note)\b", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    assert rows == kinds()
