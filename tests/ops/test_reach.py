"""What objects anchors and locations reach: the same as assigning all of them says, and values computed by hand."""

from __future__ import annotations

import pytest
import torch

from detframe.config import get_cfg
from detframe.modeling.rpn import FCOS, AnchorRPN, RetinaNet
from detframe.ops import BoxCoder, Matching, inside_images, match_boxes, pairwise_iou
from detframe.ops.boxes import assign_locations
from detframe.ops.reach import MAX_PAIRS, Objects, anchor_reach
from detframe.structures import ImageList

STRIDES = {"p2": 4, "p3": 8, "p4": 16}
SIZES = ((64, 96), (50, 61))
PADDED = (64, 96)


def head(entry, *overrides, strides=STRIDES):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 2, *overrides])
    return entry.from_config(cfg, out_channels=8, strides=strides)


def objects_of(*boxes_per_image, sizes=SIZES, padded=PADDED):
    counts = torch.tensor([len(boxes) for boxes in boxes_per_image])
    return Objects(
        torch.tensor([box for boxes in boxes_per_image for box in boxes], dtype=torch.float32).reshape(-1, 4),
        torch.repeat_interleave(torch.arange(len(counts)), counts),
        torch.tensor(sizes[: len(counts)]),
        torch.tensor([padded] * len(counts)),
    )


def random_objects(seed: int, count: int = 60) -> Objects:
    generator = torch.Generator().manual_seed(seed)
    images = []
    for height, width in SIZES:
        centre = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
        half = torch.exp(torch.rand(count, 2, generator=generator) * 3.2) * 0.8
        boxes = torch.cat([centre - half, centre + half], 1).clamp(min=0)
        images.append(torch.minimum(boxes, torch.tensor([width, height] * 2)).tolist())
    return objects_of(*images)


def maps(strides=STRIDES):
    return {name: torch.zeros(2, 8, -(-PADDED[0] // s), -(-PADDED[1] // s)) for name, s in strides.items()}


def batch() -> ImageList:
    return ImageList(torch.zeros(2, 3, *PADDED), list(SIZES))


def padded_boxes(objects: Objects):
    count = len(objects.image) // 2
    return objects.boxes.reshape(2, count, 4), torch.ones(2, count, dtype=torch.bool)


ANCHORS = {
    "one size": ("ANCHOR_SIZES", ((8,), (16,), (32,))),
    "several sizes": ("ANCHOR_SIZES", ((6, 10),), "ASPECT_RATIOS", (0.4, 1.0, 3.0), "ANCHOR_STEP", "stride"),
    "too large": ("ANCHOR_SIZES", ((40,), (50,), (64,)), "ANCHOR_STYLE", "exact", "ANCHOR_OFFSET", 0.5),
    "detectron": ("ANCHOR_SIZES", ((8,), (16,), (32,)), "ANCHOR_STYLE", "detectron", "ANCHOR_STEP", "stride"),
}


def in_section(section, options):
    return [f"MODEL.{section}.{word}" if i % 2 == 0 else word for i, word in enumerate(options)]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("entry", [AnchorRPN, RetinaNet])
@pytest.mark.parametrize("name", ANCHORS)
def test_anchors_reach_what_matching_all_of_them_says(name, entry, legacy):
    section = "RPN" if entry is AnchorRPN else "RETINANET"
    rpn = head(entry, *in_section(section, ANCHORS[name]), "MODEL.LEGACY_BOXES", legacy)
    fg, bg = rpn.matching.fg, rpn.matching.bg
    extend = BoxCoder(pixel=float(legacy)).extend
    objects = random_objects(3)
    anchors = torch.cat(rpn.anchors(list(maps().values()), batch()))
    found, best = rpn.reach(objects), []
    for box in objects.boxes:  # alone, so that every anchor says how much it overlaps this one
        matches = match_boxes(extend(box[None, None]), torch.ones(1, 1).bool(), extend(anchors), rpn.matching, True)
        best.append(matches.iou.max())
    best = torch.stack(best)
    assert torch.allclose(found.quality, best, atol=1e-6)
    clear = ((best - fg).abs() > 1e-5) & ((best - bg).abs() > 1e-5)
    assert torch.equal(found.full[clear], (best >= fg)[clear])
    assert torch.equal(found.missed[clear], (best < bg)[clear])
    assert found.missed.any() and (found.full.any() or name == "too large")


@pytest.mark.parametrize("thresh", [0.0, 3.0])
def test_anchors_that_leave_the_image_too_far_reach_nothing(thresh):
    rpn = head(AnchorRPN, "MODEL.RPN.ANCHOR_SIZES", ((8,), (16,), (32,)), "MODEL.RPN.BOUNDARY_THRESH", thresh)
    objects = random_objects(7)
    anchors = torch.cat(rpn.anchors(list(maps().values()), batch()))
    overlap = pairwise_iou(objects.boxes, anchors)
    overlap[~inside_images(anchors, torch.tensor(SIZES), thresh)[objects.image]] = 0
    assert torch.allclose(rpn.reach(objects).quality, overlap.amax(1), atol=1e-6)


FITS = {
    "plain": (),
    "centre sampling": ("MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5),
    "torchvision": (
        *("MODEL.FCOS.LOCATION_OFFSET", 0.0, "MODEL.FCOS.LOCATION_STEP", "image"),
        *("MODEL.FCOS.RANGE_INCLUSIVE", False, "MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5),
    ),
    "narrow": ("MODEL.FCOS.SIZES_OF_INTEREST", (8, 16)),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("pairs", [MAX_PAIRS, 50])
def test_locations_reach_what_assigning_all_of_them_says(name, legacy, pairs, monkeypatch):
    monkeypatch.setattr("detframe.ops.reach.MAX_PAIRS", pairs)
    fcos = head(FCOS, *FITS[name], "MODEL.LEGACY_BOXES", legacy)
    for seed in range(4):
        objects = random_objects(seed)
        locations = fcos._locations(list(maps().values()), batch())
        index = assign_locations(*padded_boxes(objects), locations, fcos.matching, BoxCoder(pixel=float(legacy)))
        count = len(objects.image) // 2
        wanted = torch.stack([torch.bincount(row[row >= 0], minlength=count) for row in index]).flatten()
        found = fcos.reach(objects)
        assert torch.equal(found.quality, wanted.float())
        assert torch.equal(found.full, wanted > 0) and not found.weak.any()
    assert found.missed.any() and found.full.any()


# ---------------------------------------------------------------------------------------------- by hand
def test_anchors_by_hand():
    """Anchors of 8 x 8 stand around multiples of 4."""
    rpn = head(AnchorRPN, *in_section("RPN", ("ANCHOR_SIZES", ((8,),), "ASPECT_RATIOS", (1.0,))), strides={"p2": 4})
    found = rpn.reach(
        objects_of(
            [
                [4, 4, 12, 12],  # around (8, 8), as an anchor
                [5, 4, 13, 12],  # one pixel beside it: 7 * 8 of 64 + 8
                [6, 4, 14, 12],  # half a step: 6 * 8 of 64 + 16 = 0.6 < 0.7
                [32, 32, 34, 34],  # 4 of 64
            ]
        )
    )
    assert found.quality.tolist() == pytest.approx([1, 56 / 72, 48 / 80, 4 / 64])
    assert found.full.tolist() == [True, True, False, False]
    assert found.weak.tolist() == [False, False, True, False]
    assert found.missed.tolist() == [False, False, False, True]


def test_overlaps_that_are_just_a_threshold():
    """One anchor of 8 x 8: half of it is foreground from 1/2 on, a quarter is no background from 1/4 on."""
    boxes = [[0, 0, 8, 4], [0, 0, 4, 4], [0, 0, 4, 3]]
    anchors, there = torch.tensor([[[0.0, 0, 8, 8]]]).expand(3, 1, 4), torch.ones(3, 1, dtype=torch.bool)
    matching = Matching(0.5, 0.25)
    found = anchor_reach(objects_of(boxes), anchors, there, matching, BoxCoder())
    assert found.full.tolist() == [True, False, False]
    assert found.weak.tolist() == [False, True, False]
    for box, label in zip(boxes, (1, -1, 0), strict=True):
        given = torch.tensor([[box]], dtype=torch.float32), torch.ones(1, 1, dtype=torch.bool)
        assert match_boxes(*given, anchors[:1], matching, keep_best=False).label.item() == label


def test_locations_by_hand():
    """Locations at 4, 12, 20, ... of stride 8 take distances up to 64."""
    fcos = head(FCOS, strides={"p3": 8, "p4": 16})
    found = fcos.reach(
        objects_of(
            [
                [2, 2, 6, 6],  # around the location (4, 4)
                [5, 5, 11, 11],  # between locations
                [8, 8, 24, 24],  # (12, 12), (12, 20), (20, 12), (20, 20) but for the one that goes to the next
                [18, 18, 22, 22],
            ]
        )
    )
    assert found.quality.tolist() == [1, 0, 3, 1]
    assert found.missed.tolist() == [False, True, False, False]


def test_nothing_to_reach():
    for entry in (AnchorRPN, RetinaNet, FCOS):
        section = "RPN" if entry is AnchorRPN else "RETINANET"
        sizes = () if entry is FCOS else in_section(section, ("ANCHOR_SIZES", ((8,), (16,), (32,))))
        found = head(entry, *sizes).reach(objects_of([], []))
        assert len(found.full) == len(found.weak) == len(found.quality) == 0
