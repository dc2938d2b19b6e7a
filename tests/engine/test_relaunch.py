"""Whether a run goes on since its launcher has started its processes anew, and what is said of it."""

import pytest

from detframe.config import get_cfg
from detframe.engine import relaunch
from detframe.engine.output_dir import LAUNCH_FILE
from detframe.engine.relaunch import Launch, Standing, earlier_attempt
from detframe.parallel.elastic import Attempt

A, B, C = "node-a 10 boot 1", "node-b 11 boot 2", "node-c 12 boot 3"


def attempt(*launchers, number=0, failures=0):
    return Attempt(launchers, tuple(f"host {number} {index}" for index in range(len(launchers))), failures, 3)


def config(batch=16, steps=1):
    return get_cfg().changed([("SOLVER.IMS_PER_BATCH", batch), ("SOLVER.ACCUMULATE_STEPS", steps)])


def begun(folder, *launchers):
    Standing(attempt(*launchers), None).write(folder, config())


@pytest.mark.parametrize(
    ("now", "goes_on"),
    [
        (attempt(A, B, number=1), True),
        (attempt(B, number=1), True),  # the first host is lost
        (attempt(C, B, number=1), True),  # and another one has come
        (attempt(C, number=1), False),  # another launch, whatever it is called
        (attempt("", "", number=1), False),  # of launchers nobody knows
        (attempt(A, B), False),  # the processes that train there already train once more
        (None, False),
    ],
)
def test_a_launcher_that_has_worked_for_the_run_goes_on_with_it(tmp_path, now, goes_on):
    begun(tmp_path, A, B)
    assert (earlier_attempt(tmp_path, now) is not None) == goes_on


def test_a_host_of_an_earlier_attempt_belongs_to_the_run(tmp_path):
    begun(tmp_path, A, B)
    without = attempt(B, number=1)
    Standing(without, earlier_attempt(tmp_path, without)).write(tmp_path, config())
    assert earlier_attempt(tmp_path, attempt(A, number=2)).restarts == 1


@pytest.mark.parametrize("text", ["", "[]", "{", '{"launchers": 3}'])
def test_a_file_that_says_nothing_is_a_warning(tmp_path, caplog, text):
    (tmp_path / LAUNCH_FILE).write_text(text)
    assert earlier_attempt(tmp_path, attempt(A)) is None
    assert f"{LAUNCH_FILE} cannot be read, so this is taken for a new run" in caplog.text


def test_a_run_without_a_launcher_leaves_no_word(tmp_path):
    begun(tmp_path, A)
    Standing(None, None).write(tmp_path, config())
    assert not (tmp_path / LAUNCH_FILE).exists()


def test_the_log_says_why():
    first = Launch.first(attempt(A, B), 8)
    assert first.why(attempt(A, C, number=1)) == (
        "restart 1 of this run (host node-b is gone; host node-c has come): 2 processes -> 2, on node-a, node-c; "
        "restarts for failures: 0 of 3"
    )
    assert "(a process failed or was lost): 2 processes -> 2" in first.why(attempt(A, B, number=1, failures=1))


@pytest.mark.parametrize(
    ("batch", "steps", "share", "ranks", "expected"),
    [(16, 1, 2, 4, 2), (16, 1, 2, 8, 1), (16, 1, 2, 16, 1), (16, 1, 2, 1, 8), (12, 1, 2, 2, 3), (12, 2, 1, 2, 6)],
)
def test_no_rank_has_more_images_at_once_than_at_first(monkeypatch, batch, steps, share, ranks, expected):
    monkeypatch.setattr(relaunch, "world_size", lambda: ranks)
    again = Standing(attempt(A, number=1), Launch.first(attempt(A), share))
    assert again.fitted(config(batch, steps)).SOLVER.ACCUMULATE_STEPS == expected
    assert Standing(attempt(A), None).fitted(config(batch, steps)).SOLVER.ACCUMULATE_STEPS == steps
