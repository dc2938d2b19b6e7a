"""The regions of Label Studio: their labels, and their boxes and masks from percentages of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detframe.data.formats.fields import Entry
from detframe.data.formats.named_objects import TURNED, NamedObjects
from detframe.data.formats.shapes import Box, ellipse_box, turned_box
from detframe.errors import shown

_WORD_BITS = 8
_CHANNELS = 4


@dataclass
class Region:
    """What was annotated in one stroke, and its labels; several results may say it together."""

    value: dict[str, Any]
    kind: str  # its type, as it is written
    size_hw: tuple[int, int] | None
    place: Entry
    labels: list[str] = field(default_factory=list)


def regions_of(results: Sequence[Mapping[str, Any]], place: Entry) -> list[Region]:
    """The regions of an image. What is said of the image as a whole (choices, texts) and relations are no regions."""
    regions: dict[Any, Region] = {}
    choices: dict[Any, list[str]] = {}
    for number, result in enumerate(results):
        own = Entry(place.path, f"result {number + 1} of {place.name}", place.findings)
        kind, value = result.get("type", ""), result.get("value")
        if kind == "relation":
            continue
        if not isinstance(value, Mapping):
            raise own.error(f"'value' must be an object, not {shown(value)}")
        labels = _labels(value, own)
        key = result.get("id") if isinstance(result.get("id"), str) else number
        if "choices" in value:
            choices[key] = [own.text(choice, "choices", numbers=True) for choice in _listed(value["choices"], own)]
        if not _is_drawn(value):
            continue
        size_hw = own.size_hw(result.get("original_height"), result.get("original_width"))
        region = regions.setdefault(key, Region(dict(value), str(kind), size_hw, own))
        region.labels += [label for label in labels if label not in region.labels]
    for key, region in regions.items():
        region.labels = region.labels or choices.get(key, [])
    return list(regions.values())


def _is_drawn(value: Mapping[str, Any]) -> bool:
    return any(key in value for key in ("x", "points", "rle", "sequence", "vertices"))


def _labels(value: Mapping[str, Any], place: Entry) -> list[str]:
    """The names in `rectanglelabels`, `polygonlabels`, `labels` and the like."""
    found = [names for key, names in value.items() if key.endswith("labels") and names is not None]
    return [place.text(name, "labels", numbers=True).strip() for names in found for name in _listed(names, place)]


def _listed(names: Any, place: Entry) -> list[Any]:
    if not isinstance(names, list):
        raise place.error(f"labels must be a list of names, not {shown(names)}")
    return names


def shape_of(region: Region) -> str | None:
    """What a region is: "brush", "ellipse", "polygon", "rectangle" or "point"; None for what is not read."""
    value, kind = region.value, region.kind.lower()
    if "vector" in kind or "video" in kind or "sequence" in value or "vertices" in value:
        return None
    if "rle" in value:
        return "brush"
    if "radiusX" in value or "ellipse" in kind:
        return "ellipse"
    if "points" in value:
        return "polygon"
    if "keypoint" in kind or "keypointlabels" in value or not {"width", "height"} & set(value):
        return "point"
    return "rectangle"


# -------------------------------------------------------------------------------- boxes and masks
def drawn(kind: str, region: Region, packer: NamedObjects) -> tuple[Box, Any] | None:
    """The box and the segmentation of a region; None where nothing is left, with a word in the findings."""
    return {"brush": _brush, "ellipse": _ellipse, "polygon": _polygon, "rectangle": _rectangle}[kind](region, packer)


def _numbers(region: Region, packer: NamedObjects, *keys: str) -> list[float]:
    """Percentages of the width and of the height, in turns, as pixels."""
    height, width = packer.size_hw
    values = [region.place.number(region.value.get(key), key) for key in keys]
    return [value / 100 * (height if index % 2 else width) for index, value in enumerate(values)]


def _rotation(region: Region) -> float:
    return region.place.number(region.value.get("rotation") or 0, "rotation")


def _rectangle(region: Region, packer: NamedObjects) -> tuple[Box, Any]:
    x, y, width, height = _numbers(region, packer, "x", "y", "width", "height")
    degrees, box = _rotation(region), (x, y, x + width, y + height)
    if degrees % 360:
        packer.findings.add(TURNED, region.place.in_file)
        box = turned_box(box, degrees, (x, y))  # about the corner that was first at the top left
    return box, None


def _ellipse(region: Region, packer: NamedObjects) -> tuple[Box, Any]:
    x, y, radius_x, radius_y = _numbers(region, packer, "x", "y", "radiusX", "radiusY")
    return ellipse_box((x, y), (radius_x, radius_y), _rotation(region)), None


def _polygon(region: Region, packer: NamedObjects) -> tuple[Box, Any] | None:
    (height, width), place, points = packer.size_hw, region.place, []
    value = region.value["points"]
    if not isinstance(value, list):
        raise place.error(f"'points' must be a list of [x, y], not {shown(value)}")
    for point in value:
        if not isinstance(point, list) or len(point) != 2:
            raise place.error(f"'points' must be a list of [x, y], and has {shown(point)}")
        x, y = (place.number(number, "points") for number in point)
        points.append((x / 100 * width, y / 100 * height))
    return packer.outline(points, place)


def _brush(region: Region, packer: NamedObjects) -> tuple[Box, Any] | None:
    size_hw = region.size_hw or packer.size_hw
    try:
        pixels = decode_brush(region.value["rle"], size_hw)
    except ValueError as error:
        raise region.place.error(f"'rle' {error}") from None
    return packer.mask(pixels, 0, 0, region.place)


def decode_brush(code: Any, size_hw: tuple[int, int]) -> np.ndarray:
    """The mask bool (H, W) of a brush stroke.

    The code is a stream of bits: the number of values in 32, the bits of a value less 1 in 5, four lengths of numbers
    less 1 in 4 each; then blocks, of one bit that says whether one value stands for all, two that choose one of the
    four lengths, the number of values less 1 in that length, and the value or the values. The values are the channels
    red, green, blue and opacity of the pixels, row by row; where something is drawn, it is not transparent.

    Raises:
        ValueError: it is no such code, or one of an image of another size.
    """
    if not isinstance(code, list) or not all(type(value) is int and 0 <= value < 256 for value in code):
        raise ValueError("must be a list of whole numbers from 0 to 255")
    bits = _Bits(bytes(code))
    count, word = bits.read(32), bits.read(5) + 1
    if word != _WORD_BITS or count != _CHANNELS * size_hw[0] * size_hw[1]:
        raise ValueError(
            f"holds {count} values of {word} bits; an image of {size_hw[1]}x{size_hw[0]} pixels has "
            f"{_CHANNELS * size_hw[0] * size_hw[1]} of {_WORD_BITS} (width x height x {_CHANNELS})"
        )
    lengths = [bits.read(4) + 1 for _ in range(4)]
    values, at = np.zeros(count, dtype=np.uint8), 0
    while at < count:
        is_run = bits.read(1)
        end = at + 1 + bits.read(lengths[bits.read(2)])
        if end > count:
            raise ValueError("holds more values than it says")
        values[at:end] = bits.read(_WORD_BITS) if is_run else bits.words(end - at)
        at = end
    return values.reshape(*size_hw, _CHANNELS)[..., -1] > 0


class _Bits:
    """Numbers from a stream of bits, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> int:
        """The number that the next `count` bits are."""
        start, end = self._at // 8, -(-(self._at + count) // 8)
        if end > len(self._data):
            raise ValueError("ends too early")
        self._at += count
        return int.from_bytes(self._data[start:end], "big") >> (8 * end - self._at) & ((1 << count) - 1)

    def words(self, count: int) -> np.ndarray:
        """uint8 (count,): the next numbers of 8 bits."""
        start, shift = divmod(self._at, 8)
        end = start + count + (shift > 0)
        if end > len(self._data):
            raise ValueError("ends too early")
        self._at += 8 * count
        bits = np.unpackbits(np.frombuffer(self._data[start:end], dtype=np.uint8))
        return np.packbits(bits[shift : shift + 8 * count])
