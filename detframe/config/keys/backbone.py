"""The keys of the model's backbone."""

from __future__ import annotations

from detframe.config.bounds import Each, Truth
from detframe.config.key import Key, section
from detframe.config.keys.common import TRAINED

_STATISTICS = {"FrozenBN": "fixed statistics and affine parameters", "BN": "", "SyncBN": "BN on a single process"}
_NARROWEST = 8  # with fewer, PyTorch's kernels for channels_last write beside their memory on the CPU

BACKBONE = section(
    CONV_BODY=Key("R-50-FPN", 'The whole feature extractor, e.g. "R-50-FPN"', registry="BACKBONES"),
    FREEZE_CONV_BODY_AT=Key(2, "Freeze the first stages of the backbone: 0 none, 1 the stem, 2 the stem and res2, ..., "
        "5 all", within=(0, 5), resume=TRAINED),
)

RESNETS = section(
    NORM=Key("FrozenBN", "Normalisation layers of the backbone", choices={**_STATISTICS, "GN": ""}),
    NORM_EPS=Key(1e-5, "Epsilon, added to the variance; torchvision's COCO_V1 detection weights were trained with 0.0, "
        "everything else with 1e-5", within=(0, 1)),
    NUM_GROUPS=Key(0, "Groups of the 3x3 convolutions (ResNeXt); 0 takes what CONV_BODY names (R: 1, X-101-32x8d: 32)",
        at_least=0, ceiling=2**12),
    WIDTH_PER_GROUP=Key(0, "Width of each group in the first stage; 0 takes what CONV_BODY names (R: 64, X-101-32x8d: "
        "8)", at_least=0, ceiling=2**12),
    STRIDE_IN_1X1=Key(False, "Put the stride of a bottleneck on its 1x1 convolution (Caffe2/MSRA weights) instead of "
        "its 3x3 (torchvision)"),
    STEM_OUT_CHANNELS=Key(64, "Output channels of the stem; the stages are 1, 2, 4, 8 times as wide (times 4 for "
        "bottlenecks). The ResNet paper has 64", at_least=_NARROWEST, ceiling=2**10),
    RES5_DILATION=Key(1, 'Dilation of res5, which then keeps the stride of res4; "...-DC5" makes it 2',
        choices={1: "none", 2: ""}),
    STAGE_WITH_DCN=Key((False, False, False, False), "Deformable 3x3 convolutions (the second of each block) in the "
        "stages res2, res3, res4, res5, frozen ones as well",
        like=Each(Truth(), sizes=(4,), size_name="True or False for each of res2, res3, res4, res5")),
    WITH_MODULATED_DCN=Key(True, "Deformable convolutions also weight their sampling points (DCNv2, arXiv:1811.11168) "
        "instead of only moving them (arXiv:1703.06211)"),
    DEFORMABLE_GROUPS=Key(1, "Groups of input channels, each with offsets of its own", above=0, ceiling=2**12),
)

MOBILENET = section(NORM=Key("BN", "Normalisation layers of MobileNetV2", choices=_STATISTICS))
