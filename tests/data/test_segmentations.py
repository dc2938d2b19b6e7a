"""Masks of annotation files: polygons and run-length codes, checked before anything draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detframe.data.findings import Findings
from detframe.data.segmentations import pack_segmentation
from detframe.errors import UserError
from detframe.structures.lazy_masks import draw, draw_window
from detframe.structures.polygons import clip_polygon
from detframe.structures.run_lengths import run_lengths, without_empty_runs
from tests.data.sets import annotation, coco_records

BOX = [5, 6, 20, 18]
SIZE = (40, 60)
SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 25.0, 10.0, 25.0]
NAN = float("nan")


def packed(value: Any) -> tuple[Any, str]:
    """A segmentation packed for an image of SIZE, and what was found."""
    findings = Findings()
    return pack_segmentation(value, SIZE, findings, "annotation 3"), "\n".join(findings.lines("mine"))


def code(pixels: np.ndarray) -> str:
    """The compressed code of a mask."""
    return str(coco_mask.encode(np.asfortranarray(pixels, dtype=np.uint8))["counts"].decode())


def pixels_of() -> np.ndarray:
    """A mask of SIZE with a rectangle in it."""
    out = np.zeros(SIZE, dtype=np.uint8)
    out[5:9, 7:20] = 1
    return out


# ---------------------------------------------------------------------- run lengths
WRONG_CODES = {
    "too short": ([100], "sum up to 100, but the image has 40 x 60 = 2400 pixels"),
    "too long": ([2400, 1], "sum up to 2401"),
    "empty": ([], "sum up to 0"),
    "negative": ([2500, -100], "-100, which is no number of pixels"),
    "huge": ([2**40], "which is no number of pixels"),
    "beyond 64 bits": ([2**80, 2400], "which is no number of pixels"),
    "wraps around": ([2**32 - 1, 2401], "sum up to 4294969696"),
    "text in it": (["2400"], "which is no number of pixels"),
    "null in it": ([None], "which is no number of pixels"),
    "truth in it": ([True, 2399], "which is no number of pixels"),
    "fraction in it": ([2399.5, 0.5], "which is no number of pixels"),
    "not a number in it": ([NAN], "which is no number of pixels"),
    "list in it": ([[2400]], "which is no number of pixels"),
    "code of another image": (code(np.ones((10, 10))), "sum up to 100"),
    "cut off": (code(pixels_of())[:-1], "sum up to|damaged"),
    "empty text": ("", "sum up to 0"),
    "other letters": ("\x01\x02", "damaged code"),
    "other alphabet": ("图片", "damaged code"),
    "no end": ("o" * 30, "damaged code"),
    "endless number": ("o" * 30 + "0", "damaged code"),
    "negative in a code": ("N", "negative length"),
    "number": (2400, "must be a list or a text, not int"),
    "null": (None, "must be a list or a text, not NoneType"),
    "object": ({}, "must be a list or a text, not dict"),
}


@pytest.mark.parametrize("case", WRONG_CODES)
def test_run_lengths_that_do_not_fill_the_image_are_refused_by_annotation(tmp_path: Path, case: str) -> None:
    counts, match = WRONG_CODES[case]
    rows = [annotation(3, 1, BOX, segmentation={"size": list(SIZE), "counts": counts})]
    with pytest.raises(UserError, match=rf"data\.json: annotation 3 of image 1: .*({match})"):
        coco_records(tmp_path, rows)


@pytest.mark.parametrize(
    "size", [None, [], [40], [60, 40], "40 60", {"h": 40}, [40, "60"], [40, 60, 3], [2**40, 1], 2400]
)
def test_run_lengths_of_another_size_are_refused(tmp_path: Path, size: Any) -> None:
    rows = [annotation(3, 1, BOX, segmentation={"size": size, "counts": [2400]})]
    with pytest.raises(
        UserError, match=r"annotation 3 of image 1: a run-length mask needs 'counts' and the image's size"
    ):
        coco_records(tmp_path, rows)


def test_codes_are_read_as_pycocotools_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        height, width, run = rng.integers(1, 40, 3)
        pixels = np.repeat(rng.random((height, width)) < rng.random(), run, 0)
        flat = np.concatenate([[0], pixels.T.reshape(-1), [2]]).astype(int)
        expected = np.diff(np.flatnonzero(np.diff(flat) != 0), prepend=0)
        found = run_lengths(code(pixels))
        assert found.sum() == pixels.size
        assert found[found > 0].tolist() == expected[expected > 0].tolist()
        window = draw_window(
            {"counts": code(pixels), "size": list(pixels.shape)}, pixels.shape, (0, 0, *pixels.shape[::-1])
        )
        assert (window == pixels).all()


def test_lists_and_codes_are_the_same_mask() -> None:
    pixels = pixels_of()
    lengths = run_lengths(code(pixels)).tolist()
    for counts in (code(pixels), lengths, [float(v) for v in lengths], [*lengths[:3], 0, 0, *lengths[3:]]):
        mask, _ = packed({"size": [40, 60], "counts": counts})
        assert mask.code.decode() == code(pixels)


def test_empty_runs_are_merged() -> None:
    for lengths, expected in (
        ([4, 0, 0, 2], [4, 2]),
        ([0, 0, 5, 0, 3, 2, 0], [8, 2]),
        ([0, 5, 0, 3, 2], [0, 8, 2]),
        ([0, 5], [0, 5]),
        ([5], [5]),
    ):
        assert without_empty_runs(np.array(lengths)).tolist() == expected


def test_a_code_of_nothing_is_no_mask() -> None:
    assert not packed({"size": [40, 60], "counts": [2400]})[0]
    assert not packed({"size": [40, 60], "counts": code(np.zeros(SIZE))})[0]
    assert packed({"size": [40, 60], "counts": [0, 2400]})[0]


# ---------------------------------------------------------------------- polygons
@pytest.mark.parametrize(
    "value",
    [
        5,
        "polygon",
        True,
        [[[10, 10], [30, 10], [30, 25]]],
        [[1, 2, 3]],
        ["1,2,3"],
        [None],
        [{}],
        [[1, 2, 3, 4, 5, None]],
        [[1, 2, 3, 4, 5, "x"]],
        [SQUARE, 5],
    ],
)
def test_other_segmentations_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UserError, match=r"data\.json: annotation 3 of image 1: (a polygon|'segmentation') must be"):
        coco_records(tmp_path, [annotation(3, 1, BOX, segmentation=value)])


@pytest.mark.parametrize("value", [None, [], ""])
def test_nothing_is_no_mask(value: Any) -> None:
    assert not packed(value)[0] and not packed(value)[1]


@pytest.mark.parametrize(
    "polygon",
    [
        [],
        [1, 2],
        [1, 2, 3, 4],
        [NAN, *SQUARE[1:]],
        [float("inf"), *SQUARE[1:]],
        [10**400, *map(int, SQUARE[1:])],
        [5, 5, 5, 9, 5, 7],
    ],
)
def test_polygons_of_nothing_are_left_out_and_said(polygon: Any) -> None:
    mask, said = packed([polygon, SQUARE])
    assert [points.tolist() for points in mask.polygons] == [SQUARE]
    assert said.startswith("mine: 1 polygon has fewer than three points, no extent or a number that is not finite")


def test_repairs_are_said() -> None:
    mask, said = packed(SQUARE)
    assert mask.polygons[0].tolist() == SQUARE
    assert said == "mine: 1 segmentation is a flat list of numbers, and was read as one polygon, as annotation 3"
    mask, said = packed([[str(v) for v in SQUARE]])
    assert mask.polygons[0].tolist() == SQUARE and "numbers written as text" in said


@pytest.mark.parametrize("polygon", [SQUARE, [0, 0, 60, 0, 60, 40, 0, 40], [-3.3, 5.1, 64.7, 1.9, 30.123456789, 77.7]])
def test_polygons_in_the_image_and_around_it_stay_as_they_are(polygon: list[float]) -> None:
    mask, said = packed([polygon])
    assert mask.polygons[0].tobytes() == np.array(polygon, dtype=np.float64).tobytes() and not said and not mask.clipped


@pytest.mark.parametrize("far", [1e3, 1e8, 1e9, 1e15, 1e300, -1e8, -1e300])
@pytest.mark.parametrize("place", [0, 2, 3, 5])
def test_polygons_far_outside_are_clipped(far: float, place: int) -> None:
    polygon = [*SQUARE]
    polygon[place] = far
    mask, said = packed([polygon])
    assert "1 polygon reaches far beyond its image and was clipped to it, as annotation 3" in said and mask.clipped
    points = mask.polygons[0].reshape(-1, 2) if mask.polygons else np.zeros((0, 2))
    assert (points >= 0).all() and (points <= [60, 40]).all()
    nearer = [min(max(v, -150.0), 150.0) for v in polygon]  # far enough that the lines have about the same slope
    differing = draw(mask.polygons, SIZE) != draw([nearer], SIZE)
    assert differing.mean() < 0.06


def test_clipping_agrees_with_drawing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        points = rng.uniform(-80, 140, (int(rng.integers(3, 8)), 2))
        clipped = clip_polygon(points, (0, 0, 60, 40))
        expected = draw([points.reshape(-1)], SIZE)
        found = draw([clipped.reshape(-1)], SIZE)
        assert (found != expected).mean() < 0.03
    assert len(clip_polygon(np.array([[70.0, 5], [90, 5], [90, 30]]), (0, 0, 60, 40))) == 0
    around = clip_polygon(np.array([[-9.0, -9], [99, -9], [99, 99], [-9, 99]]), (0, 0, 60, 40))
    assert draw([around.reshape(-1)], SIZE).all()


def test_the_area_of_a_clipped_object_is_that_of_its_mask(tmp_path: Path) -> None:
    rows = [annotation(1, 1, [5, 6, 20, 18], segmentation=[[5, 6, 1e9, 6, 1e9, 24, 5, 24]], area=1e10)]
    record = coco_records(tmp_path, rows)[0]
    assert record["area"].tolist() == [(60 - 5) * 18]


def test_an_outline_that_nobody_can_draw_is_refused(tmp_path: Path) -> None:
    zigzag = [v for i in range(100_000) for v in (0.0 if i % 2 else 60.0, 40 * i / 100_000)]
    with pytest.raises(UserError, match="annotation 3 of image 1: the outline of a polygon of 100000 points passes 6e"):
        coco_records(tmp_path, [annotation(3, 1, BOX, segmentation=[zigzag])])
