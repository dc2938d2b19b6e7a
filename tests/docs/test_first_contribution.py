"""docs/first_contribution.md: tools/walk.py finds its commands, runs them in one shell, and times them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from tests.scripts import load_script


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_script("tools/walk.py")


def test_every_command_of_the_page_is_a_step_and_has_its_time(tool: ModuleType):
    page = tool.PAGE.read_text(encoding="utf-8")
    commands = tool.steps(page)
    assert sum(text.count("\n") for text in commands.values()) > 20 and len(commands) == page.count("```bash\n")
    rows = [line.split(" | ") for line in tool.TABLE.search(page)[0].splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows] == ["step", *commands, "all"]
    assert all(int(row[1].removesuffix(" |")) >= 0 for row in rows[1:])


def test_steps_share_a_shell_and_the_first_that_fails_is_the_last(tool: ModuleType, tmp_path: Path):
    commands = {"one": "mkdir a\ncd a\nword=there\n", "two": 'echo "$word" > said\nfalse\n', "three": "touch late\n"}
    code, seconds = tool.walk(commands, tmp_path)
    assert code == 1 and list(seconds) == ["one"] and 0 <= seconds["one"] < 60
    assert (tmp_path / "newcomer" / "a" / "said").read_text() == "there\n"
    assert not (tmp_path / "newcomer" / "a" / "late").exists()
    assert "| one | 0 |" in tool.table(seconds) and "tools/walk.py --write" in tool.table(seconds)


def test_the_fork_takes_what_is_pushed(tool: ModuleType, tmp_path: Path):
    commands = {"clone": 'git clone --quiet "$REPOSITORY" it\ncd it\n'}
    commands["push"] = 'git commit --quiet --allow-empty --message one\ngit push --quiet "$FORK" HEAD:refs/heads/mine\n'
    code, seconds = tool.walk(commands, tmp_path)
    assert code == 0 and list(seconds) == ["clone", "push"]
    assert (tmp_path / "fork.git" / "refs" / "heads" / "mine").exists()
