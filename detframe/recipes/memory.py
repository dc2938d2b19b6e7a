"""How much memory a piece of work takes at most: of the GPU by its tensors, on the CPU what the process grows by."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from detframe.parallel.environment import main_memory

_OWN_PAGES = Path("/proc/self/statm")  # Linux; elsewhere the CPU's memory stays unknown
_EVERY = 0.01  # seconds between two looks at the process
_NO_ROOM = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was refused, by CUDA or by the CPU's allocator."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_ROOM)


@dataclass
class Measured:
    """What a piece of work took at most."""

    bytes: int = 0


class MemoryWatch:
    """Measures pieces of work beside what was held when it was made, or later where that was less.

    Attributes:
        peak: bytes, the most that any of them took; 0 unknown.
        total: bytes that the device has; 0 unknown.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peak = 0
        self.total = _total(device)
        self._before = self._held()

    @contextmanager
    def measuring(self) -> Iterator[Measured]:
        """Inside the `with`, the most is noted; it is known afterwards."""
        measured = Measured()
        self._before = min(self._before, self._held())  # others may have given memory back meanwhile
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            try:
                yield measured
            finally:
                self._note(measured, torch.cuda.max_memory_allocated(self.device))
            return
        done, highest = threading.Event(), [self._held()]
        watcher = threading.Thread(target=self._look, args=(done, highest), daemon=True)
        watcher.start()
        try:
            yield measured
        finally:
            done.set()
            watcher.join()
            self._note(measured, max(*highest, self._held()))

    def _look(self, done: threading.Event, highest: list[int]) -> None:
        while not done.wait(_EVERY):
            highest[0] = max(highest[0], self._held())

    def _note(self, measured: Measured, highest: int) -> None:
        measured.bytes = max(0, highest - self._before)
        self.peak = max(self.peak, measured.bytes)

    def _held(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        if not _OWN_PAGES.exists():
            return 0
        return int(_OWN_PAGES.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _total(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return main_memory() if device.type == "cpu" else 0
