"""The contract of every reader, and how a case is judged by it.

A reader reads an input right, repairs it and says so, or refuses it: an error for which `user_message` has a text that
names the file (or the key, or the option), short and printable. Anything else is a fault: another exception, a hang, a
crash, hundreds of megabytes, or records and weights that break their invariants.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import importlib
import json
import multiprocessing
import os
import resource
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detframe.cli.errors import user_message

CRASHED, MAKING = "crashed or hung", "making the cases"
READ, REPAIRED, REFUSED, FAULT = "read", "repaired", "refused", "fault"
# What one case may take, of the processor and on the clock (where the machine is busy, or the case waits), and how long
# a message may be
SECONDS, WAITING, MEGABYTES, CHARACTERS = 5.0, 30.0, 400, 6000
# Processes are forked from one that has imported PyTorch and run nothing: where a test has had a device (a fake one as
# well), PyTorch keeps threads, and a fork of that process cannot run `backward`
APART = multiprocessing.get_context("forkserver")
APART.set_forkserver_preload(["tests.malformed.contract", "detframe.engine", "detframe.config"])


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes:
        name: where and what; the same name is the same input.
        run: makes the input, reads it and checks what was read; returns READ or REPAIRED.
        named: words of which a refusal must hold one: the file, the key, the option.
        also: words of which a refusal must hold one as well: the entry in the file.
    """

    name: str
    run: Callable[[], str]
    named: tuple[str, ...]
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a reader did with a case; `text` is its message, or what is wrong."""

    case: str
    kind: str
    text: str = ""


class NonsenseError(AssertionError):
    """What was read without a word is not right."""


class TooSlowError(BaseException):
    """A case ran for more than its seconds. No library catches it."""


def judge(case: Case, seconds: float = SECONDS, waiting: float = WAITING) -> Outcome:
    """Run a case and say what came of it."""
    before = _peak_megabytes(forget=True)
    try:
        with _limited(seconds, waiting):
            kind, text = case.run(), ""
    except TooSlowError:
        return Outcome(
            case.name,
            FAULT,
            f"still running after {seconds:g} s of work or {waiting:g} s\n{traceback.format_exc(limit=-4)}",
        )
    except NonsenseError as error:
        return Outcome(case.name, FAULT, f"silent nonsense: {error}")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        kind, text = _of_error(case, error)
    grown = _peak_megabytes() - before
    if grown > MEGABYTES and kind != FAULT:
        return Outcome(case.name, FAULT, f"took {grown:.0f} MB")
    return Outcome(case.name, kind, text)


def _of_error(case: Case, error: BaseException) -> tuple[str, str]:
    message = user_message(error)
    if message is None:
        place = traceback.extract_tb(error.__traceback__)[-6:]
        lines = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(place))
        return FAULT, f"{type(error).__name__}: {str(error)[:300]!r} at {lines}"
    wrong = faults_of_message(message, case)
    return (FAULT, f"{wrong}: {message[:600]!r}") if wrong else (REFUSED, message)


def faults_of_message(message: str, case: Case) -> str:
    """What is wrong with the message of a refusal; "" where nothing is."""
    if not any(word in message for word in case.named):
        return f"the message names none of {', '.join(case.named)}"
    if case.also and not any(word in message for word in case.also):
        return f"the message names none of {', '.join(case.also)}"
    if len(message) > CHARACTERS:
        return f"the message has {len(message)} characters"
    if any((ord(c) < 32 and c not in "\n\t") or c == "\x7f" or 0xD800 <= ord(c) < 0xE000 for c in message):
        return "the message holds characters that no terminal or log can show"
    return ""


def _peak_megabytes(forget: bool = False) -> float:
    """The most memory held by this process so far, or held now once its earlier peaks are forgotten."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def _limited(seconds: float, waiting: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooSlowError

    before = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    timers = {signal.ITIMER_PROF: seconds, signal.ITIMER_REAL: waiting}
    for timer, limit in timers.items():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------------------------------------- many cases
@dataclass
class Tally:
    """What came of the cases of one family."""

    family: str
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        """How many cases came to what."""
        return Counter(outcome.kind for outcome in self.outcomes)

    @property
    def faults(self) -> list[Outcome]:
        """The cases whose reader broke the contract."""
        return [outcome for outcome in self.outcomes if outcome.kind == FAULT]

    def text(self, shown: int = 12) -> str:
        """The counts, and the first faults with how to see them again."""
        kinds = ", ".join(f"{self.counts[kind]} {kind}" for kind in (READ, REPAIRED, REFUSED, FAULT))
        lines = [f"{self.family}: {len(self.outcomes)} cases: {kinds}"]
        for fault in self.faults[:shown]:
            lines += [f"  {fault.case}\n    {fault.text}"]
            lines += [f"    again: python -m tests.malformed {self.family} {json.dumps(fault.case)}"]
        return "\n".join(lines)


Cases = Callable[[str, Path], Iterator[Case]]


def check(family: str, cases: Iterable[Case], at_least: int) -> None:
    """Judge every case in this process; fails with those that are faults.

    Args:
        at_least: how many cases there are, so that a generator that makes none does not pass.
    """
    tally = Tally(family)
    for case in cases:
        tally.outcomes.append(judge(case))
    settle(tally, at_least)


def settle(tally: Tally, at_least: int) -> None:
    """Fail where a case was a fault, or there were too few."""
    assert not tally.faults, tally.text()
    assert len(tally.outcomes) >= at_least, tally.text()
    # a generator that makes nothing but sound inputs, or none, has gone wrong itself
    often = [kind for kind, count in tally.counts.items() if count > 0.005 * len(tally.outcomes)]
    assert len(often) > 1, tally.text()


def check_apart(family: str, folder: Path, at_least: int) -> None:
    """`check` in a process of its own with a limit on memory, for readers in C, which can crash and hang for ever."""
    settle(run_apart(family, folder), at_least)


def run_apart(family: str, folder: Path, seconds: float = 2 * WAITING, cases: Cases | None = None) -> Tally:
    """Judge the cases of a family in a process that is begun again after each crash and hang, which are faults.

    Args:
        seconds: how long a case may take; to import what makes them, there is more time.
        cases: makes them, from the family and a folder; None: `cases_of`.
    """
    tally = Tally(family)
    while sum(fault.text.startswith(CRASHED) for fault in tally.faults) <= 20:
        place, begun = folder / str(len(tally.outcomes)), MAKING
        place.mkdir(parents=True)
        ours, theirs = APART.Pipe(duplex=False)
        process = APART.Process(
            target=_report, args=(family, place, len(tally.outcomes), theirs, cases or cases_of), daemon=True
        )
        process.start()
        theirs.close()
        try:
            while ours.poll(max(seconds, 2 * WAITING) if begun == MAKING else seconds):
                begun, *ended = ours.recv()
                if not begun:
                    return tally
                tally.outcomes += [Outcome(begun, *ended)] if ended else []
        except EOFError:
            process.join(seconds)
        process.kill()
        process.join()
        said = (place / "output.txt").read_text(errors="replace")[-3000:]
        if process.exitcode == 1:
            raise RuntimeError(f"the cases of {family} cannot be made: {said}")
        tally.outcomes.append(Outcome(begun, FAULT, f"{CRASHED} (exit {process.exitcode}): {said}"))
    return tally


def _report(family: str, folder: Path, start: int, to: Any, cases: Cases) -> None:
    """What the process of `run_apart` does: the name of each case from number `start` on, and then its outcome."""
    for kind in (UserWarning, DeprecationWarning, FutureWarning):  # PyTorch's, of how it was called
        warnings.simplefilter("ignore", kind)
    faulthandler.disable()  # the parent says which case it was
    file = os.open(folder / "output.txt", os.O_CREAT | os.O_WRONLY)
    for stream in (1, 2):  # what readers in C print belongs to no test's output
        os.dup2(file, stream)
    for number, case in enumerate(cases(family, folder / "files")):
        if number == start:
            _limit_memory()  # once the family has imported what it needs
        if number >= start:
            to.send([case.name])
            to.send(list(dataclasses.astuple(judge(case))))
    to.send([""])


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    limit = now + 4 * MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def cases_of(family: str, folder: Path) -> Iterator[Case]:
    """The cases of a family, whose files lie in a folder of their own."""
    folder.mkdir(parents=True)
    return importlib.import_module(f"tests.malformed.test_{family}").cases(folder)
