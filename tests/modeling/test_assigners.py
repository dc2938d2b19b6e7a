"""MODEL.RPN.ASSIGNER in every head: training, what it means for each, receptive fields, errors."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch

from detframe.config import validate
from detframe.errors import UserError
from detframe.modeling import build_detection_model
from detframe.modeling.build import build_backbone, build_outline
from detframe.modeling.ground_truth import pack_targets
from detframe.modeling.receptive_fields import receptive_fields
from detframe.modeling.rpn import FCOS, AnchorRPN, RetinaNet
from detframe.modeling.rpn.fcos_head import HeadOutputs
from detframe.ops import BoxCoder
from detframe.ops.boxes import boxes_at, centerness, distance_iou, distances
from tests.modeling.tiny import DENSE, EMPTY, FULL, batch, make_images, make_target, tiny_config

ASSIGNERS = ("iou", "atss", "nwd", "rfla")
HEADS = {
    "RPN": {"MODEL.RPN.POST_NMS_TOP_N_TRAIN": 30, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 16},
    "RetinaNet": {**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.NUM_CONVS": 1},
    "FCOS": {**DENSE, "MODEL.RPN.NAME": "FCOS", "MODEL.FCOS.NUM_CONVS": 1},
    "GFL": {**DENSE, "MODEL.RPN.NAME": "GFL", "MODEL.FCOS.NUM_CONVS": 1},
}
STRIDES = {"p3": 8, "p4": 16, "p5": 32}
FIELDS = ("MODEL.RPN.ASSIGNMENT.RFLA_FIELDS", (24, 64, 128))


def cfg_of(head, *opts):
    return tiny_config(HEADS[head], *opts)


def head_of(entry, *opts, strides=STRIDES):
    return entry.from_config(tiny_config({}, *opts), out_channels=8, strides=strides)


def maps(strides=STRIDES):
    return [torch.zeros(2, 8, 64 // stride, 96 // stride) for stride in strides.values()]


@pytest.mark.parametrize("assigner", ASSIGNERS)
@pytest.mark.parametrize("head", HEADS)
def test_losses_are_finite_and_every_parameter_learns(head, assigner):
    torch.manual_seed(0)
    model = build_detection_model(cfg_of(head, "MODEL.RPN.ASSIGNER", assigner))
    for targets in ([FULL, FULL], [FULL, EMPTY], [EMPTY, EMPTY]):
        model.zero_grad()
        losses = model.train()(make_images(), targets)
        assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
        sum(losses.values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.inference_mode():
        assert len(model.eval()(make_images())) == 2


@pytest.mark.parametrize("assigner", ["atss", "nwd", "rfla"])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_an_object_of_a_pixel_trains_too(head, legacy, assigner):
    """Narrower than a pixel, which boxes from pixel to pixel make a point, and where no location lies in it."""
    torch.manual_seed(0)
    model = build_detection_model(cfg_of(head, "MODEL.RPN.ASSIGNER", assigner, "MODEL.LEGACY_BOXES", legacy))
    tiny = make_target([[12.0, 12, 12.4, 12.3], [33.0, 17, 34, 18], [20.0, 20, 21, 60]], [1, 2, 3], seed=5)
    losses = model(make_images(), [tiny, tiny])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# ---------------------------------------------------------------------------------------------- what the heads do
@pytest.mark.parametrize("entry", [AnchorRPN, RetinaNet])
def test_rfla_anchors_are_the_effective_fields_one_a_cell(entry):
    head = head_of(entry, "MODEL.RPN.ASSIGNER", "rfla", *FIELDS)
    assert head.anchors.num_anchors == 1
    for level, stride, side in zip(head.anchors(maps(), batch()), STRIDES.values(), (12, 32, 64), strict=True):
        assert len(level) == (64 // stride) * (96 // stride)
        assert torch.equal(level[:, 2:] - level[:, :2], torch.full_like(level[:, :2], side))
        assert level[0].tolist() == [-side / 2, -side / 2, side / 2, side / 2]


def test_rfla_fields_are_not_rounded():
    head = head_of(AnchorRPN, "MODEL.RPN.ASSIGNER", "rfla", FIELDS[0], (35, 91, 267))
    assert head.anchors(maps(), batch())[0][0].tolist() == [-8.75, -8.75, 8.75, 8.75]


@pytest.mark.parametrize("entry", [AnchorRPN, RetinaNet])
def test_rfla_encodes_from_the_anchors_unless_told_to_shrink_them(entry):
    anchors = torch.tensor([[10.0, 10, 30, 50]])
    clean = head_of(entry, "MODEL.RPN.ASSIGNER", "rfla", *FIELDS).assigner.references(anchors)
    assert torch.equal(clean, anchors)
    shrunk = ("MODEL.RPN.ASSIGNMENT.RFLA_SHRUNK_TARGETS", True)
    of_release = head_of(entry, "MODEL.RPN.ASSIGNER", "rfla", *FIELDS, *shrunk).assigner.references(anchors)
    torch.testing.assert_close(of_release, torch.tensor([[11.0, 12, 29, 48]]))
    # rules without fields have none to shrink
    assert torch.equal(
        head_of(entry, "MODEL.RPN.ASSIGNER", "nwd", *shrunk, *SIZES).assigner.references(anchors), anchors
    )


SIZES = ("MODEL.RPN.ANCHOR_SIZES", ((16,),), "MODEL.RETINANET.ANCHOR_SIZES", ((16,),))


def test_nwd_in_the_rpn_gives_every_object_its_anchors():
    """Two objects of 4 pixels, which anchors of 16 overlap by a sixteenth at most: by rank 2 are theirs."""
    head = head_of(AnchorRPN, "MODEL.RPN.ASSIGNER", "nwd", *SIZES, "MODEL.RPN.ASPECT_RATIOS", (1.0,))
    truth = pack_targets(
        [make_target([[3.0, 3, 7, 7], [50, 30, 54, 34]], [1, 2], seed=1), EMPTY], 3, torch.device("cpu")
    )
    matches = head.assigner(truth.boxes, truth.valid, head.anchors(maps(), batch()))
    assert matches.label[0].sum() == 4 and not matches.label[1].any()
    sampled = head._sample(head.anchors(maps(), batch()), batch(), truth)
    assert sampled.positive.sum(1).tolist() == [4, 0]


def test_anchors_beyond_the_border_are_nobodys():
    """The nearest anchors of an object in the corner leave the image; it takes the nearest that do not."""
    options = ("MODEL.RPN.ASSIGNER", "nwd", *SIZES, "MODEL.RPN.ASPECT_RATIOS", (1.0,), "MODEL.RPN.BOUNDARY_THRESH", 0)
    head = head_of(AnchorRPN, *options)
    truth = pack_targets([make_target([[0.0, 0, 6, 6]], [1], seed=1), EMPTY], 3, torch.device("cpu"))
    sampled = head._sample(head.anchors(maps(), batch()), batch(), truth)
    assert sampled.positive.sum(1).tolist() == [2, 0] and (sampled.references[sampled.positive] >= 0).all()


def assigned(head, boxes):
    truth = pack_targets([make_target(boxes, [1] * len(boxes), seed=1)], 3, torch.device("cpu"))
    locations = head._locations(maps(), batch())
    index = head._assign(locations, [m.shape[-2] * m.shape[-1] for m in maps()], truth)[0]
    return locations, index


@pytest.mark.parametrize("assigner", ["atss", "nwd", "rfla"])
def test_fcos_ranks_the_squares_around_its_locations(assigner):
    head = head_of(FCOS, "MODEL.RPN.ASSIGNER", assigner, *FIELDS)
    assert head.prior_sides == ([12, 32, 64] if assigner == "rfla" else [64, 128, 256])
    locations, index = assigned(head, [[6.0, 6, 18, 18]])
    if assigner == "atss":  # by overlap with squares of 64, the nearest one alone stands out
        assert locations.xy[index == 0].tolist() == [[12.0, 12]]
    else:  # the equally near ones as they stand
        expected = [[12.0, 12], [12, 4]] if assigner == "nwd" else [[12.0, 4], [4, 12], [12, 12], [20, 12]]
        assert sorted(locations.xy[index == 0].tolist()) == sorted(expected)


def test_fcos_prior_in_strides():
    head = head_of(FCOS, "MODEL.RPN.ASSIGNER", "atss", "MODEL.RPN.ASSIGNMENT.FCOS_PRIOR", 2)
    assert head.prior_sides == [16, 32, 64]


def test_fcos_a_location_outside_of_its_object():
    """It is to predict the smallest box that holds it and the object; it is not central at all."""
    head = head_of(FCOS, "MODEL.RPN.ASSIGNER", "rfla", *FIELDS)
    box = torch.tensor([[14.0, 10, 17, 12]])
    locations, index = assigned(head, box.tolist())
    at = locations.xy[index == 0]
    wanted = distances(at, box.expand(len(at), 4))
    assert len(at) == 4 and (wanted.amin(1) < 0).all()
    assert not centerness(wanted).any()
    seen = []
    losses = head._box_losses(
        wanted.clamp(min=0), torch.zeros(len(at)), wanted, 1.0, torch.ones(len(at)), torch.tensor(4.0)
    )
    assert all(torch.isfinite(loss) for loss in losses)
    for place, reach in zip(at, boxes_at(at, wanted.clamp(min=0)), strict=True):
        corners = torch.cat([torch.minimum(place, box[0, :2]), torch.maximum(place, box[0, 2:])])
        assert torch.equal(reach, corners)
        seen.append(reach)
    assert len(seen) == 4


def test_the_iou_quality_of_a_location_outside_is_that_with_its_object():
    box, at = torch.tensor([[2.0, 0, 8, 4]]), torch.tensor([[0.0, 2]])
    reached = torch.tensor([[0.0, 2, 8, 2]])  # from (0, 0) to (8, 4)
    iou, *_ = distance_iou(reached, distances(at, box), 0.0)
    assert float(iou) == pytest.approx(24 / 32)
    apart = torch.tensor([[0.0, 2, 1, 2]])  # to (1, 4): before the box begins
    assert float(distance_iou(apart, distances(at, box), 0.0)[0]) == 0


@pytest.mark.parametrize("kind", ["iou", "linear_iou", "giou", "diou", "ciou"])
def test_fcos_box_losses_pull_towards_an_object_beside_the_location(kind):
    options = ("MODEL.FCOS.IOU_LOSS_TYPE", kind, "MODEL.FCOS.BOX_QUALITY", "iou")
    head = head_of(FCOS, "MODEL.RPN.ASSIGNER", "rfla", *FIELDS, *options)
    wanted = distances(torch.tensor([[0.0, 2]]), torch.tensor([[4.0, 0, 10, 4]]))
    predicted = torch.tensor([[1.0, 1, 1, 1]], requires_grad=True)
    box, _ = head._box_losses(predicted, torch.zeros(1), wanted, 1.0, torch.ones(1), torch.tensor(1.0))
    left, top, right, bottom = torch.autograd.grad(box, predicted)[0][0].tolist()
    assert left > 0 and right < 0 and top < 0 and bottom < 0


@pytest.mark.parametrize("strange", [float("inf"), float("nan"), 1e4])
def test_what_locations_without_an_object_say_of_boxes_does_not_count(strange):
    """Even what is no number, or would be none as a distance: their weight of 0 would not make it one."""
    head = head_of(FCOS)
    truth = pack_targets([make_target([[6.0, 6, 60, 60]], [1], seed=1), EMPTY], 3, torch.device("cpu"))
    levels = maps()
    locations, counts = head._locations(levels, batch()), [m.shape[-2] * m.shape[-1] for m in levels]
    background = head._assign(locations, counts, truth) < 0
    assert background[1].all() and not background[0].all()
    losses, gradients = [], []
    for value in (0.5, strange):
        regression = torch.full((*background.shape, 4), 0.5)
        regression[background] = value
        regression.requires_grad_()
        logits = [torch.zeros(2, count, 3) for count in counts]
        outputs = HeadOutputs(logits, regression, torch.zeros(background.shape))
        losses.append(head._losses(locations, outputs, truth))
        gradients.append(torch.autograd.grad(losses[-1]["loss_fcos_box"], regression)[0])
    assert losses[0] == losses[1] and losses[0]["loss_fcos_box"] > 0
    assert torch.equal(*gradients) and not gradients[1][background].any() and gradients[1][~background].any()


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou", "diou", "ciou", "nwd"])
def test_what_anchors_without_an_object_say_of_boxes_does_not_count(box_loss):
    head = head_of(RetinaNet, *SIZES, "MODEL.RETINANET.BOX_LOSS_TYPE", box_loss)
    truth = pack_targets([make_target([[6.0, 6, 60, 60]], [1], seed=1), EMPTY], 3, torch.device("cpu"))
    anchors = head.anchors(maps(), batch())
    assigned = head._assign(anchors, truth)
    background, counts = assigned.labels == 0, [len(level) for level in anchors]
    assert background[1].all() and not background[0].all()
    losses, gradients = [], []
    for value in (0.5, float("nan")):
        deltas = torch.full((*background.shape, 4), 0.5)
        deltas[background] = value
        deltas.requires_grad_()
        logits = [torch.zeros(2, count, 3) for count in counts]
        losses.append(head._losses(torch.cat(anchors), assigned, logits, list(torch.split(deltas, counts, 1))))
        gradients.append(torch.autograd.grad(losses[-1]["loss_retinanet_box"], deltas)[0])
    assert losses[0] == losses[1] and losses[0]["loss_retinanet_box"] > 0
    assert torch.equal(*gradients) and not gradients[1][background].any() and gradients[1][~background].any()


def test_centerness_outside_of_a_corner_is_nothing():
    """Both ratios are negative there, and their product is not."""
    assert centerness(torch.tensor([[-2.0, -3, 10, 12], [0, 0, 0, 0], [-1, 4, 9, 4]])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("entry", [AnchorRPN, RetinaNet])
def test_boxes_end_where_the_config_says(entry, legacy):
    options = ("MODEL.RPN.ASSIGNER", "rfla", *FIELDS, "MODEL.LEGACY_BOXES", legacy)
    head = head_of(entry, *options)
    sides = BoxCoder(pixel=float(legacy)).sides(head.anchors(maps(), batch())[0])
    assert torch.equal(sides, torch.full_like(sides, 12))


# ---------------------------------------------------------------------------------------------- receptive fields
def fields_of(name, *opts):
    backbone = build_backbone(tiny_config({}, "MODEL.BACKBONE.CONV_BODY", name, *opts))
    found = receptive_fields(backbone, backbone.strides)
    assert all(module.training for module in backbone.modules())
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("R-50-FPN", [35, 91, 267, 427, 555]),
        ("R-50-FPN-RETINANET", [91, 267, 427, 555, 811]),
        ("R-50-BIFPN", [91, 267, 427, 555, 811]),
        ("W-50-2-PAFPN", [35, 91, 267, 427, 555]),
        ("R-18-FPN", [43, 99, 211, 435, 563]),
        ("R-50-C4", [267]),
        ("MNV2-FPN", [19, 59, 267, 491, 619]),
        ("R-50-EFPN", [19, 35, 91, 267, 427, 555]),  # C2': 7, then three convolutions of a step of 2 pixels
        ("MNV2-EFPN", [7, 19, 59, 267, 491, 619]),
        # res4 at 2, 1, 1/2 and 1/4 times the size: (267 - 1) / 2 + 1, ...
        ("R-50-IMGPYR", [134, 267, 533, 1065]),
    ],
)
def test_receptive_fields(name, expected):
    assert fields_of(name) == expected


def test_receptive_fields_of_deformable_stages_are_those_of_plain_ones():
    assert fields_of("R-50-FPN", "MODEL.RESNETS.STAGE_WITH_DCN", (False, True, True, True)) == fields_of("R-50-FPN")


def test_receptive_fields_of_timm():
    pytest.importorskip("timm")
    assert fields_of("timm/resnet18-EFPN") == [7, *fields_of("R-18-FPN")]
    with pytest.raises(UserError, match=r"the network attends.*write them, in pixels, into .*RFLA_FIELDS"):
        fields_of("timm/swin_tiny_patch4_window7_224-FPN")


def test_receptive_fields_take_no_weights_and_leave_them():
    backbone = build_backbone(tiny_config({}, "MODEL.RESNETS.NORM", "BN"))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    receptive_fields(backbone, backbone.strides)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


class Strided(torch.nn.Module):
    strides = MappingProxyType({"a": 4})

    def forward(self, x):
        return {"a": x[..., ::4, ::4]}


class Pooled(torch.nn.Module):
    strides = MappingProxyType({"a": 4})

    def forward(self, x):
        return {"a": torch.nn.functional.avg_pool2d(x, 4)}


def test_receptive_fields_of_networks_of_users():
    assert receptive_fields(Pooled(), {"a": 4}) == [4]
    with pytest.raises(UserError, match="a has the stride 4, but its steps are 1 pixels"):
        receptive_fields(Strided(), {"a": 4})


def test_a_model_derives_its_fields_and_so_does_its_outline():
    cfg = cfg_of("RPN", "MODEL.RPN.ASSIGNER", "rfla", "MODEL.BACKBONE.CONV_BODY", "R-50-FPN")
    for model in (build_detection_model(cfg), build_outline(cfg)):
        sides = [float(getattr(model.rpn.anchors, f"templates{i}")[0, 2] * 2) for i in range(5)]
        assert sides == [17.5, 45.5, 133.5, 213.5, 277.5]


# ---------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((FIELDS[0], (10, 20)), r"RFLA_FIELDS \(10.*, 20.*\) must be 3 receptive fields.*p3 \(stride 8\).*p5"),
        ((FIELDS[0], ()), r"RFLA_FIELDS \(\) must be 3"),
        ((*FIELDS, "MODEL.RPN.ASSIGNMENT.RFLA_K", (0, 1)), r"RFLA_K \(0, 1\) must begin with at least 1"),
    ],
)
@pytest.mark.parametrize("entry", [AnchorRPN, RetinaNet, FCOS])
def test_settings_that_fit_no_head(entry, options, says):
    with pytest.raises(UserError, match=says):
        head_of(entry, "MODEL.RPN.ASSIGNER", "rfla", *options)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ASSIGNER", "simota"),
        ("ASSIGNMENT.ATSS_K", 0),
        ("ASSIGNMENT.NWD_K", -1),
        ("ASSIGNMENT.RFLA_K", (3,)),
        ("ASSIGNMENT.RFLA_SHRINK", 0.0),
        ("ASSIGNMENT.RFLA_SHRINK", 1.5),
        ("ASSIGNMENT.RFLA_FIELDS", (0, 1)),
        ("ASSIGNMENT.FCOS_PRIOR", 0),
    ],
)
def test_values_out_of_bounds(key, value):
    with pytest.raises(UserError, match=key.rpartition(".")[2]):
        validate(tiny_config({}, f"MODEL.RPN.{key}", value))
