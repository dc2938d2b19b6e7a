"""Trainings of compiled detectors: going on exactly, in parts, and what the log says. Graphs run as they are traced."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.engine.compiling import CompileHook
from detframe.modeling.compiling import Graph, Graphs, compile_model
from tests.engine.fakes import make_checkpointer, make_config, make_trainer, weights
from tests.modeling.compiled import CPU, images_of, made, pair
from tests.modeling.tiny import EMPTY, FULL

pytestmark = pytest.mark.filterwarnings("ignore")  # the compiler warns of its own affairs


def batches(start=0, size=2):
    """Batches of noise in two shapes, in turn."""
    for number in itertools.count(start):
        images = [image for _ in range(size // 2) for image in images_of(128, 128 + 32 * (number % 2))]
        yield images, [{**(FULL, EMPTY)[i % 2], "seed": 10 * number + i} for i in range(size)]


def trainer_of(folder, model, steps, start=0, **more):
    size = more.pop("size", 2)
    cfg = make_config(BASE_LR=0.01, MAX_ITER=steps, IMS_PER_BATCH=size)
    return make_trainer(folder, cfg, model, batches(start, size), **more)


def test_a_compiled_run_goes_on_exactly(tmp_path):
    def compiled():
        model = made("retinanet")
        compile_model(model, "step", CPU, backend="eager")
        return model

    whole, first, second = (trainer_of(tmp_path, compiled(), 4, start) for start in (0, 0, 2))
    whole.train()
    for _ in range(2):
        first.step()
    make_checkpointer(tmp_path).save("half.pth", first.inference_weights(), first.training_state(), {})
    second.load_training_state(Checkpoint.read(tmp_path / "half.pth"))
    second.train()
    assert second.iteration == whole.iteration == 4
    found = weights(second)
    assert all(torch.equal(found[name], value) for name, value in weights(whole).items())
    assert whole.optimizer.defaults["fused"]
    assert [graph.name for graph in whole.model.graphs.made] == ["training step"] * 2


@pytest.mark.parametrize("normalizer", ["ema", "batch"])
def test_parts_of_a_step_divide_by_what_the_step_holds(tmp_path, normalizer):
    eager, compiled, _ = pair("retinanet", "step", "MODEL.RETINANET.LOSS_NORMALIZER", normalizer)
    trainers = [trainer_of(tmp_path, model, 1, accumulate_steps=2, size=4) for model in (eager, compiled)]
    for trainer in trainers:
        trainer.train()
    wanted, found = (weights(trainer) for trainer in trainers)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
    steps = [graph.call for graph in compiled.graphs.made if graph.name == "training step"]
    assert len(steps) == len(set(steps)) * (2 if normalizer == "ema" else 1)


def test_the_log_says_what_graphs_cost(tmp_path, caplog):
    _, compiled, _ = pair("retinanet", "step")
    trainer = trainer_of(tmp_path, compiled, 4, hooks=[CompileHook()])
    with caplog.at_level(logging.INFO, logger="detframe.engine.compiling"):
        trainer.train()
    lines = [record.getMessage() for record in caplog.records if record.name == "detframe.engine.compiling"]
    assert [line.split(" took")[0] for line in lines[:-1]] == ["step 1", "step 2"]
    assert "(MODEL.COMPILE; 1 graphs so far)" in lines[0]
    spent = sum(float(line.split(" took ")[1].split(" s:")[0]) for line in lines[:-1])
    start, end = lines[-1].split(" took ")
    assert start == "MODEL.COMPILE: 2 graphs were made; the training steps that made some"
    assert float(end.removesuffix(" s")) == pytest.approx(spent, abs=0.2)  # the backward pass is compiled too


def test_graphs_of_an_evaluation_are_no_graphs_of_the_next_step(tmp_path, caplog):
    trainer = trainer_of(tmp_path, made("retinanet"), 2, hooks=[CompileHook()])
    trainer.model.graphs = Graphs()
    trainer.step()
    trainer.model.graphs.made += [Graph("backbone", "inference, 1x3x32x32", 2.5)] * 2
    with caplog.at_level(logging.INFO, logger="detframe.engine.compiling"):
        trainer.publish({})
        trainer.step()
        trainer.hooks[0].after_step(trainer)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "detframe.engine.compiling"]
    assert line.startswith("the evaluation after step 1: 2 new graphs, 5.0 s until they had run")


def test_without_graphs_the_log_says_nothing_of_them(tmp_path, caplog):
    trainer = trainer_of(tmp_path, made("retinanet"), 1, hooks=[CompileHook()])
    with caplog.at_level(logging.INFO, logger="detframe.engine.compiling"):
        trainer.train()
    assert not [record for record in caplog.records if record.name == "detframe.engine.compiling"]
