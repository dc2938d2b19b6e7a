"""What worker processes get: large arrays once in memory for all, whatever way they are started."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from contextlib import closing
from functools import partial
from multiprocessing import reduction
from typing import Any

import numpy as np
import pytest

from detframe.data import workers
from detframe.data.shared_arrays import SharedArrays
from detframe.data.workers import WorkerPool

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory without a name is Linux's")
LARGE = 20_000_000  # bytes


def own_memory() -> int:
    """Bytes that this process has for itself, but for memory with a handle, which others may map too."""
    own, shared = 0, False
    with open("/proc/self/smaps") as file:
        for line in file:
            word = line.split()[0]
            if not word.endswith(":"):  # the head of a mapping
                shared = "memfd:" in line
            elif word.startswith("Private_") and not shared:
                own += int(line.split()[1]) * 1024
    return own


def summed(arrays: dict[str, np.ndarray], key: str) -> Any:
    before = own_memory()
    total = int(arrays[key].sum())
    return (total, own_memory() - before, own_memory(), arrays[key].flags.writeable), []


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_large_arrays_are_no_workers_own(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context(method)
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda method: context)
    arrays = {"large": np.ones(LARGE, np.uint8), "small": np.arange(10)}
    found = {}
    for name, sent in (("with", arrays), ("without", {**arrays, "large": arrays["large"][:10]})):
        with closing(WorkerPool(partial(summed, sent), ["large", "large", "small", "small"], 2, 4)) as pool:
            found[name] = [made for made, _ in pool]
    assert [total for total, *_ in found["with"]] == [LARGE, LARGE, 45, 45]
    for (_, grown, own, _), (_, _, usual, _) in zip(found["with"], found["without"], strict=True):
        assert grown < LARGE / 10 and own - usual < LARGE / 4


def test_a_pickle_holds_none_of_the_large_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "DupFd", lambda handle: handle)
    shared = SharedArrays([np.zeros(LARGE // 8), np.arange(3), "text"])
    assert len(pickle.dumps(np.zeros(LARGE // 8))) > LARGE / 2
    _, (_, text, _, ends) = shared.__reduce__()
    assert len(text) < 1000 and ends == [LARGE]
    small = SharedArrays([np.arange(3), "text"])
    function, (files, text, handle, ends) = small.__reduce__()
    assert handle is None and not ends and function(files, text, handle, ends).value[1] == "text"
