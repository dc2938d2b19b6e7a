"""docs/experiments.md: its code runs as it stands, and the points that it names are those of a hook."""

from __future__ import annotations

import http.server
import json
import re
import threading

import pytest

import detframe
from detframe.engine.loggers.__main__ import main
from detframe.engine.metrics_file import MetricsFile
from detframe.registry import LOGGERS
from tests.docs.blocks import BLOCK
from tests.docs.test_docs import blocks
from tests.docs.test_tutorial import ROOT
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
    assert named == own - {"name", "state_dict", "load_state_dict", "after_measuring", "check"}


@pytest.fixture
def hook():
    """A server that takes texts: its port, and what it got."""
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], got
        server.shutdown()
        LOGGERS._members.pop("chat", None)


def test_the_logger_of_the_page(tmp_path, hook):
    port, got = hook
    source = dict(BLOCK.findall(TEXT))["my_logger.py"]
    (tmp_path / "my_logger.py").write_text(source.replace(":8000/", f":{port}/"), encoding="utf-8")
    run = tmp_path / "cells"
    run.mkdir()
    (run / "config.yaml").write_text("SOLVER: {BASE_LR: 0.1}\n")
    for iteration, values in ((1, {"loss": 1.0}), (2, {"loss": 1.0}), (2, {"bbox/AP": 31.25})):
        MetricsFile(run).append(iteration, values)
    assert main([str(run), "chat", "--import", str(tmp_path / "my_logger.py")]) == 0
    assert got == ["cells: AP 31.2 after 2 iterations", "cells has finished"]
