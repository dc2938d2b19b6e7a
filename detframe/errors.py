"""The errors of a user's making: `UserError` and its kin, each also the built-in exception that fits it.

A command shows such an error as its message alone, and ends with its `exit_code`; every other exception is taken for a
fault of the program and keeps its traceback. Modules of your own may raise them too::

    raise InvalidValueError(f"{path}: line {number}: a box needs four numbers, not {len(words)}")
"""

from __future__ import annotations

import copy
import pickle
import re
import reprlib
from collections.abc import Sequence
from typing import Any

LONGEST_LINE = 2000
"""Characters of a line of a message; what a file holds may be longer."""
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class UserError(Exception):
    """A mistake in a config, a file, a command or a machine. Its message says what, where, and what to do."""

    exit_code = 2

    def __str__(self) -> str:
        return printable(str(self.args[0])) if self.args else ""


def printable(text: str) -> str:
    """A message as every terminal and log can show it, whatever it quotes of a file.

    Control characters, which would move the cursor or end the text, and halves of characters become escapes, as
    "\\x1b"; of a very long line the middle is left out.
    """
    shown = _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return "\n".join(map(_shortened, shown.split("\n")))


def _shortened(line: str) -> str:
    left_out = len(line) - LONGEST_LINE
    if left_out <= 0:
        return line
    half = LONGEST_LINE // 2
    return f"{line[:half]} ... ({left_out} characters left out) ... {line[-half:]}"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60
_short.maxlist = _short.maxdict = 12


def shown(value: Any) -> str:
    """A value that somebody's file holds, for a message: short, however deep, long or large it is."""
    if isinstance(value, int) and value.bit_length() > 10_000:  # Python refuses to write these out
        return "a number of thousands of digits"
    return _short.repr(value)


def listed(names: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first `most` names, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{separator.join(names[:most])}{more}"


def portable(error: Exception) -> Exception:
    """An error that another process can receive: itself, or where it cannot be sent, one with its name and message."""
    try:
        pickle.dumps(error)
        copy.copy(error)  # made anew from its arguments, as in the other process
        return error
    except Exception:  # an error of any class, which pickles as it likes
        return RuntimeError(f"{type(error).__name__}: {error}")


class InvalidValueError(UserError, ValueError):
    """A value that means nothing here, or a file that does not hold what it should."""


class InvalidTypeError(UserError, TypeError):
    """A value of another type than is needed."""


class UnknownNameError(UserError, KeyError):
    """A name that nobody knows: a key, a data set, a registered class."""


class ReadOnlyError(UserError, AttributeError):
    """An attribute that cannot be set."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that does not exist."""


class NotAFolderError(UserError, NotADirectoryError):
    """A file stands where a folder is needed."""


class NoPermissionError(UserError, PermissionError):
    """A place that may not be written or read."""


class FileAccessError(UserError, OSError):
    """Reading or writing failed: a full disk, a device that is gone."""


class CacheError(UserError, OSError):
    """The cache of this machine cannot be written: none of the files that it is to hold is at fault."""


class InUseError(UserError, BlockingIOError):
    """A folder in which another run is at work."""


class MissingModuleError(UserError, ImportError):
    """A Python module that cannot be imported."""


class DownloadError(UserError, ConnectionError):
    """A file that could not be fetched."""


class UnreachableError(UserError, TimeoutError):
    """A store or server that does not answer, after it was asked many times: no single file is at fault."""


class NonFiniteError(UserError, FloatingPointError):
    """A loss, a gradient or weights that are infinite or not a number."""

    exit_code = 1


class ProcessFailedError(UserError, RuntimeError):
    """Another process of the run failed, or was killed."""


class EvidenceError(UserError, RuntimeError):
    """An exported file that does not find what its model finds."""

    exit_code = 1
