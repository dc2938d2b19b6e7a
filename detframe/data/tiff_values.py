"""The channels of a TIFF file in its own values: any number of them, of 8 to 64 bits, with or without a sign, or
floating-point.

Decoders of pictures know up to four channels, of 8 or 16 bits. But what a strip or a tile holds is row after row of
numbers, whatever they mean. So the page is shown to the decoder as a grey one of 8 bits that has as many rows more as a
pixel has bytes, which leaves the compression to it. What remains is to undo the predictor, by which a number is stored
as its difference from that of the pixel before.

Legend: C channels, S the samples of a pixel that lie side by side (C, or 1 where each channel is stored by itself), B
the bytes of a sample, R rows and K columns of cells (strips or tiles), each of (h, w) pixels.
"""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import BinaryIO

import numpy as np

from detframe.data.image_headers import open_with_pillow, pillow_limit_lifted
from detframe.data.tiff_parts import Layout, Window, read_layout, read_part, shorts
from detframe.errors import InvalidValueError
from detframe.texts import counted

_BITS, _COMPRESSION, _COLOURS, _SAMPLES, _PLANES = 258, 259, 262, 277, 284
_PREDICTOR, _EXTRA_SAMPLES, _FORMAT = 317, 338, 339
_HORIZONTAL, _FLOATING = 2, 3  # of the tag predictor; 1 is none
_GREY_OF_INK, _GREY, _RGB, _PALETTE, _LAB = 0, 1, 2, 3, 8  # of the tag colours; of ink, 0 is white
_DECODED_BITS = 8  # up to which decoders of pictures know every form of grey and RGB
_WITH_ALPHA = (2, 4)  # channels
_MULTIPLIED, _APART = 1, 2  # of the tag extra samples: transparency by which colours are multiplied, or are not
_SEPARATE = 2  # of the tag planes
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}  # of the tag sample format; 4 is untyped
# Of the tag compression, of what holds numbers
_OF_NUMBERS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits", 34925: "LZMA", 50000: "zstd"}
_NOT_OF_OPENCV = ("LZMA", "zstd")


def check_stored(layout: Layout) -> None:
    """Whether the numbers of a page can be read as they are stored.

    Raises:
        ValueError: they cannot, and why.
    """
    bits, kinds = set(layout.numbers(_BITS, 1)), set(layout.numbers(_FORMAT, 1))
    if len(bits) > 1 or not bits <= {8, 16, 32, 64}:
        raise InvalidValueError(f"its channels have {', '.join(map(str, sorted(bits)))} bits; 8, 16, 32 or 64 are read")
    if len(kinds) > 1 or not kinds <= set(_KINDS):
        raise InvalidValueError("its channels are of several kinds of numbers, or complex")
    if layout.number(_COLOURS, _GREY) == _PALETTE:
        raise InvalidValueError("its numbers are the places of colours in a palette")
    if layout.number(_COMPRESSION, 1) not in _OF_NUMBERS:
        raise InvalidValueError(
            f"its compression (number {layout.number(_COMPRESSION, 1)}) is one of pictures; of numbers "
            f"{', '.join(dict.fromkeys(_OF_NUMBERS.values()))} are read"
        )


def read_values(file: BinaryIO, layout: Layout, window: Window) -> np.ndarray:
    """The stored pixels of a window, x1, y1, x2, y2, as (y2 - y1, x2 - x1, C), in the type of the file.

    Raises:
        ValueError: as `check_stored`, or cells that cannot be decoded.
        EOFError: the file ends before its pixels do.
    """
    check_stored(layout)
    planes = [_plane(file, layout, plane, window) for plane in range(layout.planes)]
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)


def keeps_numbers(layout: Layout) -> bool:
    """Whether a page is grey, whose 0 is black, or RGB, and its numbers can be read as they are stored."""
    try:
        check_stored(layout)
    except InvalidValueError:
        return False
    return layout.number(_COLOURS, _GREY) in (_GREY, _RGB)


def is_grey_with_alpha(layout: Layout) -> bool:
    """Whether a page is grey of 8 bits with a transparency, so that it is meant as a picture."""
    is_grey = layout.number(_COLOURS, _GREY) == _GREY and layout.number(_BITS, 1) <= _DECODED_BITS
    return is_grey and layout.number(_SAMPLES, 1) == 2 and layout.number(_EXTRA_SAMPLES, 0) in (_MULTIPLIED, _APART)


def colours_as_stored(data: bytes) -> np.ndarray | None:
    """RGB (H, W, 3), uint8 or uint16, not turned, of the TIFFs that decoders of pictures get wrong; None of all others.

    OpenCV knows neither LZMA nor Zstandard, and takes no heed of how 16 bits are to be understood: of channels that are
    stored each by itself it gives what was in the memory before, of grey whose 0 is white the negative (as Pillow does
    of a channel by itself), and of CIELAB other colours. Pillow overlooks the signs of a and b in CIELAB whose channels
    are stored each by itself, and refuses channels by themselves that are not compressed and of which one is
    transparency, which is dropped here.

    Raises:
        ValueError, EOFError: as `read_values`, of 16 bits.
    """
    file = BytesIO(data)
    layout = read_layout(file)
    if layout is None or layout.number(_COLOURS, _GREY) not in (_GREY_OF_INK, _GREY, _RGB, _LAB):
        return None
    meaning, wide = layout.number(_COLOURS, _GREY), layout.number(_BITS, 1) > _DECODED_BITS
    apart = layout.planes > 1 and (wide or layout.planes in _WITH_ALPHA)
    negative = meaning == _GREY_OF_INK and (wide or layout.number(_PLANES, 1) == _SEPARATE)
    lab = meaning == _LAB and (wide or layout.planes > 1 or layout.number(_SAMPLES, 1) > 3)
    packed = wide and _OF_NUMBERS.get(layout.number(_COMPRESSION, 1)) in _NOT_OF_OPENCV
    if not (apart or negative or lab or packed):
        return None
    try:
        values = read_values(file, layout, (0, 0, *layout.size_hw[::-1]))
    except (InvalidValueError, EOFError):
        if wide:
            raise
        return None
    count = 3 if meaning in (_RGB, _LAB) else 1
    if values.shape[2] < count:
        name = "RGB" if meaning == _RGB else "CIELAB"
        raise InvalidValueError(f"its colours are {name}, and it has {counted(values.shape[2], 'channel')}")
    if meaning == _LAB:
        return _rgb_of_lab(values[..., :count])
    colours = np.repeat(values[..., :count], 3 // count, axis=2)
    if layout.number(_EXTRA_SAMPLES, 0) == _MULTIPLIED and not wide:
        colours = _divided(colours, values[..., count : count + 1])
    return np.iinfo(colours.dtype).max - colours if meaning == _GREY_OF_INK else colours


def _divided(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) of 8 bits that were multiplied by transparency (H, W, 1), rounded down as Pillow does."""
    whole = np.minimum(colours * np.uint16(255) // np.maximum(alpha, 1), 255).astype(np.uint8)
    return np.where(alpha == 0, colours, whole)


def _rgb_of_lab(values: np.ndarray) -> np.ndarray:
    """RGB (H, W, 3), uint8, of CIELAB as a TIFF has it: L without a sign, a and b with one, of 16 bits the upper 8."""
    from PIL import Image

    upper = values if values.dtype.itemsize == 1 else values.view(f"u{values.dtype.itemsize}") >> _DECODED_BITS
    pixels = np.ascontiguousarray(upper.astype(np.uint8))
    return np.array(Image.frombytes("LAB", pixels.shape[1::-1], pixels.tobytes()).convert("RGB"))


def _plane(file: BinaryIO, layout: Layout, plane: int, window: Window) -> np.ndarray:
    """The window of the samples that lie side by side, (y2 - y1, x2 - x1, S)."""
    x1, y1, x2, y2 = window
    kind = f"{layout.order}{_KINDS[layout.number(_FORMAT, 1)]}{layout.number(_BITS, 1) // 8}"
    samples = 1 if layout.planes > 1 else layout.number(_SAMPLES, 1)
    times = samples * np.dtype(kind).itemsize
    tall = _tall(layout, plane, times)
    left, top, right, bottom = tall.block((x1, y1 * times, x2, y2 * times))
    grey = _decoded(read_part(file, tall, (left, top, right, bottom)), (bottom - top, right - left))
    height, width = (tall.cell_hw[0], layout.cell_hw[1]) if layout.tiled else grey.shape
    rows, columns = grey.shape[0] // height, grey.shape[1] // width
    cells = grey.reshape(rows, height, columns, width).transpose(0, 2, 1, 3)
    cells = cells.reshape(rows, columns, height // times, width * times)
    pixels = _undone(cells, layout.number(_PREDICTOR, 1), samples, np.dtype(kind))
    pixels = pixels.transpose(0, 2, 1, 3, 4).reshape(rows * (height // times), columns * width, samples)
    top //= times
    return np.ascontiguousarray(pixels[y1 - top : y2 - top, x1 - left : x2 - left], dtype=kind[1:])


def _tall(layout: Layout, plane: int, times: int) -> Layout:
    """The bytes of one plane as a grey page of so many times as many rows; all of its tiles count as full."""
    rows, columns = layout.grid
    height, width = layout.cell_hw
    size_hw = (rows * height, columns * width) if layout.tiled else layout.size_hw
    own = slice(plane * rows * columns, (plane + 1) * rows * columns)
    kept = {tag: value for tag, value in layout.tags.items() if tag not in (_PREDICTOR, _EXTRA_SAMPLES, _FORMAT)}
    values = {_BITS: 8, _SAMPLES: 1, _COLOURS: _GREY, _PLANES: 1}
    return replace(
        layout,
        tags={**kept, **{tag: shorts([value], layout.order) for tag, value in values.items()}},
        size_hw=(size_hw[0] * times, size_hw[1]),
        cell_hw=(height * times, width),
        planes=1,
        places=layout.places[own],
        lengths=layout.lengths[own],
    )


def _decoded(data: bytes, size_hw: tuple[int, int]) -> np.ndarray:
    """A grey page, uint8 (H, W). Pillow knows more compressions than OpenCV."""
    image = open_with_pillow(data, "it", ("TIFF",))
    if image is None or image.mode != "L" or image.size != size_hw[::-1]:
        raise InvalidValueError("it is damaged")
    try:
        with pillow_limit_lifted(size_hw):
            image.load()
    except Exception as error:  # a plugin lets through whatever its parsing runs into
        raise InvalidValueError(f"it is truncated or damaged: {error or type(error).__name__}") from None
    return np.asarray(image)


def _undone(cells: np.ndarray, predictor: int, samples: int, kind: np.dtype) -> np.ndarray:
    """The samples (R, K, h, w, S) of cells (R, K, h, w S B) of bytes."""
    shape = cells.shape[:3]
    if predictor == _FLOATING:  # the highest bytes of a row first, then the next, each less the one before
        steps = cells.reshape(*shape, -1, samples).cumsum(-2, dtype=np.uint8)
        ordered = np.moveaxis(steps.reshape(*shape, kind.itemsize, -1), -2, -1)
        return np.ascontiguousarray(ordered).view(kind.newbyteorder(">")).reshape(*shape, -1, samples)
    values = np.ascontiguousarray(cells).view(kind).reshape(*shape, -1, samples)
    if predictor != _HORIZONTAL:
        return values
    whole = np.dtype(f"u{kind.itemsize}")
    return values.view(whole.newbyteorder(kind.byteorder)).cumsum(-2, dtype=whole).view(kind.newbyteorder("="))
