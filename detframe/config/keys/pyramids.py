"""The keys of what is made of the backbone's maps: FPN and its kin, EFPN, and its training by distillation."""

from __future__ import annotations

from detframe.config.bounds import Choice, Number
from detframe.config.key import Key, section
from detframe.config.keys.common import CHANNELS, LAYERS, NAMES, NORM, TARGETS, WEIGHT

FPN = section(
    OUT_CHANNELS=Key(256, "Channels of every level of the pyramid", like=CHANNELS),
    NORM=Key("", "Norm after each lateral and output convolution", choices=NORM),
    P6_FROM=Key("P5", 'Pyramids up to P7 ("...-FPN-RETINANET"): what P6 is made from',
        choices={"P5": "FCOS, torchvision", "C5": "RetinaNet's paper"}),
    IN_FEATURES=Key((), "The body's maps that the pyramid reads, neighbours from fine to coarse, as (\"res3\", "
        '"res4"); empty is all of stride 4 or more, and of 8 or more for "...-FPN-RETINANET" and "...-BIFPN"',
        like=NAMES),
    TOP=Key("auto", "Levels above the body's", choices={"auto": "what CONV_BODY says", "maxpool": "one",
        "p6p7": "two, by convolutions", "none": ""}),
    FUSE=Key("sum", "What a lateral and what comes from the level above make", choices={"sum": "",
        "avg": "their average"}),
    UPSAMPLE=Key("nearest", "How a level is brought to the size of the finer one", choices=("nearest", "bilinear")),
    RELU=Key(False, "ReLU after each lateral and output convolution and its norm"),
    TOP_DOWN=Key(True, "False leaves out the top-down path (ablation 1d of the FPN paper)"),
    LATERAL=Key(True, "False leaves out the lateral connections but the coarsest, which is upsampled all the way "
        "(ablation 1e)"),
    FINEST_ONLY=Key(False, "True gives the finest level alone to the heads, which puts all anchors there (ablation "
        "1f)"),
    BIFPN_REPEATS=Key(3, '"...-BIFPN": rounds of fusion, down and up', above=0, ceiling=100),
    IMAGE_SCALES=Key((2.0, 1.0, 0.5, 0.25), '"...-IMGPYR", a body over an image pyramid: scales of the images, falling',
        each=Number(above=0, ceiling=64), filled=True, order="falling"),
    IMAGE_FEATURE=Key("res4", "\"...-IMGPYR\": the body's map that is read from each scale",
        choices=("res2", "res3", "res4", "res5")),
)

ATTENTION = section(
    WINDOW=Key(8, 'Side of the windows of "swin" and "hat", in cells', above=0, ceiling=256),
    HEADS=Key(4, "Heads of attention; WIDTH must be a multiple of it", above=0, ceiling=2**12),
    MLP_RATIO=Key(2.0, "Width of the MLP over WIDTH", above=0, ceiling=64),
    HAT_DEPTH=Key(2, '"hat": hybrid attention blocks in a group, every other one shifted', above=0, ceiling=100),
    HAT_COMPRESS=Key(3, '"hat": the convolutions beside the attention go through WIDTH / HAT_COMPRESS channels',
        above=0, ceiling=2**16),
    HAT_SQUEEZE=Key(30, '"hat": the attention to channels goes through WIDTH / HAT_SQUEEZE channels', above=0,
        ceiling=2**16),
    HAT_CONV_SCALE=Key(0.01, '"hat": weight of those convolutions beside the attention', any_value=True, ceiling=1e6),
    HAT_OVERLAP=Key(0.5, '"hat": by which part of WINDOW the overlapping windows are larger; that must be an even '
        "number of cells", at_least=0, ceiling=16),
)

EFPN = section(
    WIDTH=Key(512, "Inner channels of the texture transfer; 512 is the paper's, whose cost exceeds the rest of the "
        "detector", like=CHANNELS),
    CONTENT_BLOCKS=Key(1, "Blocks of the content extractor", like=LAYERS),
    TEXTURE_BLOCKS=Key(2, "Blocks of the texture extractor", like=LAYERS),
    EXTRACTOR=Key("residual", "What one of these blocks is; attention at stride 4 is slow, so keep WIDTH small (128)",
        choices={"residual": "convolutions, the paper", "swin": "two window attention blocks, the second of them "
        "shifted", "hat": "a residual hybrid attention group"}),
    ATTENTION=ATTENTION,
    SKIP=Key(True, "Add the enlarged map of p3 to P3' (the authors' release) or not (the paper's formula)"),
    SHARE_RES2=Key(True, "C2' comes from the body's own first stage, run once more (the release), or from one of its "
        "own"),
    ROI_ASSIGNMENT=Key("exclusive", "With ROI_HEADS.NAME ExtendedROIHeads: how regions are pooled from P2'",
        choices={"exclusive": "each is pooled once, the smallest from P2'", "duplicate": "in evaluation those up to "
        "level DUPLICATE_UP_TO from P2' and from their ordinary level, and compete"}),
    DUPLICATE_UP_TO=Key(2, "ROI_ASSIGNMENT \"duplicate\": the last such level; 2 (below 112 pixels by the default "
        "canonical size) is the release's choice for COCO, 1 (below 56) for Tsinghua-Tencent", like=LAYERS),
    SEPARATE_HEAD=Key(False, "A box head for P2' alone, which starts as a copy of the shared one where the weights "
        "have none of its own"),
)

DISTILL = section(
    resume=TARGETS,
    ON=Key(False, "Train EFPN's extension to give, on a smaller image, the pyramid of a larger one in its second stage "
        "(docs/efpn.md)"),
    TEACHER=Key("full", "The image that the teacher sees", choices={"full": "and the student its 2x2 averages",
        "enlarged": "twice as large as the student's"}),
    FEATURES=Key(("p2", "p3"), "Maps that are matched: \"p2\" by P2', \"p3\" by P3'", each=Choice(("p2", "p3")),
        filled=True),
    POSITIVE_WEIGHT=Key(1.0, "Weight of the difference inside of objects beside that everywhere: the paper's lambda",
        like=WEIGHT),
    DETECTION=Key(False, "Add the losses of detection on the full image"),
)
