"""What the numbers of an image are: colours of 8 bits, or channels as a file stores them; and a picture of the latter.

Legend: C channels, (H, W) the size of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_CHANNELS = 64
VALUES = ("uint8", "uint16", "float32")  # in which stored channels travel
_SHARES = (1, 99)  # percentiles of a channel that become black and full brightness
_SAMPLED = 250_000  # pixels, of which percentiles are taken


@dataclass(frozen=True)
class PixelForm:
    """What images are read as.

    Args:
        channels: C.
        as_stored: the channels of the file, in its own values, of 8 or 16 bits or floating-point; else any file becomes
            RGB of 8 bits.
        dtype: one of `VALUES`, which stored channels must have; "": any.
    """

    channels: int = 3
    as_stored: bool = False
    dtype: str = ""

    @classmethod
    def of(cls, cfg: Any) -> PixelForm:
        """That of a config: INPUT.CHANNELS and INPUT.DEPTH."""
        return cls.named(cfg.INPUT.CHANNELS, cfg.INPUT.DEPTH)

    @classmethod
    def named(cls, channels: int, depth: str) -> PixelForm:
        """That of the values of INPUT.CHANNELS and INPUT.DEPTH."""
        return cls(channels, as_stored=depth == "file" or (depth == "auto" and channels != 3))

    @property
    def words(self) -> str:
        """What an array of an image must be."""
        if not self.as_stored:
            return "an RGB array (H, W, 3) of uint8"
        return f"an array (H, W, {self.channels}) of {self.dtype or 'uint8, uint16 or float32'}"


COLOURS = PixelForm()


def as_values(pixels: np.ndarray) -> np.ndarray:
    """Channels (H, W, C) in one of `VALUES`: what is not of 8 or 16 bits without a sign becomes float32."""
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8)
    kept = np.dtype("uint16") if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2 else np.dtype("float32")
    return pixels if pixels.dtype == np.uint8 else np.ascontiguousarray(pixels, dtype=kept)


def picture_of(pixels: np.ndarray) -> np.ndarray:
    """A picture to look at, uint8 RGB (H, W, 3), of channels (H, W, C).

    The first three channels are red, green and blue; one is grey, and two are red and green. Of values other than
    uint8 the 1st percentile of each channel becomes black, and the 99th full brightness.
    """
    order = {1: [0, 0, 0], 2: [0, 1]}.get(pixels.shape[2], [0, 1, 2])
    shown = pixels[:, :, order]
    if pixels.dtype != np.uint8:
        shown = _stretched(shown)
    return np.pad(shown, [(0, 0), (0, 0), (0, 3 - len(order))]) if len(order) < 3 else np.ascontiguousarray(shown)


def _stretched(pixels: np.ndarray) -> np.ndarray:
    values = pixels.reshape(-1, pixels.shape[2])[:: max(1, pixels.shape[0] * pixels.shape[1] // _SAMPLED)]
    low, high = np.percentile(values, _SHARES, axis=0).astype(np.float32)
    scale = 255 / np.where(high > low, high - low, 1)
    return ((pixels.astype(np.float32) - low) * scale).clip(0, 255).round().astype(np.uint8)
