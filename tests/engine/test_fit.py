"""What the log of a training says of the data: one line where all is well, and a warning for each thing that is not."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest
import torch

from detframe.engine.fit import View, eval_view, fit_lines, place_objects, room_for, training_views
from detframe.modeling import build_detection_model
from detframe.modeling.build import build_outline
from tests.recipes.sets import DETECTORS, config, make_records, square

WELL = (400, 400, [square(64 * i, 64 * j, 64) for i in range(1, 5) for j in range(1, 5)])


def lines_of(cfg, records, tests=None):
    cfg.MODEL.NUM_CLASSES = 2
    return fit_lines(cfg, build_outline(cfg), records, tests or {})


def warnings_of(*args):
    return [text for level, text in lines_of(*args) if level == logging.WARNING]


def test_where_all_is_well_there_is_one_line():
    records = make_records(WELL)
    assert lines_of(config(), records, {"val": records}) == [
        (
            logging.INFO,
            "objects after resizing in training: half have a side below 64 pixels, 90 % have 64 to 64; "
            "100 % overlap an anchor by 0.7 or more",
        )
    ]


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_detector_says_what_it_reaches(detector):
    (line,) = [text for level, text in lines_of(config(detector=detector), make_records(WELL)) if level == logging.INFO]
    assert "side below 64 pixels" in line
    assert ("get a location of their own" in line) == (detector == "FCOS")


def test_objects_out_of_reach():
    boxes = [square(20 + 30 * i, 20, 6) for i in range(3)] + [square(64 * i, 128, 32) for i in range(1, 6)]
    (line,) = warnings_of(config(), make_records((400, 400, boxes)))
    assert line.startswith("38 % of the training objects (their median side is 6 pixels after resizing)")  # 3 of 8
    assert "overlap no anchor by 0.3 (MODEL.RPN.BG_IOU_THRESHOLD)" in line
    assert "MODEL.RPN.ANCHOR_SIZES, INPUT.MIN_SIZE_TRAIN" in line


def test_images_that_are_shrunk_with_small_objects():
    records = make_records((600, 600, [square(300, 300, 56)]), WELL, WELL)
    lines = warnings_of(config("INPUT.MIN_SIZE_TRAIN", (150,)), records)
    (line,) = [line for line in lines if "shrunk" in line]
    assert line.startswith("1 of 3 images are shrunk 3 times or more, at most 4.0 times")
    assert line.endswith("3 % of all objects lie in them and are below 16 pixels then")  # 1 of 33


def test_images_that_are_shrunk_with_large_objects_are_no_warning():
    records = make_records((600, 600, [square(304, 304, 256)]), (150, 150, [square(64, 64, 64)]))
    ((level, line),) = lines_of(config("INPUT.MIN_SIZE_TRAIN", (150,)), records)
    assert level == logging.INFO
    assert line.endswith("or more; 1 of 2 images are shrunk 3 times or more, at most 4.0 times")


def test_images_with_more_objects_than_detections():
    tests = {"val": make_records(WELL, (64, 64, [square(32, 32, 32)])), "other": make_records(WELL)}
    lines = warnings_of(config("TEST.DETECTIONS_PER_IMG", 15), make_records(WELL), tests)
    assert lines == [
        "1 of 2 images of val hold more objects (up to 16) than TEST.DETECTIONS_PER_IMG 15 lets the model find: "
        "set it to 50",
        "1 of 1 images of other hold more objects (up to 16) than TEST.DETECTIONS_PER_IMG 15 lets the model find: "
        "set it to 50",
    ]
    assert warnings_of(config("TEST.DETECTIONS_PER_IMG", 16), make_records(WELL), tests) == []


@pytest.mark.parametrize(("per", "key"), [("image", "POST_NMS_TOP_N_TEST"), ("level", "FPN_POST_NMS_TOP_N_TEST")])
def test_images_with_more_objects_than_proposals(per, key):
    keys = ("MODEL.RPN.POST_NMS_PER", per, f"MODEL.RPN.{key}", 15)
    (line,) = warnings_of(config(*keys), make_records(WELL), {"val": make_records(WELL)})
    assert line == (
        f"1 of 1 images of val hold more objects (up to 16) than MODEL.RPN.{key} 15 lets the model find: set it to 200"
    )
    assert warnings_of(config(*keys, f"MODEL.RPN.{key}", 16), make_records(WELL), {"val": make_records(WELL)}) == []


@pytest.mark.parametrize(("most", "limit"), [(1, 50), (45, 50), (46, 100), (91, 150), (100, 150), (1000, 1100)])
def test_room_for_some_objects_more(most, limit):
    assert room_for(most) == limit > most


def test_data_without_objects():
    (line,) = lines_of(config(), make_records((64, 64, [])))
    assert line[0] == logging.WARNING
    assert "no training image has an object" in line[1]


def test_a_head_of_a_users_own_is_left_alone(monkeypatch):
    from detframe.modeling.rpn import AnchorRPN

    monkeypatch.delattr(AnchorRPN, "reach")
    ((level, line),) = lines_of(config(), make_records(WELL))
    assert level == logging.INFO
    assert line.endswith("90 % have 64 to 64")


def test_ten_thousand_objects_take_a_moment():
    generator = np.random.default_rng(0)
    images = []
    for _ in range(500):
        corner, side = generator.uniform(0, 600, (20, 2)), generator.uniform(4, 60, (20, 1))
        images.append((700, 700, np.concatenate([corner, corner + side], 1).tolist()))
    cfg, records = config(), make_records(*images)
    cfg.MODEL.NUM_CLASSES = 2
    model = build_outline(cfg)
    start = time.process_time()
    fit_lines(cfg, model, records, {"val": records})
    assert time.process_time() - start < 5  # about 0.1 on an idle machine


# ------------------------------------------------------------------ the objects as the model meets them
@pytest.mark.parametrize("legacy", [False, True])
def test_objects_are_placed_as_in_a_batch_of_the_training(legacy, tmp_path):
    """The boxes, sizes and padding that the loader and the model make of the same images."""
    from detframe.data import build_train_loader

    boxes = [[3, 5, 50, 40], [10, 10, 11, 12], [60, 20, 90, 67]]
    records = make_records((67, 90, boxes), (80, 70, boxes[:2]), folder=tmp_path)
    cfg = config("INPUT.MIN_SIZE_TRAIN", (100,), "INPUT.MAX_SIZE_TRAIN", 120, "INPUT.FLIP_PROB", 0.0)
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 2, "MODEL.LEGACY_BOXES", legacy, "DATALOADER.NUM_WORKERS", 0])
    cfg.SOLVER.IMS_PER_BATCH = 1
    model = build_detection_model(cfg).train()
    placed = place_objects(model, records, training_views(cfg)[0])
    loader = build_train_loader(cfg, records)
    for _ in range(2):
        images, targets = next(loader)
        number = targets[0]["image_id"] - 1
        batch, truth = model._batch(images, targets)
        assert torch.allclose(placed.boxes[placed.image == number], truth.boxes[0], atol=1e-4)
        assert tuple(placed.sizes_hw[number].tolist()) == batch.sizes_hw[0]
        assert tuple(placed.padded_hw[number].tolist()) == batch.padded_hw


def test_views():
    cfg = config("INPUT.MIN_SIZE_TRAIN", (50, 200, 100), "INPUT.MAX_SIZE_TRAIN", 300)
    assert [(view.min_size, view.max_size) for view in training_views(cfg)] == [(100, 300), (50, 300), (200, 300)]
    cfg = config(
        "INPUT.MIN_SIZE_TRAIN", (60, 100), "INPUT.MAX_SIZE_TRAIN", 150, "INPUT.MIN_SIZE_TRAIN_SAMPLING", "scale"
    )
    assert [(view.min_size, view.max_size) for view in training_views(cfg)] == [(80, 120), (60, 90), (100, 150)]
    assert eval_view(cfg).min_size == 0
    records = make_records((100, 200, []), (400, 50, []))
    assert View("", "", 50, 150).sizes_hw(records).tolist() == [[50, 100], [150, 19]]
    assert View("", "", 50, 150).factors(records).tolist() == pytest.approx([2, 400 / 150])
    assert View("", "", 0, 0).sizes_hw(records).tolist() == [[100, 200], [400, 50]]


def test_an_outline_draws_no_random_number_and_equals_the_model():
    cfg = config()
    cfg.MODEL.NUM_CLASSES = 2
    before = torch.get_rng_state()
    outline = build_outline(cfg)
    assert torch.equal(torch.get_rng_state(), before)
    model = build_detection_model(cfg)
    assert torch.equal(outline.rpn.anchors.templates0, model.rpn.anchors.templates0)
    assert {name: p.shape for name, p in outline.named_parameters()} == {
        n: p.shape for n, p in model.named_parameters()
    }
    assert outline.backbone.strides == model.backbone.strides
    assert cfg.MODEL.DEVICE == "cpu"


def test_the_sizes_of_a_list_of_transforms_are_those_that_it_resizes_to() -> None:
    cfg = config("INPUT.TRANSFORMS", ["HorizontalFlip", {"Resize": {"min_sizes": [50, 90], "max_size": 100}}])
    views = [(view.name, view.keys, view.min_size, view.max_size) for view in training_views(cfg)]
    assert views[1:] == [
        ("smallest training", "INPUT.TRANSFORMS", 50, 100),
        ("largest training", "INPUT.TRANSFORMS", 90, 100),
    ]
    cfg = config("INPUT.TRANSFORMS", [{"LargeScaleJitter": {"size": 64, "max_scale": 1.5}}])
    assert training_views(cfg)[-1].max_size == 96
