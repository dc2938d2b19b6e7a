"""The table of events in docs/many_machines.md: one, with every column filled, and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

from tests.reliability.__main__ import EXPERIMENTS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "many_machines.md"
COLUMNS = ["event", "lost steps", "seconds to go on", "equal to the undisturbed run", "command"]


def tables() -> list[list[list[str]]]:
    """The tables of the page whose first column is an event, as cells."""
    text = PAGE.read_text(encoding="utf-8")
    found = [table.strip().splitlines() for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)]
    rows = [[[cell.strip() for cell in line.strip("|").split("|")] for line in table] for table in found]
    return [table for table in rows if table[0][0] == "event"]


def test_there_is_one_table_of_events_and_each_row_says_how_it_was_measured():
    (table,) = tables()
    assert table[0] == COLUMNS
    commands = ["the same"]
    for row in table[2:]:
        assert len(row) == len(COLUMNS) and all(row), row
        commands.append(commands[-1] if row[-1] == "the same" else row[-1])
    experiments = {f"`python -m tests.reliability {name}`" for name in EXPERIMENTS}
    assert all(c in experiments or re.fullmatch(r"`python -m pytest -s tests/\S+\.py -k \w+`", c) for c in commands[1:])
