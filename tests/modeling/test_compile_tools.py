"""What MODEL.COMPILE needs beside PyTorch, and where its graphs are kept."""

from __future__ import annotations

import os
import queue
import sys
import tempfile

import pytest
import torch

from detframe.errors import InvalidValueError
from detframe.modeling import build_detection_model, compile_tools, compiling
from detframe.modeling.compiling import Graphs
from tests.modeling.compiled import DETECTORS
from tests.modeling.tiny import tiny_config


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InvalidValueError, match=r"needs a C\+\+ compiler, and there is no 'no-such-compiler'.*off"):
        build_detection_model(tiny_config(DETECTORS["fcos"], "MODEL.COMPILE", "dense"))


def test_missing_headers_of_python_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(InvalidValueError, match=r"headers of Python, and there is no .*Python\.h"):
        build_detection_model(tiny_config(DETECTORS["fcos"], "MODEL.COMPILE", "dense"))


@pytest.fixture
def no_folder(monkeypatch):
    monkeypatch.setattr("os.environ", {})


@pytest.mark.parametrize("already", [{}, {"TORCHINDUCTOR_CACHE_DIR": f"{tempfile.gettempdir()}/torchinductor_me"}])
def test_graphs_are_kept_below_the_cache(already, tmp_path, no_folder):
    """Also where PyTorch has set its variable to a folder of its own, as torchvision has it do where it is imported."""
    os.environ.update({"DETFRAME_CACHE": str(tmp_path / "new"), **already})
    compile_tools.keep_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "new" / "compiled")
    assert os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] == os.environ["TORCHINDUCTOR_AUTOGRAD_CACHE"] == "1"


def test_a_cache_that_cannot_be_written_is_named(tmp_path, no_folder, caplog):
    (tmp_path / "file").write_text("")
    os.environ["DETFRAME_CACHE"] = str(tmp_path / "file")
    compile_tools.keep_cache()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert f"graphs cannot be kept in {tmp_path}/file/compiled (Not a directory)" in caplog.text


@pytest.mark.parametrize(
    "said", [{"DETFRAME_CACHE": "off"}, {"TORCHINDUCTOR_CACHE_DIR": "/mine", "TORCHINDUCTOR_FX_GRAPH_CACHE": "0"}]
)
def test_what_the_user_says_of_the_cache_stays(said, no_folder):
    os.environ.update(said)
    compile_tools.keep_cache()
    assert {name: os.environ.get(name) for name in said} == said
    assert said.get("TORCHINDUCTOR_CACHE_DIR") == os.environ.get("TORCHINDUCTOR_CACHE_DIR")


@pytest.mark.parametrize(
    ("backend", "kept", "prepared"), [("inductor", [], 1), ("inductor", ["code"], 0), ("eager", [], 0)]
)
def test_the_tools_are_prepared_beside_the_first_graph_of_an_empty_cache(
    backend, kept, prepared, monkeypatch, tmp_path
):
    begun = []
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiling, "prepare_tools", lambda: begun.append(1))
    for name in kept:
        (tmp_path / name).write_text("")
    graphs = Graphs(backend=backend)

    def compiled(call, **how):
        (tmp_path / "made").write_text("")
        return call

    monkeypatch.setattr(torch, "compile", compiled)
    for _ in range(2):
        graphs.make("layer", torch.relu, [torch.ones(1)], False)
    assert len(begun) == prepared


@pytest.mark.parametrize(("rank", "runs"), [(None, 1), ("0", 1), ("1", 0)])
def test_one_process_of_a_machine_prepares_the_tools(rank, runs, monkeypatch):
    """And one that cannot be started is missed by nobody."""
    begun = queue.Queue()

    def run(command, **how):
        begun.put((command, how))
        raise FileNotFoundError

    monkeypatch.setattr("subprocess.run", run)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    compile_tools.prepare_tools()
    if runs:
        command, how = begun.get(timeout=60)
        assert command[:2] == [sys.executable, "-c"] and how["start_new_session"]
        compile(command[2], "command", "exec")
    assert begun.empty()
