"""A look through a pickle before it is loaded: keys of dicts are hashed while it loads, and a hash goes to any depth.

A tuple of tuples of tuples, as a key, ends the process by a stack overflow in C; one that names its members twice,
level by level, takes for ever. What the opcodes will build is known without building it.
"""

from __future__ import annotations

import os
import pickletools
from pathlib import Path
from typing import IO

from detframe.errors import InvalidValueError

MAX_DEPTH = 100
_FREE_VALUES, _UNFOLDING = 2**20, 16
_MARK = (-1, 0)
_PLAIN = (0, 1)  # depth of tuples, and the values in them
_PUT = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GET = {"GET", "BINGET", "LONG_BINGET"}
# bytes that state the length of an argument
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
_MUTABLE = {
    "LIST",
    "DICT",
    "EMPTY_LIST",
    "EMPTY_DICT",
    "EMPTY_SET",
    "APPEND",
    "APPENDS",
    "SETITEM",
    "SETITEMS",
    "ADDITEMS",
}

Extent = tuple[int, int]


def check_pickle(file: IO[bytes], path: Path, size: int) -> None:
    """Go through one pickle of a file of `size` bytes up to its end, and refuse what could not be hashed.

    Raises:
        ValueError: tuples nest too deep or unfold to too much. Any error of `DAMAGE`: it is no whole pickle.
    """
    stack: list[Extent] = []
    memo: dict[int, Extent] = {}
    while (opcode := _next(file)).name != "STOP":
        argument = _argument(opcode, file, size)
        if opcode.name in _PUT:
            memo[len(memo) if opcode.name == "MEMOIZE" else argument] = stack[-1]
        elif opcode.name in _GET:
            stack.append(memo[argument])
        elif opcode.name == "DUP":
            stack.append(stack[-1])
        elif opcode.name == "MARK":
            stack.append(_MARK)
        else:
            _apply(opcode, stack)
            if stack and (stack[-1][0] > MAX_DEPTH or stack[-1][1] > _FREE_VALUES + _UNFOLDING * size):
                raise InvalidValueError(
                    f"{path} cannot be read safely: its tuples nest more than {MAX_DEPTH} deep, or {size} bytes unfold "
                    "to millions of values; no checkpoint needs that"
                )


def _next(file: IO[bytes]) -> pickletools.OpcodeInfo:
    byte = file.read(1)
    if not byte:
        raise EOFError("it ends in the middle")
    return _OPCODES[byte]


def _argument(opcode: pickletools.OpcodeInfo, file: IO[bytes], size: int) -> int:
    """The place in the memo that an opcode names; other arguments are skipped, whatever their size, and give 0."""
    if opcode.arg is None:
        return 0
    if opcode.arg.n >= 0:
        return int.from_bytes(file.read(opcode.arg.n), "little")
    if opcode.arg.n in _LENGTHS:
        length = int.from_bytes(file.read(_LENGTHS[opcode.arg.n]), "little")
        if length > size:
            raise EOFError("it ends in the middle")
        file.seek(length, os.SEEK_CUR)
        return 0
    line = file.readline()
    if opcode.name in ("GLOBAL", "INST"):  # module and name
        file.readline()
    return int(line) if opcode.name in _PUT | _GET else 0


def _apply(opcode: pickletools.OpcodeInfo, stack: list[Extent]) -> None:
    """Take from the stack what an opcode takes, and put there what it puts."""
    taken: list[Extent] = []
    before = opcode.stack_before
    if pickletools.markobject in before:
        while (top := stack.pop()) != _MARK:
            taken.append(top)
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        taken.append(stack.pop())
    if not opcode.stack_after:
        return
    if opcode.name in _MUTABLE or not taken:  # no key can hold lists and dicts
        stack.append(_PLAIN)
    else:
        stack.append((1 + max(depth for depth, _ in taken), 1 + sum(count for _, count in taken)))
