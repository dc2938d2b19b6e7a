"""Log files and metrics.jsonl."""

import logging
import warnings

import pytest

from detframe.cli.common import log_to_terminal
from detframe.engine.logs import run_log
from detframe.engine.metrics_file import MetricsFile


def test_trim_makes_the_file_as_if_nothing_had_happened(tmp_path):
    file = MetricsFile(tmp_path)
    for iteration in (2, 4, 4, 6):
        file.append(iteration, {"loss": 1.5})
    before = file.path.read_text().splitlines()[:3]
    with open(file.path, "a") as cut:
        cut.write('{"iteration": 8, "lo')
    assert file.trim(4) == 1
    assert file.path.read_text().splitlines() == before


def test_trim_without_a_file(tmp_path):
    assert MetricsFile(tmp_path).trim(3) == 0
    assert not (tmp_path / "metrics.jsonl").exists()


def test_each_rank_has_its_file_and_everything_is_put_back(tmp_path, capsys):
    log = logging.getLogger("detframe.some.module")
    before = list(logging.getLogger("detframe").handlers)
    for rank in (0, 2):
        with warnings.catch_warnings(), run_log(tmp_path, rank):
            warnings.simplefilter("always")
            log.info("hello from %d", rank)
            log.warning("careful")
            warnings.warn("old stuff", UserWarning, stacklevel=1)
    assert logging.getLogger("detframe").handlers == before
    first, third = (tmp_path / "log.txt").read_text(), (tmp_path / "log_rank2.txt").read_text()
    assert "hello from 0" in first
    assert "WARNING: careful" in first
    assert "old stuff" in first
    assert "hello from 2" in third
    shown = capsys.readouterr().out
    assert "hello from 0" in shown
    assert "hello from 2" not in shown


def test_log_goes_on_in_the_same_file(tmp_path):
    for text in ("first", "second"):
        with run_log(tmp_path, 0):
            logging.getLogger("detframe").info(text)
    assert [line.split()[-1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["first", "second"]


def test_error_is_in_the_file_with_its_traceback(tmp_path, capsys):
    with pytest.raises(ValueError, match="the reason"), run_log(tmp_path, 0):
        raise ValueError("the reason")
    text = (tmp_path / "log.txt").read_text()
    assert "ERROR: the reason" in text
    assert "Traceback (most recent call last)" in text
    assert "the reason" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def earlier_command():
    """A command that a fixture of this module has run; its stream is gone when the tests run."""
    return log_to_terminal()


def test_the_log_of_a_fixture_is_not_that_of_the_tests(earlier_command, capsys):
    log = logging.getLogger("detframe")
    assert earlier_command is not None and not log.handlers and log.level == logging.NOTSET
    assert log_to_terminal() is not earlier_command
    log.info("said")
    assert capsys.readouterr().err == "said\n"
