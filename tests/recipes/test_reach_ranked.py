"""The model against the data where anchors or locations are ranked: what is reached, how well it fits, what is said."""

from __future__ import annotations

import logging
import math

import pytest

from detframe.engine.fit import MAX_RANKED, fit_lines, sampled
from detframe.modeling.build import build_outline
from detframe.recipes.reach import reach
from tests.recipes.sets import config, make_records, square

TINY = [square(20 + 16 * i, 20 + 16 * j, 6) for i in range(10) for j in range(10)]
BETWEEN = [[x + 4 for x in box] for box in TINY]  # the locations of FCOS, of which none lies in them
LARGE = [square(200 + 40 * i, 200 + 40 * j, 300) for i in range(3) for j in range(3)]
DETECTORS = ("Faster R-CNN", "RetinaNet", "FCOS")


def found_by(assigner, boxes, *overrides, detector="Faster R-CNN", side=480, with_options=False):
    cfg = config("MODEL.RPN.ASSIGNER", assigner, *overrides, detector=detector)
    return reach(cfg, make_records((side, side, boxes)), with_options=with_options)


def ill_fitting(found):
    return [f for f in found.findings() if f.code == "ill-fitting"]


@pytest.mark.parametrize("detector", DETECTORS)
def test_tiny_objects_are_missed_by_overlap_and_reached_by_rank(detector):
    assert found_by("iou", BETWEEN, detector=detector).total.missed == 1
    for assigner in ("nwd", "rfla"):
        found = found_by(assigner, BETWEEN, detector=detector)
        assert (found.recall, found.total.missed, found.total.weak) == (1, 0, 0)
        assert not [f for f in found.findings() if f.code == "out-of-reach"]
        row = next(c for c in found.classes if c.name == "below 8 px")
        assert (row.count, row.positives) == (100, {"nwd": 2, "rfla": 4}[assigner])
        assert (row.overlap, row.scale) == (found.total.overlap, found.total.scale)


def test_detectors_with_a_rule_of_their_own_rank_by_it():
    """Squares of 64 pixels stand on P3, in which objects of 6 lie, and none of their locations."""
    own, said = (found_by(rule, TINY, detector="GFL") for rule in ("iou", "atss"))
    assert str(own.total) == str(said.total) and own.total.positives > 0
    (finding,) = ill_fitting(own)
    assert finding.remedy.startswith("smaller MODEL.RPN.ASSIGNMENT.FCOS_PRIOR")
    (finding,) = [f for f in found_by("iou", BETWEEN, detector="GFL").findings() if f.code == "out-of-reach"]
    assert "get no location by the rule atss of MODEL.RPN.NAME GFL" in finding.text


def test_how_well_anchors_fit_by_hand():
    """Anchors of p2: 32 x 32 around multiples of 4."""
    found = found_by("nwd", [square(64, 64, 6)], "MODEL.RPN.ASPECT_RATIOS", (1.0,))
    assert found.total.positives == 2
    # one of 32 around the same point, one 4 pixels beside it: both hold the object
    assert found.total.overlap == pytest.approx(36 / 1024)
    assert found.total.scale == pytest.approx(6 / 32)


def test_what_is_far_smaller_than_its_anchors_is_said_with_the_remedy():
    (finding,) = ill_fitting(found_by("nwd", TINY))  # 6 of 32
    assert finding.count == 100
    assert finding.text.startswith("of 100 objects (100 %) are 4 times smaller than the anchors that are to find them")
    assert finding.remedy.startswith("smaller MODEL.RPN.ANCHOR_SIZES, a larger INPUT.MIN_SIZE_TRAIN")
    smaller = ("MODEL.RPN.ANCHOR_SIZES", ((8,), (16,), (32,), (64,), (128,)))
    assert ill_fitting(found_by("nwd", TINY, *smaller)) == []
    assert ill_fitting(found_by("rfla", TINY)) == []  # the finest field of an R-18 is 21.5 pixels wide
    (finding,) = ill_fitting(found_by("rfla", [square(16 * i, 20, 4) for i in range(1, 20)]))
    assert finding.remedy.startswith("a larger INPUT.MIN_SIZE_TRAIN") and "ANCHOR_SIZES" not in finding.remedy


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("assigner", ["nwd", "rfla"])
def test_large_objects_get_few_anchors(assigner, detector):
    found = found_by(assigner, LARGE, detector=detector)
    assert found.total.positives <= 4
    (finding,) = ill_fitting(found)
    what = "locations" if detector == "FCOS" else "anchors"
    assert finding.count == 9 and finding.severity == "warning"
    assert f"have a side of 96 pixels or more and get {found.total.positives:.1f} {what} each" in finding.text
    assert f"which {assigner} was made for" in finding.text
    assert finding.remedy == "MODEL.RPN.ASSIGNER iou or atss"


@pytest.mark.parametrize("detector", DETECTORS)
def test_atss_and_iou_say_nothing_of_large_objects(detector):
    for assigner in ("atss", "iou"):
        assert ill_fitting(found_by(assigner, LARGE, detector=detector)) == []


def test_few_large_objects_among_many_are_nothing_to_say():
    assert ill_fitting(found_by("rfla", [*TINY, *LARGE])) == []  # 9 of 109


def test_objects_far_beyond_the_largest_anchors():
    tiny_anchors = ("MODEL.RPN.ANCHOR_SIZES", ((4,), (4,), (8,), (8,), (16,)))
    findings = ill_fitting(found_by("atss", LARGE, *tiny_anchors))
    assert [f.remedy for f in findings] == ["larger MODEL.RPN.ANCHOR_SIZES"]
    assert "are 4 times larger than the anchors" in findings[0].text


def test_atss_misses_what_no_centre_lies_in():
    """Anchors around multiples of 4; of 1 pixel, one object on such a point and one beside."""
    found = found_by("atss", [square(64, 64, 1), square(130, 130, 1)])
    assert (found.recall, found.total.missed) == (0.5, 0.5)
    (finding,) = [f for f in found.findings() if f.code == "out-of-reach"]
    assert "get no anchor by MODEL.RPN.ASSIGNER atss" in finding.text


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("assigner", ["atss", "nwd", "rfla"])
def test_lines_fit_a_screen(assigner, detector):
    found = found_by(assigner, [*TINY, *LARGE], detector=detector, with_options=assigner == "nwd")
    lines = found.lines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "nan" not in text and "between" not in text
    assert "its side over theirs" in text
    row = next(line for line in lines if line.split()[0] == "all")
    assert f"{found.total.overlap:.2f}" in row and f"{found.total.scale:.2f}" in row


def test_data_without_objects():
    assert found_by("rfla", []).findings() == ()


def test_a_training_warns_too():
    cfg = config("MODEL.RPN.ASSIGNER", "rfla", "MODEL.NUM_CLASSES", 2)
    lines = fit_lines(cfg, build_outline(cfg), make_records((480, 480, LARGE)), {})
    assert "100 % get an anchor by MODEL.RPN.ASSIGNER rfla" in lines[0][1]
    warnings = [text for level, text in lines if level == logging.WARNING]
    assert len(warnings) == 1 and warnings[0].startswith("9 of 9 objects (100 %) have a side of 96 pixels or more")
    assert warnings[0].endswith("try MODEL.RPN.ASSIGNER iou or atss")


def test_of_many_objects_fewer_are_looked_at():
    records = make_records(*[(64, 64, TINY[:1] * 100)] * 100)
    assert sampled(records, config()) is records
    assert sampled(records, config("MODEL.RPN.ASSIGNER", "nwd")).num_objects.sum() == MAX_RANKED


def test_check_names_the_fit_in_its_json():
    from detframe.cli.check_model import _of_reach

    rows = _of_reach(found_by("nwd", TINY))["by_size"]
    assert rows[-1]["anchors_each"] == pytest.approx(2.0, abs=0.3)
    assert rows[-1]["side_over_anchors"] == pytest.approx(6 / 32, rel=0.1)
    assert rows[-2]["iou_of_anchors"] is None or not math.isnan(rows[-2]["iou_of_anchors"])
    assert _of_reach(found_by("iou", TINY))["by_size"][-1]["anchors_each"] is None
