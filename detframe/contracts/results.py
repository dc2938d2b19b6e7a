"""What a test of a contract found."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Test = tuple[str, Callable[[], None]]  # its title and its body
OK, FAILED, SKIPPED = "ok", "FAILED", "left out"


class BrokenContractError(Exception):
    """A test found that a member does not do what its registry asks; the text says what, in plain words."""


class LeftOutError(Exception):
    """A test could not be made, and why."""


@dataclass(frozen=True)
class Result:
    """One test of one member.

    Args:
        member: as "RPN_HEADS my_head".
        test: what was looked at, in some words.
        state: OK, FAILED or SKIPPED.
        why: what is wrong, or why it was left out.
    """

    member: str
    test: str
    state: str
    why: str = ""

    @property
    def failed(self) -> bool:
        """Whether the contract is broken."""
        return self.state == FAILED

    def __str__(self) -> str:
        return f"{self.member}: {self.test}: {self.state}" + (f": {self.why}" if self.why else "")


def result_of(member: str, test: str, body: Callable[[], None], file: Path) -> Result:
    """What a test found; an error that it raises, of whatever class, is what is wrong.

    Args:
        file: of the member, whose line an error is placed in.
    """
    try:
        body()
    except LeftOutError as reason:
        return Result(member, test, SKIPPED, str(reason))
    except BrokenContractError as broken:
        return Result(member, test, FAILED, str(broken))
    except Exception as error:  # the member's own code
        return Result(member, test, FAILED, described(error, file))
    return Result(member, test, OK)


def described(error: BaseException, file: Path) -> str:
    """An error in one line, with the line of a file that it went through last."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    own = isinstance(error, SyntaxError) and error.filename is not None and Path(error.filename) == file
    line = error.lineno if own and isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f" ({file.name}, line {line})" if line else ""
    text = " ".join(str(error).split()) or "no message"
    where = "" if where and text.endswith(where) else where  # a SyntaxError names its place itself
    return f"{type(error).__name__}: {text}{where}"
