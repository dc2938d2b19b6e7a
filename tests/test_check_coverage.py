"""tools/check_coverage.py: a file that the tests run too little of, or not at all, fails `make coverage`."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import ROOT, Run
from tests.scripts import load_script

CODE = "def sign(x):\n    if x < 0:\n        return -1\n    if x > 0:\n        return 1\n    return 0\n"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, for a library of two files in the working folder."""
    module = load_script("tools/check_coverage.py")
    (tmp_path / "detframe").mkdir()
    (tmp_path / "detframe" / "part.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "detframe" / "whole.py").write_text("A = 1\n", encoding="utf-8")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


@pytest.fixture
def measured(tmp_path: Path, run_python: Run) -> Path:
    """What coverage says of a run in which two of six lines of one file are not reached."""
    pytest.importorskip("coverage")
    (tmp_path / "run.py").write_text("import detframe.part as p, detframe.whole\np.sign(-1)\n", encoding="utf-8")
    path = tmp_path / "report.json"
    for words in (["run", "--source=detframe", "run.py"], ["json", "-q", "-o", path]):
        done = run_python("-m", "coverage", *words, PYTHONPATH=str(tmp_path))
        assert done.returncode == 0, done.stderr
    return path


def test_a_file_below_is_named_with_its_lines(
    tool: ModuleType, measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main([str(measured)]) == 1
    seen = capsys.readouterr()
    assert "50.0 % detframe/part.py  4-6" in seen.out and "100.0 % detframe/whole.py" in seen.out
    assert seen.err == "detframe/part.py: 50.0 % of its lines run in the tests, at least 80 % must\n"


def test_a_file_that_was_not_measured_is_named(
    tool: ModuleType, measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads(measured.read_text(encoding="utf-8"))
    report["files"]["detframe/part.py"]["summary"]["percent_covered"] = tool.LEAST
    measured.write_text(json.dumps(report), encoding="utf-8")
    assert tool.main([str(measured)]) == 0
    (tmp_path / "detframe" / "new.py").write_text("B = 2\n", encoding="utf-8")
    assert tool.main([str(measured)]) == 1
    assert "detframe/new.py is not in the report" in capsys.readouterr().err


@pytest.mark.parametrize(("library", "told"), [("nowhere_to_be_found", 0), ("json", 1)])
def test_a_file_for_a_library_counts_where_the_library_is(
    tool: ModuleType, measured: Path, monkeypatch: pytest.MonkeyPatch, library: str, told: int
) -> None:
    monkeypatch.setattr(tool, "NEEDS", {"detframe/part.py": library})
    assert tool.main([str(measured)]) == told


def test_files_for_libraries_exist() -> None:
    assert all((ROOT / name).is_file() for name in load_script("tools/check_coverage.py").NEEDS)
