"""The contract itself: a reader that breaks it in any of the ways that it forbids is caught."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from detframe.errors import InvalidValueError
from tests.malformed import contract, mutations
from tests.malformed.contract import FAULT, READ, REFUSED, Case, NonsenseError, Tally, judge, settle


def raises(error: BaseException) -> Callable[[], str]:
    def run() -> str:
        raise error

    return run


def nonsense() -> str:
    raise NonsenseError("a box of minus one")


def busy() -> str:
    while True:
        pass


FAULTS: dict[str, Callable[[], str]] = {
    "a TypeError": raises(TypeError("unsupported operand")),
    "a bare ValueError about the file": raises(ValueError("a.json is wrong")),
    "an exit": raises(SystemExit(1)),
    "a recursion": raises(RecursionError("maximum recursion depth exceeded")),
    "an OSError of nobody": raises(OSError("a.json")),
    "a message without the file": raises(InvalidValueError("something is wrong")),
    "a message without the entry": raises(InvalidValueError("a.json is wrong")),
    "an endless message": raises(InvalidValueError("a.json: image 3\n" * 1000)),
    "nonsense": nonsense,
    "work without end": busy,
    "waiting without end": lambda: str(time.sleep(60)),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_reader_that_breaks_the_contract_is_caught(what: str):
    outcome = judge(Case(what, FAULTS[what], ("a.json",), ("image",)), seconds=0.2, waiting=0.5)
    assert outcome.kind == FAULT and outcome.text


def test_a_reader_that_keeps_it_is_not():
    assert judge(Case("read", lambda: READ, ("a.json",))).kind == READ
    refusal = raises(InvalidValueError("a.json: image 3 has no size; give it one"))
    assert judge(Case("refused", refusal, ("a.json",), ("image",))).kind == REFUSED
    assert judge(Case("refused", raises(FileNotFoundError(2, "No such file", "a.json")), ("a.json",))).kind == REFUSED


def test_a_reader_that_takes_all_memory_is_caught():
    def greedy() -> str:
        torch.ones(150 * 2**20)  # float32: 600 MB
        return READ

    torch.ones(300 * 2**20)  # what the process held earlier hides nothing
    assert judge(Case("greedy", greedy, ("a.json",))).kind == FAULT


def crashing(family: str, folder: Path) -> Iterator[Case]:
    yield Case("sound", lambda: READ, ("x",))
    yield Case("killed", lambda: str(os.kill(os.getpid(), signal.SIGSEGV)), ("x",))
    yield Case("deaf", lambda: _deaf(), ("x",))
    yield Case("refused", raises(InvalidValueError("x")), ("x",))


def _deaf() -> str:
    """Hears no signal, as code in C."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGPROF})
    time.sleep(60)
    return READ


def test_a_crash_and_a_hang_in_c_are_told_with_their_case(tmp_path: Path):
    tally = contract.run_apart("crashing", tmp_path, seconds=1.5, cases=crashing)
    assert [outcome.kind for outcome in tally.outcomes] == [READ, FAULT, FAULT, REFUSED]
    assert [fault.case for fault in tally.faults] == ["killed", "deaf"]
    with pytest.raises(AssertionError, match=r'python -m tests\.malformed crashing "killed"'):
        settle(tally, at_least=1)


def test_a_generator_that_makes_nothing_does_not_pass():
    with pytest.raises(AssertionError, match="0 cases"):
        settle(Tally("empty"), at_least=1)


def test_mutations_are_the_same_again_and_leave_their_input_alone():
    tree = {"a": [1, {"b": 2}], "c": "d"}
    first, second = ([*mutations.json_texts(tree)] for _ in range(2))
    assert first == second and tree == {"a": [1, {"b": 2}], "c": "d"}
    names = [name for name, *_ in first]
    assert len(set(names)) == len(names) and {"a[1].b=null", "a[0] removed", "a[0] twice", "c renamed"} <= {*names}
    assert (
        dict((name, document) for name, _, _, document in first)["a[1].b=1e999"] == '{"a": [1, {"b": 1e999}], "c": "d"}'
    )
    data = bytes(range(100))
    assert list(mutations.byte_changes(data)) == list(mutations.byte_changes(data))
    assert sum(changed == data for _, changed in mutations.byte_changes(data)) == 0
