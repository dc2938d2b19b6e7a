"""What the process of TEST.ASYNC does with its tasks, in this process; test_side_evaluation.py has the process."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detframe import storage
from detframe.engine import side_process
from detframe.engine.side_process import Task, _serve
from detframe.errors import InvalidValueError
from detframe.parallel.stopping import SIGNALS
from tests.engine.fakes import make_config

_log = logging.getLogger("detframe.of_this_test")


class Pipe:
    """The end of a pipe in the process: tasks that come, until the training has closed its own, and answers."""

    def __init__(self, *iterations: int) -> None:
        self.tasks, self.sent = [Task(number, Path(f"{number}.pth")) for number in iterations], []

    def recv(self) -> Task:
        if not self.tasks:
            raise EOFError
        return self.tasks.pop(0)

    def send(self, outcome) -> None:
        self.sent.append(outcome)


@pytest.fixture
def restored():
    """Signals, the log and threads, which belong to that process, as they were."""
    log, handlers = logging.getLogger("detframe"), [signal.getsignal(number) for number in SIGNALS]
    before = log.level, log.propagate, list(log.handlers), torch.get_num_threads()
    yield
    for number, handler in zip(SIGNALS, handlers, strict=True):
        signal.signal(number, handler)
    log.level, log.propagate, log.handlers = before[:3]
    log.setLevel(before[0])
    torch.set_num_threads(before[3])


class Evaluation:
    """Fails at iteration 2 and 4, the second time with an error that no other process can be sent."""

    made = 0

    def __init__(self, cfg, folder) -> None:
        type(self).made += 1

    def __call__(self, task: Task) -> dict[str, float]:
        _log.info("evaluates %s", task.path)
        if task.iteration == 2:
            raise InvalidValueError("no image can be read")
        if task.iteration == 4:

            class LocalError(Exception):
                pass

            raise LocalError("of a plug-in")
        return {"bbox/AP": float(task.iteration)}


def test_each_task_has_its_outcome_and_a_failure_ends_nothing(tmp_path: Path, monkeypatch, restored):
    monkeypatch.setattr(side_process, "_Evaluation", Evaluation)
    monkeypatch.setattr(Evaluation, "made", 0)
    pipe = Pipe(1, 2, 3, 4, 5)
    _serve(pipe, make_config(), tmp_path, 1, storage.knowledge())
    assert [outcome.metrics for outcome in pipe.sent] == [{"bbox/AP": 1.0}, {}, {"bbox/AP": 3.0}, {}, {"bbox/AP": 5.0}]
    errors = [outcome.error for outcome in pipe.sent]
    assert type(errors[1]) is InvalidValueError and str(errors[1]) == "no image can be read"
    assert type(errors[3]) is RuntimeError and str(errors[3]) == "LocalError: of a plug-in"
    assert [errors[0], errors[2], errors[4]] == [None] * 3
    assert Evaluation.made == 1  # the model and the data sets are kept
    texts = [[text for _, text in outcome.lines] for outcome in pipe.sent]
    assert texts[0] == ["evaluates 1.pth"] and texts[2] == ["evaluates 3.pth"]
    assert texts[1][0] == "evaluates 2.pth" and "Traceback" in texts[1][1]  # for the training's log
    assert all(signal.getsignal(number) == signal.SIG_IGN for number in SIGNALS)  # the training ends it


# ---------------------------------------------------------------------------------------------- programs of one's own
PROGRAM = """
import sys
from pathlib import Path
from detframe.engine.side_process import SideProcess, Task
from detframe.registry import LOSSES
from tests.engine.fakes import make_config
{more}
def work():
    side = SideProcess(make_config(), Path("out"))
    side.submit(Task(1, Path("absent.pth")))
    outcome = None
    while outcome is None:
        outcome = side.poll(1.0)
    side.close()
    print("outcome:", outcome.error)
{start}
"""
REGISTERS = "LOSSES.register('of-the-program', type('OfTheProgram', (), {'__module__': '__main__'}))"
GUARDED, UNGUARDED = "if __name__ == '__main__':\n    work()", "work()"


def said(folder: Path, more: str, start: str, root: Path) -> str:
    """What a program that has something evaluated was told."""
    file = folder / "my program.py"
    file.write_text(PROGRAM.format(more=more, start=start))
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, file], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    return next(line for line in done.stdout.splitlines() if line.startswith("outcome: "))


def test_the_program_is_not_run_again(tmp_path: Path, root: Path):
    assert "process" not in said(tmp_path, "", UNGUARDED, root)  # what failed is the evaluation


@pytest.mark.slow
def test_but_for_what_it_has_registered(tmp_path: Path, root: Path):
    assert "process" not in said(tmp_path, f"{REGISTERS}\nopen('runs', 'a').write('x')", GUARDED, root)
    assert (tmp_path / "runs").read_text() == "xx"
    text = said(tmp_path, REGISTERS, UNGUARDED, root)
    assert "(TEST.ASYNC) ended with code 1, twice" in text and 'below `if __name__ == "__main__":`' in text
    assert "memory" not in text
