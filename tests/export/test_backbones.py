"""Pyramids, bodies and attention give in onnxruntime the maps that they give in PyTorch, for any size and batch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from detframe.layers import folded
from detframe.layers.attention import SwinBlock
from detframe.layers.hat import ResidualHybridAttentionGroup
from detframe.layers.upsampling import Carafe, DySample
from detframe.modeling.build import build_backbone
from detframe.ops.exportable import exporting
from tests.modeling.tiny import tiny_config

EFPN = {"MODEL.EFPN.WIDTH": 8, "MODEL.EFPN.ATTENTION.WINDOW": 4, "MODEL.EFPN.ATTENTION.HAT_SQUEEZE": 4}
EFPN["MODEL.EFPN.ATTENTION.HEADS"] = 2
QUICK = {
    "PAFPN of bilinear averages": ("R-18-PAFPN", {"MODEL.FPN.UPSAMPLE": "bilinear", "MODEL.FPN.FUSE": "avg"}),
    "image pyramid": ("R-18-IMGPYR", {"MODEL.FPN.IMAGE_SCALES": (2.0, 1.0, 0.5), "MODEL.FPN.IMAGE_FEATURE": "res3"}),
}
SLOW = {
    "EFPN, swin": ("R-18-EFPN", {**EFPN, "MODEL.EFPN.EXTRACTOR": "swin"}),
    "EFPN, hat": ("R-18-EFPN", {**EFPN, "MODEL.EFPN.EXTRACTOR": "hat"}),
    "FPN": ("R-18-FPN", {}),
    "FPN, dysample": ("R-18-FPN", {"MODEL.FPN.UPSAMPLE": "dysample"}),
    "FPN to P7": ("R-18-FPN-RETINANET", {"MODEL.FPN.P6_FROM": "C5", "MODEL.FPN.NORM": "GN"}),
    "FPN, bottom up": ("R-18-FPN", {"MODEL.FPN.TOP_DOWN": False}),
    "FPN, no lateral": ("R-18-FPN", {"MODEL.FPN.LATERAL": False}),
    "FPN, finest": ("R-18-FPN", {"MODEL.FPN.FINEST_ONLY": True}),
    "BiFPN": ("R-18-BIFPN", {"MODEL.FPN.BIFPN_REPEATS": 1}),
    "C4": ("R-18-C4", {}),
    "C5": ("R-18-C5", {}),
    "DC5": ("R-18-DC5", {}),
    "MobileNetV2": ("MNV2-FPN", {}),
    "timm": ("timm/resnet10t-FPN", {}),
    "EFPN, residual": ("R-18-EFPN", EFPN),
    "PAFPN, carafe": ("R-18-PAFPN", {"MODEL.FPN.UPSAMPLE": "carafe"}),
    "EFPN over MobileNetV2, pointwise": ("MNV2-EFPN", {"MODEL.EFPN.EXTRACTOR": "pointwise"}),
    "EFPN, plain and dysample": ("R-18-EFPN", {"MODEL.EFPN.TRANSFER": "plain", "MODEL.FPN.UPSAMPLE": "dysample"}),
    "EFPN, dysample": ("R-18-EFPN", {**EFPN, "MODEL.EFPN.UPSAMPLE": "dysample", "MODEL.EFPN.C2_PRIME": "stem"}),
    "EFPN, depthwise": ("R-18-EFPN", {**EFPN, "MODEL.EFPN.UPSAMPLE": "depthwise"}),
    "EFPN over timm": ("timm/resnet10t-EFPN", EFPN),
    "EFPN, own res2 and no skip": ("R-18-EFPN", {**EFPN, "MODEL.EFPN.SHARE_RES2": False, "MODEL.EFPN.SKIP": False}),
}


CHANNELS, STRIDE = 8, 4  # of the maps that blocks are tried on
BLOCKS = {
    "swin": lambda: SwinBlock(CHANNELS, heads=2, window=4, shift=2, mlp_ratio=2.0),
    "hat": lambda: ResidualHybridAttentionGroup(CHANNELS, depth=2, heads=2, window=4, mlp_ratio=2.0, squeeze=4),
    "dysample": lambda: DySample(CHANNELS),
    "carafe": lambda: Carafe(CHANNELS),
}


class Padded(nn.Module):
    """A module that gives a tuple of maps, on images padded to multiples of a number."""

    def __init__(self, module, divisor) -> None:
        super().__init__()
        self.module, self.divisor = module, divisor

    def forward(self, images):
        missing = [(side + self.divisor - 1) // self.divisor * self.divisor - side for side in images.shape[2:]]
        return self.module(F.pad(images, (0, missing[1], 0, missing[0])))


class Maps(nn.Module):
    """The maps of a backbone without their names."""

    def __init__(self, backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        return tuple(self.backbone(images).values())


class Strided(nn.Module):
    """A block on every fourth pixel."""

    def __init__(self, block) -> None:
        super().__init__()
        self.block = block

    def forward(self, images):
        return (self.block(images[:, :, ::STRIDE, ::STRIDE]),)


def images(number, channels, height, width):
    return torch.rand((number, channels, height, width), generator=torch.Generator().manual_seed(height)) - 0.5


def assert_same_maps(module, divisor, channels, path):
    """A file and the module on batches of several sizes, the smallest of them smaller than any that was traced."""
    whole = Padded(module, divisor).eval()
    shapes = {0: Dim("batch", min=1, max=2**16), 2: Dim("height", min=2 * divisor + 1)}
    shapes[3] = Dim("width", min=2 * divisor + 1)
    traced = images(2, channels, 5 * divisor - 1, 7 * divisor - 1)
    with torch.no_grad(), exporting():
        graph = folded(whole, traced)
        program = torch.export.export(graph, (traced,), dynamic_shapes=(shapes,), strict=False)
    torch.onnx.export(program, f=path, dynamo=True, opset_version=18, verbose=False)
    session = onnxruntime.InferenceSession(path)
    for shape in [(2, 4 * divisor - 9, 6 * divisor - 9), (1, divisor, 3 * divisor), (1, 9, 30)]:
        batch = images(shape[0], channels, *shape[1:])
        with torch.no_grad():
            wanted = whole(batch)
        found = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        assert len(found) == len(wanted)
        for ours, theirs in zip(wanted, found, strict=True):
            np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-4 * max(1.0, float(ours.abs().max())))


@pytest.mark.parametrize("name", BLOCKS)
def test_the_file_of_a_block_gives_its_map(name, tmp_path):
    torch.manual_seed(0)
    block = BLOCKS[name]()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert_same_maps(Strided(block), 8 * STRIDE, CHANNELS, tmp_path / "maps.onnx")


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_the_file_of_a_backbone_gives_its_maps(name, tmp_path):
    body, keys = {**QUICK, **SLOW}[name]
    if body.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone = build_backbone(tiny_config({**keys, "MODEL.BACKBONE.CONV_BODY": body}))
    assert_same_maps(Maps(backbone), max(32, *backbone.strides.values()), 3, tmp_path / "maps.onnx")
