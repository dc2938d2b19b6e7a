"""What a terminal shows of a run: messages, a line of progress of 80 columns at most, colours where they are wanted."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import sys
from types import SimpleNamespace

import pytest

from detframe.engine import terminal
from detframe.engine.hooks import LogHook
from detframe.engine.logs import run_log
from detframe.engine.metrics_writer import MetricsWriter
from detframe.engine.terminal import PROGRESS, RESULT, Terminal, has_colours, show_progress
from tests.engine.fakes import make_config, make_trainer

LOG = logging.getLogger("detframe.test")


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    # pytest puts its own stream into sys.stdout between a fixture and its test
    monkeypatch.setattr(terminal, "sys", SimpleNamespace(stdout=screen, exc_info=sys.exc_info))
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "DETFRAME_VERBOSITY"):
        monkeypatch.delenv(name, raising=False)
    return screen


def lines(text):
    """What was drawn, one state of a line after another, without colours."""
    return [line for line in re.split(r"[\r\n]", re.sub(r"\033\[[0-9;]*[mAK]", "", text)) if line.strip()]


def trained(folder, steps=40):
    with run_log(folder, 0):
        hooks = [LogHook(MetricsWriter(folder, board=False), 4, 2, 16)]
        make_trainer(folder, make_config(MAX_ITER=steps), hooks=hooks).train()
        LOG.warning("something to know")


def test_the_line_of_progress_fits_and_goes_away(tmp_path, screen, monkeypatch):
    monkeypatch.setattr(terminal, "_REDRAW_SECONDS", 0.0)
    trained(tmp_path)
    drawn = [line for line in lines(screen.getvalue()) if line.startswith("training")]
    assert max(len(line) for line in drawn) <= 80
    assert drawn[0].startswith("training 1/40") and drawn[-1].startswith("training 40/40 100%")
    assert re.search(r"loss [\d.]+, [\d.]+ images/s, 0:00:0\d left$", drawn[-1].rstrip())
    assert not any("iter 4/40" in line for line in lines(screen.getvalue()))
    assert "iter 4/40" in (tmp_path / "log.txt").read_text()
    assert screen.getvalue().rstrip(" \r\n").endswith("something to know\033[0m")


def test_progress_of_what_has_no_end(screen, monkeypatch):
    monkeypatch.setattr(terminal, "_REDRAW_SECONDS", 0.0)
    line = Terminal(logging.INFO, lambda *_: None)
    for number in (1, 20):
        line.show("camera 0", number, 0, f"{number} images/s")
    line.close()
    assert lines(screen.getvalue())[-1].strip() == "camera 0 20, 20 images/s"


def test_a_stream_that_is_no_terminal_gets_plain_lines(tmp_path, capsys, monkeypatch):
    trained(tmp_path)
    monkeypatch.delenv("DETFRAME_VERBOSITY", raising=False)
    shown = capsys.readouterr().out
    assert "iter 4/40" in shown and "training 4/40" not in shown
    assert "\033" not in shown and "\r" not in shown
    assert shown == (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(
    ("variable", "value", "expected"), [("", "", True), ("NO_COLOR", "1", False), ("TERM", "dumb", False)]
)
def test_warnings_have_a_colour_where_it_is_wanted(tmp_path, screen, monkeypatch, variable, value, expected):
    if variable:
        monkeypatch.setenv(variable, value)
    with run_log(tmp_path, 0):
        LOG.warning("careful")
        LOG.info("well")
    assert ("\033[33m" in screen.getvalue()) is expected
    assert re.search(r"\d\d:\d\d:\d\d WARNING: careful", screen.getvalue())
    assert "\033" not in (tmp_path / "log.txt").read_text()


def test_no_colours_for_what_is_no_terminal():
    closed = io.StringIO()
    closed.close()
    assert not any(has_colours(stream) for stream in (io.StringIO(), closed, None))


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("quiet", ["careful", "the end"]),
        ("normal", ["hello", "careful", "the end"]),
        ("verbose", ["detail", "hello", "careful", "the end"]),
    ],
)
def test_verbosity(tmp_path, capsys, monkeypatch, word, shown):
    monkeypatch.setenv("DETFRAME_VERBOSITY", word)
    with run_log(tmp_path, 0):
        LOG.debug("detail")
        LOG.info("hello")
        LOG.warning("careful")
        LOG.info("the end", extra=RESULT)
    out = [re.split(r"\d\d:\d\d:\d\d (?:WARNING: )?", line)[-1] for line in capsys.readouterr().out.splitlines()]
    assert out == shown
    kept = (tmp_path / "log.txt").read_text()
    assert "hello" in kept and ("detail" in kept) is (word == "verbose")


def test_quiet_shows_no_line_of_progress(tmp_path, screen, monkeypatch):
    monkeypatch.setenv("DETFRAME_VERBOSITY", "quiet")
    with run_log(tmp_path, 0):
        show_progress("training", 1, 2)
    assert screen.getvalue() == ""


def test_an_unknown_verbosity_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("DETFRAME_VERBOSITY", "loud")
    with pytest.raises(ValueError, match="DETFRAME_VERBOSITY must be one of quiet, normal, verbose, not 'loud'"):
        run_log(tmp_path, 0).__enter__()


def test_results_are_for_rank_zero(tmp_path, capsys):
    with run_log(tmp_path, 1):
        LOG.info("the end", extra=RESULT)
    assert capsys.readouterr().out == ""


def test_without_a_run_nothing_is_shown(screen):
    show_progress("training", 1, 2)
    assert screen.getvalue() == ""


def test_a_terminal_that_does_not_know_its_size(monkeypatch):
    """As those of containers and of programs that only pretend to be one: 0 rows and 0 columns."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(terminal, "sys", SimpleNamespace(stdout=stream, exc_info=sys.exc_info))
        shown = Terminal(logging.INFO, lambda *_: None)
        shown.show("training", 1, 3, "loss 0.5")
        assert b"training 1/3" in os.read(ours, 1000)
        shown.close()
    os.close(ours)


def test_a_terminal_that_goes_away_is_said_once(monkeypatch):
    ours, theirs = pty.openpty()
    stream = os.fdopen(theirs, "w")
    monkeypatch.setattr("sys.stdout", stream)
    lost = []
    shown = Terminal(logging.INFO, lambda what, error: lost.append((what, type(error))))
    os.close(ours)
    for step in range(3):
        shown.show("training", step, 3)
        shown.handle(LOG.makeRecord("detframe", logging.INFO, "", 0, "hello", (), None))
    shown.close()
    assert lost == [("the terminal", OSError)]
    with pytest.raises(OSError, match="error"):
        stream.close()


def test_messages_that_the_line_says_already(screen):
    shown = Terminal(logging.INFO, lambda *_: None)
    for extra in (PROGRESS, {}):
        shown.handle(LOG.makeRecord("detframe", logging.INFO, "", 0, "iter 1", (), None, extra=extra))
    assert screen.getvalue().count("iter 1") == 1
