"""Values on their way to worker processes, whose large arrays lie once in memory for all of them.

A process that is forked shares the pages of its parent anyway. One that is spawned, or comes from a fork server, gets
everything as a pickle: of a million images, tens of megabytes for each. Here the arrays go into memory without a name
(memfd) that each process maps, and the pickle holds the rest. With it go the files of CUSTOM_IMPORTS, which are on no
path of Python's: what they define, as a transform, could not be read from the pickle before they are imported.
"""

from __future__ import annotations

import mmap
import os
import pickle
from multiprocessing import reduction
from typing import Any

from detframe.config.imports import import_custom_modules, imported_files
from detframe.errors import InvalidTypeError, MissingModuleError

_LARGE = 2**16  # bytes of an array, from which on it is shared


class SharedArrays:
    """A value to be sent to several processes with their arguments; arrays that were shared may not be written to.

    Attributes:
        value: what was handed in.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self._handle = -1
        self._ends: list[int] = []

    def __reduce__(self) -> tuple[Any, ...]:
        # anew for each process: a handle in the value is handed to one alone
        buffers: list[pickle.PickleBuffer] = []

        def take(buffer: pickle.PickleBuffer) -> bool:
            """Whether an array is to travel in the pickle; else it is kept."""
            is_small = not hasattr(os, "memfd_create") or buffer.raw().nbytes < _LARGE
            if not is_small:
                buffers.append(buffer)
            return is_small

        try:
            text = pickle.dumps(self.value, protocol=5, buffer_callback=take)
        except (pickle.PicklingError, AttributeError, TypeError) as error:  # as Python's version has it
            raise InvalidTypeError(
                f"what reads the images cannot be sent to worker processes, which are started anew here: {error}. "
                "Classes and functions have to stand at the top of a file, none inside a function; or set "
                "DATALOADER.NUM_WORKERS 0"
            ) from error
        if not buffers:
            return _unpickled, (imported_files(), text, None, [])
        if self._handle < 0:
            self._fill(buffers)
        return _unpickled, (imported_files(), text, reduction.DupFd(self._handle), self._ends)

    def _fill(self, buffers: list[pickle.PickleBuffer]) -> None:
        self._handle = os.memfd_create("detframe-arrays")
        with os.fdopen(self._handle, "wb", buffering=0, closefd=False) as file:
            for buffer in buffers:
                rest = buffer.raw()
                while rest:
                    rest = rest[file.write(rest) :]
                self._ends.append(file.tell())

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)


def _unpickled(files: list[str], text: bytes, handle: Any, ends: list[int]) -> SharedArrays:
    failures = {}
    for file in files:
        try:
            import_custom_modules([file])
        except Exception as error:  # one that is gone, or fails in a process of its own, may not be needed
            failures[file] = error
    try:
        return SharedArrays(reduction.ForkingPickler.loads(text, buffers=_mapped(handle, ends)))
    except ModuleNotFoundError:
        if not failures:
            raise
        reasons = "; ".join(f"{file}: {type(why).__name__}: {why}" for file, why in failures.items())
        raise MissingModuleError(
            f"a worker process, which is started anew here, could not import what CUSTOM_IMPORTS names: {reasons}. "
            "Such a file may rely on nothing that the program alone has done before; or set DATALOADER.NUM_WORKERS 0"
        ) from next(iter(failures.values()))


def _mapped(handle: Any, ends: list[int]) -> list[memoryview]:
    """The arrays in the memory that a handle stands for, which end at these bytes of it."""
    if handle is None:
        return []
    number = handle.detach()
    try:
        memory = memoryview(mmap.mmap(number, ends[-1], prot=mmap.PROT_READ))
    finally:
        os.close(number)
    return [memory[start:end] for start, end in zip([0, *ends], ends, strict=False)]
