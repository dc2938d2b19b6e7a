"""Processes that torchrun starts find each other, and their launcher; what a lost one is told as."""

import json
import os
import subprocess
import sys

import pytest

from detframe.errors import InvalidValueError, ProcessFailedError
from detframe.parallel.environment import parent_without, process_identity, ranks_that_share
from detframe.parallel.joining import Membership, _losses_told
from detframe.parallel.launching import _free_port

MEMBER = Membership(1, 2, 1, 2, "localhost", 1)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[pair.cc:545] Read error [10.77.0.12]:51399: Connection timed out.", "which has ended or cannot be reached"),
        ("[unbound_buffer.cc:78] Timed out waiting 6000ms for recv", "waited 0.1 minutes for another process"),
        ("[pair.cc:545] Read error [10.0.0.1]:3: Connection reset by peer.", "lost another process"),
    ],
)
def test_a_lost_process_is_one_sentence(said, told):
    with pytest.raises(ProcessFailedError, match=f"rank 1 of 2 on host .* {told}"), _losses_told(MEMBER, 0.1):
        raise RuntimeError(said)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), InvalidValueError("Timed out")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, _losses_told(MEMBER, 0.1):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("batch", "steps", "ranks", "expected"), [(16, 1, 6, 4), (16, 2, 8, 8), (16, 2, 7, 4), (12, 1, 3, 3), (3, 2, 4, 0)]
)
def test_as_many_ranks_as_share_the_batch(batch, steps, ranks, expected):
    assert ranks_that_share(batch, steps, ranks) == expected


def test_the_launcher_is_found_behind_a_script():
    """A shell between torchrun and the training has torchrun's variables, too."""
    look = "from detframe.parallel.environment import parent_without; print(parent_without('OF_A_LAUNCHER'))"
    inner = f'{sys.executable} -c "{look}"; true'
    found = subprocess.run(
        ["sh", "-c", inner], env={**os.environ, "OF_A_LAUNCHER": "1"}, capture_output=True, text=True, check=True
    )
    assert int(found.stdout) == os.getpid()
    assert process_identity(os.getpid()) not in ("", process_identity(1))
    assert parent_without("OF_A_LAUNCHER") == os.getppid()


MUSTER = """
import json, os, sys, time
import torch.distributed as dist
from detframe.errors import ProcessFailedError
from detframe.parallel import elastic
from datetime import timedelta

rank, port, stale = int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
elastic.TIMEOUT = timedelta(seconds=float(sys.argv[4]))
if rank == 0:  # an agent's store, in which an attempt before has left its words
    store = dist.TCPStore("127.0.0.1", port, None, True, wait_for_workers=False, multi_tenant=True)
    for key, value in stale.items():
        store.set(key, value)
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
try:
    attempt, place = elastic.muster(rank, 2, "127.0.0.1", port)
except ProcessFailedError as error:
    print(error)
    sys.exit(3)
place.set(f"hello {rank}", "1")
place.wait(["hello 0", "hello 1"])
print(json.dumps(attempt.workers))
time.sleep(1)
"""


def mustered(environment, ranks, stale, seconds):
    port = str(_free_port())
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MUSTER, str(rank), port, json.dumps(stale), str(seconds)],
            **{"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
        )
        for rank in ranks
    ]
    return [(*process.communicate(timeout=120), process.returncode) for process in started]


@pytest.fixture
def python_environment(root):
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_processes_find_each_other_beside_words_of_the_dead(python_environment):
    dead = [["launcher", "host 1 dead"], ["launcher", "host 2 dead"]]
    stale = {"detframe/names/0": json.dumps(dead[0]), "detframe/names/1": json.dumps(dead[1])}
    stale["detframe/list"] = json.dumps(dead)
    (first, _, code), (second, said, other) = mustered(python_environment, (0, 1), stale, 60)
    assert (code, other) == (0, 0), said
    assert first == second
    assert "dead" not in first


@pytest.mark.slow
def test_who_does_not_come_is_named(python_environment):
    ((text, said, code),) = mustered(python_environment, (0,), {}, 2)
    assert code == 3, said
    assert text == "of 2 processes these did not come in time: ranks 1\n"
