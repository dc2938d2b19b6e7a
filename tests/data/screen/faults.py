"""Data sets for the screen: pictures on disk and their records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from detframe.data import Metadata, RecordBuilder, Records, join
from detframe.data.findings import Finding

Object = tuple[tuple[float, float, float, float], int]  # box, label
SIZE_HW = (48, 64)


def picture(path: Path, seed: int, size_hw: tuple[int, int] = SIZE_HW) -> Path:
    """A picture of coloured patches, unlike that of any other seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    pixels = cv2.resize(coarse, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(path), pixels)
    return path


def records(
    images: Sequence[tuple[Path, Sequence[Object]]],
    classes: Sequence[str] = ("cat", "dog"),
    size_hw: tuple[int, int] = SIZE_HW,
    missing: Sequence[str] = (),
) -> Records:
    """Records of these files."""
    builder = RecordBuilder(Metadata("mine", tuple(classes), tuple(range(1, len(classes) + 1))))
    for number, (path, objects) in enumerate(images, 1):
        builder.add_image(path, number, size_hw)
        for box, label in objects:
            builder.add_object(box, label)
    for name in missing:
        builder.add_missing(name)
    return join([builder.build()])


def boxes(number: int) -> list[Object]:
    """A cat and a dog, each where no other image has them."""
    x = 2 + number % 7
    return [((x, 3, x + 20, 30), 1), ((x + 25, 10, x + 40, 40), 2)]


def clean(folder: Path, split: str, first: int, count: int = 10) -> list[tuple[Path, Sequence[Object]]]:
    """Images without a fault."""
    return [(picture(folder / split / f"{n}.png", n), boxes(n)) for n in range(first, first + count)]


def by_code(findings: Sequence[Finding]) -> dict[tuple[str, str], tuple[str, int]]:
    """(split, code) -> (severity, count)."""
    out = {(f.where, f.code): (f.severity, f.count) for f in findings}
    if len(out) != len(findings):
        raise ValueError(f"a finding is there twice: {findings}")
    return out
