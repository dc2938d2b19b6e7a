"""A program that trains finds everything afterwards as it was, and the same result again."""

import contextlib
import gc
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from detframe.engine import evaluate, train
from tests.engine.written import weights

SHORT = ("SOLVER.MAX_ITER", 3, "SOLVER.WARMUP_ITERS", 1, "SOLVER.STEPS", "(2,)", "SOLVER.CHECKPOINT_PERIOD", 2)


def surroundings():
    """All that a run could leave behind in a process."""
    gc.collect()  # what earlier tests left in cycles holds files, and would go at some moment of the run
    loggers = {name: log for name, log in logging.root.manager.loggerDict.items() if isinstance(log, logging.Logger)}
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "paths": list(sys.path),
        "handlers": {name: (list(log.handlers), log.level, log.propagate) for name, log in loggers.items()},
        "root": (list(logging.root.handlers), logging.root.level, logging.root.manager.disable),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "threads": Counter(thread.name for thread in threading.enumerate()),
        "children": Counter(process.name for process in multiprocessing.active_children()),
        "files": open_files(),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "alarm": signal.set_wakeup_fd(-1),
        "torch": (
            *(torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads(), torch.is_grad_enabled()),
            *(torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()),
            *(torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.is_inference_mode_enabled()),
            *(torch.multiprocessing.get_sharing_strategy(), torch.is_autocast_enabled("cpu")),
        ),
        "distributed": torch.distributed.is_initialized(),
        "random": (torch.get_rng_state().tolist(), random.getstate(), [str(v) for v in np.random.get_state()]),
        "numpy": np.geterr(),
        "cv2": cv2.getNumThreads(),
        "matplotlib": dict(sys.modules["matplotlib"].rcParams) if "matplotlib" in sys.modules else None,
    }


def open_files() -> Counter[str]:
    out = Counter()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them, and what another thread closed
            out[os.readlink(f"/proc/self/fd/{fd}")] += 1
    return out


def check_equal(before, after):
    for what, value in before.items():
        if what in ("handlers", "environment"):  # loggers of modules that were imported meanwhile are none of a run's
            assert {key: after[what].get(key) for key in value} == value, what
            new = {key: value for key, value in after[what].items() if key not in before[what]}
            assert what != "environment" or not new, new
        elif isinstance(value, Counter):  # what others left may end meanwhile
            assert not after[what] - value, what
        else:
            assert after[what] == value, what


def test_two_runs_leave_nothing_behind_and_end_alike(tiny, tmp_path):
    words = (*SHORT, "DATALOADER.NUM_WORKERS", 1, "DETERMINISTIC", True)
    train(tiny(*words, "OUTPUT_DIR", str(tmp_path / "first")))  # imports what there is
    before = surroundings()
    metrics = train(tiny(*words, "OUTPUT_DIR", str(tmp_path / "one")))
    check_equal(before, surroundings())
    again = train(tiny(*words, "OUTPUT_DIR", str(tmp_path / "two")))
    check_equal(before, surroundings())
    assert metrics.keys() == again.keys()
    np.testing.assert_equal(list(metrics.values()), list(again.values()))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_run_that_fails_leaves_nothing_behind(tiny, tmp_path, caplog):
    from detframe.engine.trainer import Hook

    class Fail(Hook):
        name = "fail"

        def after_step(self, trainer):
            raise RuntimeError("enough")

    before = surroundings()
    with pytest.raises(RuntimeError, match="enough"):
        train(tiny(*SHORT), callbacks=[Fail()])
    caplog.clear()  # its records keep the error, and that the frames with all that the run had opened
    check_equal(before, surroundings())


def test_the_choices_of_the_program_around_change_nothing(tiny, tmp_path):
    train(tiny(*SHORT, "OUTPUT_DIR", str(tmp_path / "plain")))
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    logging.captureWarnings(True)
    before = surroundings()
    try:
        with torch.no_grad():
            train(tiny(*SHORT, "OUTPUT_DIR", str(tmp_path / "odd")))
        after = surroundings()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        logging.captureWarnings(False)
    check_equal(before, after)
    one, two = weights(tmp_path / "plain"), weights(tmp_path / "odd")
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_runs_leave_no_memory_behind(tiny, tmp_path):
    def live():
        gc.collect()
        kept = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
        return len(kept), sum(each.numel() for each in kept)

    found = []
    for number in range(4):
        train(tiny(*SHORT, "TEST.VISUALIZE", 0, "OUTPUT_DIR", str(tmp_path / str(number))))
        evaluate(tiny("MODEL.WEIGHTS", str(tmp_path / str(number) / "model_final.pth")))
        found.append(live())
    assert found[1] == found[3]


INSIDE = """
import os, sys
import torch
import torch.distributed as dist
from detframe.engine import train
from tests.engine.ranks import tiny_config

rank, store, out, words = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
before = dict(os.environ)
for name in ("one", "two"):
    train(tiny_config(["OUTPUT_DIR", f"{out}/{name}", *words]))
    assert dist.is_initialized() and dist.get_rank() == rank and dict(os.environ) == before
    value = torch.ones(1)
    dist.all_reduce(value)
    assert value.item() == 2
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_a_group_of_somebody_else_serves_several_runs_and_stays(tiny, root, tmp_path):
    train(tiny(*SHORT, "OUTPUT_DIR", str(tmp_path / "alone")))
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", INSIDE]
    rest = [str(tmp_path / "store"), str(tmp_path), *map(str, SHORT)]
    started = [
        subprocess.Popen([*command, str(rank), *rest], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    one, two, alone = (weights(tmp_path / name) for name in ("one", "two", "alone"))
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
        torch.testing.assert_close(value, alone[name], atol=1e-4, rtol=1e-3)


def test_two_threads_do_not_train_at_once(tiny, tmp_path):
    """Random numbers and the log belong to the process: each would change the other's result, and take its log."""
    from detframe.engine.trainer import Hook
    from detframe.errors import InUseError

    class Beside(Hook):
        name = "beside"

        def after_step(self, trainer):
            if trainer.iteration > 1:
                return
            with ThreadPoolExecutor(1, "beside") as pool:
                for work in (train, evaluate):
                    with pytest.raises(InUseError, match="the thread MainThread of this process is in a training"):
                        pool.submit(work, tiny("OUTPUT_DIR", str(tmp_path / "second"), "MODEL.WEIGHTS", "any")).result()

    train(tiny(*SHORT, "OUTPUT_DIR", str(tmp_path / "first")), callbacks=[Beside()])
    assert not (tmp_path / "second").exists()
    with ThreadPoolExecutor(1) as pool:  # one after the other is well
        pool.submit(train, tiny(*SHORT, "OUTPUT_DIR", str(tmp_path / "second"))).result()
    one, two = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.equal(value, two[name]) for name, value in one.items())


FORKED = """
import os, sys, threading
from detframe.engine.surroundings import alone_in_process

inside, done = threading.Event(), threading.Event()
def hold():
    with alone_in_process():
        inside.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
inside.wait()
if not os.fork():
    with alone_in_process():
        print("free", flush=True)
    os._exit(0)
os.wait()
done.set()
"""


def test_a_forked_process_is_free_to_train(root):
    done = subprocess.run([sys.executable, "-c", FORKED], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout == "free\n", done.stderr


def test_workers_leave_the_choice_of_a_start_method_to_the_program(root):
    """Asking multiprocessing for its usual context makes that the chosen one, and a program cannot choose any more."""
    program = (
        "import multiprocessing\nfrom detframe.data.workers import WorkerPool\n"
        "pool = WorkerPool(lambda batch: (None, []), iter([[1]]), 1)\nnext(pool)\npool.close()\n"
        "multiprocessing.set_start_method('spawn')\nprint('chosen')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60)
    assert done.stdout == "chosen\n", done.stderr
