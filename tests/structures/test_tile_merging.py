"""Predictions of tiles as one of the image: masks and keypoints go with their boxes, as tensors and as arrays."""

import numpy as np
import pytest
import torch

from detframe.arrays.results import encode_masks, mask_pixels
from detframe.arrays.tiles import tile_grid
from detframe.structures import BoxMasks, TileMasks, merge_predictions
from detframe.structures.merging import Merging, compact

SIZE_HW = (150, 190)
TILES = tile_grid(SIZE_HW, 80, 0.25)


def ellipses(seed, count=12, longest=60):
    """bool (N, H, W): random ellipses, turned; and keypoints (N, 2, 3) in them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : SIZE_HW[0], 0 : SIZE_HW[1]] + 0.5
    out, points = [], []
    while len(out) < count:
        y, x = rng.uniform(0, SIZE_HW[0]), rng.uniform(0, SIZE_HW[1])
        a, b, turn = rng.uniform(3, longest / 2), rng.uniform(3, 12), rng.uniform(0, np.pi)
        u = (columns - x) * np.cos(turn) + (rows - y) * np.sin(turn)
        v = (rows - y) * np.cos(turn) - (columns - x) * np.sin(turn)
        mask = (u / a) ** 2 + (v / b) ** 2 <= 1
        if mask.sum() > 12 and not any((mask & other).any() for other in out):
            out.append(mask)
            points.append([[x, y, 1], [x + 1, y + 1, 1]])
    return np.array(out), np.array(points, dtype=np.float32)


def box_of(mask):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def look(masks, points, tile, kind, seed):
    """What a perfect detector finds in a tile, in its coordinates."""
    rng = np.random.default_rng(seed)
    x1, y1, x2, y2 = tile
    parts = masks[:, y1:y2, x1:x2]
    seen = parts.any((1, 2))
    prediction = {
        "boxes": np.array([box_of(part) for part in parts[seen]], dtype=np.float32).reshape(-1, 4),
        "scores": np.sort(rng.uniform(0.2, 1, int(seen.sum())))[::-1].astype(np.float32).copy(),
        "labels": np.ones(int(seen.sum()), dtype=np.int64),
        "masks": parts[seen][:, None],
        "keypoints": points[seen] - np.array([x1, y1, 0], dtype=np.float32),
    }
    return {k: torch.from_numpy(v) for k, v in prediction.items()} if kind == "torch" else prediction


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("seed", range(4))
def test_masks_across_seams_are_whole_again_and_there_once(seed, kind):
    masks, points = ellipses(seed)
    predictions = [look(masks, points, tile, kind, number) for number, tile in enumerate(TILES.tolist())]
    merged = merge_predictions(predictions, TILES, SIZE_HW, Merging())
    found = mask_pixels(merged["masks"])
    assert len(found) == len(masks)
    wanted = {mask.tobytes(): row for row, mask in enumerate(masks)}
    rows = [wanted.pop(mask.tobytes()) for mask in found]  # each of them, exactly
    assert not wanted
    assert np.asarray(merged["boxes"]).tolist() == [box_of(mask) for mask in masks[rows]]
    assert np.allclose(np.asarray(merged["keypoints"]), points[rows])
    assert merged["masks"].encode() == encode_masks(masks[rows][:, None])
    assert all(isinstance(merged[key], torch.Tensor) == (kind == "torch") for key in ("boxes", "scores", "labels"))
    assert isinstance(merged["masks"].paste(), torch.Tensor) == (kind == "torch")
    assert (np.diff(np.asarray(merged["scores"])) <= 0).all()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_masks_on_boxes_are_what_the_tile_saw_at_its_place_in_the_image(kind):
    rng = np.random.default_rng(0)
    predictions = []
    for x1, y1, x2, y2 in TILES.tolist():
        boxes = np.array([[30, 30, 50, 45]], dtype=np.float32)
        probs = rng.uniform(0, 1, (1, 7, 7)).astype(np.float32)
        as_kind = torch.from_numpy if kind == "torch" else np.asarray
        masks = BoxMasks(as_kind(probs), as_kind(boxes), (y2 - y1, x2 - x1))
        scores, labels = np.array([0.5], np.float32), np.array([1])
        predictions.append(
            {"boxes": as_kind(boxes), "scores": as_kind(scores), "labels": as_kind(labels), "masks": masks}
        )
    merged = merge_predictions(predictions, TILES, SIZE_HW, Merging())
    pasted = np.asarray(merged["masks"].paste())
    assert pasted.shape == merged["masks"].shape == (len(TILES), 1, *SIZE_HW)
    for row, ((x1, y1, x2, y2), prediction) in enumerate(zip(TILES.tolist(), predictions, strict=True)):
        there = pasted[row, 0, y1:y2, x1:x2]
        np.testing.assert_allclose(there, np.asarray(prediction["masks"].paste())[0, 0], atol=1e-6)
        assert pasted[row].sum() == pytest.approx(there.sum())


@pytest.mark.parametrize("method", ["ios", "nms"])
def test_an_image_that_is_one_tile_keeps_its_prediction_as_it_is(method):
    tiles = tile_grid((60, 70), 80, 0.25)
    boxes = torch.rand(5, 4)
    prediction = {
        "boxes": boxes,
        "scores": torch.rand(5),
        "labels": torch.ones(5),
        "masks": BoxMasks(boxes, boxes, (60, 70)),
    }
    merged = merge_predictions([prediction], tiles, (60, 70), Merging(method))
    assert merged.keys() == prediction.keys() and all(merged[key] is value for key, value in prediction.items())


def test_nothing_in_any_tile():
    empty = look(np.zeros((1, *SIZE_HW), bool), np.zeros((1, 2, 3), np.float32), TILES[0].tolist(), "torch", 0)
    predictions = [empty] * len(TILES)
    merged = merge_predictions(predictions, TILES, SIZE_HW, Merging())
    assert merged["boxes"].shape == (0, 4) and merged["keypoints"].shape == (0, 2, 3)
    assert merged["masks"].paste().shape == (0, 1, *SIZE_HW) and merged["masks"].encode() == []


def test_rows_of_merged_masks():
    masks, points = ellipses(1)
    predictions = [look(masks, points, tile, "numpy", 0) for tile in TILES.tolist()]
    merged = merge_predictions(predictions, TILES, SIZE_HW, Merging())["masks"]
    pixels = mask_pixels(merged)
    keep = np.arange(len(merged)) % 2 == 0
    for rows in (keep, torch.from_numpy(keep), np.flatnonzero(keep), slice(0, None, 2)):
        assert (mask_pixels(merged[rows]) == pixels[keep]).all()
    assert isinstance(merged[keep], TileMasks) and len(merged[[3]]) == 1


def test_a_prediction_that_waits_for_others_keeps_of_its_masks_what_is_not_empty():
    masks, points = ellipses(2, count=4, longest=20)
    tile = TILES[0].tolist()
    seen = look(masks, points, tile, "torch", 0)
    small = compact(seen, tile)
    assert sum(part.probs.size for part in small["masks"]) < 0.2 * seen["masks"].numel()
    assert compact(small, tile)["masks"] is small["masks"]
    predictions = [look(masks, points, tile, "torch", 0) for tile in TILES.tolist()]
    waiting = [compact(p, tile) for p, tile in zip(predictions, TILES.tolist(), strict=True)]
    one, other = (merge_predictions(p, TILES, SIZE_HW, Merging()) for p in (predictions, waiting))
    assert one["masks"].encode() == other["masks"].encode()
