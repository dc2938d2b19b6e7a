"""Tiles: the grid's properties at random sizes, and objects cut as a reference in plain Python cuts them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from detframe.arrays import tiles as module
from detframe.arrays.tiles import box_areas, clip_boxes, cut_objects, overlap_pixels, tile_grid, tile_starts
from detframe.errors import InvalidValueError


def random_case(rng: random.Random) -> tuple[tuple[int, int], int, float]:
    size = rng.randint(1, 40)
    overlap = rng.choice([0, 0.2, 0.5, 0.99, rng.random(), rng.randint(0, size - 1)])
    return (rng.randint(1, 150), rng.randint(1, 150)), size, overlap


@pytest.mark.parametrize("seed", range(150))
def test_the_grid_covers_every_pixel_in_tiles_of_one_size_inside_the_image(seed: int) -> None:
    (height, width), size, overlap = random_case(random.Random(seed))
    grid = tile_grid((height, width), size, overlap)
    covered = np.zeros((height, width), dtype=bool)
    for x1, y1, x2, y2 in grid.tolist():
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert (x2 - x1, y2 - y1) == (min(size, width), min(size, height))
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    assert len({tuple(tile) for tile in grid.tolist()}) == len(grid)  # none twice
    assert grid.dtype == np.int64


@pytest.mark.parametrize("seed", range(150))
def test_an_object_no_larger_than_the_overlap_is_whole_in_a_tile(seed: int) -> None:
    rng = random.Random(seed)
    (height, width), size, overlap = random_case(rng)
    pixels = overlap_pixels(size, overlap)
    grid = tile_grid((height, width), size, overlap)
    for _ in range(50):
        w, h = rng.uniform(0.1, max(0.2, min(pixels, width))), rng.uniform(0.1, max(0.2, min(pixels, height)))
        if w > pixels or h > pixels:
            continue
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        inside = [x1 <= x and y1 <= y and x + w <= x2 and y + h <= y2 for x1, y1, x2, y2 in grid.tolist()]
        assert any(inside)


@pytest.mark.parametrize("seed", range(60))
def test_neighbours_overlap_by_that_much_and_only_the_last_one_by_more(seed: int) -> None:
    (length, _), size, overlap = random_case(random.Random(seed))
    pixels = overlap_pixels(size, overlap)
    starts = tile_starts(length, size, pixels)
    steps = np.diff(starts)
    assert starts[0] == 0 and starts[-1] == max(0, length - size)
    assert (steps[:-1] == size - pixels).all() and (steps > 0).all() and (steps <= size - pixels).all()


def test_tiles_stand_row_by_row() -> None:
    expected = [[0, 0, 4, 4], [3, 0, 7, 4], [6, 0, 10, 4], [0, 2, 4, 6], [3, 2, 7, 6], [6, 2, 10, 6]]
    assert tile_grid((6, 10), 4, 1).tolist() == expected
    assert tile_grid((6, 10), 4, 0.25).tolist() == expected


@pytest.mark.parametrize("size_hw", [(5, 3), (8, 8), (8, 1)])
def test_an_image_no_larger_than_a_tile_is_one_tile(size_hw: tuple[int, int]) -> None:
    assert tile_grid(size_hw, 8, 0.2).tolist() == [[0, 0, size_hw[1], size_hw[0]]]


def test_a_side_shorter_than_a_tile_gives_tiles_of_that_side() -> None:
    assert tile_grid((3, 10), 8, 0).tolist() == [[0, 0, 8, 3], [2, 0, 10, 3]]


@pytest.mark.parametrize(
    ("size", "overlap", "expected"),
    [
        (512, 0.2, 102),
        (100, 0.29, 29),
        (10, 0.3, 3),
        (10, 3, 3),
        (10, 3.7, 3),
        (7, 0, 0),
        (2, 1, 1),
        (10, 0.99999999, 9),
    ],
)
def test_overlap_is_a_part_of_the_size_below_1_and_pixels_from_1_on(size: int, overlap: float, expected: int) -> None:
    assert overlap_pixels(size, overlap) == expected


@pytest.mark.parametrize("overlap", [64, 64.0, 65, 1000, -1, -0.1, float("nan"), float("inf")])
def test_an_overlap_that_leaves_no_step_is_an_error_with_both_numbers(overlap: float) -> None:
    with pytest.raises(InvalidValueError, match=rf"tiles of 64 pixels cannot overlap by {overlap:g} pixels"):
        tile_grid((200, 200), 64, overlap)


@pytest.mark.parametrize("size", [0, -3])
def test_a_tile_has_a_side(size: int) -> None:
    with pytest.raises(InvalidValueError, match="at least 1 pixel"):
        overlap_pixels(size, 0)


def test_more_tiles_than_anybody_means_are_an_error_and_take_no_memory() -> None:
    with pytest.raises(InvalidValueError, match=r"30000x20000 pixels .* cut into 19969 x 29969 tiles"):
        tile_grid((20_000, 30_000), 32, 31)


# ------------------------------------------------------------------ objects
def reference(boxes: list[list[float]], tiles: list[list[int]]) -> list[tuple[int, int, float, list[float]]]:
    out = []
    for number, (left, top, right, bottom) in enumerate(tiles):
        for row, (x1, y1, x2, y2) in enumerate(boxes):
            a, b, c, d = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
            if c > a and d > b:
                part = (c - a) * (d - b) / ((x2 - x1) * (y2 - y1))
                out.append((number, row, part, [a - left, b - top, c - left, d - top]))
    return out


@pytest.mark.parametrize("seed", range(40))
def test_objects_are_cut_as_plain_python_cuts_them(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 7)  # in many pieces
    rng = random.Random(seed)
    (height, width), size, overlap = random_case(rng)
    tiles = tile_grid((height, width), size, overlap)[:200]
    corners = [sorted(rng.sample(range(4 * side + 1), 2)) for _ in range(9) for side in (width, height)]
    boxes = [[x[0] / 4, y[0] / 4, x[1] / 4, y[1] / 4] for x, y in zip(corners[::2], corners[1::2], strict=True)]
    cut = cut_objects(np.array(boxes, np.float32), tiles)
    expected = reference(boxes, tiles.tolist())
    assert cut.tile.tolist() == [number for number, *_ in expected]
    assert cut.object.tolist() == [row for _, row, *_ in expected]
    np.testing.assert_allclose(cut.visible, [part for *_, part, _ in expected], rtol=1e-9)
    np.testing.assert_allclose(cut.boxes, np.array([box for *_, box in expected]).reshape(-1, 4), atol=1e-5)
    assert cut.boxes.dtype == np.float32


def test_the_parts_of_an_object_in_tiles_without_overlap_are_the_whole_object() -> None:
    boxes = np.array([[3, 4, 30, 40], [0, 0, 5, 5], [9.5, 9.5, 20.25, 10.5]])
    cut = cut_objects(boxes, tile_grid((40, 40), 10, 0))
    np.testing.assert_allclose(np.bincount(cut.object, cut.visible), [1, 1, 1])


def test_what_only_touches_a_tile_is_not_in_it() -> None:
    cut = cut_objects(np.array([[10.0, 0, 14, 4]]), np.array([[0, 0, 10, 10], [10, 0, 20, 10]]))
    assert cut.tile.tolist() == [1] and cut.visible.tolist() == [1.0] and cut.boxes.tolist() == [[0, 0, 4, 4]]


@pytest.mark.parametrize(("objects", "tiles"), [(0, 3), (3, 0), (0, 0)])
def test_no_objects_or_no_tiles_is_no_pair(objects: int, tiles: int) -> None:
    cut = cut_objects(np.ones((objects, 4)) * [0, 0, 2, 2], np.ones((tiles, 4)) * [0, 0, 2, 2])
    assert [len(column) for column in cut] == [0, 0, 0, 0] and cut.boxes.shape == (0, 4)


def test_boxes_that_miss_a_window_have_no_area_there() -> None:
    clipped = clip_boxes(np.array([[0.0, 0, 4, 4], [8, 8, 9, 9]]), np.array([2, 2, 6, 6]))
    assert box_areas(clipped).tolist() == [4, 0] and clipped[0].tolist() == [2, 2, 4, 4]
