"""The pyramids: levels of every option, parameters of every ablation, PANet's and BiFPN's nodes by hand, errors."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from detframe.config import get_cfg
from detframe.config.paths import shipped_folder
from detframe.modeling import build_detection_model
from detframe.modeling.backbones import FPN, PAFPN, BiFPN
from detframe.modeling.backbones.bifpn import BiFPNLayer, FusionNode
from detframe.modeling.backbones.fpn import P6P7Top
from detframe.modeling.build import build_backbone
from tests.modeling.tiny import EMPTY, FULL, make_images, tiny_config

KEYS = {"MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0, "MODEL.RESNETS.NORM": "BN", "MODEL.MOBILENET.NORM": "BN"}
P2_P6, P3_P7 = ["p2", "p3", "p4", "p5", "p6"], ["p3", "p4", "p5", "p6", "p7"]


def build(body, **keys):
    torch.manual_seed(0)
    more = {f"MODEL.FPN.{key}": value for key, value in keys.items()}
    return build_backbone(tiny_config({**KEYS, "MODEL.BACKBONE.CONV_BODY": body, **more}))


OPTIONS = [
    ("R-18-FPN", {}, P2_P6),
    ("R-18-FPN", {"FUSE": "avg", "UPSAMPLE": "bilinear", "RELU": True, "NORM": "GN"}, P2_P6),
    ("R-18-FPN", {"TOP": "none"}, P2_P6[:4]),
    ("R-18-FPN", {"TOP": "p6p7"}, ["p2", *P3_P7]),
    ("R-18-FPN", {"IN_FEATURES": ("res3", "res4")}, ["p3", "p4", "p5"]),
    ("R-18-FPN", {"IN_FEATURES": ("res4",), "TOP": "none"}, ["p4"]),
    ("MNV2-FPN", {"IN_FEATURES": ("res2", "res3", "res4")}, ["p2", "p3", "p4", "p5"]),
    ("R-18-FPN", {"TOP_DOWN": False}, P2_P6),
    ("R-18-FPN", {"LATERAL": False}, P2_P6),
    ("R-18-FPN", {"FINEST_ONLY": True}, ["p2"]),
    ("R-18-FPN", {"FINEST_ONLY": True, "LATERAL": False}, ["p2"]),
    ("R-18-FPN-RETINANET", {"P6_FROM": "C5"}, P3_P7),
    ("R-18-FPN-RETINANET", {"TOP": "maxpool"}, P3_P7[:4]),
    ("R-18-FPN-RETINANET", {"IN_FEATURES": ("res2", "res3", "res4", "res5")}, ["p2", *P3_P7]),
    ("R-18-PAFPN", {}, P2_P6),
    ("R-18-PAFPN", {"TOP": "p6p7", "NORM": "GN", "LATERAL": False}, ["p2", *P3_P7]),
    ("MNV2-PAFPN", {"IN_FEATURES": ("res3", "res4", "res5")}, P3_P7[:4]),
    ("R-18-BIFPN", {}, P3_P7),
    ("R-18-BIFPN", {"BIFPN_REPEATS": 1, "NORM": "BN", "UPSAMPLE": "bilinear"}, P3_P7),
    ("R-18-BIFPN", {"IN_FEATURES": ("res2", "res3")}, ["p2", "p3", "p4", "p5"]),
    ("R-18-IMGPYR", {}, ["p3", "p4", "p5", "p6"]),
    ("R-18-IMGPYR", {"IMAGE_SCALES": (1.0, 0.5), "IMAGE_FEATURE": "res3", "NORM": "GN"}, ["p3", "p4"]),
]
IDS = [f"{body} {' '.join(f'{k}={v}' for k, v in keys.items())}" for body, keys, _ in OPTIONS]


@pytest.mark.parametrize("body, keys, levels", OPTIONS, ids=IDS)
def test_levels_and_gradients_of_every_option(body, keys, levels):
    """As the detector pads them, images of odd numbers of cells; nothing that trains is left without a gradient."""
    backbone = build(body, **keys).train()
    assert list(backbone.strides) == levels
    assert all(stride == 2 ** int(name[1:]) for name, stride in backbone.strides.items())
    d = backbone.size_divisibility
    height, width = 3 * d, 5 * d
    maps = backbone(torch.randn(2, 3, height, width))
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        name: (2, 16, -(-height // stride), -(-width // stride)) for name, stride in backbone.strides.items()
    }
    sum((x**2).mean() for x in maps.values()).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("sizes", [[(13, 9), (7, 5), (4, 3)], [(13, 9), (6, 4), (3, 2)]], ids=["up", "down"])
@pytest.mark.parametrize("pyramid", [FPN, PAFPN, BiFPN])
def test_maps_whose_sizes_round_either_way(pyramid, sizes):
    maps = [torch.randn(1, c, *size) for c, size in zip((3, 4, 5), sizes, strict=True)]
    out = pyramid([3, 4, 5], 8)(maps)
    assert [tuple(x.shape[-2:]) for x in out[:3]] == sizes
    assert len(out) == (5 if pyramid is BiFPN else 4)


def names(backbone, part):
    """The levels that have blocks of this kind."""
    return {n.split(".")[2] for n, _ in backbone.named_parameters() if n.startswith(f"fpn.{part}.")}


ALL = {"0", "1", "2", "3"}


@pytest.mark.parametrize(
    "keys, inner, outer",
    [
        ({}, ALL, ALL),
        ({"TOP_DOWN": False}, ALL, ALL),
        ({"LATERAL": False}, {"3"}, ALL),
        ({"FINEST_ONLY": True}, ALL, {"0"}),
        ({"FINEST_ONLY": True, "LATERAL": False}, {"3"}, {"0"}),
    ],
    ids=["plain", "bottom-up", "no-lateral", "finest-only", "finest-only-no-lateral"],
)
def test_an_ablation_has_the_parameters_that_it_uses(keys, inner, outer):
    backbone = build("R-18-FPN", **keys)
    assert (names(backbone, "inner_blocks"), names(backbone, "layer_blocks")) == (inner, outer)
    assert names(backbone, "extra_blocks") == set()


def test_a_body_ends_where_its_pyramid_reads_last():
    assert not hasattr(build("R-18-FPN", IN_FEATURES=("res3", "res4")).body, "layer4")
    assert len(build("MNV2-FPN", IN_FEATURES=("res2", "res3")).body.features) == 7
    assert not hasattr(build("R-18-IMGPYR").body, "layer4")


def test_the_fpn_by_hand():
    """Sum, average, bottom-up and no lateral of two levels, from the blocks' own outputs."""
    torch.manual_seed(0)
    fine, coarse = torch.randn(1, 3, 5, 6), torch.randn(1, 4, 3, 3)
    for keys in ({}, {"fuse": "avg"}, {"upsample": "bilinear"}, {"top_down": False}, {"lateral": False}):
        fpn = FPN([3, 4], 8, **keys)
        inner, outer = fpn.inner_blocks, fpn.layer_blocks
        above = F.interpolate(inner["1"](coarse), size=(5, 6), mode=keys.get("upsample", "nearest"))
        if keys.get("lateral", True):
            lateral = inner["0"](fine)
            above = lateral if keys == {"top_down": False} else lateral + above
        expected = outer["0"](above / 2 if keys == {"fuse": "avg"} else above)
        p0, p1, top = fpn([fine, coarse])
        assert torch.equal(p0, expected)
        assert torch.equal(p1, outer["1"](inner["1"](coarse)))
        assert torch.equal(top, p1[:, :, ::2, ::2])


def test_relu_follows_the_output_convolutions():
    fpn = FPN([3, 4], 8, relu=True)
    assert all((x >= 0).all() for x in fpn([torch.randn(1, 3, 6, 6), torch.randn(1, 4, 3, 3)]))


def keep_the_centre(conv):
    """Make a convolution hand on its input, or with a stride every other cell of it."""
    with torch.no_grad():
        conv.weight.zero_()
        if conv.bias is not None:
            conv.bias.zero_()
        for i in range(conv.out_channels):
            conv.weight[i, 0 if conv.groups > 1 else i, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = 1


def test_the_path_of_a_pafpn_by_hand():
    """With convolutions that change nothing, N3 = relu(P3 + relu(every other cell of P2))."""
    pafpn = PAFPN([2, 2], 2)
    for block in (*pafpn.down_blocks.values(), *pafpn.path_blocks.values()):
        keep_the_centre(block.conv)
    merged = [torch.randn(1, 2, 5, 7), torch.randn(1, 2, 3, 4)]
    p2, p3 = FPN.levels(pafpn, merged)
    n2, n3 = pafpn.levels(merged)
    assert torch.equal(n2, p2)
    torch.testing.assert_close(n3, (p3 + p2[:, :, ::2, ::2].relu()).relu())


def test_a_fusion_by_hand():
    """Weights 1, -2 and 3: the negative one counts as 0; then SiLU and a convolution that changes nothing."""
    node = FusionNode(3, 2, "")
    with torch.no_grad():
        node.weights.copy_(torch.tensor([1.0, -2.0, 3.0]))
    keep_the_centre(node.depthwise)
    keep_the_centre(node.pointwise.conv)
    a, b, c = torch.randn(3, 1, 2, 4, 5)
    fused = (a + 3 * c) / (4 + 1e-4)
    torch.testing.assert_close(node.fuse([a, b, c]), fused)
    torch.testing.assert_close(node([a, b, c]), fused * fused.sigmoid())


def test_a_round_of_a_bifpn_by_hand():
    """Three levels of one cell each, all convolutions the identity and all weights 1."""
    layer = BiFPNLayer(3, 1, "", "nearest")
    for module in layer.modules():
        if isinstance(module, torch.nn.Conv2d):
            keep_the_centre(module)
    x = [torch.tensor(v).reshape(1, 1, 1, 1) for v in (1.0, -2.0, 3.0)]

    def mean(*maps):
        return F.silu(sum(maps) / (len(maps) + 1e-4))

    down1 = mean(x[1], x[2])
    out0 = mean(x[0], down1)
    out1 = mean(x[1], down1, out0)
    out2 = mean(x[2], out1)
    for actual, expected in zip(layer(x), (out0, out1, out2), strict=True):
        torch.testing.assert_close(actual, expected)


def test_an_image_pyramid_is_the_body_at_every_scale():
    backbone = build("R-18-IMGPYR").eval()
    x = torch.randn(1, 3, 64, 128)
    with torch.inference_mode():
        maps = backbone(x)
        for name, size in (("p3", (128, 256)), ("p4", (64, 128)), ("p6", (16, 32))):
            scaled = F.interpolate(x, size=size, mode="bilinear", antialias=size[0] < 64)
            expected = backbone.layer_block(backbone.inner_block(backbone.body(scaled)["res4"]))
            torch.testing.assert_close(maps[name], expected)


@pytest.mark.parametrize(
    "body, keys, message",
    [
        ("R-18-FPN", {"IN_FEATURES": ("res2", "res4")}, r"\['res2', 'res4'\].*\['res2', 'res3', 'res4', 'res5'\]"),
        ("R-18-FPN", {"IN_FEATURES": ("res4", "res3")}, "neighbours, finest first"),
        ("MNV2-FPN", {"IN_FEATURES": ("c3",)}, r"\['c3'\].*\['res2', 'res3', 'res4', 'res5'\] of 'MNV2-FPN'"),
        ("R-18-FPN", {"TOP_DOWN": False, "LATERAL": False}, "needs its laterals.*'MODEL.FPN.LATERAL': False"),
        ("R-18-FPN", {"TOP_DOWN": False, "FINEST_ONLY": True}, "all its levels"),
        ("R-18-FPN", {"FINEST_ONLY": True, "TOP": "maxpool"}, "none for its top MaxPoolTop.*'R-18-FPN'"),
        ("R-18-PAFPN", {"FINEST_ONLY": True}, "its bottom-up path leads to the others"),
        ("R-18-BIFPN", {"FUSE": "avg", "TOP": "p6p7"}, "{'MODEL.FPN.FUSE': 'avg', 'MODEL.FPN.TOP': 'p6p7'}"),
        ("R-18-IMGPYR", {"IMAGE_SCALES": (1.0, 0.75)}, r"IMAGE_SCALES is \(1.0, 0.75\).*divide 16"),
        ("R-18-IMGPYR", {"IMAGE_SCALES": (0.5, 1.0)}, "must fall"),
        ("R-18-IMGPYR", {"IMAGE_SCALES": ()}, "must fall"),
        ("R-18-IMGPYR", {"IMAGE_FEATURE": "c4"}, "IMAGE_FEATURE is 'c4'"),
    ],
)
def test_what_does_not_fit_is_an_error(body, keys, message):
    with pytest.raises(ValueError, match=message):
        build(body, **keys)


def test_a_dilated_body_cannot_stand_under_a_pyramid():
    keys = {**KEYS, "MODEL.RESNETS.RES5_DILATION": 2}
    with pytest.raises(ValueError, match=r"strides double.*'res4': 16, 'res5': 16.*IN_FEATURES"):
        build_backbone(tiny_config(keys))
    keys["MODEL.FPN.IN_FEATURES"] = ("res2", "res3", "res4")
    assert list(build_backbone(tiny_config(keys)).strides) == ["p2", "p3", "p4", "p5"]


CONFIGS = shipped_folder("configs")
VARIANTS = ("bottom_up", "no_lateral", "finest_only", "C4", "C5", "image_pyramid")
ABLATIONS = [CONFIGS / "quick" / f"faster_rcnn_R_18_{name}_shapes.yaml" for name in VARIANTS]
ABLATIONS += [CONFIGS / "fpn_ablations" / f"faster_rcnn_R_50_{name}_1x.yaml" for name in VARIANTS]
# 16 channels: with 8, the gradient of a channels_last 1x1 convolution of stride 2 crashes PyTorch 2.15 on larger maps
SMALL = ["MODEL.DEVICE", "cpu", "MODEL.NUM_CLASSES", 3, "MODEL.RESNETS.STEM_OUT_CHANNELS", 16]
SMALL += ["MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16, "MODEL.RPN.POST_NMS_TOP_N_TRAIN", 30]
SMALL += ["MODEL.RPN.PRE_NMS_TOP_N_TRAIN", 100, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16]


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_every_ablation_trains(path):
    """A step on an image with and one without objects moves every parameter that is not frozen."""
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.merge_from_list(SMALL)
    torch.manual_seed(0)
    model = build_detection_model(cfg).train()
    losses = model(make_images(), [FULL, EMPTY])
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3).step()
    assert len(model.eval()(make_images())) == 2


def test_every_ablation_file_is_trained_here():
    assert set((CONFIGS / "fpn_ablations").glob("*.yaml")) <= set(ABLATIONS)


# ---------------------------------------------------------------- maps of one column
def gradients_of_p6(dtype: torch.dtype) -> torch.Tensor:
    """Of P6's weights, for a map of one column, where freed memory is full of NaN."""
    torch.manual_seed(0)
    top = P6P7Top(16, 16, "P5").to(dtype)
    pyramid = torch.randn(2, 16, 3, 1).to(dtype)
    for power in range(4, 18):  # what a kernel would read that takes memory as it is
        torch.full((2**power,), float("nan"), dtype=torch.bfloat16)
    top(pyramid, pyramid)[0].float().square().sum().backward()
    return top.p6.weight.grad.float()


def test_weights_learn_from_one_column_in_bf16_as_in_float32():
    wanted = gradients_of_p6(torch.float32)
    for _ in range(20):
        np.testing.assert_allclose(gradients_of_p6(torch.bfloat16), wanted, atol=0.02 * float(wanted.abs().max()))


def test_a_column_of_zeros_is_what_the_padding_has():
    torch.manual_seed(0)
    top, pyramid = P6P7Top(8, 8, "P5"), torch.randn(1, 8, 5, 1)
    for found, wanted in zip(top.train()(pyramid, pyramid), top.eval()(pyramid, pyramid), strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found.detach(), wanted.detach(), rtol=1e-5, atol=1e-6)
