"""Workers that are started anew, as on Windows and macOS: what they know of the code of the program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import multiprocessing
from contextlib import closing
multiprocessing.set_start_method("{method}", force=True)
from detframe.config import import_custom_modules
from detframe.data.workers import WorkerPool
from detframe.registry import TRANSFORMS
{more}
def work():
    import_custom_modules(["of_mine.py"])
    make = {make}
    with closing(WorkerPool(make, iter([1, 2]), 1, 2)) as pool:
        print("made", [made for made, _ in pool])
{start}
"""
GONE = """
from pathlib import Path
Path("gone.py").write_text("")
import_custom_modules(["gone.py"])
Path("gone.py").unlink()
"""
FAILS_ELSEWHERE = """
from pathlib import Path
Path("once.txt").write_text("")
import_custom_modules(["once.py"])
Path("once.txt").unlink()
"""
ONCE = """
from pathlib import Path
Path("once.txt").read_text()

class Once:
    def __call__(self, number):
        return number, []
"""
OF_MINE = """
from detframe.registry import TRANSFORMS

@TRANSFORMS.register("of-mine")
class OfMine:
    def __call__(self, number):
        return "of-mine" in TRANSFORMS, []
"""
OF_THE_PROGRAM = """
@TRANSFORMS.register("of-the-program")
class OfTheProgram:
    def __call__(self, number):
        return "of-the-program" in TRANSFORMS, []
"""
GUARDED, UNGUARDED = "if __name__ == '__main__':\n    work()", "work()"


def run(folder: Path, root: Path, make: str, start: str = UNGUARDED, more: str = "", method: str = "spawn") -> str:
    """What a program with a worker said."""
    (folder / "of_mine.py").write_text(OF_MINE)
    file = folder / "program.py"
    file.write_text(PROGRAM.format(make=make, start=start, more=more, method=method))
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, file], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    return (done.stdout or done.stderr).strip()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_a_file_of_custom_imports_defines(method: str, tmp_path: Path, root: Path) -> None:
    """In a program that does not look whether it is the main one, as a line in a notebook does not."""
    assert run(tmp_path, root, "TRANSFORMS['of-mine']()", method=method) == "made [True, True]"


def test_a_file_that_is_gone_and_not_needed(tmp_path: Path, root: Path) -> None:
    assert run(tmp_path, root, "TRANSFORMS['of-mine']()", more=GONE) == "made [True, True]"


def test_a_file_that_fails_and_is_needed(tmp_path: Path, root: Path) -> None:
    (tmp_path / "once.py").write_text(ONCE)
    make = "[kind for kind in object.__subclasses__() if kind.__name__ == 'Once'][0]()"
    said = run(tmp_path, root, make, more=FAILS_ELSEWHERE)
    assert f"could not import what CUSTOM_IMPORTS names: {tmp_path}/once.py: FileNotFoundError" in said
    assert "No such file or directory: 'once.txt'" in said and "ended with exit code 1. What it said" in said


@pytest.mark.slow
def test_what_the_program_registers(tmp_path: Path, root: Path) -> None:
    make = "TRANSFORMS['of-the-program']()"
    assert run(tmp_path, root, make, GUARDED, OF_THE_PROGRAM) == "made [True, True]"
    said = run(tmp_path, root, make, UNGUARDED, OF_THE_PROGRAM)
    assert "ended with exit code 1. It runs the program's own file" in said and '`if __name__ == "__main__":`' in said


def test_what_cannot_be_sent_is_said(tmp_path: Path, root: Path) -> None:
    said = run(tmp_path, root, "lambda number: (number, [])")
    assert "cannot be sent to worker processes" in said and "lambda" in said and "DATALOADER.NUM_WORKERS 0" in said
