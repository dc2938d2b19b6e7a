"""Polygons that are cut off at the border of an image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from detframe.structures import LazyMasks

HEIGHT, WIDTH, AROUND = 40, 60, 80


def filled(polygons: list[np.ndarray]) -> np.ndarray:
    """What Pillow draws of polygons, with AROUND pixels on each side of the image, ten times as fine."""
    size = ((WIDTH + 2 * AROUND) * 10, (HEIGHT + 2 * AROUND) * 10)
    out = np.zeros(size[::-1], dtype=bool)
    for polygon in polygons:
        drawn = Image.new("1", size)
        ImageDraw.Draw(drawn).polygon([(x, y) for x, y in (polygon.reshape(-1, 2) + AROUND) * 10], fill=1)
        out |= np.asarray(drawn)
    return out


@pytest.mark.parametrize("seed", range(6))
def test_a_clipped_polygon_is_what_lies_in_the_image(seed: int) -> None:
    """Stars, which are not convex, with corners within and beyond all sides."""
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    centre, radii = rng.uniform([0, 0], [WIDTH, HEIGHT]), rng.uniform(5, 55, 9)
    star = (centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]).reshape(-1)
    (clipped,) = LazyMasks([[star]], (HEIGHT, WIDTH)).clip().segmentations
    expected = filled([star])
    inside = np.zeros_like(expected)
    inside[AROUND * 10 : (AROUND + HEIGHT) * 10, AROUND * 10 : (AROUND + WIDTH) * 10] = True
    assert not (filled([star]) & ~inside).sum() == 0  # it reaches beyond
    differing = (filled(clipped) != (expected & inside)).mean()
    assert differing < 2e-3  # pixels on the lines


def test_only_what_reaches_beyond_is_changed() -> None:
    whole, code = [[5.0, 5, 20, 5, 20, 20]], {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}
    outside = [[70.0, 5, 80, 5, 80, 20], [1.0, 1, 3, 1, 3, 3]]
    masks = LazyMasks([whole, code, [], outside], (HEIGHT, WIDTH)).clip()
    assert masks.size_hw == (HEIGHT, WIDTH)
    assert masks.segmentations == [whole, code, [], outside[1:]]
