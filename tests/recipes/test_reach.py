"""The model against the data: sizes, what is reached, what would raise it, and the text. Values computed by hand."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from detframe.recipes.options import quantile_sizes
from detframe.recipes.reach import BOUNDS, PERCENTILES, reach
from tests.recipes.sets import config, make_records, square


def shares(found, name):
    """(objects, reached, between, missed) of a size class."""
    row = next(c for c in found.classes if name in c.name)
    return row.count, row.full, row.weak, row.missed


# ------------------------------------------------------------------ what each detector reaches
# Anchors of p2 stand around multiples of 4 and are 32 px large, of the three shapes 32 x 32, 45 x 23 and 23 x 45
FOUR = [square(64, 64, 32), square(66, 64, 32), square(128, 128, 20), square(200, 200, 6)]


def test_faster_rcnn_by_hand():
    found = reach(config(), make_records((256, 256, FOUR)))
    # an anchor exactly; half a step beside one: 30 * 32 of 1024 + 64 = 0.88; 400 of 1024 = 0.39; 36 of 1024 = 0.04
    assert found.num_objects == 4
    assert found.recall == 0.5
    assert (found.total.full, found.total.weak, found.total.missed) == (0.5, 0.25, 0.25)
    assert shares(found, "below 8") == (1, 0, 0, 1)
    assert shares(found, "16 to 32") == (1, 0, 1, 0)
    assert shares(found, "32 to 96") == (2, 1, 0, 0)
    assert math.isnan(shares(found, "8 to 16")[1])


def test_retinanet_by_hand():
    """From p3 on: 32, 40 and 51 px around multiples of 8; reached from 0.5 on."""
    boxes = [square(64, 64, 32), square(68, 64, 32), square(128, 128, 23), square(128, 128, 22), square(64, 64, 20)]
    found = reach(config(detector="RetinaNet"), make_records((256, 256, boxes)))
    # 1; half a step: 28 of 36 = 0.78; 529 of 1024 = 0.517; 484 of 1024 = 0.47; 400 of 1024 = 0.39 < 0.4
    assert (found.total.full, found.total.weak, found.total.missed) == (0.6, 0.2, 0.2)
    assert math.isnan(found.total.below_cell)


def test_fcos_by_hand():
    """From p3 on: locations at 4, 12, 20, ..., for distances up to 64."""
    boxes = [square(4, 4, 4), square(8, 8, 6), square(100, 100, 30), [20, 20, 60, 21]]
    found = reach(config(detector="FCOS"), make_records((256, 256, boxes)))
    # around a location; between four; many; a line between two rows of locations, 20 px high at its end
    assert found.total.full == 0.5
    assert found.total.missed == 0.5
    assert "location of their own" in found.words[0]


def test_c4_by_hand():
    """One level of stride 16: anchors of 32 and 64 px around multiples of 16."""
    boxes = [square(64, 64, 32), square(72, 64, 32), square(64, 64, 64), square(64, 64, 12)]
    found = reach(config(detector="C4"), make_records((256, 256, boxes)))
    # 1; half a step: 24 of 40 = 0.6 < 0.7; 1; 144 of 1024 = 0.14 < 0.3
    assert (found.total.full, found.total.weak, found.total.missed) == (0.5, 0.25, 0.25)
    assert found.total.below_cell == 0.25  # 12 px of a cell of 16
    assert [o for o in found.options if "FPN" in o.text] == []


def test_efpn_by_hand():
    """The same objects as with the pyramid above it: the finest level has anchors of 16 px around multiples of 2."""
    found = reach(config(detector="EFPN"), make_records((256, 256, [*FOUR, square(50, 50, 16)])))
    assert (found.total.full, found.total.weak, found.total.missed) == (0.6, 0.2, 0.2)
    assert shares(found, "below 8") == (1, 0, 0, 1)  # 36 of 256 = 0.14
    assert shares(found, "16 to 32") == (2, 0.5, 0.5, 0)  # 20 px: 256 of 400 = 0.64
    assert found.total.below_cell == 0


def test_objects_narrower_than_a_cell_of_the_second_stage():
    found = reach(config(), make_records((256, 256, [[10, 10, 13, 60], [10, 10, 14, 60], square(200, 200, 30)])))
    assert found.total.below_cell == pytest.approx(1 / 3)
    (finding,) = [f for f in found.findings() if f.code == "below-a-cell"]
    assert finding.count == 1


# ------------------------------------------------------------------ sizes
def test_sides_are_those_after_resizing():
    records = make_records((100, 200, [[0, 0, 40, 10]] * 4))
    half = ("INPUT.MIN_SIZE_TRAIN", (50,), "INPUT.MAX_SIZE_TRAIN", 1000, "INPUT.MIN_SIZE_TEST", 100)
    found = reach(config(*half), records, with_options=False)
    train, test = found.sides
    assert (train.view.name, test.view.name) == ("training", "test")
    assert train.root == (10,) * len(PERCENTILES)
    assert train.shorter == (5,) * len(PERCENTILES)
    assert train.longer == (20,) * len(PERCENTILES)
    assert test.root == (20,) * len(PERCENTILES)
    assert shares(found, "8 to 16")[0] == 4


def test_the_longer_side_limits_the_resizing():
    limited = ("INPUT.MIN_SIZE_TRAIN", (100,), "INPUT.MAX_SIZE_TRAIN", 100)
    found = reach(config(*limited), make_records((100, 200, [square(50, 50, 20)])), with_options=False)
    assert found.sides[0].root[0] == pytest.approx(10)


def test_percentiles_of_many_objects():
    boxes = [square(400, 400, side) for side in range(1, 102)]
    found = reach(config(), make_records((800, 800, boxes)), with_options=False)
    assert found.sides[0].root == pytest.approx((2, 6, 26, 51, 76, 96, 100), abs=1e-3)
    assert sum(c.count for c in found.classes) == 101
    assert [c.count for c in found.classes] == [7, 8, 16, 64, 6]
    assert len(BOUNDS) + 1 == len(found.classes)


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (("INPUT.MIN_SIZE_TRAIN", (50, 200, 100)), {"training and test": 100, "smallest": 50, "largest": 200}),
        (
            ("INPUT.MIN_SIZE_TRAIN", (50, 150), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
            {"training and test": 100, "smallest": 50, "largest": 150},
        ),
        (("INPUT.MIN_SIZE_TRAIN", (100,)), {"training and test": 100}),
    ],
)
def test_several_training_sizes(overrides, wanted):
    cfg = config("INPUT.MAX_SIZE_TRAIN", 1333, *overrides, "INPUT.MIN_SIZE_TEST", 100)
    found = reach(cfg, make_records((100, 100, [square(50, 50, 10)])), with_options=False)
    sizes = {sides.view.name: round(10 * sides.root[0]) for sides in found.sides}
    assert {next(k for k in wanted if k in name): size for name, size in sizes.items()} == wanted


def test_large_scale_jitter_makes_the_longer_side_its_size():
    jitter = ("INPUT.LSJ.ON", True, "INPUT.LSJ.SIZE", 100, "INPUT.LSJ.MIN_SCALE", 0.5, "INPUT.LSJ.MAX_SCALE", 1.5)
    found = reach(config(*jitter), make_records((100, 200, [square(50, 50, 20)])), with_options=False)
    assert [round(sides.root[0]) for sides in found.sides][:3] == [10, 5, 15]


def test_crowds_do_not_count():
    found = reach(config(), make_records((256, 256, FOUR), crowds=1))
    assert found.num_objects == 3


def test_data_without_objects():
    found = reach(config(), make_records((64, 64, [])))
    assert math.isnan(found.recall)
    assert found.findings() == ()
    assert found.lines() == ["1 image without an object: nothing to reach"]


# ------------------------------------------------------------------ images
def test_crowded_images_and_the_limit_that_holds_them():
    many = [square(8 * i + 5, 5, 4) for i in range(12)]
    found = reach(config("TEST.DETECTIONS_PER_IMG", 10), make_records((64, 128, many), (64, 64, many[:8])))
    assert (found.crowded.count, found.crowded.most) == (1, 12)
    (finding,) = [f for f in found.findings() if f.code == "crowded"]
    assert finding.count == 1
    assert finding.examples == ("1.png",)
    assert "at most 12" in finding.text
    assert "10 % of all objects" in finding.text  # 2 of 20
    assert finding.remedy == "TEST.DETECTIONS_PER_IMG 50"
    at_limit = reach(config("TEST.DETECTIONS_PER_IMG", 12), make_records((64, 128, many)))
    assert not [f for f in at_limit.findings() if f.code == "crowded"]


def test_images_that_are_shrunk_threefold_or_more():
    records = make_records((300, 300, [square(150, 150, 200)]), (299, 299, [square(150, 150, 200)]))
    found = reach(config("INPUT.MIN_SIZE_TRAIN", (100,)), records, with_options=False)
    assert (found.shrunk.count, found.shrunk.most) == (1, 3.0)
    (finding,) = [f for f in found.findings() if f.code == "shrunk"]
    assert "3.0 times; 0 % of all objects" in finding.text
    assert (finding.severity, finding.remedy) == ("note", "")
    small = make_records((300, 300, [square(150, 150, 47), square(50, 50, 49)]))
    found = reach(config("INPUT.MIN_SIZE_TRAIN", (100,)), small, with_options=False)
    (finding,) = [f for f in found.findings() if f.code == "shrunk"]
    assert "50 % of all objects lie in them and are below 16 pixels then" in finding.text
    assert finding.severity == "warning"
    assert "INPUT.MIN_SIZE_TRAIN" in finding.remedy


# ------------------------------------------------------------------ other settings
def test_a_setting_is_named_with_what_it_was_computed_to_give():
    """Objects of 8 px on the anchors of p2: none is reached by 32 px, and all are by 8."""
    boxes = [square(16 + 4 * i, 16 + 16 * j, 8) for i in range(0, 40, 4) for j in range(10)]
    found = reach(config(), make_records((200, 200, boxes)))
    assert found.recall == 0
    best = {o.settings[0][0]: o for o in reversed(found.options)}["MODEL.RPN.ANCHOR_SIZES"]
    assert best.settings == (("MODEL.RPN.ANCHOR_SIZES", ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,))),)
    assert (best.recall, best.missed, best.pixels) == (1.0, 0.0, 1.0)
    (finding,) = [f for f in found.findings() if f.code == "out-of-reach"]
    assert finding.count == 100
    assert "of 100 objects 8 to 16 px after resizing (100 %) overlap no anchor by 0.3" in finding.text
    assert "from 0.00 to 1.00 (0 % of all objects missed instead of 100 %" in finding.remedy
    applied = config(*(word for pair in found.options[0].settings for word in pair))
    assert reach(applied, make_records((200, 200, boxes)), with_options=False).recall == found.options[0].recall


def test_a_larger_input_counts_with_its_pixels():
    boxes = [square(16 + 8 * i, 16, 16) for i in range(8)]
    cfg = config("INPUT.MIN_SIZE_TRAIN", (100,), "INPUT.MIN_SIZE_TEST", 100)
    found = reach(cfg, make_records((100, 100, boxes)))
    larger = next(o for o in found.options if ("INPUT.MIN_SIZE_TRAIN", (200,)) in o.settings)
    assert larger.pixels == 4.0
    assert larger.recall == 1.0  # 32 px, on the anchors
    assert ("INPUT.MIN_SIZE_TEST", 200) in larger.settings


def test_of_two_that_reach_as_much_the_cheaper_comes_first():
    boxes = [square(16 + 4 * i, 16 + 16 * j, 16) for i in range(0, 40, 5) for j in range(8)]
    cfg = config("INPUT.MIN_SIZE_TRAIN", (200,), "INPUT.MIN_SIZE_TEST", 200)
    found = reach(cfg, make_records((200, 200, boxes)))
    assert (found.options[0].recall, found.options[0].pixels) == (1.0, 1.0)
    assert (1.0, 4.0) in [(o.recall, o.pixels) for o in found.options]


@pytest.mark.parametrize(
    ("detector", "key", "value"),
    [
        ("Faster R-CNN", "MODEL.BACKBONE.CONV_BODY", "R-18-EFPN"),
        ("RetinaNet", "MODEL.FPN.IN_FEATURES", ("res2", "res3", "res4", "res5")),
        ("FCOS", "MODEL.FPN.IN_FEATURES", ("res2", "res3", "res4", "res5")),
    ],
)
def test_a_finer_level_is_tried(detector, key, value):
    boxes = [square(20 + 14 * i, 20 + 14 * i, side) for i, side in enumerate((3, 4, 5, 6, 7, 8, 9, 10, 11, 12))]
    found = reach(config(detector=detector), make_records((200, 200, boxes)))
    finer = [o for o in found.options if (key, value) in o.settings]
    assert len(finer) == 1
    assert finer[0].missed < found.total.missed


def test_nothing_is_proposed_where_all_is_well():
    boxes = [square(64 * i, 64 * j, 64) for i in range(1, 5) for j in range(1, 5)]
    found = reach(config(), make_records((400, 400, boxes)))
    assert found.recall == 1
    assert found.options == () and found.findings() == ()


def test_sizes_at_the_quantiles_keep_to_their_levels():
    sides = np.linspace(10, 20, 101)
    rows = quantile_sizes([[32.0], [64.0], [128.0]], [4, 8, 16], sides)
    assert rows == [[pytest.approx(10 + 10 / 6)], [16.0], [32.0]]
    assert quantile_sizes([[32.0, 64.0]], [16], sides) == [pytest.approx([12.5, 17.5])]


# ------------------------------------------------------------------ as a whole
def many_records(count: int, per_image: int):
    generator = np.random.default_rng(0)
    images = []
    for _ in range(count // per_image):
        corner, side = generator.uniform(0, 600, (per_image, 2)), generator.uniform(4, 60, (per_image, 1))
        images.append((700, 700, np.concatenate([corner, corner + side], 1).tolist()))
    return make_records(*images)


@pytest.mark.parametrize("detector", ["Faster R-CNN", "FCOS"])
def test_ten_thousand_objects_take_a_moment(detector):
    records = many_records(10_000, 100)
    start = time.process_time()
    found = reach(config(detector=detector), records, with_options=False)
    assert time.process_time() - start < 10  # about 0.3 on an idle machine
    assert found.num_objects == 10_000


def test_very_many_objects_are_sampled_the_same_way_each_time(monkeypatch):
    monkeypatch.setattr("detframe.engine.fit.MAX_OBJECTS", 500)
    records = many_records(2000, 50)
    first, second = (reach(config(), records, with_options=False) for _ in range(2))
    assert first.num_objects == 500
    assert repr(first.total) == repr(second.total)  # NaN, of which there are some, is no equal of its own
    assert first.num_images == 40


def test_random_numbers_stay_as_they_are():
    before = torch.get_rng_state()
    reach(config(), make_records((256, 256, FOUR)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("detector", ["Faster R-CNN", "RetinaNet", "FCOS", "GFL", "C4", "EFPN"])
def test_lines_fit_a_screen(detector):
    found = reach(config(detector=detector), make_records((256, 256, FOUR), (300, 200, FOUR)))
    lines = found.lines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "square root of area" in text and "below 8 px" in text
    assert "nan" not in text
    if found.options:
        assert "not what it will learn" in text


def test_a_head_that_cannot_tell(monkeypatch):
    from detframe.modeling.rpn import AnchorRPN

    monkeypatch.delattr(AnchorRPN, "reach")
    found = reach(config(), make_records((256, 256, FOUR)))
    assert math.isnan(found.recall)
    assert found.options == ()
    assert not [f for f in found.findings() if f.code == "out-of-reach"]
    assert "nan" not in "\n".join(found.lines())
