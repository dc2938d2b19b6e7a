"""What is said of tiles that do not fit: smaller than the objects, larger than all images, without objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detframe.config import get_cfg
from detframe.data import TiledRecords, tiled
from detframe.data.findings import ERROR, NOTE, WARNING
from detframe.data.tile_check import check_tiles, proposed_size, tile_fit
from tests.data.sets import annotation, coco_records


def tiles_of(folder: Path, boxes: list[list[float]], size_hw: tuple[int, int], *overrides: Any) -> TiledRecords:
    crowd = {"size": list(size_hw), "counts": [0, size_hw[0] * size_hw[1]]}
    rows = [annotation(i, 1, box) for i, box in enumerate(boxes, 1)]
    rows.append(annotation(99, 1, [0, 0, size_hw[1], size_hw[0]], iscrowd=1, segmentation=crowd))
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.TILES.SIZE", 64, *overrides])
    tiles = tiled(cfg, coco_records(folder, rows, [size_hw]))
    assert isinstance(tiles, TiledRecords)
    return tiles


def test_objects_are_counted_by_how_tiles_show_them(tmp_path: Path) -> None:
    boxes = [
        [2, 2, 10, 10],  # whole
        [45, 2, 30, 10],  # longer than the overlap of 12, over the ends of tiles from 0 and from 52: cut in both
        [10, 10, 70, 20],  # longer than a tile
        [0, 0, 150, 150],  # in no tile at all
    ]
    fit = tile_fit(tiles_of(tmp_path, boxes, (200, 200)))
    assert (fit.objects, fit.larger, fit.split, fit.lost) == (4, 2, 1, 1)
    assert fit.longest == 150 and fit.cut_images == 1


def test_tiles_that_are_smaller_than_objects_are_an_error_that_proposes_a_size(tmp_path: Path) -> None:
    tiles = tiles_of(tmp_path, [[10, 10, 70, 20], [2, 2, 9, 9], [5, 5, 150, 90]], (200, 200))
    found = {f.code: f for f in check_tiles(tiles, "train")}
    error = found["tile-smaller-than-object"]
    assert error.severity == ERROR and error.count == 2 and error.where == "train"
    assert error.text == (
        "2 of 3 objects (67%) are longer than a tile of 64 pixels (the longest has 150): no tile shows them whole"
    )
    assert "INPUT.TILES.SIZE 192, or INPUT.TILES.WHOLE_IMAGE_TOO True" in error.remedy
    assert found["object-in-no-tile"].severity == WARNING and found["object-in-no-tile"].count == 1
    # what is proposed is not refused again
    for more in (("INPUT.TILES.SIZE", 192), ("INPUT.TILES.WHOLE_IMAGE_TOO", True)):
        tiles = tiles_of(tmp_path, [[10, 10, 70, 20], [2, 2, 9, 9], [5, 5, 150, 90]], (200, 200), *more)
        assert ERROR not in [f.severity for f in check_tiles(tiles)]


def test_objects_as_long_as_a_tile_are_not_longer_by_rounding(tmp_path: Path) -> None:
    """The corners of boxes are float32: of one in seven such objects they are a little more than 100 apart."""
    boxes = [[30 + 0.37 * i, 10 + 0.41 * i, 100, 20] for i in range(60)]
    assert tile_fit(tiles_of(tmp_path, boxes, (200, 300), "INPUT.TILES.SIZE", 100)).larger == 0


def test_a_size_that_leaves_images_whole_says_so(tmp_path: Path) -> None:
    (found,) = (f for f in check_tiles(tiles_of(tmp_path, [[5, 5, 120, 90]], (150, 150))) if f.severity == ERROR)
    assert found.remedy.startswith(
        "set INPUT.TILES.SIZE 192, which leaves all images whole, or INPUT.TILES.WHOLE_IMAGE_TOO True"
    )


@pytest.mark.parametrize("longest", [1, 51, 52, 63, 200, 1000.5])
def test_the_size_that_is_proposed_holds_the_longest_object_with_room(longest: float) -> None:
    size = proposed_size(longest)
    assert size % 64 == 0 and 1.25 * longest <= size < 1.25 * longest + 64


def test_tiles_as_large_as_all_images_do_nothing_and_that_is_said(tmp_path: Path) -> None:
    findings = check_tiles(tiles_of(tmp_path, [[2, 2, 10, 10]], (64, 50)))
    assert [(f.code, f.severity) for f in findings] == [("tiles-do-nothing", WARNING)]
    assert findings[0].text.startswith("no image is larger than a tile of 64 pixels")


def test_objects_that_seams_cut_are_a_note_that_names_the_overlap(tmp_path: Path) -> None:
    findings = check_tiles(tiles_of(tmp_path, [[45, 2, 30, 10]], (64, 200)))
    assert [(f.code, f.severity, f.count) for f in findings] == [("object-cut-by-tiles", NOTE, 1)]
    assert "1 of 1 object (100%) is cut in every tile that shows them" in findings[0].text
    assert "overlap of 12 pixels" in findings[0].text
    assert findings[0].remedy == "INPUT.TILES.OVERLAP 30, in pixels, would be enough for all of them"
    assert not check_tiles(tiles_of(tmp_path, [[45, 2, 30, 10]], (64, 200), "INPUT.TILES.OVERLAP", 30))


@pytest.mark.parametrize("side", [33, 64])
def test_no_overlap_is_proposed_that_would_be_refused_or_take_very_many_tiles(tmp_path: Path, side: int) -> None:
    """Of an object as long as a tile the overlap would have to be the tile, of another more than half of it."""
    (found,) = check_tiles(tiles_of(tmp_path, [[45, 2, side, 10]], (64, 200)))
    assert found.code == "object-cut-by-tiles" and "a larger INPUT.TILES.SIZE" in found.remedy


def test_nothing_is_said_of_tiles_that_fit_or_of_data_without_objects(tmp_path: Path) -> None:
    assert check_tiles(tiles_of(tmp_path, [[2, 2, 10, 10], [70, 80, 10, 12]], (200, 200))) == []
    assert check_tiles(tiles_of(tmp_path, [], (200, 200))) == []
    assert check_tiles(tiles_of(tmp_path, [], (200, 200)).select([])) == []
