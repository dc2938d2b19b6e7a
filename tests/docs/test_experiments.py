"""docs/experiments.md: its code runs as it stands, and the points that it names are those of a hook."""

from __future__ import annotations

import re

import detframe
from tests.docs.test_docs import blocks
from tests.docs.test_tutorial import BLOCK, ROOT
from tests.engine.conftest import datasets, tiny
from tests.engine.fakes import last_state

__all__ = ["datasets", "tiny"]
PAGE = ROOT / "docs" / "experiments.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_callback_of_the_page(tiny, tmp_path, monkeypatch):
    for name, text in BLOCK.findall(TEXT):
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells.yaml").write_text(tiny("TEST.EVAL_PERIOD", 2, "TEST.VISUALIZE", 0).dump())
    use = next(text for text in blocks(PAGE, "python") if text.startswith("from my_callback import Note"))
    exec(compile(use.replace("enough=80", "enough=0"), str(PAGE), "exec"), {})
    state = last_state(tmp_path / "out")
    assert state["iteration"] == 2 and "is enough" in state["stop_reason"]
    assert [iteration for iteration, _ in state["hooks"]["note"]["seen"]] == [2]


def test_every_point_is_in_the_table():
    named = set(re.findall(r"^\| `(\w+)\(", TEXT, flags=re.MULTILINE))
    own = {name for name in vars(detframe.Hook) if not name.startswith("_")}
    assert named == own - {"name", "state_dict", "load_state_dict", "after_measuring"}
