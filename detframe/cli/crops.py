"""Cutting what was found out of its image: a file for each object, in a folder for each class."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from detframe.cli.media import write_image
from detframe.cli.pictures import Picture
from detframe.files import safe_name
from detframe.own_drawings import CROPS

if TYPE_CHECKING:
    from detframe.inference.prediction import ImagePrediction


class CropNames:
    """The files for cut-out objects: crops/CLASS/IMAGE_NUMBER.jpg, the number being that of the object in the image.

    Args:
        output: the folder of all files.
        targets: of the drawings, below `output`; images that differ in their ending only keep it in these names.
    """

    def __init__(self, output: Path, targets: Iterable[Path]) -> None:
        self._output = output.resolve()
        self._stems = Counter(target.with_suffix("") for target in targets)

    def name(self, target: Path, frame: int | None, class_name: str, number: int) -> Path:
        """The file for an object. Args: frame: of a video; number: from 1."""
        stem = target.stem if self._stems[target.with_suffix("")] < 2 else target.name
        middle = "" if frame is None else f"_{frame:06d}"
        below = target.parent.relative_to(self._output)
        return self._output / CROPS / safe_name(class_name) / below / f"{stem}{middle}_{number}.jpg"


def write_crops(picture: Picture, prediction: ImagePrediction, names: CropNames) -> None:
    """Cut every detection out of its image and save it; numbers begin with the best score.

    Raises:
        OSError: a file cannot be written.
        ValueError: the image cannot be read any more.
    """
    target, frame = picture.source.target, picture.frame
    for number, (box, class_name) in enumerate(zip(prediction["boxes"].tolist(), prediction["names"], strict=True), 1):
        touched = touched_pixels(prediction.size_hw, box)
        if touched is not None:
            write_image(names.name(target, frame, class_name, number), picture.region(*touched))


def touched_pixels(size_hw: tuple[int, int], box: list[float]) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the pixels that a box (xyxy) touches; None: it touches none, or is no number."""
    if not all(map(math.isfinite, box)):
        return None
    height, width = size_hw
    left, top = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    right, bottom = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    return (left, top, right, bottom) if right > left and bottom > top else None
