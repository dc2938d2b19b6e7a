"""P2' on crops: what ROI heads pool is what they would pool of the whole map."""

from __future__ import annotations

import pytest
import torch

from detframe.config import get_cfg, validate
from detframe.modeling import build_detection_model
from detframe.modeling.analysis import multiply_adds
from detframe.modeling.backbones.extended_crops import CroppedLevel
from detframe.modeling.build import build_backbone
from detframe.ops.exportable import exporting
from tests.modeling.tiny import EMPTY, FULL, make_images, make_target, tiny_config

EFPN = {
    "MODEL.BACKBONE.CONV_BODY": "R-18-EFPN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.EFPN.WIDTH": 8,
    "MODEL.RPN.FINEST_LEVEL": "p2",
    "MODEL.ROI_HEADS.NAME": "ExtendedROIHeads",
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
}
CROPS = {"MODEL.EFPN.ON_CROPS": True, "MODEL.EFPN.CROP_SIZE": 8}
# What a cell of P2' sees in cells of P2, by the kind of extension
KINDS = {
    "plain": ({"MODEL.EFPN.TRANSFER": "plain", "MODEL.EFPN.C2_PRIME": "stem"}, 2),
    "pointwise": ({"MODEL.EFPN.EXTRACTOR": "pointwise", "MODEL.EFPN.C2_PRIME": "stem"}, 2),
    "residual over res2": ({}, 20),
    "dysample": ({"MODEL.EFPN.UPSAMPLE": "dysample", "MODEL.EFPN.C2_PRIME": "stem"}, 20),
    "MobileNetV2": ({"MODEL.BACKBONE.CONV_BODY": "MNV2-EFPN", "MODEL.EFPN.TRANSFER": "plain"}, 2),
}


def config(*keys):
    merged = {**EFPN}
    for more in keys:
        merged |= more
    cfg = tiny_config(merged)
    validate(cfg)
    return cfg


def pair(make, keys, margin):
    """The same with and without crops."""
    torch.manual_seed(0)
    whole = make(config(keys))
    cropped = make(config(keys, CROPS, {"MODEL.EFPN.CROP_MARGIN": margin}))
    cropped.load_state_dict(whole.state_dict())
    return whole, cropped


@pytest.mark.parametrize(("keys", "margin"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("size", [(160, 224), (64, 32)])
def test_where_regions_are_the_map_is_the_whole_one(keys, margin, size):
    """At the border of the image as well; elsewhere nothing is computed, unless crops would cost more than the map."""
    whole, cropped = (backbone.eval() for backbone in pair(build_backbone, keys, margin))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator)
    boxes = torch.tensor([[2.0, 3, 20, 9], [size[1] - 9, size[0] - 30, size[1], size[0]], [30, 40, 34, 45]])
    image = torch.tensor([0, 1, 1])
    with torch.inference_mode():
        wanted, level = whole(x)["p1"], cropped(x)["p1"]
        assert isinstance(level, CroppedLevel) and level.shape == wanted.shape
        found = level.around(boxes, image)
    computed = found.abs().sum(1) > 0
    for i, (x1, y1, x2, y2) in zip(image.tolist(), boxes.tolist(), strict=True):
        region = (i, slice(max(int(y1 / 2) - 1, 0), int(y2 / 2) + 2), slice(max(int(x1 / 2) - 1, 0), int(x2 / 2) + 2))
        assert computed[region].all()
    mask = computed[:, None].expand_as(found)
    torch.testing.assert_close(found[mask], wanted[mask], rtol=1e-4, atol=1e-4)
    if size == (160, 224) and margin == 2:
        assert computed.float().mean() < 0.3
        # whole blocks of 16 cells
        blocks = computed[:, :80, :112].reshape(2, 5, 16, 7, 16).float().mean((2, 4))
        assert set(blocks.unique().tolist()) == {0.0, 1.0}


def test_far_from_the_border_of_a_crop_a_margin_changes_nothing():
    """Without a margin, what lies further inside of a block than a cell sees is that of the whole map all the same."""
    keys = {"MODEL.EFPN.TRANSFER": "plain", "MODEL.EFPN.C2_PRIME": "stem"}
    whole, cropped = (backbone.eval() for backbone in pair(build_backbone, keys, 0))
    x = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        wanted = whole(x)["p1"]
        found = cropped(x)["p1"].around(torch.tensor([[40.0, 40, 50, 50]]), torch.tensor([0]))
    assert not torch.allclose(found[..., 16:32, 16:32], wanted[..., 16:32, 16:32], atol=1e-4)
    torch.testing.assert_close(found[..., 17:31, 17:31], wanted[..., 17:31, 17:31], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "pointwise", "MobileNetV2"])
@pytest.mark.parametrize("duplicate", [False, True])
def test_detections_losses_and_gradients_are_those_of_the_whole_map(name, duplicate):
    keys, margin = KINDS[name]
    keys = {**keys, "MODEL.MOBILENET.NORM": "FrozenBN", "MODEL.EFPN.SEPARATE_HEAD": duplicate}
    if duplicate:
        keys["MODEL.EFPN.ROI_ASSIGNMENT"] = "duplicate"
    models = pair(build_detection_model, keys, margin)
    losses = [model(make_images(), [FULL, EMPTY]) for model in models]
    for key, value in losses[0].items():
        torch.testing.assert_close(losses[1][key], value, rtol=1e-4, atol=1e-5)
    for own in losses:
        sum(own.values()).backward()
    for (n, a), (_, b) in zip(*(model.named_parameters() for model in models), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-2, atol=1e-4), n
    with torch.inference_mode():
        found = [model.eval()(make_images()) for model in models]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a["boxes"], b["boxes"], rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(a["scores"], b["scores"], rtol=1e-3, atol=1e-4)


def test_without_small_regions_everything_learns_all_the_same():
    torch.manual_seed(0)
    model = build_detection_model(config(KINDS["plain"][0], CROPS))
    large = make_target([[0.0, 0, 64, 64]], [1], seed=1)
    sum(model(make_images(), [large, EMPTY]).values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    level = model.eval().backbone(torch.zeros(1, 3, 64, 64))["p1"]
    none = level.around(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    none.sum().backward()
    assert none.shape == (1, 16, 32, 32)


def test_what_it_costs_depends_on_where_small_regions_are():
    torch.manual_seed(0)
    backbone = build_backbone(config(KINDS["plain"][0], CROPS)).eval()
    level = backbone(torch.zeros(1, 3, 256, 256))["p1"]

    class Pool(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.extension = backbone.extension

        def forward(self, boxes):
            return level.around(boxes, torch.zeros(len(boxes), dtype=torch.int64))

    with torch.no_grad():
        counts = [multiply_adds(Pool(), _in_blocks(number))[""] for number in (1, 10, 15, 16, 64)]
    one, whole = 32 * 32 * (8 * 16 + 9 * 16 * 16), 128 * 128 * (8 * 16 + 9 * 16 * 16)
    # crops of 16 x 16 cells around blocks of 8 x 8: sixteen of them are as many cells as the map
    assert counts == [one, 10 * one, 15 * one, whole, whole]


def _in_blocks(number):
    """A small region in the middle of so many blocks, row by row."""
    at = torch.arange(8) * 32.0 + 16
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y, x + 2, y + 2], -1).reshape(-1, 4)[:number]


def test_exported_files_compute_all_of_it():
    whole, cropped = (backbone.eval() for backbone in pair(build_backbone, {}, 4))
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode(), exporting():
        assert torch.equal(cropped(x)["p1"], whole(x)["p1"])


WRONG = {
    "standard heads": (
        {"MODEL.ROI_HEADS.NAME": "StandardROIHeads"},
        r"ROI_HEADS\.NAME must be 'ExtendedROIHeads' with",
    ),
    "masks": ({"MODEL.MASK_ON": True}, r"MASK_ON must be False with MODEL\.EFPN\.ON_CROPS"),
    "graphs": ({"MODEL.COMPILE": "step"}, r"COMPILE must be off with MODEL\.EFPN\.ON_CROPS"),
    "rpn reads it": ({"MODEL.RPN.FINEST_LEVEL": ""}, r"FINEST_LEVEL must be 'p2' with MODEL\.EFPN\.ON_CROPS"),
    "anchors on it": ({"MODEL.RPN.FINEST_LEVEL": "p1"}, r"FINEST_LEVEL must be without 'p1'"),
    "odd": ({"MODEL.EFPN.CROP_SIZE": 7}, r"CROP_SIZE must be even"),
    "windows": ({"MODEL.EFPN.EXTRACTOR": "swin"}, r"EXTRACTOR must be without windows"),
    "statistics": ({"MODEL.RESNETS.NORM": "BN"}, r"NORM 'BN' would take .* 'stem', or the norm 'FrozenBN'"),
}


@pytest.mark.parametrize(("keys", "message"), WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_says_so(keys, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(config(CROPS, keys))


def test_a_config_that_nobody_has_validated_says_so_too():
    cfg = get_cfg()
    keys = {**CROPS, "MODEL.BACKBONE.CONV_BODY": "R-18-EFPN", "MODEL.RPN.FINEST_LEVEL": "p1"}
    cfg.merge_from_list([value for pair in keys.items() for value in pair])
    with pytest.raises(ValueError, match=r"FINEST_LEVEL must be without 'p1' with MODEL\.EFPN\.ON_CROPS"):
        build_backbone(cfg)
