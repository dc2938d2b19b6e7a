"""Training on tiles: a short run of a tiny detector, bit for bit also when it goes on; what it says of its tiles."""

from __future__ import annotations

import json
import math

import pytest
import torch

from detframe.data import build_test_loader, load_records
from detframe.engine import train
from detframe.engine.inputs import load_inputs, load_train_records
from detframe.engine.validation_loss import ValidationLosses
from detframe.errors import InvalidValueError
from detframe.evaluation.loop import evaluating
from detframe.modeling import build_detection_model
from tests.engine.continued import goes_on_equally

# Pictures of 64 pixels in four tiles of 40 each, and the whole; some of the 24 are smaller
TILES = ("INPUT.TILES.SIZE", 40, "INPUT.TILES.OVERLAP", 0.3, "INPUT.TILES.WHOLE_IMAGE_TOO", True)


@pytest.mark.parametrize("kind", ["faster_rcnn", "fcos"])
def test_a_training_on_tiles_learns_and_goes_on_bit_for_bit(tiny, tmp_path, kind):
    more = ("MODEL.RPN.NAME", "FCOS", "MODEL.ROI_HEADS.NAME", "") if kind == "fcos" else ()
    words = (*TILES, *more, "DATASETS.TEST", (), "INPUT.TILES.MAX_EMPTY", 0.4)
    train(tiny(*words))
    out = tmp_path / "out"
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 4 and all(map(math.isfinite, losses))
    log = (out / "log.txt").read_text()
    assert "24 images in 108 tiles of 40 pixels (INPUT.TILES):" in log
    assert "which come in an epoch (MAX_EMPTY 0.4)" in log
    assert goes_on_equally(tiny, words, out, tmp_path / "parts")


@pytest.mark.parametrize(
    ("key", "value"),
    [("SIZE", 48), ("SIZE", 0), ("OVERLAP", 0.1), ("MIN_VISIBLE", 0.5), ("WHOLE_IMAGE_TOO", False), ("MAX_EMPTY", 0.1)],
)
def test_other_tiles_are_refused_where_a_run_goes_on(tiny, tmp_path, key, value):
    cfg = tiny(*TILES, "DATASETS.TEST", (), "SOLVER.MAX_ITER", 1)
    train(cfg)
    changed = tiny(*TILES, "DATASETS.TEST", (), "SOLVER.MAX_ITER", 2, f"INPUT.TILES.{key}", value)
    with pytest.raises(InvalidValueError, match=rf"INPUT\.TILES\.{key}"):
        train(changed, resume=True)


def test_a_training_with_evaluation_on_tiles_and_copy_paste(tiny):
    metrics = train(tiny(*TILES, "SOLVER.MAX_ITER", 2, "INPUT.COPY_PASTE_PROB", 0.5, "TEST.LOSS", True))
    assert "bbox/AP" in metrics and math.isfinite(metrics["val/loss"])


def test_what_is_learned_from_are_tiles_and_the_length_of_an_epoch_is_theirs(tiny):
    cfg = tiny(*TILES, "SOLVER.MAX_ITER", "2ep", "DATASETS.TEST", ())
    inputs = load_inputs(cfg, None)
    records = load_train_records(cfg)
    full = int((records.num_objects > 0).sum())
    assert full < inputs.place.images_per_epoch < len(records) == 108
    assert inputs.cfg.SOLVER.MAX_ITER == math.ceil(2 * inputs.place.images_per_epoch / 4)


def test_validation_losses_are_means_over_tiles(tiny):
    cfg = tiny(*TILES, "MODEL.NUM_CLASSES", 4)
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    records = load_records(["shapes_val"]).select(range(2))
    means = []
    for batch in (1, 4):
        losses = ValidationLosses(model, 4, str)
        with evaluating(model):
            for images, targets in build_test_loader(cfg.changed([("TEST.IMS_PER_BATCH", batch)]), records):
                losses.on_batch(images, targets, [])
        assert losses._count == 10
        means.append(losses.compute())
    assert math.isfinite(means[0]["val/loss"]) and means[0] == pytest.approx(means[1])


def test_tiles_that_are_smaller_than_objects_are_said_at_the_start(tiny, tmp_path):
    train(tiny("INPUT.TILES.SIZE", 12, "DATASETS.TEST", (), "SOLVER.MAX_ITER", 1, "INPUT.TILES.MIN_VISIBLE", 0.2))
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "longer than a tile of 12 pixels" in log and "set INPUT.TILES.SIZE 64" in log


def test_tiles_without_objects_are_an_error_and_leave_no_folder(tiny, tmp_path):
    with pytest.raises(InvalidValueError, match=r"none of the \d+ tiles of 2 pixels"):
        train(tiny("INPUT.TILES.SIZE", 2, "INPUT.TILES.MIN_VISIBLE", 1.0, "DATASETS.TEST", ()))
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_whole_images_does_not_go_on_with_tiles(tiny, tmp_path):
    train(tiny("DATASETS.TEST", (), "SOLVER.MAX_ITER", 1))
    with pytest.raises(InvalidValueError, match=r"INPUT\.TILES\.SIZE"):
        train(tiny(*TILES, "DATASETS.TEST", (), "SOLVER.MAX_ITER", 2), resume=True)
