"""A part that a checkpoint and a model both have fits as a whole, or is refused."""

from __future__ import annotations

import re

import pytest
import torch

from detframe.compat import load_weights, translate
from tests.compat.models import random_model

MASK = ("MODEL.MASK_ON", True)
POINT = (
    *MASK,
    "MODEL.ROI_MASK_HEAD.NAME",
    "PointRend",
    "MODEL.POINT_HEAD.COARSE_FC_DIM",
    16,
    "MODEL.POINT_HEAD.FC_DIM",
    8,
)
OF_TODAY = {"coarse": "mask_head.coarse_head.", "fc": "fc", "point": "mask_head.point_head."}
BEFORE = {"coarse": "mask_head.coarse_head.", "fc": "coarse_mask_fc", "point": "mask_head.point_head."}
FIRST = {"coarse": "mask_coarse_head.", "fc": "coarse_mask_fc", "point": "mask_point_head."}


def as_detectron2(state, names):
    """The mask head of PointRend in one of the three generations of detectron2's names."""
    out = {"proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4)}
    for name, value in state.items():
        name = name.replace("roi_heads.mask.coarse.reduce.0.", f"roi_heads.{names['coarse']}reduce_spatial_dim_conv.")
        name = name.replace("roi_heads.mask.coarse.prediction.", f"roi_heads.{names['coarse']}prediction.")
        name = re.sub(
            r"roi_heads\.mask\.coarse\.fcs\.(\d)\.",
            lambda m: f"roi_heads.{names['coarse']}{names['fc']}{int(m[1]) + 1}.",
            name,
        )
        name = re.sub(
            r"roi_heads\.mask\.point_head\.fcs\.(\d)\.", lambda m: f"roi_heads.{names['point']}fc{int(m[1]) + 1}.", name
        )
        name = name.replace("roi_heads.mask.point_head.predictor.", f"roi_heads.{names['point']}predictor.")
        out[name] = value
    return out


@pytest.mark.parametrize("names", [OF_TODAY, BEFORE, FIRST], ids=["today", "before", "first"])
def test_point_rend_under_all_names_that_it_had(names):
    ours = {k: v for k, v in random_model(*POINT).state_dict().items() if k.startswith("roi_heads.mask.")}
    theirs = as_detectron2(ours, names)
    assert not any(".mask.coarse." in name for name in theirs)
    kind, back = translate(theirs)
    assert kind == "detectron2" and back.keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in back.items())


@pytest.fixture(scope="module")
def state():
    return random_model(*MASK).state_dict()


def without(state, *names):
    assert all(name in state for name in names)
    return {k: v for k, v in state.items() if k not in names}


def renamed(state, old, new):
    assert any(old in name for name in state)
    return {k.replace(old, new): v for k, v in state.items()}


HALVES = {
    "a bias is missing": lambda s: without(s, "roi_heads.mask.head.0.0.bias"),
    "an output is missing": lambda s: without(s, "roi_heads.mask.predictor.mask_fcn_logits.bias"),
    "another name": lambda s: renamed(s, "roi_heads.mask.head.", "roi_heads.mask.body."),
    "a name that no rule knows": lambda s: renamed(s, "roi_heads.mask.head.0.", "roi_heads.mask_head.brand_new."),
    "a layer more": lambda s: {**s, "roi_heads.mask.head.9.0.weight": torch.ones(3)},
    "another size": lambda s: {**s, "roi_heads.mask.predictor.conv5_mask.weight": torch.ones(3, 3, 2, 2)},
}


@pytest.mark.parametrize("change", HALVES.values(), ids=HALVES)
def test_half_a_mask_head_is_refused_with_the_table(change, state):
    model = random_model(*MASK)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"  the mask head, without (values in it|a place in the model): ") as error:
        load_weights(model, change(state))
    for word in ("loaded", "missing", "unused", "roi_heads.mask", "MODEL.ALLOW_PARTIAL_WEIGHTS True accepts it"):
        assert word in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert load_weights(model, change(state), allow_partial=True).loaded


OTHER_HALVES = {
    "box head": ("roi_heads.box_head.fc7.weight", "the box head"),
    "box predictor": ("roi_heads.box_predictor.cls_score.bias", "the box predictor"),
    "RPN": ("rpn.head.bbox_pred.bias", "the RPN or dense head"),
    "pyramid": ("backbone.fpn.layer_blocks.2.0.weight", "backbone.fpn.layer_blocks"),
    "norms of the backbone": ("backbone.body.bn1.running_mean", "the backbone"),
}


@pytest.mark.parametrize(("name", "part"), OTHER_HALVES.values(), ids=OTHER_HALVES)
def test_half_of_any_part_is_refused(name, part, state):
    with pytest.raises(ValueError, match=rf"  {part}, without values in it: {name}\n"):
        load_weights(random_model(*MASK), without(state, name))


@pytest.mark.parametrize(
    "prefix",
    [
        "roi_heads.mask.",
        "roi_heads.box_predictor.",
        "roi_heads.",
        "rpn.",
        "backbone.fpn.layer_blocks.",
        "backbone.fpn.",
    ],
)
def test_a_part_that_the_file_lacks_is_new(prefix, state):
    rest = {k: v for k, v in state.items() if not k.startswith(prefix)}
    report = load_weights(random_model(*MASK), rest)
    assert report.missing and all(name.startswith(prefix) for name in report.missing)


def test_a_part_that_the_model_lacks_is_left_out(state):
    report = load_weights(random_model(), state)
    assert report.unused and all(name.startswith("roi_heads.mask.") for name in report.unused)


def test_a_mask_head_of_another_kind_is_refused(state):
    with pytest.raises(ValueError, match=r"the mask head, without values in it: roi_heads\.mask\.coarse\.reduce"):
        load_weights(random_model(*POINT), state)
