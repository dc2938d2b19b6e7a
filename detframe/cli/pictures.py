"""One image or frame on its way through a detector: in memory, or in a file that is read by region."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from detframe.cli.sources import Source

if TYPE_CHECKING:
    import numpy as np

    from detframe.arrays.pixels import PixelForm

# Of a file that is read by region, what has more is drawn smaller, with no side longer than that
WHOLE_PIXELS, REDUCED_SIDE = 2**27, 4096


def _colours() -> PixelForm:
    from detframe.arrays.pixels import COLOURS

    return COLOURS


@dataclass
class Picture:
    """An image or a frame.

    Attributes:
        image: uint8 RGB (H, W, 3), or channels as `form` says; None of a file of which only the parts that somebody
            wants are read.
        time: of a frame, in seconds.
    """

    image: np.ndarray | None
    source: Source
    frame: int | None = None
    time: Fraction = Fraction(0)
    form: PixelForm = field(default_factory=_colours)

    @classmethod
    def of(cls, source: Source, by_region: bool, form: PixelForm | None = None) -> Picture:
        """That of an image file or address.

        Args:
            by_region: leave it in its file, where that is of a format that can be read by region.
            form: what the detector takes; None: RGB of 8 bits.

        Raises:
            FileNotFoundError, ValueError, ConnectionError: it cannot be read.
        """
        from detframe.inference.inputs import as_array

        form = form or _colours()
        in_parts = by_region and source.kind == "image" and _in_parts(Path(source.place))
        return cls(None if in_parts else as_array(source.place, form), source, form=form)

    @property
    def given(self) -> np.ndarray | Path:
        """What the detector gets."""
        return Path(self.source.place) if self.image is None else self.image

    def to_draw(self) -> np.ndarray:
        """What is drawn on: all of it, or a smaller picture of a file that is read by region and too large for memory.

        Raises:
            ValueError: it cannot be read.
        """
        if self.image is not None:
            return self.image
        from detframe.data.image_files import max_pixels
        from detframe.data.reduced import load_reduced
        from detframe.data.regions import region_size

        height, width = region_size(self.source.place)
        return (
            self.pixels()
            if height * width <= min(max_pixels(), WHOLE_PIXELS)
            else load_reduced(self.source.place, REDUCED_SIDE, self.form)
        )

    def pixels(self) -> np.ndarray:
        """All of it, decoded now where it is in a file.

        Raises:
            ValueError: it has too many pixels, or cannot be read.
        """
        from detframe.inference.inputs import as_array

        return as_array(self.source.place, self.form) if self.image is None else self.image

    def region(self, left: int, top: int, right: int, bottom: int) -> np.ndarray:
        """A part of it, (bottom - top, right - left, C)."""
        if self.image is not None:
            return self.image[top:bottom, left:right]
        from detframe.data.regions import load_region

        return load_region(self.source.place, (left, top, right, bottom), form=self.form)


def _in_parts(path: Path) -> bool:
    from detframe.data.regions import reads_regions

    return reads_regions(path)
