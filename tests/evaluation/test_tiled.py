"""Tiles are scored on whole images: their detections, merged, against the annotations of the image."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from detframe.arrays.tiles import tile_grid
from detframe.errors import InvalidValueError
from detframe.evaluation import COCOEvaluator
from detframe.evaluation.tiled import TiledEvaluator
from detframe.structures import LazyMasks, Merging
from tests.evaluation.fakes import FakeRecords, noisy_predictions, random_records, record, targets_of

SIZE_HW = (200, 300)  # of the records


def tiles_of(target, size=80, overlap=0.5, whole=False):
    """The targets of an image's tiles, as a loader gives them."""
    height, width = target["orig_size_hw"]
    grid = tile_grid((height, width), size, overlap).tolist() + [[0, 0, width, height]] * whole
    out = [
        {
            "image_id": target["image_id"],
            "orig_size_hw": (y2 - y1, x2 - x1),
            "tile": (x1, y1, x2, y2),
            "tiles_of_image": len(grid),
        }
        for x1, y1, x2, y2 in grid
    ]
    out[0]["image_target"] = target
    return out


def seen_in(tile, found, masks=None):
    """What of an image's detections, or objects, lies in a tile: the part of each in it, in its coordinates."""
    x1, y1, x2, y2 = tile
    limits = torch.tensor([x1, y1, x2, y2, x1, y1], dtype=torch.float32)
    boxes = torch.cat(
        [torch.maximum(found["boxes"][:, :2], limits[:2]), torch.minimum(found["boxes"][:, 2:], limits[2:4])], 1
    )
    keep = (boxes[:, :2] < boxes[:, 2:]).all(1)
    if masks is not None:
        keep = masks[:, y1:y2, x1:x2].flatten(1).any(1)
    out = {"boxes": (boxes - limits[[0, 1, 0, 1]])[keep], "labels": found["labels"][keep]}
    out["scores"] = found["scores"][keep] if "scores" in found else torch.ones(int(keep.sum()))
    if masks is not None:
        out["masks"] = masks[keep][:, None, y1:y2, x1:x2]
    return out


def fill(evaluator, records, found, rows=None, **how):
    for row, (target, prediction) in enumerate(zip(targets_of(records), found, strict=True)):
        if rows is None or row in rows:
            tiles = tiles_of(target, **how)
            evaluator.update(tiles, [seen_in(tile["tile"], prediction) for tile in tiles])
    return evaluator


def objects_of(records):
    return [{key: row[key][~row["iscrowd"]] for key in ("boxes", "labels")} for row in records.rows]


def same(one, other):
    return one.keys() == other.keys() and all(np.isclose(one[k], other[k], equal_nan=True) for k in one)


@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_the_ground_truth_in_tiles_has_all_of_every_metric(overlap):
    """Boxes up to 150 px long in tiles of 80, which come in batches that end within images."""
    records = random_records()
    evaluator = TiledEvaluator(COCOEvaluator(records), Merging())
    targets, found = [], []
    for target, objects in zip(targets_of(records), objects_of(records), strict=True):
        tiles = tiles_of(target, overlap=overlap, whole=True)
        targets += tiles
        found += [seen_in(tile["tile"], objects) for tile in tiles]
    for start in range(0, len(targets), 7):
        evaluator.update(targets[start : start + 7], found[start : start + 7])
    metrics = evaluator.compute()
    ones = [value for key, value in metrics.items() if not np.isnan(value) and not key.startswith("bbox/AR1")]
    assert len(ones) > 8 and min(ones) > 100 - 1e-6
    assert metrics["bbox/AP"] == pytest.approx(100)


def test_masks_across_seams_have_an_ap_of_100():
    rng = np.random.default_rng(0)
    rows = []
    for image_id in range(3):
        polygons = []
        for x in (10, 110, 210):
            for y in (10, 80, 150):
                a, b, angles = rng.uniform(15, 42), rng.uniform(8, 20), np.arange(0, 2 * np.pi, 0.3)
                points = np.stack([x + 40 + a * np.cos(angles), y + 25 + b * np.sin(angles)], 1)
                polygons.append([points.clip(0, [300, 200]).flatten().tolist()])
        masks = LazyMasks(polygons, SIZE_HW)
        pixels = masks.decode()
        boxes = [[*mask.any(0).nonzero()[[0, -1]], *mask.any(1).nonzero()[[0, -1]]] for mask in pixels]
        boxes = torch.tensor([[x1, y1, x2 + 1, y2 + 1] for x1, x2, y1, y2 in boxes])
        rows.append(record(image_id, boxes, [1] * 9, segmentations=polygons))
    evaluator = TiledEvaluator(COCOEvaluator(FakeRecords(rows, ["cell"])), Merging())
    for row, target in zip(rows, targets_of(FakeRecords(rows, ["cell"])), strict=True):
        pixels = LazyMasks(row["segmentations"], SIZE_HW).decode()
        for tile in tiles_of(target, size=64, overlap=0.25):
            evaluator.update([tile], [seen_in(tile["tile"], row, pixels)])
    metrics = evaluator.compute()
    assert metrics["segm/AP"] == pytest.approx(100) and metrics["bbox/AP"] == pytest.approx(100)


def test_images_that_are_one_tile_are_scored_as_they_are():
    records = random_records()
    found = noisy_predictions(records)
    plain = COCOEvaluator(records)
    plain.update(targets_of(records), found)
    tiled = TiledEvaluator(COCOEvaluator(records), Merging())
    for target, prediction in zip(targets_of(records), found, strict=True):
        tiled.update(tiles_of(target, size=300), [prediction])
    assert repr(plain.compute()) == repr(tiled.compute())
    assert plain.results() == tiled.results()


def test_everything_else_is_the_evaluator_s_own(tmp_path):
    records = random_records()
    tiled = fill(TiledEvaluator(COCOEvaluator(records), Merging()), records, objects_of(records))
    metrics = tiled.compute()
    assert "bbox" in tiled.table(metrics) and tiled.diagnosis() is None
    tiled.gather_results()
    rows = json.loads(tiled.save_results(tmp_path / "found.json").read_text())
    assert len(rows) == len(tiled.results()) > 0
    assert {row["image_id"] for row in rows} <= {row["image_id"] for row in records.rows}
    assert not hasattr(tiled, "something_else") and tiled.seconds > 0
    tiled.reset()
    assert tiled.results() == [] and tiled.seconds == 0


def test_an_image_of_which_tiles_are_missing_is_scored_by_the_others():
    """What could not be read is left out: its objects are missed, and nothing is taken for the whole image."""
    rows = [record(n, [[10, 10, 30, 30], [200, 100, 220, 120]], [1, 1]) for n in (1, 2)]
    records = FakeRecords(rows, ["cell"])
    evaluator = TiledEvaluator(COCOEvaluator(records), Merging())
    for target, row in zip(targets_of(records), rows, strict=True):
        tiles = tiles_of(target, size=150, overlap=0.5)
        read = [tile for tile in tiles if target["image_id"] == 2 or tile["tile"][0] == 150][
            : 1 if row is rows[0] else 9
        ]
        read[0]["image_target"] = target
        evaluator.update(read, [seen_in(tile["tile"], row) for tile in read])
    evaluator.compute()
    boxes = {n: [r["bbox"] for r in evaluator.results() if r["image_id"] == n] for n in (1, 2)}
    assert boxes == {1: [[200, 100, 20, 20]], 2: [[10, 10, 20, 20], [200, 100, 20, 20]]}


def test_tiles_without_the_annotations_of_their_image_are_refused():
    records = random_records()
    tile = tiles_of(targets_of(records)[1])[1]
    with pytest.raises(InvalidValueError, match="the first tile of the image 101 has no image_target"):
        TiledEvaluator(COCOEvaluator(records), Merging()).update([tile], [seen_in(tile["tile"], records.rows[1])])


# ---------------------------------------------------------------------- ranks
SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from tests.evaluation import test_tiled
torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
sys.stdout.write(json.dumps(test_tiled.one_rank(range(rank * 6, rank * 6 + 6))))
dist.destroy_process_group()
"""


def one_rank(rows=None):
    records = random_records()
    evaluator = fill(TiledEvaluator(COCOEvaluator(records), Merging()), records, noisy_predictions(records), rows)
    return [[key, repr(value)] for key, value in sorted(evaluator.compute().items())]


def test_two_ranks_with_half_of_the_images_each_give_the_metrics_of_one(tmp_path, root):
    command = [sys.executable, "-c", SCRIPT]
    ranks = [
        subprocess.Popen([*command, str(n), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True, cwd=root)
        for n in range(2)
    ]
    found = [json.loads(rank.communicate(timeout=300)[0]) for rank in ranks]
    assert found[0] == found[1] == one_rank()
