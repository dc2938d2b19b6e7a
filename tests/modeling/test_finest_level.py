"""MODEL.RPN.FINEST_LEVEL: one key puts a dense head on a finer or coarser level, and everything else follows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from detframe.config import validate
from detframe.modeling import build_detection_model
from detframe.modeling.build import build_outline
from detframe.recipes.options import options
from tests.modeling.tiny import EMPTY, FULL, make_images, tiny_config

SHAPES = {"MODEL.RPN.ASPECT_RATIOS": (1.0,), "MODEL.RETINANET.ASPECT_RATIOS": (1.0,), "MODEL.FCOS.NUM_CONVS": 1}
SMALL = {**SHAPES, "MODEL.RETINANET.NUM_CONVS": 1, "MODEL.EFPN.WIDTH": 8, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16}
HEADS = ("AnchorRPN", "FCOS", "GFL", "RetinaNet")
KEYS = {"AnchorRPN": "MODEL.RPN.ANCHOR_SIZES", "RetinaNet": "MODEL.RETINANET.ANCHOR_SIZES"}


def config(head, body, level, *opts):
    keys = {**SMALL, "MODEL.RPN.NAME": head, "MODEL.BACKBONE.CONV_BODY": body, "MODEL.RPN.FINEST_LEVEL": level}
    if head != "AnchorRPN":
        keys["MODEL.ROI_HEADS.NAME"] = ""
    cfg = tiny_config(keys, "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, *opts)
    validate(cfg)
    return cfg


def sides(model):
    """Of the anchors of each level, by the square root of their area."""
    anchors = model.rpn.anchors
    templates = [getattr(anchors, f"templates{i}") for i in range(len(anchors.strides))]
    return [((t[:, 2:] - t[:, :2]).prod(1) ** 0.5).tolist() for t in templates]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("body", "level", "levels"),
    [
        ("R-18-FPN-RETINANET", "p2", "p2 p3 p4 p5 p6 p7"),
        ("R-18-FPN-RETINANET", "p3", "p3 p4 p5 p6 p7"),
        ("R-18-FPN-RETINANET", "p4", "p4 p5 p6 p7"),
        ("R-18-FPN", "p3", "p3 p4 p5 p6"),
        ("R-18-EFPN", "p1", "p1 p2 p3 p4 p5 p6"),
        ("R-18-BIFPN", "p2", "p2 p3 p4 p5 p6 p7"),
        ("MNV2-EFPN", "p1", "p1 p2 p3 p4 p5 p6"),
    ],
)
def test_the_levels_that_a_head_stands_on(head, body, level, levels):
    torch.manual_seed(0)
    model = build_detection_model(config(head, body, level))
    assert model.rpn_maps == levels.split()
    losses = model(make_images(), [FULL, EMPTY])
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert len(model.eval()(make_images())) == 2


@pytest.mark.parametrize(("head", "key"), KEYS.items())
def test_anchors_are_those_of_the_coarsest_levels(head, key):
    """Finer levels have halves of the next; levels that are left out take theirs with them."""
    rows = ((30,), (60,), (110,), (200,), (390,))
    for body, level, wanted in [
        ("R-18-FPN-RETINANET", "p3", rows),
        ("R-18-FPN-RETINANET", "p2", ((15,), *rows)),
        ("R-18-FPN-RETINANET", "p4", rows[1:]),
        ("R-18-FPN", "p3", rows[1:]),
        ("R-18-FPN", "p4", rows[2:]),
        ("R-18-EFPN", "p1", ((15,), *rows)),
    ]:
        outline = build_outline(config(head, body, level, key, rows))
        assert sides(outline) == [pytest.approx(row, abs=1.1) for row in wanted], (body, level)
    # one row is that of all levels
    outline = build_outline(config(head, "R-18-FPN-RETINANET", "p2", key, ((8, 16),)))
    assert sides(outline) == [pytest.approx([8, 16])] * 6


def test_an_extended_level_without_anchors():
    """Six rows of an extended pyramid lose that of p1, five are those of p2 to p6."""
    rows = ((32,), (64,), (110,), (200,), (390,))
    for own in (rows, ((16,), *rows)):
        model = build_outline(config("AnchorRPN", "R-18-EFPN", "p2", KEYS["AnchorRPN"], own))
        assert sides(model) == [pytest.approx(row) for row in rows]
        assert model.rpn_maps == ["p2", "p3", "p4", "p5", "p6"] and model.roi_maps[0] == "p1"


def test_sizes_of_interest_are_those_of_the_coarsest_levels():
    key, inf = "MODEL.FCOS.SIZES_OF_INTEREST", float("inf")
    for body, level, sizes, bounds in [
        ("R-18-FPN-RETINANET", "p2", (), (0, 32, 64, 128, 256, 512, inf)),
        ("R-18-FPN-RETINANET", "p2", (50, 100, 200, 400), (0, 25, 50, 100, 200, 400, inf)),
        ("R-18-FPN-RETINANET", "p4", (50, 100, 200, 400), (0, 100, 200, 400, inf)),
        ("R-18-EFPN", "p1", (50, 100, 200, 400), (0, 25, 50, 100, 200, 400, inf)),
        ("R-18-EFPN", "p1", (), (0, 16, 32, 64, 128, 256, inf)),
    ]:
        assert build_outline(config("FCOS", body, level, key, sizes)).rpn.ranges == list(pairwise(bounds))


@pytest.mark.parametrize(
    ("head", "body", "level"),
    [("AnchorRPN", "R-18-FPN", "p2"), ("RetinaNet", "R-18-FPN-RETINANET", "p3"), ("FCOS", "R-18-FPN-RETINANET", "p3")],
)
def test_the_level_that_a_pyramid_ends_at_anyway_changes_nothing(head, body, level):
    plain, named = (build_outline(config(head, body, value)) for value in ("", level))
    assert plain.rpn_maps == named.rpn_maps and list(plain.state_dict()) == list(named.state_dict())
    if head != "FCOS":
        assert sides(plain) == sides(named)


def test_roi_heads_keep_their_levels():
    """A coarser RPN leaves the finer levels to the second stage, a finer one gives it more."""
    coarser = build_outline(config("AnchorRPN", "R-18-FPN", "p4"))
    assert coarser.rpn_maps == ["p4", "p5", "p6"] and coarser.roi_maps == ["p2", "p3", "p4", "p5", "p6"]
    finer = build_outline(config("AnchorRPN", "R-18-FPN-RETINANET", "p2"))
    assert finer.roi_maps == ["p2", "p3", "p4", "p5", "p6", "p7"]


@pytest.mark.parametrize("head", ["AnchorRPN", "RetinaNet"])
def test_settings_that_are_proposed_fit_the_levels(head):
    cfg = config(head, "R-18-FPN-RETINANET", "p2")
    sizes = torch.rand(50, generator=torch.Generator().manual_seed(0)).numpy() * 40 + 8
    found = list(options(cfg, build_outline(cfg), sizes, sizes / sizes))
    assert len(found) > 3
    for settings in found:
        build_outline(cfg.changed(settings))


@pytest.mark.parametrize(("body", "extended"), [("convnext_atto", False), ("resnet10t", True)])
def test_an_extended_pyramid_is_proposed_where_the_body_can_bear_one(body, extended):
    pytest.importorskip("timm")
    cfg = config("AnchorRPN", f"timm/{body}-FPN", "")
    found = list(options(cfg, build_outline(cfg), np.full(9, 20.0), np.ones(9)))
    assert any(dict(settings).get("MODEL.BACKBONE.CONV_BODY") for settings in found) == extended
    for settings in found:
        build_outline(cfg.changed(settings))


WRONG = {
    "no p1": ("FCOS", "R-18-FPN", "p1", (), r"FINEST_LEVEL is 'p1', but 'R-18-FPN' gives \['p2', .*R-50-EFPN"),
    "inputs": ("FCOS", "R-18-FPN-RETINANET", "p2", ("MODEL.FPN.IN_FEATURES", ("res3", "res4")), r"gives \['p3'.*reach"),
    "twice": ("FCOS", "R-18-FPN", "p2", ("MODEL.RPN.IN_FEATURES", ("p2", "p3")), r"RPN\.IN_FEATURES must be empty"),
    "unread": ("FCOS", "R-18-EFPN", "p2", (), r"nothing would read the extended level p1 .* CONV_BODY 'R-18-FPN'"),
    "unread features": (
        "GFL",
        "R-18-EFPN",
        "",
        ("MODEL.RPN.IN_FEATURES", ("p2", "p3", "p4", "p5", "p6")),
        r"RPN\.IN_FEATURES is \['p2', .* would read the extended level p1 .* no ROI heads either; add 'p1'",
    ),
    "unpooled": (
        "AnchorRPN",
        "R-18-EFPN",
        "",
        ("MODEL.RPN.IN_FEATURES", ("p2", "p3", "p4"), "MODEL.ROI_HEADS.IN_FEATURES", ("p2", "p3")),
        r"would read the extended level p1 .* MODEL.ROI_HEADS.IN_FEATURES \['p2', 'p3'\] lacks it too",
    ),
    "no level": ("FCOS", "R-18-FPN", "p9", (), r"FINEST_LEVEL must be one of .*not 'p9'"),
    "one map": (
        "AnchorRPN",
        "R-18-C4",
        "p2",
        (),
        r"FINEST_LEVEL is 'p2', but 'R-18-C4' gives \['res4'\]; it has no pyramid",
    ),
    "own body": ("AnchorRPN", "MNV2-FPN", "p1", (), r"'p1' needs an extended pyramid \('MNV2-EFPN', as"),
    "retinanet": ("RetinaNet", "MNV2-FPN-RETINANET", "p1", (), r"an extended pyramid \('MNV2-EFPN', as"),
    "rows": ("AnchorRPN", "R-18-FPN", "p2", (KEYS["AnchorRPN"], [[2**i] for i in range(2, 9)]), r"7 levels .* has 5"),
}


@pytest.mark.parametrize(("head", "body", "level", "opts", "message"), WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_says_so(head, body, level, opts, message):
    with pytest.raises(ValueError, match=message):
        build_outline(config(head, body, level, *opts))


@pytest.mark.parametrize("head", ["AnchorRPN", "RetinaNet"])
def test_a_body_that_was_extended_alone_is_told_how_to_go_on(head):
    """CONV_BODY alone gives a level more than there are anchors; the message says which key is missing."""
    section = "RPN" if head == "AnchorRPN" else "RETINANET"
    rows = {f"MODEL.{section}.ANCHOR_SIZES": ((16,), (32,), (64,), (128,), (256,))}
    overrides = [word for pair in rows.items() for word in pair]
    with pytest.raises(ValueError, match=r"the pyramid has 6: p1 .*FINEST_LEVEL .*'p2' .*'p1'") as raised:
        build_outline(config(head, "MNV2-EFPN", "", *overrides))
    assert "write one row of sizes for each level" in str(raised.value)
    build_outline(config(head, "MNV2-EFPN", "p1", *overrides))
    if head == "AnchorRPN":
        build_outline(config(head, "MNV2-EFPN", "p2", *overrides))
