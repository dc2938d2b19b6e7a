"""JPEG files decoded small (INPUT.DECODE scaled): where an image is resized to half its sides or less, the decoder
leaves out what would be averaged away, and gives 1/2, 1/4 or 1/8 of them in less time. Files that can be read by region
and have very many pixels are made as small while they are read, in little memory.

Legend: f the factor, 1, 2, 4 or 8; (H, W) the size of the image in the file. Decoded small it has ceil(H / f) rows and
ceil(W / f) columns, the last of which show the image only in part where f does not divide its side.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detframe.arrays.pixels import COLOURS, PixelForm
from detframe.data.image_files import ImageReadError, read_image_bytes
from detframe.data.image_headers import Header
from detframe.data.images import decode_image, size_message
from detframe.data.reduced import load_divided
from detframe.data.regions import reads_regions, region_size

if TYPE_CHECKING:
    from torch import Tensor

SizeHW = tuple[int, int]
Wanted = Callable[[SizeHW], SizeHW]  # from the size of an image to the largest to which it will be resized

LARGE_PIXELS = 2**27  # 11,585 x 11,585: what has more is not read whole where that can be avoided
_FACTORS = (8, 4, 2)


def load_scaled(path: str | Path, wanted: Wanted, expected_hw: SizeHW | None = None) -> np.ndarray:
    """An image file as `load_pixels` gives it, but smaller where a smaller one is enough: uint8 (h, w, 3), RGB.

    Args:
        wanted: says how large the image has to be at least, by its size in the file.
        expected_hw: the size in the file that the annotations state.

    Raises:
        FileNotFoundError, PermissionError, OSError, ImageReadError: as `load_pixels`.
    """
    pixels, size_hw = decode_scaled(read_image_bytes(path), path, wanted)
    if expected_hw is not None and size_hw != tuple(expected_hw):
        raise ImageReadError(size_message(path, size_hw, expected_hw))
    return pixels


def is_read_in_bands(path: str | Path, size_hw: SizeHW) -> bool:
    """Whether an image of that size is `load_banded`: it is large, and can be read by region."""
    return size_hw[0] * size_hw[1] > LARGE_PIXELS and reads_regions(path)


def load_banded(path: str | Path, wanted: Wanted, expected_hw: SizeHW, form: PixelForm = COLOURS) -> np.ndarray:
    """`load_scaled` of an image that can be read by region, of which a few rows are in memory, as `form` says.

    Raises:
        FileNotFoundError, PermissionError, OSError, ImageReadError: as `load_region`.
    """
    size_hw = region_size(path)
    if size_hw != tuple(expected_hw):
        raise ImageReadError(size_message(path, size_hw, expected_hw))
    enough = [factor for factor in _FACTORS if _is_enough(size_hw, wanted(size_hw), factor)]
    return load_divided(path, max(enough, default=1), form)


def _is_enough(size_hw: SizeHW, wanted_hw: SizeHW, factor: int) -> bool:
    return all(-(-side // factor) >= wanted for side, wanted in zip(size_hw, wanted_hw, strict=True))


def decode_scaled(data: bytes, path: str | Path, wanted: Wanted) -> tuple[np.ndarray, SizeHW]:
    """The content of an image file as `load_scaled` gives it, and the size of the image in the file, upright.

    Raises:
        ImageReadError: as for `load_pixels`.
    """
    pixels, header = decode_image(data, path, lambda header: _factor(header, wanted(header.size_hw)))
    return pixels, header.size_hw


def _factor(header: Header, wanted_hw: SizeHW) -> int:
    """The largest f with which the image does not become smaller than wanted."""
    if header.format != "JPEG" or header.bits != 8:
        return 1
    for factor in _FACTORS:
        whole = all(side % factor == 0 for side in header.stored_hw)
        # turned, a column that shows the image in part would be its first one, and all others would be moved
        if _is_enough(header.size_hw, wanted_hw, factor) and (whole or header.orientation == 1):
            return factor
    return 1


def shown_hw(small_hw: SizeHW, size_hw: SizeHW) -> tuple[float, float]:
    """How many rows and columns of an image that was decoded small the image in the file fills: (H / f, W / f)."""
    for factor in (1, *reversed(_FACTORS)):
        if small_hw == tuple(-(-side // factor) for side in size_hw):
            return size_hw[0] / factor, size_hw[1] / factor
    raise ValueError(f"an image of {size_hw} (height, width) is never decoded to {small_hw}")


def resize_pixels(image: Tensor, new_hw: SizeHW, size_hw: SizeHW) -> Tensor:
    """An image (C, h, w) in the size `new_hw` and its own type, bilinear with antialiasing.

    Args:
        size_hw: its size in the file; the image itself, if it is uint8 RGB, may have been decoded small.
    """
    from torch import uint16
    from torch.nn.functional import interpolate
    from torchvision.transforms.v2.functional import resize

    small_hw = (image.shape[-2], image.shape[-1])
    shown = shown_hw(small_hw, size_hw)
    if shown == new_hw:
        return image
    if image.dtype == uint16:  # of which PyTorch knows little
        return resize_pixels(image.float(), new_hw, size_hw).round_().to(uint16)
    if shown == small_hw:
        return resize(image, list(new_hw), antialias=True)
    # by the scale, since the last row and column show the image in part; just not below `new_hw`
    scale = [new / old * (1 + 1e-9) for new, old in zip(new_hw, shown, strict=True)]
    batch = image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)
    resized = interpolate(batch, scale_factor=scale, mode="bilinear", antialias=True)[0]
    return resized[:, : new_hw[0], : new_hw[1]]
