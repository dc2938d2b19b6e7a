"""Arguments of functions: what is True or False, and what is refused."""

from __future__ import annotations

import pytest

import detframe
from detframe.config import get_cfg
from detframe.config.arguments import flag
from detframe.engine.replaying import replay
from detframe.errors import InvalidTypeError
from detframe.inference import Detector

LOADERS = (Detector.load, Detector.from_pretrained)


def test_a_flag_is_true_or_false() -> None:
    assert flag("resume", True) and flag("resume", "true")
    assert not any(flag("resume", value) for value in (False, None, "False"))


@pytest.mark.parametrize("value", ["no", "yes", "", 0, 1, "auto", []])
def test_what_is_no_flag_is_refused_before_anything_begins(value: object, tmp_path) -> None:
    """ "no" went on with the run that was there, and allowed the code of a checkpoint's author."""
    cfg = get_cfg().changed([("OUTPUT_DIR", str(tmp_path / "out"))])
    with pytest.raises(InvalidTypeError, match=r"^resume must be True or False, not "):
        detframe.train(cfg, resume=value)
    for load in LOADERS:
        with pytest.raises(InvalidTypeError, match=r"^allow_custom_imports must be True or False, not "):
            load(str(tmp_path), allow_custom_imports=value)
    with pytest.raises(InvalidTypeError, match=r"^allow_custom_imports must be True or False, not "):
        detframe.evaluate(cfg, allow_custom_imports=value)
    assert not list(tmp_path.iterdir())


def test_a_replay_takes_no_word_as_consent(tmp_path) -> None:
    with pytest.raises(InvalidTypeError, match=r"^allow_custom_imports must be True or False, not 'no'"):
        replay(tmp_path / "bundle.pth", allow_custom_imports="no")
