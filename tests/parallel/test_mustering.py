"""Ranks of one attempt find each other through PyTorch's own store; here each is a thread instead of a process."""

from __future__ import annotations

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from detframe.errors import ProcessFailedError, UserError
from detframe.parallel import elastic
from detframe.parallel.environment import process_identity
from detframe.parallel.launching import _free_port

HOST = "127.0.0.1"
OWN = threading.local()


@pytest.fixture
def store(monkeypatch):
    """The store of torchrun's agent, a client of which each rank becomes; and whoever asks is named by its thread."""
    monkeypatch.setattr(elastic, "own_names", lambda: OWN.names)
    monkeypatch.setattr(elastic, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(elastic, "_STANDING_SECONDS", 0.01)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    return dist.TCPStore(HOST, 0, None, True, timedelta(seconds=30), wait_for_workers=False)


@pytest.fixture
def hasty(monkeypatch):
    """Ten seconds pass with every pause."""
    clock = [0.0]

    def sleep(seconds):
        clock[0] += 10.0

    monkeypatch.setattr(elastic, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))


def names(rank, word="alive"):
    return f"host{rank // 2} 7 launcher", f"host{rank // 2} {rank} {word}"


def join(store, rank, world):
    OWN.names = names(rank)
    attempt, place = elastic.muster(rank, world, HOST, store.port)
    place.set(f"hello {rank}", "1")
    place.wait([f"hello {other}" for other in range(world)], timedelta(seconds=20))
    return attempt, place.check(["left by another"])


# ---------------------------------------------------------------------------------------------- finding each other
@pytest.mark.parametrize("world", [1, 2, 5])
def test_ranks_find_each_other_beside_words_of_the_dead(store, monkeypatch, world):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    dead = [names(rank, "dead") for rank in range(world)]
    for rank in range(world):
        store.set(f"detframe/names/{rank}", json.dumps(dead[rank]))
    store.set("detframe/list", json.dumps(dead))
    store.set(f"detframe/{elastic._key(dead)}/left by another", "1")
    with ThreadPoolExecutor(world) as pool:
        found = list(pool.map(lambda rank: join(store, rank, world), reversed(range(world))))
    launchers, workers = zip(*map(names, range(world)), strict=True)
    assert found == [(elastic.Attempt(launchers, workers, 2, 3), False)] * world
    assert found[0][0].hosts == ["host0", "host1", "host2"][: (world + 1) // 2]


def test_a_rank_that_came_before_its_process_died_is_replaced(store):
    """The first process of rank 1 answers and dies; the second one comes while rank 0 still waits for rank 2."""
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(join, store, 0, 3)
        place = dist.PrefixStore("detframe", store)
        place.set("names/1", json.dumps(names(1, "dead")))
        place.set("names/2", json.dumps(names(2, "dead")))
        place.wait(["list"], timedelta(seconds=20))
        listed = [tuple(pair) for pair in json.loads(place.get("list"))]
        place.set(f"{elastic._key(listed)}/answer/1", "1")
        later = [pool.submit(join, store, rank, 3) for rank in (1, 2)]
        attempts = [one.result(30)[0] for one in (first, *later)]
    assert attempts[0].workers == tuple(names(rank)[1] for rank in range(3))
    assert attempts[0] == attempts[1] == attempts[2]


@pytest.mark.parametrize(("there", "missing"), [((), "1, 2"), ((2,), "1"), ((1, 2), "1, 2")])
def test_rank_0_names_those_who_do_not_come_or_whose_names_are_of_the_dead(store, hasty, there, missing):
    for rank in there:
        store.set(f"detframe/names/{rank}", json.dumps(names(rank, "dead")))
    with pytest.raises(ProcessFailedError) as caught:
        join(store, 0, 3)
    assert str(caught.value) == f"of 3 processes these did not come in time: ranks {missing}"


@pytest.mark.parametrize("listed", [None, [names(0), names(1, "dead")], [names(0)]])
def test_a_rank_that_is_not_called_says_so(store, hasty, listed):
    if listed is not None:
        store.set("detframe/list", json.dumps(listed))
    with pytest.raises(ProcessFailedError, match=r"^rank 1 waited for rank 0, which did not call in time$"):
        join(store, 1, 2)
    assert not store.check([f"detframe/{elastic._key(listed or [])}/answer/1"])


def test_rank_0_serves_the_store_where_no_agent_does(store, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    OWN.names, port = names(0), _free_port()
    attempt, place = elastic.muster(0, 1, HOST, port)
    place.set("from rank 0", "1")
    client = dist.TCPStore(HOST, port, None, False, timedelta(seconds=10))
    assert client.get(f"detframe/{elastic._key([names(0)])}/from rank 0") == b"1"
    assert attempt.workers == (names(0)[1],)


# ---------------------------------------------------------------------------------------------- more than are needed
def test_those_who_stand_by_go_when_the_others_have_finished(store, monkeypatch):
    monkeypatch.setattr(elastic, "_PARTING_SECONDS", 20.0)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(elastic.stand_by, store, rank) for rank in (2, 3)]
        time.sleep(0.05)
        assert not any(one.done() for one in waiting)
        begun = time.monotonic()
        elastic.finish(store, (2, 3))
        assert time.monotonic() - begun < 15
        assert store.check(["seen/2", "seen/3"])  # rank 0 may end, and the store with it
        for one in waiting:
            with pytest.raises(elastic.StoodBy):
                one.result(20)


def test_rank_0_does_not_wait_for_ever_for_one_who_stood_by_and_died(store, hasty):
    elastic.finish(store, (2,))
    with pytest.raises(elastic.StoodBy):
        elastic.stand_by(store, 2)


def test_who_stands_by_is_told_that_the_others_are_gone(monkeypatch):
    monkeypatch.setattr(elastic, "_STANDING_SECONDS", 0.01)
    served = [dist.TCPStore(HOST, 0, None, True, timedelta(seconds=10), wait_for_workers=False)]
    client = dist.TCPStore(HOST, served[0].port, None, False, timedelta(seconds=10))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(elastic.stand_by, client, 3)
        time.sleep(0.05)
        served.clear()
        with pytest.raises(ProcessFailedError, match=r"^rank 3 stood by, and the others are gone: .+"):
            waiting.result(30)


# ---------------------------------------------------------------------------------------------- what torchrun says
@pytest.mark.parametrize(
    ("env", "elastic_run", "stands_by"),
    [
        ({}, False, False),
        ({"TORCHELASTIC_MAX_RESTARTS": "3"}, False, False),
        ({"TORCHELASTIC_RUN_ID": "none"}, True, False),
        ({"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_MAX_RESTARTS": "0"}, True, False),
        ({"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_MAX_RESTARTS": "3"}, True, True),
    ],
)
def test_only_where_processes_are_started_again_some_may_stand_by(env, elastic_run, stands_by):
    assert (elastic.is_elastic(env), elastic.may_stand_by(env)) == (elastic_run, stands_by)


def test_a_number_of_restarts_that_is_none_is_named():
    env = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_MAX_RESTARTS": "three"}
    with pytest.raises(UserError, match="variable TORCHELASTIC_MAX_RESTARTS is 'three'; it must be a whole number"):
        elastic.may_stand_by(env)


@pytest.fixture
def name_anew():
    """`own_names` without what it remembers."""
    return elastic.own_names.__wrapped__


def test_a_process_is_known_by_host_number_and_word(name_anew, monkeypatch):
    monkeypatch.setattr(elastic, "parent_without", lambda variable: os.getppid())
    launcher, worker = name_anew()
    assert launcher == f"{elastic.socket.gethostname()} {os.getppid()} {process_identity(os.getppid())}"
    assert worker.startswith(f"{elastic.socket.gethostname()} {os.getpid()} ")
    assert elastic.host_of(launcher) == elastic.host_of(worker) == elastic.socket.gethostname()


@pytest.mark.parametrize(("parent", "known"), [(1, True), (4321, False)])
def test_process_1_is_the_launcher_only_of_its_own_children(name_anew, monkeypatch, parent, known):
    """In a container torchrun may be process 1; elsewhere that is the system, which takes in orphans' children."""
    monkeypatch.setattr(elastic, "parent_without", lambda variable: 1)
    monkeypatch.setattr(elastic, "process_identity", lambda pid: f"started-{pid}")
    monkeypatch.setattr(elastic.os, "getppid", lambda: parent)
    assert name_anew()[0] == (f"{elastic.socket.gethostname()} 1 started-1" if known else "")
