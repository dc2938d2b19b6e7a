"""A user's mistake is one paragraph and an exit code; anything else keeps its traceback."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from detframe import errors
from detframe.cli.errors import guard, user_message
from detframe.config import get_cfg


def fail_in_config() -> int:
    get_cfg().merge_from_list(["SEEED", 1])
    return 0


def test_what_detframe_raises_is_one_paragraph(capsys: pytest.CaptureFixture[str]):
    assert guard(fail_in_config) == 2
    out = capsys.readouterr().err
    assert out.startswith("error: unknown config key SEEED (an override); did you mean 'SEED'") and out.count("\n") == 1


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(KeyError):
        guard(fail_in_config, debug=True)
    monkeypatch.setenv("DETFRAME_DEBUG", "1")
    with pytest.raises(KeyError):
        guard(fail_in_config)


def test_errors_raised_elsewhere_keep_their_traceback():
    with pytest.raises(ValueError, match="invalid literal"):
        guard(lambda: int("x"))
    with pytest.raises(KeyError):
        guard(lambda: {}["missing"])
    with pytest.raises(ZeroDivisionError):
        guard(lambda: 1 // 0)


def test_a_failing_expression_inside_detframe_is_not_the_users_mistake():
    from detframe.texts import format_seconds

    with pytest.raises(TypeError):
        guard(lambda: format_seconds(None))  # type: ignore[arg-type]


def test_what_the_system_refuses_is_the_users_to_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert guard(lambda: len((tmp_path / "none.txt").read_text())) == 2
    assert "No such file or directory" in capsys.readouterr().err


def test_the_rank_stands_before_the_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    guard(fail_in_config)
    assert capsys.readouterr().err.startswith("[rank 1] error: ")


def test_interruption(capsys: pytest.CaptureFixture[str]):
    def interrupt() -> int:
        raise KeyboardInterrupt

    assert guard(interrupt) == 130
    assert "interrupted" in capsys.readouterr().err


def test_errors_of_every_kind_tell_their_message_and_are_the_built_in_one_too():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.UserError)]
    assert len(kinds) > 10
    for kind in kinds:
        error = pickle.loads(pickle.dumps(kind("what, where, remedy")))
        assert user_message(error) == "what, where, remedy"
        assert kind is errors.UserError or len(kind.__bases__) == 2


def test_outside_code_can_raise_them(capsys: pytest.CaptureFixture[str]):
    def reader() -> int:
        raise errors.InvalidValueError("line 7: a box needs four numbers")

    assert guard(reader) == 2
    assert capsys.readouterr().err == "error: line 7: a box needs four numbers\n"


def test_a_loss_that_is_not_finite_has_an_exit_code_of_its_own():
    def stop() -> int:
        raise errors.NonFiniteError("the loss is nan")

    assert guard(stop) == 1


@pytest.mark.parametrize("kind", [errors.InvalidValueError, errors.UnknownNameError, OSError])
def test_a_message_is_fit_for_every_terminal_and_log(kind: type[Exception]):
    quoted = "a\x00b\x1b[31mc\x7fd\x9be\ud800f"
    error = kind(2, f"no {quoted}") if kind is OSError else kind(f"no {quoted}\n\tand more: é 中")
    text = user_message(error) or ""
    assert r"a\x00b\x1b[31mc\x7fd\x9be\ud800f" in text
    assert kind is OSError or text.endswith("\n\tand more: é 中")
    text.encode()


def test_a_long_line_of_a_message_is_shortened_in_its_middle():
    text = str(errors.InvalidValueError("first line\nin data.json: " + "x" * 100_000 + " is no size"))
    assert text.startswith("first line\nin data.json: xx") and text.endswith("xx is no size")
    assert "characters left out" in text and len(text) < 2200
