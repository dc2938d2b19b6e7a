"""ATSS, GFL and TOOD: losses against plain Python, which objects they take, the contract of a detector."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch.nn import functional as F

from detframe.config import validate
from detframe.config.effects import without_effect
from detframe.errors import UserError
from detframe.modeling import build_detection_model
from detframe.modeling.ground_truth import pack_targets
from detframe.modeling.rpn import ATSS, FCOS, GFL, TOOD
from detframe.modeling.rpn.fcos_head import HeadOutputs
from detframe.modeling.rpn.tood_head import aligned_logits, moved_sides
from detframe.ops.compacting import fixed_shapes
from tests.modeling.tiny import (
    DENSE,
    EMPTY,
    FULL,
    assert_finds_what_it_learned,
    batch,
    make_images,
    make_target,
    tiny_config,
)

HEADS = {"ATSS": ("cls", "box", "quality"), "GFL": ("cls", "box", "dfl"), "TOOD": ("cls", "box")}
NARROW = ("MODEL.FCOS.NUM_CONVS", 1, "MODEL.TOOD.NUM_CONVS", 2)
STRIDES = {"p3": 8, "p4": 16, "p5": 32}
FIELDS = ("MODEL.RPN.ASSIGNMENT.RFLA_FIELDS", (24, 64, 128))


def model_of(name, *opts):
    torch.manual_seed(0)
    keys = {**DENSE, "MODEL.RPN.NAME": name, "MODEL.FCOS.INFERENCE_TH": 0.001}
    return build_detection_model(tiny_config(keys, *NARROW, *opts))


def head_of(entry, *opts):
    torch.manual_seed(0)
    options = ("MODEL.RPN.NAME", entry.__name__, *NARROW, *opts)
    return entry.from_config(tiny_config({}, *options), out_channels=8, strides=STRIDES)


def maps():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 8, 64 // stride, 96 // stride, generator=generator) for stride in STRIDES.values()]


def truth(*more):
    targets = [make_target([[6.0, 6, 60, 60], [30.0, 20, 80, 44]], [1, 3], seed=1, **dict(more)), EMPTY]
    return pack_targets(targets, 3, torch.device("cpu"))


def outputs_of(head):
    """What a head says whose last layers say something."""
    for name, parameter in head.named_parameters():
        if name.endswith("weight") and parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return head.head(maps())


# ---------------------------------------------------------------------------------------------- the contract
@pytest.mark.parametrize("targets", [[FULL, FULL], [FULL, EMPTY], [EMPTY, EMPTY]], ids=["full", "half", "empty"])
@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("MODEL.BACKBONE.CONV_BODY", "R-18-FPN", "MODEL.FCOS.USE_SCALE", False, "MODEL.FCOS.USE_DCN_IN_TOWER", True),
        ("MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16),
    ],
    ids=["plain", "deformable from P2", "two stages"],
)
@pytest.mark.parametrize("name", HEADS)
def test_losses_are_finite_and_every_parameter_learns(name, opts, targets):
    model = model_of(name, *opts)
    losses = model(make_images(), targets)
    assert {f"loss_{name.lower()}_{what}" for what in HEADS[name]} == {n for n in losses if "roi" not in n}
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.inference_mode():
        first, second = model.eval()(make_images()), model(make_images())
    for a, b, image in zip(first, second, make_images(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert len(a["boxes"]) > 0 and (a["scores"].diff() <= 0).all() and (a["boxes"] >= 0).all()
        assert (a["boxes"][:, 2:].amax(0) <= torch.tensor(image.shape[:0:-1])).all()


@pytest.mark.parametrize("name", HEADS)
def test_padded_rows_change_nothing(name):
    """What an accelerator computes, on the CPU."""
    model = model_of(name)
    compact = model(make_images(), [FULL, EMPTY])
    with fixed_shapes():
        padded = model(make_images(), [FULL, EMPTY])
    for key, loss in compact.items():
        torch.testing.assert_close(padded[key], loss)


@pytest.mark.parametrize("name", HEADS)
def test_an_object_is_found_where_it_is(name):
    opts = ("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, "MODEL.RESNETS.NORM", "GN", "MODEL.FCOS.NORM_REG_TARGETS", True)
    assert_finds_what_it_learned(model_of(name, *opts))


# ---------------------------------------------------------------------------------------------- which objects
def test_atss_is_fcos_with_that_rule_and_twice_the_box_loss():
    atss, fcos = head_of(ATSS), head_of(FCOS, "MODEL.RPN.ASSIGNER", "atss")
    outputs, locations = outputs_of(atss), atss._locations(maps(), batch())
    ours, theirs = (head._losses(locations, outputs, truth()) for head in (atss, fcos))
    assert float(ours["loss_atss_box"].detach()) > 0
    for what, factor in (("cls", 1), ("box", 2), ("quality", 1)):
        torch.testing.assert_close(ours[f"loss_atss_{what}"], factor * theirs[f"loss_fcos_{what}"])


@pytest.mark.parametrize("entry", [ATSS, GFL])
def test_the_own_rule_is_that_of_atss(entry):
    own, said = head_of(entry), head_of(entry, "MODEL.RPN.ASSIGNER", "atss")
    assert own.assigner == said.assigner and own.assigner.kind == "atss"
    # by the size ranges of FCOS a level further down would take it: squares of 64 pixels stand on P3
    counts = [m.shape[-2] * m.shape[-1] for m in maps()]
    assigned = own._assign(own._locations(maps(), batch()), counts, truth())
    assert (assigned[0, : counts[0]] >= 0).any() and (assigned[1] == -1).all()


@pytest.mark.parametrize("rule", ["nwd", "rfla"])
def test_gfl_takes_every_rule(rule):
    head = head_of(GFL, "MODEL.RPN.ASSIGNER", rule, *FIELDS)
    losses = head._losses(head._locations(maps(), batch()), outputs_of(head), truth())
    assert head.assigner.kind == rule and all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize("rule", ["atss", "nwd", "rfla"])
def test_tood_knows_its_own_rule_alone(rule):
    with pytest.raises(UserError, match=rf"ASSIGNER cannot be '{rule}' with .*'TOOD', .*: leave it 'iou', or take"):
        head_of(TOOD, "MODEL.RPN.ASSIGNER", rule, *FIELDS)


@pytest.mark.parametrize("rule", ["nwd", "rfla"])
def test_atss_by_another_rule_would_be_something_else(rule):
    with pytest.raises(UserError, match=rf"ASSIGNER cannot be '{rule}' with .*'ATSS', .*'iou' or 'atss'.*NAME 'FCOS'"):
        head_of(ATSS, "MODEL.RPN.ASSIGNER", rule, *FIELDS)


# ---------------------------------------------------------------------------------------------- the losses of GFL
def plain_overlap(a, b):
    """IoU and GIoU of two boxes, lists xyxy."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = sum(areas) - width * height
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    iou = width * height / union
    return iou, iou - (around - union) / around


def plain_giou_loss(a, b):
    return 1 - plain_overlap(a, b)[1]


def plain_ciou_loss(a, b):
    """arXiv:1911.08287, equations 7 to 11."""
    iou = plain_overlap(a, b)[0]
    apart = sum(((a[i] + a[i + 2] - b[i] - b[i + 2]) / 2) ** 2 for i in (0, 1))
    diagonal = sum((max(a[i + 2], b[i + 2]) - min(a[i], b[i])) ** 2 for i in (0, 1))
    angles = [math.atan((box[2] - box[0]) / (box[3] - box[1])) for box in (a, b)]
    v = 4 / math.pi**2 * (angles[1] - angles[0]) ** 2
    return 1 - iou + apart / diagonal + v * v / (1 - iou + v)


def plain_nwd_loss(a, b):
    """arXiv:2110.13389, equations 4 to 8, with the constant 12.8: half the sides stand for standard deviations."""
    centres = sum(((a[i] + a[i + 2] - b[i] - b[i + 2]) / 2) ** 2 for i in (0, 1))
    sides = sum(((a[i + 2] - a[i] - b[i + 2] + b[i]) / 2) ** 2 for i in (0, 1))
    return 1 - math.exp(-math.sqrt(centres + sides) / 12.8)


BOX_LOSSES = {"giou": plain_giou_loss, "ciou": plain_ciou_loss, "nwd": plain_nwd_loss}


def plain_gfl(head, locations, outputs, gt, assigned, box_loss):
    """The losses by the formulas of the paper, entry by entry."""
    logits = torch.cat(outputs.logits, 1).double().tolist()
    regression = outputs.regression.double().tolist()
    cls = box = dfl = best_scores = 0.0
    positives = 0
    for image, of_image in enumerate(assigned.tolist()):
        for at, row in enumerate(of_image):
            scores = [1 / (1 + math.exp(-x)) for x in logits[image][at]]
            quality, label = 0.0, None
            if row >= 0:
                positives += 1
                label, best = int(gt.labels[image, row]) - 1, max(scores)
                (x, y), stride = locations.xy[at].tolist(), float(locations.stride[at])
                wanted = gt.boxes[image, row].tolist()
                target = [v / stride for v in (x - wanted[0], y - wanted[1], wanted[2] - x, wanted[3] - y)]
                found = []
                for side in range(4):
                    numbers = regression[image][at][17 * side : 17 * side + 17]
                    total = sum(map(math.exp, numbers))
                    shares = [math.exp(number) / total for number in numbers]
                    found.append(sum(i * share for i, share in enumerate(shares)))
                    left = int(target[side])
                    dfl -= best * (left + 1 - target[side]) * math.log(shares[left]) / 4
                    dfl -= best * (target[side] - left) * math.log(shares[left + 1]) / 4
                moved = [x - found[0] * stride, y - found[1] * stride, x + found[2] * stride, y + found[3] * stride]
                quality = plain_overlap(moved, wanted)[0]
                box += best * box_loss(moved, wanted)
                best_scores += best
            for entry, score in enumerate(scores):
                y = quality if entry == label else 0.0
                cls -= abs(y - score) ** 2 * ((1 - y) * math.log(1 - score) + y * math.log(score))
    share = max(1.0, best_scores)
    return {
        "loss_gfl_cls": cls / positives,
        "loss_gfl_box": 2 * box / share,
        "loss_gfl_dfl": 0.25 * dfl / share,
    }


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_gfl_losses_against_plain_python(kind):
    head, gt = head_of(GFL, "MODEL.GFL.BOX_LOSS_TYPE", kind), truth()
    outputs, locations = outputs_of(head), head._locations(maps(), batch())
    assigned = head._assign(locations, [level.shape[1] for level in outputs.logits], gt)
    assert (assigned == 0).any() and (assigned == 1).any()
    wanted = plain_gfl(head, locations, outputs, gt, assigned, BOX_LOSSES[kind])
    for key, loss in head._losses(locations, outputs, gt).items():
        assert float(loss.detach()) == pytest.approx(wanted[key], rel=1e-4), key


def test_gfl_distances_are_means_of_the_distributions():
    head = head_of(GFL, "MODEL.GFL.REG_MAX", 3).head
    shares = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1, 0, 0, 0], [0, 0, 0, 1], [0.25, 0.25, 0.25, 0.25]])
    torch.testing.assert_close(head.distances(shares.log().flatten()), torch.tensor([2.0, 0, 3, 1.5]))


@pytest.mark.parametrize("entry", [GFL, TOOD])
def test_no_background_is_learned_in_ignored_regions(entry):
    head = head_of(entry)
    locations, outputs = head._locations(maps(), batch()), outputs_of(head)
    logits = [level.detach().requires_grad_() for level in outputs.logits]
    given = HeadOutputs(logits, outputs.regression.detach(), None)
    gt = truth(("ignore_boxes", torch.tensor([[0.0, 0, 30, 64]])))
    cls = head._losses(locations, given, gt)[f"loss_{entry.__name__.lower()}_cls"]
    gradient = torch.cat(torch.autograd.grad(cls, logits), 1).abs().sum(-1)
    inside = ((locations.xy > 0) & (locations.xy < torch.tensor([30, 64]))).all(-1)
    if entry is TOOD:
        background = ~head._align(locations, torch.cat(logits, 1), given.regression, gt).found
    else:
        background = head._assign(locations, [level.shape[1] for level in logits], gt) < 0
    assert not gradient[0, inside & background[0]].any()
    assert gradient[0, ~inside].all() and gradient[1].all() and gradient[0, ~background[0]].all()


def test_what_gfl_says_of_boxes_without_an_object_does_not_count():
    head, gt = head_of(GFL), truth()
    outputs, locations = outputs_of(head), head._locations(maps(), batch())
    regression = outputs.regression.detach().clone()
    regression[1] = math.nan
    for fixed in (False, True):
        given = regression.clone().requires_grad_()
        strange = HeadOutputs(outputs.logits, given, None)
        with fixed_shapes() if fixed else torch.enable_grad():
            losses = head._losses(locations, strange, gt)
        gradient = torch.autograd.grad(losses["loss_gfl_box"] + losses["loss_gfl_dfl"], given)[0]
        assert torch.isfinite(gradient).all() and gradient[0].any() and not gradient[1].any()


# ---------------------------------------------------------------------------------------------- TOOD
@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_tood_losses_against_plain_python(kind):
    """With what `TaskAlignment` wants, which has a test of its own."""
    head, gt = head_of(TOOD, "MODEL.TOOD.BOX_LOSS_TYPE", kind), truth()
    outputs, locations = outputs_of(head), head._locations(maps(), batch())
    logits = torch.cat(outputs.logits, 1)
    aligned = head._align(locations, logits, outputs.regression, gt)
    assert aligned.found[0].any() and not aligned.found[1].any() and (aligned.target[aligned.found] > 0).all()
    cls = box = 0.0
    for image in range(2):
        for at in range(len(locations.xy)):
            label, target = None, float(aligned.target[image, at])
            if aligned.found[image, at]:
                row = int(aligned.gt_index[image, at])
                label, wanted = int(gt.labels[image, row]) - 1, gt.boxes[image, row].tolist()
                (x, y), stride = locations.xy[at].tolist(), float(locations.stride[at])
                left, top, right, bottom = (stride * d for d in outputs.regression[image, at].tolist())
                box += target * BOX_LOSSES[kind]([x - left, y - top, x + right, y + bottom], wanted)
            for entry, logit in enumerate(logits[image, at].double().tolist()):
                score, wanted_score = 1 / (1 + math.exp(-logit)), target if entry == label else 0.0
                entropy = wanted_score * math.log(score) + (1 - wanted_score) * math.log(1 - score)
                cls -= abs(wanted_score - score) ** 2 * entropy
    share = max(1.0, float(aligned.target.sum()))
    losses = head._losses(locations, outputs, gt)
    assert float(losses["loss_tood_cls"].detach()) == pytest.approx(cls / share, rel=1e-4)
    assert float(losses["loss_tood_box"].detach()) == pytest.approx(2 * box / share, rel=1e-4)


def test_aligned_logits_are_those_of_the_geometric_mean():
    a, b = torch.tensor([[0.0], [2], [-3], [60], [-60]]), torch.tensor([[0.0], [-1], [4], [60], [-70]])
    found = aligned_logits(a, b)
    score = (a.double().sigmoid() * b.double().sigmoid()).sqrt()
    torch.testing.assert_close(found[:3].double(), (score / (1 - score)).log()[:3], atol=1e-5, rtol=1e-5)
    assert torch.isfinite(found).all() and found[3] > 50 and found[4] == pytest.approx(-65)
    extreme = torch.tensor([200.0, -200], requires_grad=True)
    gradient = torch.autograd.grad(aligned_logits(extreme, extreme).sum(), extreme)[0]
    assert torch.isfinite(gradient).all()


def test_sides_are_taken_from_where_the_offsets_say():
    """Each side of a box, as a number of cells from the corner of the map, interpolated between four places."""
    generator = torch.Generator().manual_seed(0)
    distance = torch.rand(2, 4, 5, 7, generator=generator) * 4 + 3
    offsets = torch.randn(2, 8, 5, 7, generator=generator) * 1.5
    found = moved_sides(distance, offsets)
    moved_any = 0.0
    for image, i, j in product(range(2), range(5), range(7)):
        sides = [moved_side(distance[image, s], offsets[image, 2 * s : 2 * s + 2, i, j], s, i, j) for s in range(4)]
        assert sides[0] + sides[2] > 0 and sides[1] + sides[3] > 0
        assert found[image, :, i, j].tolist() == pytest.approx(sides, abs=1e-4)
        moved_any += abs(sides[0] - float(distance[image, 0, i, j]))
    assert moved_any > 1


def moved_side(distance, offset, side, i, j):
    """Where the map (5, 7) puts that side of the box of cell (i, j), as a distance from the cell."""
    row, column = min(max(i + float(offset[0]), 0.0), 4.0), min(max(j + float(offset[1]), 0.0), 6.0)
    sign, value = (-1, -1, 1, 1)[side], 0.0
    for r, c in product(range(5), range(7)):
        weight = max(0.0, 1 - abs(row - r)) * max(0.0, 1 - abs(column - c))
        value += weight * ((c if side % 2 == 0 else r) + sign * float(distance[r, c]))
    return sign * (value - (j if side % 2 == 0 else i))


def test_boxes_that_would_end_before_they_begin_stay():
    distance, offsets = torch.full((1, 4, 3, 3), 0.2), torch.zeros(1, 8, 3, 3)
    offsets[0, 1, :, 0] = 2.0  # the left side from two cells further right
    found = moved_sides(distance, offsets)
    torch.testing.assert_close(found, distance)
    torch.testing.assert_close(moved_sides(distance * 10, offsets)[0, 0, :, 0], torch.zeros(3))


# ---------------------------------------------------------------------------------------------- keys
def test_keys_that_a_head_does_not_read():
    idle = ("MODEL.FCOS.IOU_LOSS_TYPE", "giou", "MODEL.ATSS.BOX_LOSS_WEIGHT", 1.0)
    (said,) = without_effect(tiny_config(DENSE, "MODEL.RPN.NAME", "GFL", *idle))
    assert said == "MODEL.FCOS.IOU_LOSS_TYPE, MODEL.ATSS.BOX_LOSS_WEIGHT have no effect: MODEL.RPN.NAME is 'GFL'"
    prior = ("MODEL.RPN.ASSIGNMENT.FCOS_PRIOR", 4.0, "MODEL.RPN.ASSIGNMENT.ATSS_K", 5)
    assert list(without_effect(tiny_config(DENSE, "MODEL.RPN.NAME", "GFL", *prior))) == []
    atss = tiny_config(DENSE, "MODEL.RPN.NAME", "ATSS", "MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1.5)
    assert "CENTER_SAMPLING_RADIUS has no effect" in next(iter(without_effect(atss)))


@pytest.mark.parametrize(("key", "value"), [("REG_MAX", 0), ("REG_MAX", 1.5), ("QFL_BETA", -1.0), ("DFL_WEIGHT", -1)])
def test_values_that_cannot_be(key, value):
    with pytest.raises(UserError, match=rf"MODEL\.GFL\.{key} must be"):
        validate(tiny_config(DENSE, f"MODEL.GFL.{key}", value))


def test_logits_of_half_precision_have_losses_in_float32():
    head, gt = head_of(GFL), truth()
    outputs, locations = outputs_of(head), head._locations(maps(), batch())
    half = outputs._replace(logits=[level.bfloat16() for level in outputs.logits])
    losses, exact = head._losses(locations, half, gt), head._losses(locations, outputs, gt)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert F.l1_loss(losses["loss_gfl_cls"], exact["loss_gfl_cls"]) < 0.05 * exact["loss_gfl_cls"]
