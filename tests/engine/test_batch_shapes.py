"""Batches in few shapes (INPUT.BUCKETS): counted in whole runs, which go on bit for bit; and what no bucket holds."""

from __future__ import annotations

import json
import math
import re
import shutil
from itertools import islice

import numpy as np
import pytest
import torch

from detframe.config import get_cfg
from detframe.data.bucketing import build_sampler, group_of
from detframe.engine import evaluate, train
from detframe.engine.batch_shapes import FullBatches, check_shapes, largest_sizes
from detframe.engine.place import first_place, resumed_place
from detframe.errors import InvalidValueError
from detframe.inference import Detector
from detframe.modeling import build_detection_model
from detframe.modeling.backbones.pyramids import PyramidBackbone
from tests.engine.test_resuming import LEAVES, Images
from tests.engine.written import weights

BUCKETS = ((64, 96), (96, 64), (96, 96))
SCALES = ("INPUT.MIN_SIZE_TRAIN", (48, 56, 64), "INPUT.MAX_SIZE_TRAIN", 96, "INPUT.MIN_SIZE_TEST", 60)
TILES = (
    "INPUT.TILES.COMPARE",
    False,
    "INPUT.TILES.SIZE",
    40,
    "INPUT.TILES.OVERLAP",
    0.3,
    "INPUT.TILES.WHOLE_IMAGE_TOO",
    True,
)
LARGER = ("INPUT.MIN_SIZE_TEST", 100, "INPUT.MAX_SIZE_TEST", 0)
VIEWS = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (40, 60))


@pytest.fixture
def shapes(monkeypatch):
    """The shapes of all batches that a backbone sees, by whether it trains."""
    seen = {True: [], False: []}
    forward = PyramidBackbone.forward

    def noted(self, x):
        seen[self.training].append(tuple(x.shape))
        return forward(self, x)

    monkeypatch.setattr(PyramidBackbone, "forward", noted)
    return seen


@pytest.mark.parametrize("more", [(), TILES, VIEWS], ids=["scales", "tiles", "views"])
def test_a_run_has_no_more_shapes_than_buckets(tiny, tmp_path, shapes, more):
    words = ("INPUT.BUCKETS", BUCKETS, *SCALES, *more, "SOLVER.MAX_ITER", 8, "TEST.IMS_PER_BATCH", 3)
    train(tiny(*words))
    assert {shape[0] for shape in shapes[True]} == {4}
    assert {shape[0] for shape in shapes[False]} == {3}  # also of the last batch, of 8 images
    for training in (True, False):
        assert {shape[2:] for shape in shapes[training]} <= set(BUCKETS)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "batches have at most 3 shapes (INPUT.BUCKETS, height x width): 64x96, 96x64, 96x96\n" in log
    assert "no canvas" not in log


def test_without_buckets_there_are_more(tiny, shapes):
    train(tiny(*SCALES, "SOLVER.MAX_ITER", 8, "INPUT.MIN_SIZE_TRAIN", (32, 64, 96, 128), "INPUT.MAX_SIZE_TRAIN", 0))
    assert len(set(shapes[True])) > 3


@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own affairs
def test_the_last_batch_of_a_compiled_evaluation_has_the_graphs_of_the_first(tiny, tmp_path, monkeypatch):
    """Without buckets, images that are all padded to one square."""
    monkeypatch.setattr("detframe.modeling.compiling.BACKEND", "eager")
    one_size = ("INPUT.MIN_SIZE_TEST", 32, "INPUT.MAX_SIZE_TEST", 32)
    train(tiny(*one_size, "MODEL.COMPILE", "dense", "SOLVER.MAX_ITER", 1, "TEST.IMS_PER_BATCH", 3))
    log = (tmp_path / "out" / "log.txt").read_text()
    graphs = re.findall("compiled the (.*) for inference, (3x.*): ", log)
    assert [part for part, _ in graphs] == ["backbone", "dense head"] and graphs[0][1] == "3x3x32x32"
    assert "shapes like" not in log


@pytest.mark.parametrize("buckets", [BUCKETS, BUCKETS[:2], (32,)])
def test_a_run_in_buckets_goes_on_bit_for_bit(tiny, tmp_path, buckets):
    words = ("INPUT.BUCKETS", buckets, *SCALES, "DATASETS.TEST", (), "SOLVER.CHECKPOINT_PERIOD", 3)
    words = (*words, "SOLVER.KEEP_LAST", 0, "SOLVER.MAX_ITER", 7)
    train(tiny(*words))
    out, parts = tmp_path / "out", tmp_path / "parts"
    parts.mkdir()
    shutil.copy(out / "model_0000003.pth", parts)
    (parts / "last_checkpoint").write_text("model_0000003.pth")
    train(tiny(*words, "OUTPUT_DIR", str(parts), "DATALOADER.NUM_WORKERS", 2), resume=True)
    whole, again = weights(out), weights(parts)
    assert all(torch.equal(value, again[key]) for key, value in whole.items())
    losses = [
        [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (out, parts)
    ]
    assert all(math.isfinite(row["loss"]) for rows in losses for row in rows if "loss" in row)


# ---------------------------------------------------------------------------------------------- what does not fit
def test_an_image_that_no_bucket_holds_is_named_before_anything_is_written(tiny, tmp_path):
    cfg = tiny("INPUT.BUCKETS", ((64, 64),), "INPUT.MIN_SIZE_TRAIN", (64, 70), "INPUT.MAX_SIZE_TRAIN", 0)
    with pytest.raises(
        InvalidValueError, match=r"no bucket of INPUT\.BUCKETS \[\[64, 64\]\] holds 24 of the 24"
    ) as error:
        train(cfg)
    said = str(error.value)
    assert re.search(r"as training sees them: the first is \d+\.jpg with \d+x\d+ pixels \(height x width\)", said)
    assert "`detframe check` proposes some" in said and "or set INPUT.BUCKETS []" in said
    assert not (tmp_path / "out").exists()


def test_an_evaluation_names_it_too(tiny, tmp_path):
    train(tiny("DATASETS.TEST", (), "SOLVER.MAX_ITER", 1))
    words = ("MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth"), *LARGER)
    out = ("OUTPUT_DIR", str(tmp_path / "other"))
    with pytest.raises(InvalidValueError, match="8 of the 8 images of shapes_val as evaluation sees them"):
        evaluate(tiny(*words, *out, "INPUT.BUCKETS", ((96, 96),)))
    assert not (tmp_path / "other").exists()
    evaluate(tiny(*words, *out, "INPUT.BUCKETS", ((130, 130),)))  # which grows to 160, 160


class Some(Images):
    def __init__(self, sizes_hw):
        super().__init__(len(sizes_hw))
        self.sizes_hw = np.array(sizes_hw, dtype=np.int32)


@pytest.mark.parametrize(
    ("options", "training", "largest"),
    [
        (("INPUT.MIN_SIZE_TRAIN", (50, 100), "INPUT.MAX_SIZE_TRAIN", 150), True, (100, 133)),
        (("INPUT.MIN_SIZE_TRAIN", (50, 120), "INPUT.MAX_SIZE_TRAIN", 150), True, (113, 150)),
        (("INPUT.MIN_SIZE_TRAIN", (0,)), True, (60, 80)),
        (("INPUT.MIN_SIZE_TRAIN", (30, 0)), True, (60, 80)),
        (("INPUT.LSJ.ON", True, "INPUT.LSJ.SIZE", 100), True, (100, 100)),
        (("INPUT.LSJ.ON", True, "INPUT.LSJ.SIZE", 100, "INPUT.LSJ.MAX_SCALE", 1.0), True, (75, 100)),
        (("INPUT.MIN_SIZE_TEST", 90), False, (90, 120)),
        (("INPUT.MIN_SIZE_TEST", 90, *VIEWS, "TEST.AUG.PLAIN", False), False, (60, 80)),
        (("INPUT.MIN_SIZE_TEST", 90, *VIEWS), False, (90, 120)),
    ],
)
def test_the_largest_size_of_an_image(options, training, largest):
    cfg = get_cfg()
    cfg.merge_from_list(list(options))
    sizes = np.concatenate(list(largest_sizes(cfg, np.array([[60, 80]]), training)))
    assert tuple(sizes.max(axis=0)) == largest
    for bucket, fits in ((largest, True), ((largest[0] - 1, largest[1]), False), ((largest[0], largest[1] - 1), False)):
        given, sets = cfg.changed([("INPUT.BUCKETS", (bucket,))]), {"a": Some([[60, 80], [30, 40]])}
        tests, train_sets = ({}, sets) if training else (sets, None)
        if fits:
            assert check_shapes(given, 1, tests, train_sets).startswith("batches have at most 1 shape (")
        else:
            with pytest.raises(InvalidValueError, match="no bucket"):
                check_shapes(given, 1, tests, train_sets)


def test_multiples_hold_everything():
    cfg = get_cfg().changed([("INPUT.BUCKETS", (128,))])
    assert (
        check_shapes(cfg, 32, {"a": Some([[6000, 80]])})
        == "the sides of batches are multiples of 128 pixels (INPUT.BUCKETS)"
    )
    assert check_shapes(get_cfg(), 32, {"a": Some([[6000, 80]])}) == ""


def test_predicting_pads_to_the_buckets_too(tiny, shapes, caplog):
    cfg = tiny("INPUT.BUCKETS", BUCKETS, "INPUT.MIN_SIZE_TEST", 0, "MODEL.NUM_CLASSES", 3)
    detector = Detector(build_detection_model(cfg), cfg, {"class_names": ["a", "b", "c"], "category_ids": [1, 2, 3]})
    images = [torch.zeros(3, height, width, dtype=torch.uint8) for height, width in ((50, 90), (60, 70), (90, 20))]
    assert len(detector.predict(images)) == 3
    assert shapes[False] == [(2, 3, 64, 96), (1, 3, 96, 64)]
    assert not caplog.records
    detector.predict([torch.zeros(3, 20, 100, dtype=torch.uint8)] * 2, batch_size=1)
    assert shapes[False][2:] == [(1, 3, 32, 128)] * 2
    assert caplog.text.count("one more shape") == 1


# ---------------------------------------------------------------------------------------------- parts
def test_a_batch_that_is_too_small_is_filled():
    class Model(torch.nn.Module):
        takes_paste_masks, pixel, class_agnostic = True, 1.0, True

        def forward(self, images, paste_masks=True):
            self.seen = (len(images), paste_masks)
            return [{"boxes": image.sum()} for image in images]

    model = Model()
    full = FullBatches(model, 3)
    assert (full.takes_paste_masks, full.pixel, full.class_agnostic) == (True, 1.0, True)
    assert full.shapes_seen((4, 5)) == [(4, 5)]
    for count in (1, 2, 3, 4):
        found = full([torch.full((3, 2, 2), i) for i in range(count)], paste_masks=False)
        assert [int(one["boxes"]) for one in found] == [12 * i for i in range(count)]
        assert model.seen == (max(3, count), False)


def test_without_buckets_batches_of_the_first_shape_are_full():
    """It has a graph of its own; further shapes share graphs, whatever their number of images."""
    seen = []

    class Model(torch.nn.Module):
        def canvas_hw(self, size_hw):
            return tuple(-side // 32 * -32 for side in size_hw)

        def forward(self, images):
            seen.append(len(images))
            return [{"boxes": image.sum()} for image in images]

    full = FullBatches(Model())
    for height, count in [(30, 3), (40, 1), (31, 1), (40, 4), (32, 5)]:
        found = full([torch.full((1, height, 2), i / height) for i in range(count)])
        assert [round(float(one["boxes"])) for one in found] == [2 * i for i in range(count)]
    assert seen == [3, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"INPUT.BUCKETS": ((64, 64),)}, {}),
        ({}, {"INPUT.BUCKETS": ((64, 99), (99, 64))}),
        ({"INPUT.BUCKETS": (64,), "INPUT.MIN_SIZE_TRAIN": (64, 80)}, {"INPUT.BUCKETS": (64,)}),
        ({"INPUT.BUCKETS": (64,)}, {"INPUT.BUCKETS": (64,), "DATALOADER.ASPECT_RATIO_GROUPING": False}),
    ],
)
def test_other_buckets_in_the_middle_of_a_window_lose_no_image(before, now):
    records = Images(50)
    records.sizes_hw[::3, 1], records.sizes_hw[::5, 0] = 99, 150
    records.sample_key = int
    common = [("SOLVER.IMS_PER_BATCH", 4), ("SEED", 3)]
    old_cfg, new_cfg = (get_cfg().changed([*common, *changes.items()]) for changes in (before, now))
    old = first_place(old_cfg, records)
    state, leaves = {"iteration": 5, "place": old.state_dict()}, dict(old_cfg.leaves())
    assert resumed_place(old_cfg, records, state, leaves) == old
    new = resumed_place(new_cfg, records, state, leaves)
    then = build_sampler(records, 4, 3, True, group=group_of(old_cfg, records))
    drawn = [draw.position for batch in islice(then.batches(), 5) for draw in batch]
    assert sorted((*drawn, *new.beginning.pending)) == list(range(new.beginning.origin))
    assert new.begun_at == 5
    assert resumed_place(new_cfg, records, {"iteration": 7, "place": new.state_dict()}, dict(new_cfg.leaves())) == new


def test_grouping_needs_no_buckets_that_nobody_has():
    cfg, records = get_cfg().changed([("INPUT.MIN_SIZE_TRAIN", (64, 80))]), Images(50)
    old = first_place(get_cfg(), records)
    state = {"iteration": 5, "place": old.state_dict()}
    cfg = cfg.changed([("SOLVER.IMS_PER_BATCH", get_cfg().SOLVER.IMS_PER_BATCH)])
    assert resumed_place(cfg, records, state, LEAVES) == old
