"""detectron2: names of its bodies and towers; rows of anchors go where their anchors are, for any sizes and ratios."""

from __future__ import annotations

import math
import re

import pytest
import torch

from detframe.compat import load_weights
from detframe.compat.export import to_detectron2
from detframe.compat.programs import detectron2
from detframe.compat.renaming import RPN_OUTPUTS, anchor_grid, ratios_fastest, sizes_fastest
from detframe.modeling import build_detection_model
from tests.compat.models import assert_only_the_rest_is_missing, body_model, random_body, save_pickle
from tests.modeling.tiny import DENSE, tiny_config

RATIOS = (0.5, 1.0, 2.0)
C4 = ("MODEL.BACKBONE.CONV_BODY", "R-18-C4", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "MODEL.RPN.ANCHOR_STYLE", "exact")
DC5 = ("MODEL.BACKBONE.CONV_BODY", "R-18-DC5", "MODEL.RPN.ANCHOR_STYLE", "exact")
FIVE = (32.0, 64.0, 128.0, 256.0, 512.0)


def name_in_detectron2(name):
    name = name.removeprefix("backbone.body.")
    name = re.sub(r"^conv1\.", "stem.conv1.", name)
    name = re.sub(r"^bn1\.", "stem.conv1.norm.", name)
    name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return re.sub(r"\.bn(\d)\.", r".conv\1.norm.", name)


@pytest.mark.parametrize("body", ["R-18-FPN", "R-50-FPN", "X-101-32x8d-FPN"])
def test_detectron2_body(body, tmp_path):
    model = body_model(body)
    wanted = random_body(model)
    theirs = {name_in_detectron2(k): v.numpy() for k, v in wanted.items()} | {"stem.fc.weight": torch.ones(1).numpy()}
    report = load_weights(
        model, save_pickle(tmp_path / "b.pkl", {"model": theirs, "__author__": "a", "matching_heuristics": 1})
    )
    assert report.kind == "detectron2 body" and not report.unused
    assert_only_the_rest_is_missing(report)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in wanted.items())


def test_detectron2s_towers_are_rows_of_convolutions_and_relus():
    state = {"head.bbox_pred.weight": torch.zeros(36, 1, 1, 1), "head.cls_subnet.4.bias": torch.zeros(1)}
    names = ["rpn.head.regression_head.bbox_reg.weight", "rpn.head.classification_head.conv.2.0.bias"]
    assert list(detectron2.read(state, None)) == names


# ---------------------------------------------------------------------------------------------- anchors
def detectron2_anchors(sizes, ratios):
    """The anchors of a cell in detectron2's order: sizes outside, aspect ratios inside."""
    out = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2 / ratio)
            height = ratio * width
            out.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(out)


def assert_rows_at_their_anchors(templates, rows, sizes, ratios):
    """rows[k] is the number of the anchor templates[k] in detectron2's list."""
    theirs = detectron2_anchors(sizes, ratios)
    assert len(templates) == len(theirs) == len(rows)
    assert rows.round().long().unique().numel() == len(rows)
    torch.testing.assert_close(templates, theirs[rows.round().long()])


@pytest.mark.parametrize("body", [C4, DC5], ids=["C4", "DC5"])
@pytest.mark.parametrize("sizes, ratios", [(FIVE, RATIOS), ((32.0, 64.0), (0.5, 1.0, 2.0, 3.0)), (FIVE, (1.0,))])
def test_one_level_rpn_of_detectron2(body, sizes, ratios):
    model = build_detection_model(tiny_config({}, *body, "MODEL.RPN.ANCHOR_SIZES", (sizes,)))
    if ratios != RATIOS:
        opts = ("MODEL.RPN.ANCHOR_SIZES", (sizes,), "MODEL.RPN.ASPECT_RATIOS", ratios)
        model = build_detection_model(tiny_config({}, *body, *opts))
    anchors = len(sizes) * len(ratios)
    head = "proposal_generator.rpn_head"
    theirs = to_detectron2(model)
    theirs[f"{head}.objectness_logits.weight"] = torch.zeros_like(theirs[f"{head}.objectness_logits.weight"])
    theirs[f"{head}.objectness_logits.bias"] = torch.arange(float(anchors))
    theirs[f"{head}.anchor_deltas.weight"] = torch.zeros_like(theirs[f"{head}.anchor_deltas.weight"])
    theirs[f"{head}.anchor_deltas.bias"] = torch.arange(float(anchors)).repeat_interleave(4)
    assert load_weights(model, theirs).kind == "detectron2"
    channels = model.rpn.head.cls_logits.in_channels
    logits, deltas = model.rpn.head([torch.randn(1, channels, 1, 1)])
    assert_rows_at_their_anchors(model.rpn.anchors.templates0, logits[0][0], sizes, ratios)
    assert torch.equal(deltas[0][0], logits[0][0][:, None].expand(-1, 4))


@pytest.mark.parametrize("octaves", [2, 3])
def test_retinanet_of_detectron2(octaves):
    sizes = tuple(32.0 * 2 ** (i / octaves) for i in range(octaves))
    opts = ("MODEL.RPN.NAME", "RetinaNet", "MODEL.RETINANET.ANCHOR_SIZES", (sizes,), "MODEL.RPN.ANCHOR_STYLE", "exact")
    model = build_detection_model(tiny_config(DENSE, *opts, "MODEL.RETINANET.ANCHOR_STYLE", "exact"))
    theirs, anchors = to_detectron2(model), 3 * octaves
    for name, width in (("head.cls_score", 3), ("head.bbox_pred", 4)):
        theirs[f"{name}.weight"] = torch.zeros_like(theirs[f"{name}.weight"])
        theirs[f"{name}.bias"] = torch.arange(float(anchors)).repeat_interleave(width)
    load_weights(model, theirs)
    logits, deltas = model.rpn.head([torch.randn(1, 16, 1, 1)])
    assert_rows_at_their_anchors(model.rpn.anchors.templates0, logits[0][0][:, 2], sizes, RATIOS)
    assert_rows_at_their_anchors(model.rpn.anchors.templates0, deltas[0][0][:, 3], sizes, RATIOS)


def test_export_is_the_way_back():
    model = build_detection_model(tiny_config({}, *C4, "MODEL.RPN.ANCHOR_SIZES", (FIVE,)))
    bias = torch.arange(15.0)
    with torch.no_grad():
        model.rpn.head.cls_logits.bias.copy_(bias)
    exported = to_detectron2(model)["proposal_generator.rpn_head.objectness_logits.bias"]
    # ours: ratio 0.5 with five sizes, then 1, then 2; theirs: size 32 with three ratios, then 64, ...
    assert exported.tolist() == [0, 5, 10, 1, 6, 11, 2, 7, 12, 3, 8, 13, 4, 9, 14]


def test_other_numbers_of_anchors_stay_as_they_are():
    model = build_detection_model(tiny_config({}, *C4, "MODEL.RPN.ANCHOR_SIZES", (FIVE,)))
    assert anchor_grid(model) == (5, 3) and anchor_grid(model.backbone) is None
    state = {"rpn.head.cls_logits.bias": torch.arange(6.0), "rpn.head.bbox_pred.bias": torch.arange(24.0)}
    for grid in (anchor_grid(model), None):
        out = sizes_fastest(state, grid, RPN_OUTPUTS)
        assert all(torch.equal(out[name], value) for name, value in state.items())
    out = ratios_fastest(sizes_fastest(state, (2, 3), RPN_OUTPUTS), (2, 3), RPN_OUTPUTS)
    assert all(torch.equal(out[name], value) for name, value in state.items())
    assert sizes_fastest(state, (2, 3), RPN_OUTPUTS)["rpn.head.cls_logits.bias"].tolist() == [0, 3, 1, 4, 2, 5]
