"""Studies in several processes: what each is given, one that dies, mistakes and signals; trainings are pretended."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from detframe.config import read_config
from detframe.errors import InvalidValueError, ProcessFailedError
from detframe.parallel.stopping import SIGNALS, RunStopped, exit_code, stopped
from detframe.tuning import running, tune
from detframe.tuning.running import _process, study_log
from tests.tuning.pretended import Pretended

pytest.importorskip("optuna", reason="Optuna (the extra tune) is not installed")
needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
RATES = {"SOLVER.BASE_LR": {"low": 1e-4, "high": 1.0, "log": True}}


@pytest.fixture
def forked(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    """Processes are copies of this one, in which trainings are pretended, too."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(running.multiprocessing, "get_context", lambda method: context)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return pretended


def wait_for(found) -> None:
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stop_by_signal(signum: int, frame: object) -> None:
    """As a training does that has saved."""
    raise stopped("saved", signum, exit_code(signum))


# ---------------------------------------------------------------------------------------------- side by side
@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_two_processes_share_the_trials_and_each_has_a_device_of_its_own(
    cfg, folder: Path, forked: Pretended, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(running, "share_of_cores", lambda processes: 12 // processes)

    def note(cfg) -> None:
        rank = os.environ["LOCAL_RANK"]
        (folder / f"rank_{rank}").write_text(os.environ["OMP_NUM_THREADS"])
        wait_for(lambda: (folder / f"rank_{1 - int(rank)}").exists())  # none ends before both have begun

    forked.before = note
    before = dict(os.environ)
    found = tune(cfg, RATES, trials=5, processes=2, pruner="none")
    assert [row.state for row in found.trials] == ["finished"] * 5
    rates = [read_config(folder / row.name / "config.yaml").SOLVER.BASE_LR for row in found.trials]
    assert rates[0] == 0.01 and len(set(rates)) == 5
    assert found.best.value == max(row.value for row in found.trials)
    assert [(folder / f"rank_{rank}").read_text() for rank in (0, 1)] == ["6", "6"]
    assert dict(os.environ) == before and not forked.calls  # nothing was trained in this process


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_process_that_dies_is_told_and_its_trial_is_gone_on_with(cfg, folder: Path, forked: Pretended):
    def die(cfg) -> None:
        if os.environ["LOCAL_RANK"] == "1":
            (folder / "begun").touch()
            os._exit(9)
        wait_for((folder / "begun").exists)  # before there is no trial left to die in

    forked.before = die
    told = r"^1 of the study's 2 processes failed: process \d+ with code 9\. The same command goes on, with the trials"
    with pytest.raises(ProcessFailedError, match=told):
        tune(cfg, RATES, trials=4, processes=2)
    forked.before = lambda cfg: None
    found = tune(cfg, RATES, trials=4)
    assert [row.state for row in found.trials] == ["finished"] * 4


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("signum", SIGNALS[:2], ids=lambda signum: signum.name)
def test_a_signal_reaches_every_process_and_the_study_goes_on(cfg, folder: Path, forked: Pretended, said, signum):
    def wait(cfg) -> None:
        for number in SIGNALS:
            signal.signal(number, stop_by_signal)
        (folder / f"rank_{os.environ['LOCAL_RANK']}").touch()
        time.sleep(60)

    def end() -> None:
        wait_for(lambda: len(list(folder.glob("rank_*"))) == 2)
        os.kill(os.getpid(), signum)

    forked.before = wait
    handlers = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(RunStopped) as caught:
        tune(cfg, RATES, trials=3, processes=2)
    thread.join()
    assert (caught.value.signum, caught.value.exit_code) == (signum, 128 + signum)
    assert isinstance(caught.value, KeyboardInterrupt) == (signum == signal.SIGINT)
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    assert "interrupted; the same command goes on with the study" in said() and "2 trials: 2 waiting" in said()
    forked.before = lambda cfg: None
    found = tune(cfg, RATES, trials=3)
    assert [row.state for row in found.trials] == ["finished"] * 3


# ---------------------------------------------------------------------------------------------- one of them
@pytest.fixture
def work(cfg, pretended: Pretended, monkeypatch: pytest.MonkeyPatch):
    """What a process is given; the study has no trial yet."""
    given = []
    monkeypatch.setattr(running, "_start", lambda work, processes: given.append(work))
    tune(cfg, RATES, trials=2, processes=2)
    return given[0]


def test_a_process_runs_what_is_left(work, pretended: Pretended):
    _process(work)
    assert [name for name, _, _ in pretended.calls] == ["trial_0000", "trial_0001"]
    _process(work)
    assert len(pretended.calls) == 2


def test_a_mistake_of_the_user_is_one_line_and_a_code(work, pretended: Pretended, said):
    def fail(cfg) -> None:
        raise InvalidValueError("SOLVER.STEPS lie beyond SOLVER.MAX_ITER")

    pretended.before = fail
    with pytest.raises(SystemExit) as caught:
        _process(work)
    assert caught.value.code == InvalidValueError.exit_code != 0
    assert said().splitlines()[-1] == "SOLVER.STEPS lie beyond SOLVER.MAX_ITER"


def test_a_signal_ends_a_process_without_an_error(work, pretended: Pretended, said):
    """That the study was interrupted is said by the process that has started the others."""

    def interrupt(cfg) -> None:
        stop_by_signal(signal.SIGTERM, None)

    pretended.before = interrupt
    _process(work)
    assert "trial_0000: interrupted; the same command goes on with it" in said() and len(pretended.calls) == 1


def test_the_terminal_has_the_lines_of_a_study_once(capsys):
    log = logging.getLogger("detframe.tuning")
    before = log.level, list(log.handlers)
    with study_log(), study_log():
        log.info("trial_0007: goes on")
    log.info("not of a study")
    assert (log.level, log.handlers) == before
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("trial_0007: goes on") == 1
    assert "not of a study" not in shown.out + shown.err
