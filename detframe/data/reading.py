"""The images of records, or tiles of them, as tensors, where INPUT says what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from detframe.arrays.pixels import COLOURS, PixelForm
from detframe.data.image_files import open_image
from detframe.data.image_headers import read_header
from detframe.data.images import as_tensor, load_image
from detframe.data.ram_cache import RamCache
from detframe.data.records import Record, Records
from detframe.data.regions import load_region
from detframe.data.scaled import Wanted, is_read_in_bands, load_banded, load_scaled
from detframe.errors import UserError
from detframe.storage import fetch_ahead

_LARGEST = 2**16 - 1  # of 16 bits


class ImageReader:
    """What data sets share: `wanted` says how large an image has to be at least, by its size in the file; None: as it
    is there. `cache` keeps images; None: none is kept. `form` says what images are; uint16, of which PyTorch knows
    little, is float32 to transforms."""

    records: Records
    wanted: Wanted | None
    cache: RamCache | None = None
    form: PixelForm = COLOURS

    def samples(self, batch: Sequence[Any]) -> list[Any]:
        """The samples of a batch, of draws or of numbers; of images on other machines all are fetched at once."""
        rows = [int(getattr(part, "record", part)) for part in batch]
        fetch_ahead([self.records.file_name(row) for row in rows if self.cache is None or self.cache.get(row) is None])
        return [self[part] for part in batch]

    def __getitem__(self, part: Any) -> Any:
        """One sample."""
        raise NotImplementedError

    def read(self, index: int, record: Record) -> Tensor:
        """The image of a record, as transforms take it."""
        image = None if self.cache is None else self.cache.get(index)
        if image is None:
            image = read_image(record, self.wanted, self.form)
            if self.cache is not None:
                self.cache.put(index, image)
        return image.float() if image.dtype == torch.uint16 else image

    def sent(self, image: Tensor) -> Tensor:
        """A transformed image in the type in which it travels."""
        return image.round().clamp(0, _LARGEST).to(torch.uint16) if self.form.dtype == "uint16" else image


def read_image(record: Record, wanted: Wanted | None = None, form: PixelForm = COLOURS) -> Tensor:
    """The image of a record, or the tile of one, (C, H, W) as `form` says; errors of `load_image`.

    Args:
        wanted: as of `load_scaled`; None: the image as it is in the file, as a tile is always, and stored channels are
            but for those of very large images.
    """
    tile, path = record.get("tile"), record["file_name"]
    size_hw = record.get("image_size_hw", record["size_hw"])
    if tile is not None and tile != (0, 0, size_hw[1], size_hw[0]):
        return as_tensor(load_region(path, tile, size_hw, form))
    if wanted is not None and is_read_in_bands(path, size_hw):
        return as_tensor(load_banded(path, wanted, size_hw, form))
    if wanted is None or form.as_stored:
        return load_image(path, size_hw, form)
    return as_tensor(load_scaled(path, wanted, size_hw))


def records_form(cfg: Any, records: Records) -> PixelForm:
    """What the images of some records are read as; their type is that of the first one which can be read."""
    form = PixelForm.of(cfg)
    for index in range(len(records) if form.as_stored else 0):
        path = records.file_name(index)
        try:
            with open_image(path) as file:
                return replace(form, dtype=read_header(file, path).values)
        except (UserError, OSError):  # is said where the image's turn comes
            continue
    return form
