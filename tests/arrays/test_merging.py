"""Merging over seams: in drawn worlds, whose tiles a perfect detector has looked at, each object is found once."""

import time

import numpy as np
import pytest

from detframe.arrays.merging import merge_tiles
from detframe.arrays.tiles import clip_boxes, tile_grid
from detframe.errors import InvalidValueError

SIZE = 100
SIZE_HW = (430, 370)


def world(seed, count, longest, size_hw=SIZE_HW):
    """Random boxes (N, 4) of sides 4 to `longest`, and labels of two classes."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(4, longest, (count, 2))
    low = rng.uniform(0, 1, (count, 2)) * (np.array(size_hw[::-1]) - sides)
    return np.concatenate([low, low + sides], 1), rng.integers(1, 3, count)


def look(boxes, labels, tiles, seed=0, min_visible=0.0):
    """What a perfect detector finds in each tile: rows of boxes in the image, scores, labels, tile, object."""
    rng = np.random.default_rng(seed)
    found = []
    for number, tile in enumerate(tiles):
        inside = clip_boxes(boxes, tile.astype(float))
        visible = np.prod(inside[:, 2:] - inside[:, :2], 1) / np.prod(boxes[:, 2:] - boxes[:, :2], 1)
        for row in np.flatnonzero(visible > min_visible):
            found.append((*inside[row], rng.uniform(0.1, 1), labels[row], number, row))
    rows = np.array(found).reshape(-1, 8)
    return rows[:, :4], rows[:, 4], rows[:, 5].astype(int), rows[:, 6].astype(int), rows[:, 7].astype(int)


def merged_world(boxes, labels, tiles, seed=0, size_hw=SIZE_HW, **how):
    seen, scores, kinds, tile, _ = look(boxes, labels, tiles, seed)
    return merge_tiles(seen, scores, kinds, tile, tiles, size_hw, **how), kinds


def assert_each_once(merged, kinds, boxes, labels):
    """Every object is there exactly once, whole and of its class, and nothing else is."""
    assert len(merged.boxes) == len(boxes)
    apart = np.abs(merged.boxes[:, None] - boxes[None]).max(2)
    apart[kinds[merged.lead][:, None] != labels[None]] = np.inf
    nearest = apart.argmin(1)
    assert sorted(nearest.tolist()) == list(range(len(boxes)))
    assert apart[np.arange(len(nearest)), nearest].max(initial=0) < 1e-9
    assert (np.diff(merged.scores) <= 0).all()


@pytest.mark.parametrize("overlap", [0.1, 0.2, 0.35, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_no_object_within_the_overlap_is_lost_or_found_twice(overlap, seed):
    """Objects that are crowded and on top of each other, of random scores."""
    tiles = tile_grid(SIZE_HW, SIZE, overlap)
    boxes, labels = world(seed, 100, overlap * SIZE)
    merged, kinds = merged_world(boxes, labels, tiles, seed)
    assert_each_once(merged, kinds, boxes, labels)


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_what_no_tile_holds_is_put_together(overlap, seed):
    """Objects up to three tiles long, of a class each, and small ones among them; also where tiles only touch."""
    tiles = tile_grid(SIZE_HW, SIZE, overlap)
    large, _ = world(seed, 5, 300)
    small, kinds_small = world(100 + seed, 30, 20)
    boxes, labels = np.concatenate([large, small]), np.concatenate([np.arange(1, 6), kinds_small])
    merged, kinds = merged_world(boxes, labels, tiles, seed)
    assert_each_once(merged, kinds, boxes, labels)


@pytest.mark.parametrize("seed", range(3))
def test_a_detector_whose_boxes_are_a_little_off_finds_nothing_twice(seed):
    """Every side is off by a twentieth of its length (one standard deviation), in each tile by another one."""
    tiles = tile_grid(SIZE_HW, SIZE, 0.4)
    boxes, _ = world(seed, 200, 40)
    apart = [row for row in range(200) if not any(_touch(boxes[row], other) for other in boxes[:row])]
    boxes = boxes[apart][:60]
    seen, scores, kinds, tile, row = look(boxes, np.ones(60, int), tiles, seed, min_visible=0.3)
    sides = (seen[:, 2:] - seen[:, :2])[:, [0, 1, 0, 1]]
    off = seen + np.random.default_rng(seed).normal(0, 0.05, seen.shape) * sides
    off = clip_boxes(off, tiles[tile].astype(float))
    merged = merge_tiles(off, scores, kinds, tile, tiles, SIZE_HW)
    assert sorted(row[merged.lead].tolist()) == list(range(60))


def _touch(one, other):
    return (one[:2] < other[2:]).all() and (one[2:] > other[:2]).all()


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5])
def test_the_whole_image_as_one_more_tile(overlap):
    """Large objects, of one class and overlapping, come from the whole image; small ones from both, once."""
    height, width = SIZE_HW
    tiles = np.concatenate([tile_grid(SIZE_HW, SIZE, overlap), [[0, 0, width, height]]])
    large, _ = world(3, 8, 250)
    small, _ = world(4, 40, 20)
    boxes = np.concatenate([large, small])
    labels = np.ones(len(boxes), dtype=int)
    merged, kinds = merged_world(boxes, labels, tiles)
    assert_each_once(merged, kinds, boxes, labels)


def merge(boxes, tile, tiles, scores=None, labels=None, size_hw=(100, 180), **how):
    count = len(boxes)
    scores = np.linspace(0.9, 0.5, count).astype(np.float32) if scores is None else np.array(scores, np.float32)
    labels = np.ones(count, dtype=np.int64) if labels is None else np.array(labels)
    return merge_tiles(np.array(boxes), scores, labels, np.array(tile), np.array(tiles), size_hw, **how)


TWO = [[0, 0, 100, 100], [80, 0, 180, 100]]


def test_two_detections_of_one_tile_stay_two_however_much_they_overlap():
    boxes = [[10, 10, 50, 50], [11, 10, 51, 50], [81, 20, 95, 40], [82, 20, 96, 40]]
    merged = merge(boxes, [0, 0, 0, 0], TWO)
    assert merged.boxes.tolist() == boxes


def test_the_best_of_two_views_of_a_whole_object_remains_as_it_is():
    merged = merge([[84, 20, 94, 30], [84, 20, 95, 30]], [0, 1], TWO, scores=[0.6, 0.7])
    assert merged.boxes.tolist() == [[84, 20, 95, 30]]
    assert merged.scores.tolist() == [np.float32(0.7)] and merged.scores.dtype == np.float32
    assert merged.lead.tolist() == [1] and [part.tolist() for part in merged.parts] == [[1]]


def test_two_views_that_share_half_of_the_smaller_one_are_one_object():
    """Their intersection over union is 0.4; of boxes that differ as much in size it is not enough."""
    merged = merge([[82, 10, 96, 40], [84, 20, 98, 50]], [0, 1], TWO)
    assert merged.boxes.tolist() == [[82, 10, 96, 40]]
    assert len(merge([[82, 10, 96, 40], [84, 20, 94, 34]], [0, 1], TWO).boxes) == 2


def test_a_part_that_ends_before_the_border_by_an_error_of_its_long_side_is_cut():
    """Ten pixels wide and 60 long: 3 pixels are much of the one and little of the other."""
    merged = merge([[87, 20, 97, 80], [85, 20, 125, 81]], [0, 1], TWO, scores=[0.9, 0.6])
    assert merged.boxes.tolist() == [[85, 20, 125, 81]]


def test_a_small_object_inside_of_a_large_one_stays():
    """Whole in either tile: their intersection is all of the small one, but not much of their union."""
    merged = merge([[82, 10, 97, 90], [85, 40, 92, 48]], [0, 1], TWO)
    assert len(merged.boxes) == 2


def test_a_small_whole_object_inside_of_a_large_one_that_is_cut_swallows_nothing():
    merged = merge([[20, 10, 100, 90], [85, 40, 92, 48], [80, 10, 140, 90]], [0, 1, 1], TWO, scores=[0.5, 0.9, 0.4])
    assert merged.boxes.tolist() == [[85, 40, 92, 48], [20, 10, 140, 90]]


def test_a_cut_part_gives_way_to_the_whole_even_where_it_scores_more():
    """They agree where both tiles look; what remains is the whole one, as it was found."""
    merged = merge([[85, 20, 100, 40], [85, 20, 115, 40]], [0, 1], TWO, scores=[0.9, 0.6])
    assert merged.boxes.tolist() == [[85, 20, 115, 40]]
    assert merged.scores.tolist() == [np.float32(0.6)]


def test_a_cut_part_with_a_good_score_stays_beside_a_poor_whole_one_that_only_covers_it():
    boxes = [[90, 20, 100, 40], [88, 5, 150, 95]]
    assert len(merge(boxes, [0, 1], TWO, scores=[0.9, 0.1]).boxes) == 2
    assert len(merge(boxes, [0, 1], TWO, scores=[0.4, 0.5]).boxes) == 1


def test_parts_of_an_object_longer_than_the_overlap_become_one_box_with_the_best_score():
    merged = merge([[30, 20, 100, 40], [80, 21, 150, 40]], [0, 1], TWO, scores=[0.5, 0.8])
    assert merged.boxes.tolist() == [[30, 20, 150, 40]]
    assert merged.scores.tolist() == [np.float32(0.8)]
    assert merged.lead.tolist() == [1] and merged.parts[0].tolist() == [1, 0]


def test_parts_that_end_near_a_border_are_cut_too():
    """A detector places sides with an error that grows with the object."""
    merged = merge([[30, 20, 97, 40], [83, 20, 150, 41]], [0, 1], TWO)
    assert merged.boxes.tolist() == [[30, 20, 150, 41]]


def test_classes_are_merged_apart():
    boxes = [[85, 20, 95, 30], [85, 20, 95, 30], [30, 20, 100, 40], [80, 20, 150, 40]]
    for method in ("ios", "nms"):
        assert len(merge(boxes, [0, 1, 0, 1], TWO, labels=[1, 2, 1, 2], method=method).boxes) == 4


def test_parts_beside_each_other_at_a_seam_without_overlap():
    tiles = [[0, 0, 90, 100], [90, 0, 180, 100]]
    merged = merge([[30, 20, 90, 40], [90, 20, 150, 40], [90, 60, 120, 80]], [0, 1, 1], tiles)
    assert merged.boxes.tolist() == [[30, 20, 150, 40], [90, 60, 120, 80]]


def test_two_objects_beside_a_seam_without_overlap_that_do_not_touch_it_stay_two():
    tiles = [[0, 0, 90, 100], [90, 0, 180, 100]]
    assert len(merge([[30, 20, 88.5, 40], [91.5, 20, 150, 40]], [0, 1], tiles).boxes) == 2


def test_masks_tell_which_parts_belong_together():
    """Two bars that cross the seam on a slant: their boxes hardly agree where both tiles look, their masks do."""
    rows, columns = np.mgrid[0:100, 0:180]
    slant = np.abs(columns - 40 - 2 * rows) <= 8  # from (40, 0) to (180, 70)
    seen = [[*_box_of(slant[:, x1:x2], x1)] for x1, _, x2, _ in TWO]
    masks = [(0, x1, slant[:, x1:x2]) for x1, _, x2, _ in TWO]
    assert len(merge(seen, [0, 1], TWO).boxes) == 2
    merged = merge(seen, [0, 1], TWO, mask_of=lambda row: masks[row])
    assert merged.boxes.tolist() == [_box_of(slant, 0)]
    # and where the boxes agree, but the masks are of two objects
    left, right = np.zeros((100, 180), bool), np.zeros((100, 180), bool)
    left[20:30, 30:100] = left[20:40, 30:40] = True
    right[31:40, 80:150] = right[20:40, 140:150] = True
    masks = [(0, 0, left[:, :100]), (0, 80, right[:, 80:])]
    seen = [[30, 20, 100, 40], [80, 20, 150, 40]]
    assert len(merge(seen, [0, 1], TWO).boxes) == 1
    assert len(merge(seen, [0, 1], TWO, mask_of=lambda row: masks[row]).boxes) == 2


def _box_of(mask, left):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [left + columns[0], rows[0], left + columns[-1] + 1, rows[-1] + 1]


def test_nms_keeps_the_best_of_what_overlaps_and_cut_parts_as_they_are():
    boxes = [[85, 20, 95, 30], [85, 20, 96, 30], [30, 50, 100, 60], [80, 50, 150, 60]]
    merged = merge(boxes, [0, 1, 0, 1], TWO, scores=[0.6, 0.7, 0.5, 0.4], method="nms")
    assert merged.lead.tolist() == [1, 2, 3]
    assert merged.boxes.tolist() == [boxes[1], boxes[2], boxes[3]]


def test_the_threshold_counts():
    boxes = [[84, 20, 94, 30], [86, 20, 96, 30]]  # 80 of 100, and of 120 together
    for method, overlap in (("ios", 80 / 100), ("nms", 80 / 120)):
        assert len(merge(boxes, [0, 1], TWO, method=method, threshold=overlap - 0.05).boxes) == 1
        assert len(merge(boxes, [0, 1], TWO, method=method, threshold=overlap + 0.05).boxes) == 2


@pytest.mark.parametrize("method", ["ios", "nms"])
def test_nothing_found(method):
    merged = merge(np.zeros((0, 4)), np.zeros(0, int), TWO, scores=[], labels=np.zeros(0, int), method=method)
    assert merged.boxes.shape == (0, 4) and not len(merged.scores) and not len(merged.lead) and not merged.parts


def test_another_method_is_refused():
    with pytest.raises(InvalidValueError, match="no merging 'wbf'; it must be one of ios, nms"):
        merge([[1, 1, 2, 2]], [0], TWO, method="wbf")


def test_many_tiles_take_seconds_and_not_hours():
    """An image of 10,000 px a side in tiles of 512: 5,000 objects, each in the one to four tiles that see it."""
    size_hw = (10_000, 10_000)
    tiles = tile_grid(size_hw, 512, 0.2)
    boxes, labels = world(0, 5000, 60, size_hw)
    begun = time.perf_counter()
    merged, _ = merged_world(boxes, labels, tiles, size_hw=size_hw)
    assert len(merged.boxes) == 5000
    assert time.perf_counter() - begun < 60


TOUCHING = np.array([[0, 0, 100, 100], [100, 0, 200, 100]])
USUAL = [[20, 70, 40, 90], [50, 70, 70, 90], [150, 70, 170, 90]]  # whole ones, 20 pixels a side


@pytest.mark.parametrize(
    ("left", "right", "others", "expected"),
    [
        ([88, 10, 98.6, 30], [101.2, 11, 109, 30], USUAL, 1),  # parts that end before the border
        ([88, 10, 98.6, 30], [100.2, 11, 109, 30], USUAL, 1),  # one of them by less than a pixel
        ([88, 10, 100, 30], [101.8, 11, 109, 30], USUAL, 2),  # one goes on behind it, and the other begins later
        ([88, 10, 98.6, 30], [101.2, 11, 109, 30], USUAL[:2], 2),  # nobody knows how large they are
        ([79, 10, 98.6, 30], [101.2, 11, 121, 30], USUAL, 2),  # two whole ones
        ([79, 10, 98.6, 30], [101.2, 11, 104, 30], USUAL, 2),  # a whole one, and a bit of something
        ([88, 10, 98.6, 30], [101.2, 19, 109, 39], USUAL, 2),  # beside each other
        ([88, 10, 97, 30], [101.2, 11, 109, 30], USUAL, 2),  # too far from the border to have been cut by it
    ],
)
def test_parts_that_end_a_little_before_a_border_are_joined_where_they_make_a_usual_object(
    left, right, others, expected
):
    boxes = np.array([left, right, *others], dtype=float)
    tile = np.array([0, 1, *(int(box[0] >= 100) for box in others)])
    scores = np.linspace(0.9, 0.5, len(boxes))
    merged = merge_tiles(boxes, scores, np.ones(len(boxes), int), tile, TOUCHING, (100, 200))
    assert len(merged.boxes) == len(others) + expected
    if expected == 1:
        joined = [min(left[0], right[0]), min(left[1], right[1]), max(left[2], right[2]), max(left[3], right[3])]
        assert joined in merged.boxes.tolist() and [0, 1] in [part.tolist() for part in merged.parts]
    upright = merge_tiles(
        boxes[:, [1, 0, 3, 2]], scores, np.ones(len(boxes), int), tile, TOUCHING[:, [1, 0, 3, 2]], (200, 100)
    )
    np.testing.assert_array_equal(upright.boxes[:, [1, 0, 3, 2]], merged.boxes)
    labels = np.array([1, 2, *[1] * len(others)])
    assert len(merge_tiles(boxes, scores, labels, tile, TOUCHING, (100, 200)).boxes) == len(others) + 2
