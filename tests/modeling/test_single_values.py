"""Norms that meet a single value in training: one sentence with the images and the remedy, wherever the norm is."""

import pytest
import torch
from torch import nn

from detframe.layers import SingleValueError, check_norms
from detframe.modeling import build_detection_model
from detframe.modeling.ground_truth import pack_targets
from tests.modeling.tiny import DENSE, EMPTY, FULL, make_target, tiny_config

SMALL = torch.full((3, 24, 32), 90, dtype=torch.uint8)
OBJECT = make_target([[2.0, 2, 20, 20]], [1], seed=5, image_id=7)
RETINANET = {**DENSE, "MODEL.RPN.NAME": "RetinaNet"}
NORMS = {
    "body": ({"MODEL.RESNETS.NORM": "BN"}, r"backbone\.body\.layer4\.0\.bn1 \(BatchNorm2d\)"),
    "SyncBN alone": ({"MODEL.RESNETS.NORM": "SyncBN"}, r"backbone\.body\.layer4\.0\.bn1"),
    "pyramid": ({"MODEL.FPN.NORM": "BN"}, r"backbone\.fpn\."),
    "head": ({**RETINANET, "MODEL.RETINANET.NORM": "BN"}, r"rpn\.head\."),
    "MobileNet": ({"MODEL.BACKBONE.CONV_BODY": "MNV2-FPN"}, r"backbone\.body\.features\."),
    "EFPN": (
        {"MODEL.BACKBONE.CONV_BODY": "R-18-EFPN", "MODEL.RESNETS.NORM": "BN", "MODEL.EFPN.WIDTH": 8}
        | {"MODEL.RPN.IN_FEATURES": ("p2", "p3", "p4", "p5", "p6")},
        r"backbone\.body\.layer4\.0\.bn1",
    ),
    "timm": ({"MODEL.BACKBONE.CONV_BODY": "timm/resnet18-FPN"}, r"backbone\.body\.model\."),
}


def build(keys):
    if keys.get("MODEL.BACKBONE.CONV_BODY", "").startswith("timm/"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    return build_detection_model(tiny_config({"MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0, **keys}))


@pytest.mark.parametrize("name", NORMS)
def test_one_sentence_names_norm_image_and_remedy(name):
    keys, norm = NORMS[name]
    model = build(keys)
    with pytest.raises(ValueError, match=norm + r".*single value.*image 7 of 24x32 pixels.*MIN_SIZE_TRAIN.*FrozenBN"):
        model([SMALL], [OBJECT])
    losses = model([SMALL, SMALL], [OBJECT, OBJECT])  # in company there are statistics
    assert all(torch.isfinite(loss) for loss in losses.values())
    model.eval()([SMALL])


def test_packed_targets_do_not_name_the_image():
    packed = pack_targets([OBJECT], 3, torch.device("cpu"), [(24, 32)])
    with pytest.raises(ValueError, match=r"single value.*this pass holds an image of 24x32 pixels"):
        build({"MODEL.RESNETS.NORM": "BN"})([SMALL], packed)


@pytest.mark.parametrize("norm", ["FrozenBN", "GN"])
def test_norms_without_that_need_train_on_one_cell(norm):
    losses = build({"MODEL.RESNETS.NORM": norm})([SMALL], [OBJECT])
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own affairs
def test_a_compiled_backbone_says_the_same():
    model = build({"MODEL.RESNETS.NORM": "BN"})
    model.backbone.compile(backend="eager")
    with pytest.raises(ValueError, match=r"layer4\.0\.bn1.*image 7 of 24x32"):
        model([SMALL], [OBJECT])


@pytest.mark.parametrize("target", [EMPTY, OBJECT], ids=["no region", "one object"])
def test_heads_with_batch_norm_and_few_regions(target):
    """Without a region for the mask branch, running statistics stay, and every parameter gets a gradient."""
    keys = {"MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.NORM": "BN", "MODEL.ROI_MASK_HEAD.CONV_DIM": 8}
    keys |= {"MODEL.ROI_BOX_HEAD.NORM": "BN", "MODEL.ROI_BOX_HEAD.NUM_CONV": 1, "MODEL.ROI_BOX_HEAD.CONV_DIM": 8}
    model = build(keys)
    masks = torch.ones(len(target["labels"]), 64, 64, dtype=torch.bool)
    losses = model([torch.full((3, 64, 64), 90, dtype=torch.uint8)], [{**target, "masks": masks}])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(buffer).all() for buffer in model.buffers() if buffer.is_floating_point())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(4), (1, 4)),
        (nn.BatchNorm2d(4), (1, 4, 1, 1)),
        (nn.GroupNorm(4, 4), (1, 4, 1, 1)),
        (nn.InstanceNorm2d(4), (2, 4, 1, 1)),
    ],
)
def test_every_norm_that_torch_refuses_is_named(norm, shape):
    model = nn.Sequential(norm)
    with pytest.raises(ValueError, match="Expected more than 1"):
        model(torch.ones(shape))
    check_norms(model)
    with pytest.raises(SingleValueError, match=rf"the norm 0 \({type(norm).__name__}\)"):
        model(torch.ones(shape))
    model(torch.ones(2, 4, *[2] * (len(shape) - 2)))
    if not isinstance(norm, nn.InstanceNorm2d):
        model(torch.ones(0, *shape[1:]))


def test_full_size_images_are_no_matter():
    model = build({"MODEL.RESNETS.NORM": "BN"})
    losses = model([torch.zeros(3, 64, 64)], [FULL])
    assert all(bool(torch.isfinite(value)) for value in losses.values())
