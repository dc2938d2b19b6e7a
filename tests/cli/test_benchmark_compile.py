"""Timing of graphs: with an empty cache and with a kept one, beside steps without graphs."""

from __future__ import annotations

import pytest

from detframe.cli import benchmark_compile as module
from detframe.cli.benchmark_compile import Measured, benchmark_compile, measure
from detframe.cli.benchmark_models import make_batch
from detframe.modeling import compiling
from tests.modeling.tiny import DENSE, tiny_config


def test_each_kind_is_measured_with_an_empty_cache_and_with_what_it_left(monkeypatch):
    asked = []

    def answer(work):
        asked.append(work)
        first = {"first_step_s": 40.0 if work.rounds else 8.0, "graphs": 2}
        return {**first, "eager_s": 1.0, "compiled_s": 0.5, "ratio": 2.0, "rounds_s": []} if work.rounds else first

    monkeypatch.setattr(module, "_in_a_process", answer)
    measured = {"size_hw": (64, 96), "batch": 2, "rounds": 3, "threads": 1, "make_batch": make_batch}
    found = benchmark_compile(tiny_config(DENSE), "", 90, measured, ["fp32", "bf16"])
    assert list(found) == ["dense/fp32", "dense/bf16", "step/fp32", "step/bf16"]
    for row in found.values():
        assert (row["first_step_s"], row["first_step_from_cache_s"], row["ratio"]) == (40.0, 8.0, 2.0)
    assert {work.cfg.MODEL.NUM_CLASSES for work in asked} == {90}
    assert [work.rounds for work in asked] == [3, 0] * 4
    assert all(cold.cache == kept.cache for cold, kept in zip(asked[::2], asked[1::2], strict=True))
    assert len({work.cache for work in asked}) == 4


@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own affairs
def test_steps_with_and_without_graphs_are_timed(monkeypatch, tmp_path):
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TORCHINDUCTOR_FX_GRAPH_CACHE", "TORCHINDUCTOR_AUTOGRAD_CACHE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    cfg = tiny_config({**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.NUM_CONVS": 1, "MODEL.NUM_CLASSES": 90})
    found = measure(Measured(cfg, "dense", str(tmp_path), (64, 96), 2, False, 2, 0, make_batch))
    assert found["graphs"] == 2
    assert [len(row) for row in found["rounds_s"]] == [2, 2]
    assert found["ratio"] == found["eager_s"] / found["compiled_s"]
    assert found["first_step_s"] > 0
