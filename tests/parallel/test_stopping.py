"""Programs that a run starts for its step, as compilers, do not hear the signals that end it; the run hears them."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from detframe.modeling.compiling import Graphs
from detframe.parallel.stopping import SIGNALS, StopSignals
from tests.engine.fakes import Regressor, make_config, make_trainer

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be blocked here")

SPARES = """
import os, signal, subprocess, sys
from detframe.parallel.stopping import StopSignals, programs_spared
stop = StopSignals()
words = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(0.5); print('done')"]
with stop.handled():
    with programs_spared():
        program = subprocess.Popen(words, stdout=subprocess.PIPE)
        program.stdout.readline()
        os.killpg(0, signal.SIGTERM)
        said = program.communicate()[0].decode()
    print(said.strip(), program.returncode, stop.received)
"""
WAITS = "import sys; print('ready', flush=True); sys.stdin.read(); print('done')"


def test_a_signal_to_the_whole_group_spares_a_compiler_and_is_heard(root):
    environment = {**os.environ, "PYTHONPATH": str(root)}
    words = [sys.executable, "-c", SPARES]
    run = subprocess.run(words, env=environment, start_new_session=True, capture_output=True, text=True, timeout=60)
    assert run.stdout == "done 0 15\n", run.stderr


def outlives_signals():
    """Whether a program that is started here outlives each signal that ends a run."""
    words = [sys.executable, "-c", WAITS]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        program.stdout.readline()
        for number in SIGNALS:
            program.send_signal(number)
        return program.communicate(timeout=60)[0] == b"done\n"


class Starts(Regressor):
    """Starts programs in its forward and its backward pass."""

    def __init__(self):
        super().__init__()
        self.outlived = []

    def forward(self, images, targets):
        self.outlived.append(outlives_signals())
        losses = super().forward(images, targets)
        losses["loss_a"].register_hook(lambda gradient: self.outlived.append(outlives_signals()))
        return losses


def test_both_passes_of_a_step_spare_compilers(tmp_path):
    model = Starts()
    trainer = make_trainer(tmp_path, make_config(MAX_ITER=1), model)
    with trainer.stop.handled():
        trainer.train()
        assert not outlives_signals()
    assert trainer.iteration == 1 and model.outlived == [True, True]


def test_a_graph_of_an_evaluation_spares_compilers():
    outlived = []

    def backend(graph, inputs):
        outlived.append(outlives_signals())
        return graph.forward

    with StopSignals().handled():
        Graphs(backend=backend).make("part", torch.relu, [torch.zeros(2)], dynamic=False)
    assert outlived == [True]
    Graphs(backend=backend).make("part", torch.relu, [torch.zeros(2)], dynamic=False)  # a program of the user's own
    assert outlived == [True, False]
