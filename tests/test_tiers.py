"""Which tests `make test` leaves out follows from a table; the table is true and is written by a run."""

from __future__ import annotations

import ast
import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run
from tests.tiers import LIMIT, later_cases, read_times, table

CONFTEST = """
from pathlib import Path
from tests import tiers
from tests.tiers import pytest_addoption, pytest_collection_modifyitems, pytest_configure
tiers.TIMES = Path(__file__).with_name("times.json")
"""
INI = "[pytest]\nmarkers = medium\n"
TESTS = f"""
import time
import pytest

@pytest.fixture(scope="module")
def shared():
    time.sleep({LIMIT + 0.1})

def test_waits(shared):
    pass

def test_waits_too(shared):
    pass

@pytest.mark.parametrize("case", range(6))
def test_many(case):
    time.sleep({LIMIT / 4})

def test_quick():
    pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {"conftest.py": CONFTEST, "test_here.py": TESTS, "times.json": "{}", "pytest.ini": INI}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("processes", [[], ["-n", "1"]], ids=["alone", "pytest-xdist"])
def test_a_run_writes_the_table_and_the_next_one_goes_by_it(
    project: Path, run_python: Run, processes: list[str]
) -> None:
    done = run_python("-m", "pytest", "-q", "--write-times", *processes)
    assert done.returncode == 0, done.stdout + done.stderr
    times = json.loads((project / "times.json").read_text(encoding="utf-8"))
    assert list(times)[-1] == "test_here.py::test_many" and len(times) == 3
    assert all(times[f"test_here.py::test_{name}"] >= LIMIT + 0.1 for name in ("waits", "waits_too"))
    chosen = run_python("-m", "pytest", "-q", "--collect-only", "-m", "not medium").stdout.splitlines()
    number = int(LIMIT / times["test_here.py::test_many"])
    many = [f"test_here.py::test_many[{6 * place // number}]" for place in range(number)]
    assert [line for line in chosen if "::" in line] == [*many, "test_here.py::test_quick"]


def test_every_test_of_the_table_exists() -> None:
    for test in read_times():
        file, *_, name = test.split("::")
        assert name in functions_of(file), f"tests/times.json has {test}, which is gone: rename or delete its row"


@cache
def functions_of(file: str) -> set[str]:
    path = ROOT / file
    tree = ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_cases_at_once_are_spread_and_fit_into_the_limit() -> None:
    cases = list(range(100))
    for seconds in (0.01, 0.03, LIMIT / 2, LIMIT, LIMIT * 1.1, 60.0):
        later = later_cases(cases, seconds)
        at_once = sorted(set(cases) - set(later))
        assert len(at_once) == min(100, int(LIMIT / seconds)) and sorted(at_once + later) == cases
        gaps = {after - before for before, after in pairwise(at_once)}
        assert not gaps or max(gaps) - min(gaps) <= 1


def test_files_that_did_not_run_keep_their_rows() -> None:
    before = {"a.py::test_gone": 9.0, "b.py::test_long": 3.0}
    measured = {"a.py::test_new": [LIMIT, LIMIT * 3], "a.py::test_short": [LIMIT / 2], "a.py::test_many": [0.001] * 900}
    rows = json.loads(table(before, measured))
    assert list(rows.items()) == [("b.py::test_long", 3.0), ("a.py::test_new", LIMIT * 2), ("a.py::test_many", 0.001)]
    assert len(later_cases(list(range(900)), rows["a.py::test_many"])) == 500
