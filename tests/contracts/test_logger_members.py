"""The contract of loggers: the csv logger keeps it, and each fault is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detframe.contracts import logger_members, running
from detframe.contracts.inputs import Place
from detframe.contracts.results import result_of
from tests.contracts.faults import broken, found

PROCESS = "a process of its own"
LINES = "rows, pictures and the end"


def test_those_of_detframe_keep_it(tmp_path: Path):
    path = tmp_path / "nothing_more.py"
    path.write_text("")
    results = [result_of("csv", title, body, path) for title, body in running.tests_of(Place("LOGGERS", "csv", path))]
    assert len(results) == 7 and [str(result) for result in results if result.state != "ok"] == []


BROKEN = [
    (
        "(RunLogger):",
        ":",
        "it is built",
        r"InvalidTypeError: LOGGERS: broken_\w+ is .*not a class derived from .*RunLogger",
    ),
    ("packages = ()", "packages = ('no_such_library',)", "it is built", "left out: .*pip install 'no_such_library'"),
    (
        "self.path = run.folder",
        "self.path = run.directory",
        "it is built",
        r"no attribute 'directory' \(broken_.*line 2",
    ),
    (
        "for name, value in values.items() if",
        "for name, value in [('a/b', values['loss'])] if",
        LINES,
        r"KeyError: 'loss' \(broken_\w+\.py, line 25\)",
    ),
    (
        '"""A picture that was written."""',
        "(self.path.parent / name / path.name).write_bytes(path.read_bytes())",
        LINES,
        "FileNotFoundError: .*predictions",
    ),
    (
        "self._write(status)",
        'self._write({"finished": "well"}[status])',
        "a run without rows",
        r"KeyError: 'failed' \(broken_\w+\.py",
    ),
    (
        "        self.path = run.folder / ",
        "        (run.folder / 'mine').mkdir()\n        self.path = run.folder / ",
        "a run that goes on",
        "FileExistsError: .*mine",
    ),
    (
        "        self.path = run.folder / ",
        "        (run.folder / '@').write_text('')\n        self.path = run.folder / '@' or ",
        "a run that goes on",
        "@ has lost what it wrote before the run was stopped and went on: add to a file",
    ),
    (
        "self._write(status)",
        "(self.path.parent / 'metrics.jsonl').write_text('')",
        "the files of the run stay as they are",
        "it changed or removed metrics.jsonl, a file of the run",
    ),
    (
        '"""A picture that was written."""',
        "path.unlink()",
        "the files of the run stay as they are",
        r"changed or removed images/predictions_0000020\.png, images/predictions_0000040\.png",
    ),
    (
        "self._write(status)",
        "raise SystemExit('the server said no')",
        PROCESS,
        "as a training starts it, it ended with an error: the server said no",
    ),
    ("self._write(status)", "__import__('time').sleep(60)", PROCESS, "it was not at its end after 2 seconds"),
    (
        "from pathlib import Path\n",
        "from pathlib import Path\nPath('began.txt').write_text('')\n",
        "processes of other ranks write nothing",
        r"importing the file writes began\.txt, and every process of a training imports it",
    ),
    (
        "from pathlib import Path\n",
        "from pathlib import Path\nimport os\nassert os.environ.get('RANK', '0') == '0', 'only here'\n",
        "processes of other ranks write nothing",
        "the file cannot be imported on rank 1: .*only here",
    ),
]


@pytest.mark.parametrize(("old", "new", "test", "says"), BROKEN)
def test_what_is_broken_is_named(
    old: str, new: str, test: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # where an import that writes does so
    monkeypatch.setattr(logger_members, "SECONDS", 2.0 if "sleep" in new else 60.0)
    result = found("logger", broken("logger", old, new, tmp_path), test)
    assert re.search(says, str(result)), result


def test_without_its_packages_nothing_else_is_tried(tmp_path: Path):
    path = broken("logger", "packages = ()", "packages = ('no_such_library',)", tmp_path)
    (result,) = running.test_file(path)
    assert result.state == "left out" and "no_such_library" in result.why
