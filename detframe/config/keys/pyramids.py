"""The keys of what is made of the backbone's maps: FPN and its kin, EFPN, and its training by distillation."""

from __future__ import annotations

from detframe.config.bounds import Choice, Number
from detframe.config.key import Key, section
from detframe.config.keys.common import CHANNELS, DIFFERENT_NAMES, LAYERS, NORM, TARGETS, WEIGHT

FPN = section(
    OUT_CHANNELS=Key(256, "Channels of every level of the pyramid", like=CHANNELS),
    NORM=Key("", "Normalisation after each lateral and output convolution", choices=NORM),
    P6_FROM=Key("P5", 'Pyramids up to P7 ("...-FPN-RETINANET"): what P6 is made from',
        choices={"P5": "FCOS, torchvision", "C5": "RetinaNet's paper"}),
    IN_FEATURES=Key((), 'Feature maps of the backbone that the pyramid takes, consecutive, from fine to coarse, e.g. '
        '["res3", "res4"]; empty is all of stride 4 or more, and of 8 or more for "...-FPN-RETINANET" and "...-BIFPN"',
        like=DIFFERENT_NAMES),
    TOP=Key("auto", "Extra levels above those of the backbone", choices={"auto": "what CONV_BODY says",
        "maxpool": "one", "p6p7": "two, by convolutions", "none": ""}),
    FUSE=Key("sum", "How a lateral and the level above are fused", choices={"sum": "", "avg": "average"}),
    UPSAMPLE=Key("nearest", "What enlarges a level for the sum with the next finer one, that of EFPN too", choices={
        "nearest": "", "bilinear": "", "dysample": "sampling at learned points (arXiv:2308.15085)",
        "carafe": "kernels that the map itself chooses (arXiv:1905.02188); much memory"}),
    RELU=Key(False, "ReLU after each lateral and output convolution and its norm"),
    TOP_DOWN=Key(True, "False leaves out the top-down path (ablation 1d of the FPN paper)"),
    LATERAL=Key(True, "False leaves out all lateral connections but the coarsest, which is upsampled all the way "
        "(ablation 1e)"),
    FINEST_ONLY=Key(False, "True gives only the finest level to the heads, with all anchors on it (ablation 1f)"),
    BIFPN_REPEATS=Key(3, '"...-BIFPN": rounds of top-down and bottom-up fusion', above=0, ceiling=100),
    IMAGE_SCALES=Key((2.0, 1.0, 0.5, 0.25), '"...-IMGPYR", a backbone over an image pyramid: image scales, falling',
        each=Number(above=0, ceiling=64), filled=True, order="falling"),
    IMAGE_FEATURE=Key("res4", "\"...-IMGPYR\": the feature map of the backbone that is used at each scale",
        choices=("res2", "res3", "res4", "res5")),
)

ATTENTION = section(
    WINDOW=Key(8, 'Window size of "swin" and "hat", in cells', above=0, ceiling=256),
    HEADS=Key(4, "Attention heads; WIDTH must be a multiple of it", above=0, ceiling=2**12),
    MLP_RATIO=Key(2.0, "Width of the MLP over WIDTH", above=0, ceiling=64),
    HAT_DEPTH=Key(2, '"hat": hybrid attention blocks in a group, every other one shifted', above=0, ceiling=100),
    HAT_COMPRESS=Key(3, '"hat": the convolutions parallel to the attention have WIDTH / HAT_COMPRESS inner channels',
        above=0, ceiling=2**16),
    HAT_SQUEEZE=Key(30, '"hat": the channel attention has WIDTH / HAT_SQUEEZE inner channels', above=0, ceiling=2**16),
    HAT_CONV_SCALE=Key(0.01, '"hat": weight of those convolutions relative to the attention', any_value=True,
        ceiling=1e6),
    HAT_OVERLAP=Key(0.5, '"hat": by which fraction of WINDOW the overlapping windows are larger; that must be an even '
        'number of cells', at_least=0, ceiling=16),
)

EFPN = section(
    WIDTH=Key(512, "Inner channels of the texture transfer; 512 (the paper) costs more than the rest of the detector",
        like=CHANNELS),
    CONTENT_BLOCKS=Key(1, "Blocks of the content extractor", like=LAYERS),
    TEXTURE_BLOCKS=Key(2, "Blocks of the texture extractor", like=LAYERS),
    TRANSFER=Key("texture", "What P2' is made from, beside C2'", choices={"texture": "P3', the content of p3 with the "
        "texture of p2, enlarged", "plain": "p2, enlarged: one more level of an FPN"}),
    EXTRACTOR=Key("residual", "Type of these blocks; attention at stride 4 is slow, so keep WIDTH small (128)",
        choices={"residual": "convolutions, the paper", "swin": "two window attention blocks, the second one shifted",
        "hat": "a residual hybrid attention group", "pointwise": "1x1 convolutions alone, three rounds of two, whose "
        "widths follow from FPN.OUT_CHANNELS instead of WIDTH"}),
    UPSAMPLE=Key("sub_pixel", "What doubles the size of the content", choices={"sub_pixel": "a convolution to four "
        "times the channels, the paper", "depthwise": "the same with a depthwise 3x3 convolution",
        "dysample": "sampling at learned points", "nearest": ""}),
    ATTENTION=ATTENTION,
    SKIP=Key(True, "Add the upsampled p3 to P3' (the authors' release) or not (the paper's formula)"),
    C2_PRIME=Key("auto", "What C2' is", choices={"auto": '"res2" for ResNets, "stem" for others', "res2": "the first "
        "stage over the stem's map of stride 2", "stem": "that map itself"}),
    SHARE_RES2=Key(True, "Compute C2' by the backbone's res2, run once more (the release), or by a res2 of its own"),
    ROI_ASSIGNMENT=Key("exclusive", "With ROI_HEADS.NAME ExtendedROIHeads: how RoIs are pooled from P2'",
        choices={"exclusive": "each is pooled once, the smallest from P2'", "duplicate": "in evaluation those up to "
        "level DUPLICATE_UP_TO are pooled twice, from P2' and from their regular level, and both compete in NMS"}),
    DUPLICATE_UP_TO=Key(2, "ROI_ASSIGNMENT \"duplicate\": the last such level; 2 (below 112 pixels by the default "
        "canonical size) is the release's choice for COCO, 1 (below 56) for Tsinghua-Tencent", like=LAYERS),
    ON_CROPS=Key(False, "Compute P2' only in blocks that hold small RoIs; for detectors whose ROI heads alone read it. "
        "Exported files compute all of it"),
    CROP_SIZE=Key(32, "ON_CROPS: side of a block in cells of P2, even", above=0, ceiling=2**10),
    CROP_MARGIN=Key(4, "ON_CROPS: cells of P2, an even number, that are computed around a block and thrown away; "
        "beyond them nothing is seen", at_least=0, ceiling=2**10),
    SEPARATE_HEAD=Key(False, "A separate box head for P2', initialised as a copy of the shared one where the weights "
        "have none for it"),
)

DISTILL = section(
    resume=TARGETS,
    ON=Key(False, "Train EFPN's extension by distillation: on a smaller image it learns to give the pyramid of a "
        "larger one (docs/efpn.md)"),
    TEACHER=Key("full", "The image that the teacher sees", choices={"full": "the student sees it averaged 2x2",
        "enlarged": "twice as large as the student's"}),
    FEATURES=Key(("p2", "p3"), "Feature maps of the teacher to match: \"p2\" by P2', \"p3\" by P3'",
        each=Choice(("p2", "p3")), filled=True, once=True),
    POSITIVE_WEIGHT=Key(1.0, "Weight of the loss inside objects relative to that over the whole map: lambda in the "
        "paper", like=WEIGHT),
    DETECTION=Key(False, "Add the detection losses on the full image"),
    RUNNING_NORMS=Key(False, "Let batch norms that train normalise by their running statistics in the distillation, "
        "and take statistics of the detection's images alone; without it they are an error, since they would mix two "
        "sizes of images"),
    LOSS_WEIGHT=Key(1.0, "Weight of these losses beside those of the detection", like=WEIGHT),
    TEACHER_WEIGHTS=Key("", "Checkpoint of a detector of its own that teaches, on an FPN of as many channels whose "
        "finest level is p2; empty: the detector teaches itself"),
)
