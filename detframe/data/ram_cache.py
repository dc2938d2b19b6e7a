"""Decoded images kept in RAM for all worker processes (DATALOADER.CACHE_RAM).

They lie in memory without a name (memfd), which takes up what was written into it, each at a place of its own that
follows from the sizes in the annotations. Who has decoded an image writes its pixels and then its size; two that do it
at once write the same, so nobody waits for anybody, and one that is killed leaves no lock behind.
"""

from __future__ import annotations

import logging
import mmap
import os
from multiprocessing import reduction
from typing import Any

import numpy as np
from torch import Tensor

from detframe.arrays.pixels import COLOURS, PixelForm
from detframe.data.images import as_tensor
from detframe.data.records import Records
from detframe.errors import InvalidValueError
from detframe.parallel.environment import env_number, free_memory

logger = logging.getLogger(__name__)

GB = 2**30
_ENTRY = np.dtype(np.int32).itemsize * 2  # height and width; 0, 0 where nothing is kept yet


class RamCache:
    """The images of some records by their numbers, (C, H, W) of one type, as long as there is room for them.

    Args:
        sizes_hw: int (N, 2), the largest that each image can be.
        limit: bytes.
        form: what images are.
    """

    def __init__(self, sizes_hw: np.ndarray, limit: int, form: PixelForm = COLOURS) -> None:
        self._dtype, self._channels = np.dtype(form.dtype or np.uint8), form.channels
        sizes = form.channels * self._dtype.itemsize * sizes_hw.astype(np.int64).prod(1)
        ends = np.cumsum(sizes)
        self.count = int(np.searchsorted(ends, limit, side="right"))  # how many images, from the first on, have a place
        self.bytes = int(ends[self.count - 1]) if self.count else 0  # that they take at most
        self._sizes = sizes[: self.count]
        self._starts = _ENTRY * self.count + ends[: self.count] - self._sizes
        self._handle = os.memfd_create("detframe-images")
        os.truncate(self._handle, _ENTRY * self.count + self.bytes)
        self._map()

    @classmethod
    def of(cls, cfg: Any, records: Records, world_size: int, form: PixelForm = COLOURS) -> RamCache | None:
        """That of a config, for the images of one rank, of whose type `form` knows; None where it is off.

        Raises:
            ValueError: the machine or container has less memory left than the images take.
        """
        wanted = cfg.DATALOADER.CACHE_RAM
        if not wanted:
            return None
        if not hasattr(os, "memfd_create"):
            logger.warning("DATALOADER.CACHE_RAM has no effect: only Linux has the memory that it needs")
            return None
        ranks = env_number("LOCAL_WORLD_SIZE", world_size)
        pixel = form.channels * np.dtype(form.dtype or np.uint8).itemsize
        need = min(wanted * GB, pixel * int(records.sizes_hw.astype(np.int64).prod(1).sum()) * ranks)
        free = free_memory()
        if free and need > free:
            raise InvalidValueError(
                f"DATALOADER.CACHE_RAM {wanted:g} would keep images of {need / GB:.1f} GB, but {free / GB:.1f} GB of "
                "memory are free; set it lower (0 keeps none)"
            )
        cache = cls(records.sizes_hw, int(wanted * GB / ranks), form)
        logger.info(
            "DATALOADER.CACHE_RAM %g: %d of %d training images stay in memory once they are decoded, %.2f GB at most%s",
            wanted,
            cache.count,
            len(records),
            cache.bytes / GB,
            f" in each of {ranks} ranks" if ranks > 1 else "",
        )
        return cache

    def _map(self) -> None:
        length = os.fstat(self._handle).st_size
        self._memory = mmap.mmap(self._handle, length) if length else None
        self._table = np.frombuffer(self._memory or b"", np.int32, 2 * self.count).reshape(-1, 2)

    def get(self, index: int) -> Tensor | None:
        """An image, if it is kept: a copy, since transforms of other libraries may write into what they are given."""
        if index >= self.count or self._memory is None or not self._table[index].all():
            return None
        height, width = self._table[index].tolist()
        count = self._channels * height * width
        pixels = np.frombuffer(self._memory, self._dtype, count, int(self._starts[index]))
        return as_tensor(pixels.reshape(height, width, self._channels)).clone()

    def put(self, index: int, image: Tensor) -> None:
        """Keep an image where there is a place for it; without memory for it, it is read again the next time."""
        if index >= self.count or image.numel() * self._dtype.itemsize > self._sizes[index]:
            return
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy(), dtype=self._dtype)
        try:
            if os.pwrite(self._handle, pixels.data, int(self._starts[index])) == pixels.nbytes:
                os.pwrite(self._handle, np.array(pixels.shape[:2], np.int32).tobytes(), _ENTRY * index)
        except OSError as error:
            logger.warning("DATALOADER.CACHE_RAM: no memory for more images: %s", error.strerror)
            self.count = index

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in self.__dict__.items() if key not in ("_memory", "_table")}
        return {**kept, "_handle": reduction.DupFd(self._handle)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handle = state["_handle"].detach()
        self._map()

    def __del__(self) -> None:
        if "_handle" in self.__dict__:
            os.close(self._handle)
