"""The page about checking data names every finding of the screen, with its severity."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

from detframe.data import screen
from detframe.data.findings import Kind

ROOT = Path(__file__).resolve().parents[2]
PAGE, PROGRAM = ROOT / "docs" / "checking_data.md", ROOT / "detframe"


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


def rows(text: str) -> dict[str, str]:
    """code -> the first severity of each row of the tables in a text."""
    found = re.findall(r"^\| (`[\w-]+`(?:, `[\w-]+`)*) \| (error|warning|note)\b", text, flags=re.MULTILINE)
    return {code: severity for codes, severity in found for code in re.findall(r"[\w-]+", codes)}


def test_every_finding_is_in_the_table():
    of_data, _, of_model = PAGE.read_text(encoding="utf-8").partition("What a model adds")
    assert of_model and rows(of_data) == kinds()


def test_every_finding_about_a_model_is_in_its_table():
    """Those are made where they are found: by a code and a severity in the text of the program."""
    files = [
        *(PROGRAM / "recipes").glob("*.py"),
        PROGRAM / "cli" / "check_model.py",
        PROGRAM / "data/screen/channels.py",
    ]
    made = re.findall(r'(?:Finding|sentence)\(\s*"([\w-]+)", (\w+)', "".join(map(Path.read_text, files)))
    page = rows(PAGE.read_text(encoding="utf-8").partition("What a model adds")[2])
    assert {code for code, _ in made} - set(kinds()) == set(page)
    assert all(
        severity in ("severity", page[code].upper()) for code, severity in made if code not in (*kinds(), "pixel-mean")
    )
