"""What the values of the keys of MODEL may be. A ceiling is no recommendation: beyond it lies a slip, not a setting."""

from __future__ import annotations

from functools import partial

from detframe.config.bounds import Choice, Each, Name, Number, Rule, Text, Truth

Whole = partial(Number, whole=True)
FRACTION = Number(at_least=0, at_most=1)
CHANNELS = Whole(above=0, ceiling=2**13)
LAYERS = Whole(at_least=0, ceiling=100)
COUNT = Whole(above=0, ceiling=1_000_000)  # of anchors, proposals or points
WEIGHT = Number(at_least=0, ceiling=1e6)
SHORTEST = Number(at_least=0, ceiling=1e6, also=(-1,))  # side of a box that is kept
LENGTH = Number(above=0, ceiling=1e6)  # in pixels
BOX_WEIGHTS = Each(Number(above=0, ceiling=1e6), sizes=(4,), size_name="four numbers")
RATIOS = Each(Number(above=0, ceiling=1e4), filled=True, wrapped=True)
ANCHOR_SIZES = Each(Each(LENGTH, filled=True), filled=True, bare=True)
MAPS = Each(Text(empty=False))
OFFSET = Number(at_least=0, at_most=1)
PROBABILITY = Number(above=0, below=1)
SAMPLING_RATIO = Whole(at_least=0, ceiling=64, also=(-1,))
RESOLUTION = Whole(above=0, ceiling=512)
NORMS = ("", "GN", "BN", "SyncBN")
STEP = Choice(("stride", "image"))
STYLE = Choice(("torchvision", "exact", "detectron"))
BOX_LOSS = Choice(("smooth_l1", "giou"))

MODEL_RULES: dict[str, Rule] = {
    "MODEL.DEVICE": Text(empty=False),
    "MODEL.WEIGHTS": Text(),
    "MODEL.NUM_CLASSES": Whole(at_least=0, ceiling=100_000),
    "MODEL.BACKBONE.CONV_BODY": Name(empty=False, registry="BACKBONES"),
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": Whole(at_least=0, at_most=5),
    "MODEL.FREEZE": Each(Text(empty=False)),
    "MODEL.RESNETS.NORM": Choice(("FrozenBN", "BN", "SyncBN", "GN")),
    "MODEL.RESNETS.NORM_EPS": FRACTION,
    "MODEL.RESNETS.NUM_GROUPS": Whole(at_least=0, ceiling=2**12),
    "MODEL.RESNETS.WIDTH_PER_GROUP": Whole(at_least=0, ceiling=2**12),
    # with fewer, PyTorch's kernels for channels_last write beside their memory on the CPU
    "MODEL.RESNETS.STEM_OUT_CHANNELS": Whole(at_least=8, ceiling=2**10),
    "MODEL.RESNETS.RES5_DILATION": Choice((1, 2)),
    "MODEL.RESNETS.STAGE_WITH_DCN": Each(
        Truth(), sizes=(4,), size_name="True or False for each of res2, res3, res4, res5"
    ),
    "MODEL.RESNETS.DEFORMABLE_GROUPS": Whole(above=0, ceiling=2**12),
    "MODEL.MOBILENET.NORM": Choice(("FrozenBN", "BN", "SyncBN")),
    "MODEL.FPN.OUT_CHANNELS": CHANNELS,
    "MODEL.FPN.NORM": Choice(NORMS),
    "MODEL.FPN.P6_FROM": Choice(("P5", "C5")),
    "MODEL.FPN.IN_FEATURES": MAPS,
    "MODEL.FPN.TOP": Choice(("auto", "maxpool", "p6p7", "none")),
    "MODEL.FPN.FUSE": Choice(("sum", "avg")),
    "MODEL.FPN.UPSAMPLE": Choice(("nearest", "bilinear")),
    "MODEL.FPN.BIFPN_REPEATS": Whole(above=0, ceiling=100),
    "MODEL.FPN.IMAGE_SCALES": Each(Number(above=0, ceiling=64), filled=True, order="falling"),
    "MODEL.FPN.IMAGE_FEATURE": Choice(("res2", "res3", "res4", "res5")),
    "MODEL.EFPN.WIDTH": CHANNELS,
    "MODEL.EFPN.CONTENT_BLOCKS": LAYERS,
    "MODEL.EFPN.TEXTURE_BLOCKS": LAYERS,
    "MODEL.EFPN.EXTRACTOR": Choice(("residual", "swin", "hat")),
    "MODEL.EFPN.ATTENTION.WINDOW": Whole(above=0, ceiling=256),
    "MODEL.EFPN.ATTENTION.HEADS": Whole(above=0, ceiling=2**12),
    "MODEL.EFPN.ATTENTION.MLP_RATIO": Number(above=0, ceiling=64),
    "MODEL.EFPN.ATTENTION.HAT_DEPTH": Whole(above=0, ceiling=100),
    "MODEL.EFPN.ATTENTION.HAT_COMPRESS": Whole(above=0, ceiling=2**16),
    "MODEL.EFPN.ATTENTION.HAT_SQUEEZE": Whole(above=0, ceiling=2**16),
    "MODEL.EFPN.ATTENTION.HAT_CONV_SCALE": Number(ceiling=1e6),
    "MODEL.EFPN.ATTENTION.HAT_OVERLAP": Number(at_least=0, ceiling=16),
    "MODEL.EFPN.ROI_ASSIGNMENT": Choice(("exclusive", "duplicate")),
    "MODEL.EFPN.DUPLICATE_UP_TO": Whole(at_least=0, ceiling=100),
    "MODEL.DISTILL.TEACHER": Choice(("full", "enlarged")),
    "MODEL.DISTILL.FEATURES": Each(Choice(("p2", "p3")), filled=True),
    "MODEL.DISTILL.POSITIVE_WEIGHT": WEIGHT,
    "MODEL.RPN.NAME": Name(empty=False, registry="RPN_HEADS"),
    "MODEL.RPN.IN_FEATURES": MAPS,
    "MODEL.RPN.ANCHOR_SIZES": ANCHOR_SIZES,
    "MODEL.RPN.ASPECT_RATIOS": RATIOS,
    "MODEL.RPN.ANCHOR_STYLE": STYLE,
    "MODEL.RPN.ANCHOR_OFFSET": OFFSET,
    "MODEL.RPN.ANCHOR_STEP": STEP,
    "MODEL.RPN.CONV_DEPTH": LAYERS,
    "MODEL.RPN.BBOX_REG_WEIGHTS": BOX_WEIGHTS,
    "MODEL.RPN.FG_IOU_THRESHOLD": FRACTION,
    "MODEL.RPN.BG_IOU_THRESHOLD": FRACTION,
    "MODEL.RPN.BOUNDARY_THRESH": Number(at_least=0, ceiling=1e9, also=(-1,)),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": COUNT,
    "MODEL.RPN.POSITIVE_FRACTION": FRACTION,
    "MODEL.RPN.BOX_LOSS_TYPE": BOX_LOSS,
    "MODEL.RPN.SMOOTH_L1_BETA": WEIGHT,
    "MODEL.RPN.LOSS_NORMALIZER": Choice(("sampled", "batch_size")),
    "MODEL.RPN.LOSS_WEIGHT": WEIGHT,
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": WEIGHT,
    "MODEL.RPN.MIN_SIZE": SHORTEST,
    "MODEL.RPN.NMS_THRESH": FRACTION,
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": COUNT,
    "MODEL.RPN.PRE_NMS_TOP_N_TEST": COUNT,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": COUNT,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": COUNT,
    "MODEL.RPN.POST_NMS_PER": Choice(("image", "level")),
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN": COUNT,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": COUNT,
    "MODEL.FCOS.NUM_CONVS": LAYERS,
    "MODEL.FCOS.NORM": Choice(("", "GN")),
    "MODEL.FCOS.PRIOR_PROB": PROBABILITY,
    "MODEL.FCOS.SIZES_OF_INTEREST": Each(Number(above=0, ceiling=1e9), order="rising"),
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": WEIGHT,
    "MODEL.FCOS.LOCATION_OFFSET": OFFSET,
    "MODEL.FCOS.LOCATION_STEP": STEP,
    "MODEL.FCOS.BOX_QUALITY": Choice(("centerness", "iou")),
    "MODEL.FCOS.IOU_LOSS_TYPE": Choice(("iou", "linear_iou", "giou")),
    "MODEL.FCOS.IOU_SMOOTHING": WEIGHT,
    "MODEL.FCOS.LOSS_ALPHA": FRACTION,
    "MODEL.FCOS.LOSS_GAMMA": Number(at_least=0, ceiling=100),
    "MODEL.FCOS.INFERENCE_TH": FRACTION,
    "MODEL.FCOS.PRE_NMS_TOP_N": COUNT,
    "MODEL.FCOS.NMS_TH": FRACTION,
    "MODEL.RETINANET.ANCHOR_SIZES": ANCHOR_SIZES,
    "MODEL.RETINANET.ASPECT_RATIOS": RATIOS,
    "MODEL.RETINANET.ANCHOR_STYLE": STYLE,
    "MODEL.RETINANET.ANCHOR_OFFSET": OFFSET,
    "MODEL.RETINANET.ANCHOR_STEP": STEP,
    "MODEL.RETINANET.NUM_CONVS": LAYERS,
    "MODEL.RETINANET.NORM": Choice(("", "GN", "BN")),
    "MODEL.RETINANET.PRIOR_PROB": PROBABILITY,
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": BOX_WEIGHTS,
    "MODEL.RETINANET.FG_IOU_THRESHOLD": FRACTION,
    "MODEL.RETINANET.BG_IOU_THRESHOLD": FRACTION,
    "MODEL.RETINANET.LOSS_ALPHA": FRACTION,
    "MODEL.RETINANET.LOSS_GAMMA": Number(at_least=0, ceiling=100),
    "MODEL.RETINANET.BOX_LOSS_TYPE": BOX_LOSS,
    "MODEL.RETINANET.SMOOTH_L1_BETA": WEIGHT,
    "MODEL.RETINANET.LOSS_NORMALIZER": Choice(("batch", "image", "ema", "detectron")),
    "MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT": WEIGHT,
    "MODEL.RETINANET.INFERENCE_TH": FRACTION,
    "MODEL.RETINANET.PRE_NMS_TOP_N": COUNT,
    "MODEL.RETINANET.NMS_TH": FRACTION,
    "MODEL.RETINANET.MIN_SIZE": SHORTEST,
}

# The heads on regions
RULES_OF_HEADS: dict[str, Rule] = {
    "MODEL.ROI_HEADS.NAME": Name(registry="ROI_HEADS"),
    "MODEL.ROI_HEADS.IN_FEATURES": MAPS,
    "MODEL.ROI_HEADS.FG_IOU_THRESHOLD": FRACTION,
    "MODEL.ROI_HEADS.BG_IOU_THRESHOLD": FRACTION,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": COUNT,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": FRACTION,
    "MODEL.ROI_HEADS.BBOX_REG_WEIGHTS": BOX_WEIGHTS,
    "MODEL.ROI_HEADS.SCORE_THRESH": FRACTION,
    "MODEL.ROI_HEADS.NMS": FRACTION,
    "MODEL.ROI_HEADS.MIN_SIZE": SHORTEST,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": RESOLUTION,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": SAMPLING_RATIO,
    "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE": Whole(above=0, ceiling=2**15),
    "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_LEVEL": Whole(at_least=0, ceiling=100),
    "MODEL.ROI_BOX_HEAD.NUM_CONV": LAYERS,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": CHANNELS,
    "MODEL.ROI_BOX_HEAD.NORM": Choice(NORMS),
    "MODEL.ROI_BOX_HEAD.NUM_FC": LAYERS,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": Whole(above=0, ceiling=2**14),
    "MODEL.ROI_BOX_HEAD.FC_NORM": Choice(("", "GN")),
    "MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE": BOX_LOSS,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": WEIGHT,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": WEIGHT,
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": Each(FRACTION, filled=True),
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": Each(BOX_WEIGHTS, filled=True),
    "MODEL.ROI_MASK_HEAD.NAME": Name(empty=False, registry="MASK_HEADS"),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": RESOLUTION,
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": SAMPLING_RATIO,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": LAYERS,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": CHANNELS,
    "MODEL.ROI_MASK_HEAD.NORM": Choice(NORMS),
    "MODEL.ROI_MASK_HEAD.TARGET_MODE": Choice(("exact", "soft")),
    "MODEL.ROI_MASK_HEAD.LOSS_WEIGHT": WEIGHT,
    "MODEL.POINT_HEAD.IN_FEATURE": Text(empty=False),
    "MODEL.POINT_HEAD.COARSE_SIDE": RESOLUTION,
    "MODEL.POINT_HEAD.COARSE_NUM_FC": LAYERS,
    "MODEL.POINT_HEAD.COARSE_FC_DIM": Whole(above=0, ceiling=2**14),
    "MODEL.POINT_HEAD.NUM_FC": LAYERS,
    "MODEL.POINT_HEAD.FC_DIM": CHANNELS,
    "MODEL.POINT_HEAD.NUM_POINTS": COUNT,
    "MODEL.POINT_HEAD.OVERSAMPLE": Whole(above=0, ceiling=1000),
    "MODEL.POINT_HEAD.IMPORTANCE": FRACTION,
    "MODEL.POINT_HEAD.SUBDIVISION_STEPS": Whole(at_least=0, ceiling=10),
    "MODEL.POINT_HEAD.SUBDIVISION_POINTS": COUNT,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": Whole(at_least=0, ceiling=10_000),
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": RESOLUTION,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO": SAMPLING_RATIO,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": Each(CHANNELS),
    "MODEL.ROI_KEYPOINT_HEAD.NORMALIZER": Choice(("visible", "static")),
    "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT": WEIGHT,
}
