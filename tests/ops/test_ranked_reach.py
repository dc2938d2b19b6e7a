"""What ranked anchors and locations reach: the same as ranking all of them says."""

from __future__ import annotations

import pytest
import torch

from detframe.modeling.rpn import FCOS, AnchorRPN, RetinaNet
from detframe.ops import BoxCoder, inside_images, pairwise_iou, reach
from detframe.ops.boxes import Matches
from tests.ops.matches import positives_of_objects
from tests.ops.test_reach import ANCHORS, batch, head, in_section, maps, objects_of, padded_boxes, random_objects

ASSIGNERS = ("atss", "nwd", "rfla")
FIELDS = ("MODEL.RPN.ASSIGNMENT.RFLA_FIELDS", (20, 36, 80))


def check(found, matches: Matches, anchors, objects, extend):
    """Number, mean overlap and relative size of the anchors of each object."""
    boxes, _ = padded_boxes(objects)
    count = positives_of_objects(matches, boxes.shape[1])
    assert torch.equal(found.fit.positives, count.flatten())
    assert torch.equal(found.full, count.flatten() > 0) and not found.weak.any()
    assert torch.equal(found.missed, count.flatten() == 0)
    overlap, scale = torch.zeros_like(count, dtype=torch.float), torch.zeros_like(count, dtype=torch.float)
    sides = [(extend(b)[..., 2:] - extend(b)[..., :2]).prod(-1).sqrt() for b in (boxes, anchors)]
    for image, anchor in (matches.label > 0).nonzero().tolist():
        row = matches.gt_index[image, anchor]
        iou = pairwise_iou(extend(boxes[image, row])[None], extend(anchors[anchor])[None])
        overlap[image, row] += float(iou) / count[image, row]
        scale[image, row] += (sides[0][image, row] / sides[1][anchor]).log() / count[image, row]
    torch.testing.assert_close(found.fit.overlap, overlap.flatten(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.fit.scale, scale.exp().flatten(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("assigner", ASSIGNERS)
@pytest.mark.parametrize("entry", [AnchorRPN, RetinaNet])
@pytest.mark.parametrize(("name", "legacy"), [*((name, False) for name in ANCHORS), ("one size", True)])
def test_anchors_reach_what_ranking_all_of_them_says(name, legacy, entry, assigner):
    section = "RPN" if entry is AnchorRPN else "RETINANET"
    options = ("MODEL.LEGACY_BOXES", legacy, "MODEL.RPN.ASSIGNER", assigner, *FIELDS)
    rpn = head(entry, *in_section(section, ANCHORS[name]), *options)
    extend = BoxCoder(pixel=float(legacy)).extend
    for count in (1, 40):
        objects = random_objects(count, count)
        levels = rpn.anchors(list(maps().values()), batch())
        matches = rpn.assigner(*padded_boxes(objects), levels)
        check(rpn.reach(objects), matches, torch.cat(levels), objects, extend)


@pytest.mark.parametrize("assigner", ASSIGNERS)
@pytest.mark.parametrize("thresh", [0.0, 6.0])
def test_anchors_that_leave_the_image_are_not_ranked(thresh, assigner):
    options = ("MODEL.RPN.BOUNDARY_THRESH", thresh, "MODEL.RPN.ASSIGNER", assigner, *FIELDS)
    rpn = head(AnchorRPN, *in_section("RPN", ANCHORS["several sizes"]), *options)
    objects = random_objects(5, 15)
    levels = rpn.anchors(list(maps().values()), batch())
    usable = inside_images(torch.cat(levels), objects.sizes_hw, thresh)
    matches = rpn.assigner(*padded_boxes(objects), levels, usable)
    check(rpn.reach(objects), matches, torch.cat(levels), objects, lambda boxes: boxes)


@pytest.mark.parametrize("assigner", ASSIGNERS)
@pytest.mark.parametrize(("legacy", "pairs"), [(False, reach.MAX_PAIRS), (True, 1)])
def test_locations_reach_what_ranking_all_of_them_says(legacy, pairs, assigner, monkeypatch):
    monkeypatch.setattr(reach, "MAX_PAIRS", pairs)
    options = ("MODEL.RPN.ASSIGNER", assigner, *FIELDS, "MODEL.RPN.ASSIGNMENT.FCOS_PRIOR", 3.0)
    fcos = head(FCOS, *options, "MODEL.LEGACY_BOXES", legacy)
    objects = random_objects(7, 30)
    boxes, valid = padded_boxes(objects)
    locations = fcos._locations(list(maps().values()), batch())
    sides = torch.cat(
        [
            torch.full_like(s, side)
            for s, side in zip(
                locations.stride.split([m.shape[-1] * m.shape[-2] for m in maps().values()]),
                fcos.prior_sides,
                strict=True,
            )
        ]
    )
    squares = torch.cat([locations.xy - sides[:, None] / 2, locations.xy + sides[:, None] / 2], 1)
    extend = BoxCoder(pixel=float(legacy)).extend
    levels = list(squares.split([m.shape[-1] * m.shape[-2] for m in maps().values()]))
    matches = fcos.assigner(extend(boxes), valid, levels)
    found = fcos.reach(objects)
    assert torch.equal(found.fit.positives, positives_of_objects(matches, boxes.shape[1]).flatten())
    if not legacy:
        check(found, matches, squares, objects, lambda boxes: boxes)


@pytest.mark.parametrize("assigner", ASSIGNERS)
@pytest.mark.parametrize("entry", [AnchorRPN, RetinaNet, FCOS])
def test_no_objects(entry, assigner):
    found = head(
        entry,
        "MODEL.RPN.ASSIGNER",
        assigner,
        *FIELDS,
        *in_section("RPN", ANCHORS["one size"]),
        *in_section("RETINANET", ANCHORS["one size"]),
    ).reach(objects_of([], []))
    assert len(found.full) == 0 and len(found.fit.positives) == 0


def test_by_hand():
    """Anchors of 8 around multiples of 4: an object of 4 pixels in one of them takes it and a neighbour (the first of
    four), which holds half of it; it is half as large. ATSS: no
    anchor has its centre in an object of 1 pixel beside."""
    options = ("MODEL.RPN.ANCHOR_SIZES", ((8,), (64,), (64,)), "MODEL.RPN.ASPECT_RATIOS", (1.0,))
    found = head(AnchorRPN, *options, "MODEL.RPN.ASSIGNER", "nwd").reach(objects_of([[30.0, 30, 34, 34]]))
    assert found.fit.positives.tolist() == [2]
    assert found.fit.overlap.tolist() == [pytest.approx((16 / 64 + 8 / 72) / 2)] and found.fit.scale.tolist() == [
        pytest.approx(0.5)
    ]
    none = head(AnchorRPN, *options, "MODEL.RPN.ASSIGNER", "atss").reach(objects_of([[29.5, 29.5, 30.5, 30.5]]))
    assert none.missed.tolist() == [True] and none.fit.positives.tolist() == [0]
