"""detectron2 in detframe's keys.

Facts: its defaults (and those of its project PointRend), and what its code makes of them.
"""

from __future__ import annotations

from typing import Any

from detframe.config.foreign.program import Program, UntranslatableError, as_lists, classes, resnet_body, single

DETECTRON2 = Program(
    "detectron2",
    "detectron2",
    implied={
        "VERSION": "it numbers detectron2's own configs",
        "MODEL.ANCHOR_GENERATOR.ANGLES": "boxes are not rotated",
        "MODEL.SEM_SEG_HEAD.": "belongs to semantic segmentation",
        "MODEL.PANOPTIC_FPN.": "belongs to panoptic segmentation",
        "MODEL.IMPLICIT_POINTREND.": "belongs to implicit PointRend",
        "MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME": "belongs to semantic segmentation",
        "INPUT.MASK_FORMAT": "masks are read as the data have them",
        "SOLVER.REFERENCE_WORLD_SIZE": "IMS_PER_BATCH counts all ranks, however many there are",
        "SOLVER.NUM_DECAYS": "belongs to another schedule",
        "SOLVER.RESCALE_INTERVAL": "belongs to another schedule",
        "TEST.EXPECTED_RESULTS": "nothing is compared with it",
        "CUDNN_BENCHMARK": "cuDNN chooses by itself",
        "FLOAT32_PRECISION": "PyTorch's own setting holds",
        "GLOBAL.": "nothing reads it",
    },
    missing={
        "MODEL.LOAD_PROPOSALS": "proposals are always the detector's own",
        "DATASETS.PROPOSAL_FILES_TRAIN": "proposals are always the detector's own",
        "DATASETS.PROPOSAL_FILES_TEST": "proposals are always the detector's own",
        "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": "proposals are always the detector's own",
        "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": "proposals are always the detector's own",
        "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": "images without keypoints train the boxes",
        "INPUT.CROP.": "there is no such cropping (INPUT.LSJ crops)",
        "INPUT.COLOR_AUG_SSD": "colour jitter is INPUT.BRIGHTNESS, CONTRAST, SATURATION, HUE",
        "DATALOADER.RANDOM_SUBSET_RATIO": "all images are trained on",
        "TEST.KEYPOINT_OKS_SIGMAS": "they belong to the data set: keypoint_sigmas in the catalog",
        "VIS_PERIOD": "SOLVER.IMAGE_PERIOD draws training images",
    },
)
_BACKBONES = ("build_resnet_backbone", "build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone")
_KINDS = {"GeneralizedRCNN": "AnchorRPN", "ProposalNetwork": "AnchorRPN", "RetinaNet": "RetinaNet"}
_ROI_HEADS = {
    "Res5ROIHeads": "Res5ROIHeads",
    "StandardROIHeads": "StandardROIHeads",
    "CascadeROIHeads": "CascadeROIHeads",
    "PointRendROIHeads": "StandardROIHeads",  # the first version of the project PointRend
}

DETECTRON2.same(
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "OUTPUT_DIR",
    "MODEL.WEIGHTS",
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.FPN.NORM",
    *(f"MODEL.RESNETS.{key}" for key in ("NORM", "STRIDE_IN_1X1")),
    *(f"MODEL.RPN.{key}" for key in ("BATCH_SIZE_PER_IMAGE", "POSITIVE_FRACTION", "BBOX_REG_WEIGHTS", "NMS_THRESH")),
    *(f"MODEL.RPN.{key}" for key in ("SMOOTH_L1_BETA", "LOSS_WEIGHT", "BBOX_REG_LOSS_WEIGHT", "BOUNDARY_THRESH")),
    *(f"MODEL.ROI_HEADS.{key}" for key in ("BATCH_SIZE_PER_IMAGE", "POSITIVE_FRACTION")),
    *(f"MODEL.ROI_{head}_HEAD.POOLER_RESOLUTION" for head in ("BOX", "MASK", "KEYPOINT")),
    *(f"MODEL.ROI_{head}_HEAD.POOLER_SAMPLING_RATIO" for head in ("BOX", "MASK", "KEYPOINT")),
    *(f"MODEL.ROI_BOX_HEAD.{key}" for key in ("NUM_CONV", "CONV_DIM", "NORM", "NUM_FC", "SMOOTH_L1_BETA")),
    *(f"MODEL.ROI_BOX_HEAD.{key}" for key in ("CLS_AGNOSTIC_BBOX_REG", "TRAIN_ON_PRED_BOXES", "BBOX_REG_LOSS_WEIGHT")),
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS",
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS",
    *(f"MODEL.ROI_MASK_HEAD.{key}" for key in ("NUM_CONV", "CONV_DIM", "NORM", "CLS_AGNOSTIC_MASK")),
    *(f"MODEL.ROI_KEYPOINT_HEAD.{key}" for key in ("CONV_DIMS", "NUM_KEYPOINTS", "LOSS_WEIGHT")),
    *(f"MODEL.RETINANET.{key}" for key in ("NUM_CONVS", "PRIOR_PROB", "BBOX_REG_WEIGHTS", "NORM")),
    *(f"INPUT.{key}" for key in ("MIN_SIZE_TRAIN", "MIN_SIZE_TRAIN_SAMPLING", "MAX_SIZE_TRAIN", "FORMAT")),
    *(f"INPUT.{key}" for key in ("MIN_SIZE_TEST", "MAX_SIZE_TEST")),
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "DATALOADER.ASPECT_RATIO_GROUPING",
    *(f"SOLVER.{key}" for key in ("MAX_ITER", "BASE_LR", "MOMENTUM", "NESTEROV", "WEIGHT_DECAY", "WEIGHT_DECAY_NORM")),
    *(f"SOLVER.{key}" for key in ("GAMMA", "STEPS", "WARMUP_FACTOR", "WARMUP_ITERS", "WARMUP_METHOD")),
    *(f"SOLVER.{key}" for key in ("CHECKPOINT_PERIOD", "IMS_PER_BATCH", "BIAS_LR_FACTOR")),
    "TEST.EVAL_PERIOD",
    *(f"TEST.PRECISE_BN.{key}" for key in ("ENABLED", "NUM_ITER")),
    "SEED",
)
DETECTRON2.renamed({
    "MODEL.PIXEL_MEAN": "INPUT.PIXEL_MEAN",
    "MODEL.PIXEL_STD": "INPUT.PIXEL_STD",
    "MODEL.BACKBONE.FREEZE_AT": "MODEL.BACKBONE.FREEZE_CONV_BODY_AT",
    "MODEL.FPN.FUSE_TYPE": "MODEL.FPN.FUSE",
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": "MODEL.RESNETS.STAGE_WITH_DCN",
    "MODEL.RESNETS.DEFORM_MODULATED": "MODEL.RESNETS.WITH_MODULATED_DCN",
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": "MODEL.RESNETS.DEFORMABLE_GROUPS",
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": "MODEL.RPN.MIN_SIZE",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": "MODEL.RPN.PRE_NMS_TOP_N_TRAIN",
    "MODEL.RPN.PRE_NMS_TOPK_TEST": "MODEL.RPN.PRE_NMS_TOP_N_TEST",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": "MODEL.RPN.POST_NMS_TOP_N_TRAIN",
    "MODEL.RPN.POST_NMS_TOPK_TEST": "MODEL.RPN.POST_NMS_TOP_N_TEST",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "MODEL.ROI_HEADS.SCORE_THRESH",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": "MODEL.ROI_HEADS.NMS",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": "MODEL.ROI_HEADS.BBOX_REG_WEIGHTS",
    "MODEL.ROI_BOX_HEAD.FC_DIM": "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM",
    "MODEL.RETINANET.SCORE_THRESH_TEST": "MODEL.RETINANET.INFERENCE_TH",
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": "MODEL.RETINANET.PRE_NMS_TOP_N",
    "MODEL.RETINANET.NMS_THRESH_TEST": "MODEL.RETINANET.NMS_TH",
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": "MODEL.RETINANET.LOSS_GAMMA",
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": "MODEL.RETINANET.LOSS_ALPHA",
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": "MODEL.RETINANET.SMOOTH_L1_BETA",
    "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": "MODEL.RETINANET.BOX_LOSS_TYPE",
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": "MODEL.RPN.BOX_LOSS_TYPE",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE",
    "MODEL.POINT_HEAD.TRAIN_NUM_POINTS": "MODEL.POINT_HEAD.NUM_POINTS",
    "MODEL.POINT_HEAD.OVERSAMPLE_RATIO": "MODEL.POINT_HEAD.OVERSAMPLE",
    "MODEL.POINT_HEAD.IMPORTANCE_SAMPLE_RATIO": "MODEL.POINT_HEAD.IMPORTANCE",
    "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS": "MODEL.POINT_HEAD.SUBDIVISION_POINTS",
    "TEST.DETECTIONS_PER_IMAGE": "TEST.DETECTIONS_PER_IMG",
})  # fmt: skip
DETECTRON2.same(*(f"MODEL.POINT_HEAD.{key}" for key in ("SUBDIVISION_STEPS", "FC_DIM", "NUM_FC")))
DETECTRON2.only({
    "MODEL.RESNETS.STEM_OUT_CHANNELS": (64,),
    "MODEL.ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator",),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
    "MODEL.RPN.IOU_LABELS": ((0, -1, 1),),
    "MODEL.ROI_HEADS.IOU_LABELS": ((0, 1),),
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": (True,),
    "MODEL.ROI_KEYPOINT_HEAD.NAME": ("KRCNNConvDeconvUpsampleHead",),
    "MODEL.ROI_BOX_HEAD.NAME": ("", "FastRCNNConvFCHead"),
    "MODEL.RETINANET.IOU_LABELS": ((0, -1, 1),),
    "MODEL.POINT_HEAD.NAME": ("StandardPointHead",),
    "MODEL.POINT_HEAD.COARSE_PRED_EACH_LAYER": (True,),
})  # fmt: skip
# MODEL.RETINANET.NUM_CLASSES is without the background here and with it in maskrcnn-benchmark, so that over a config of
# detframe's own it says nothing
DETECTRON2.over_ours({"MODEL.ROI_HEADS.NUM_CLASSES": classes(background=0)})


@DETECTRON2.rule(
    "MODEL.META_ARCHITECTURE", "MODEL.PROPOSAL_GENERATOR.NAME", "MODEL.ROI_HEADS.NAME", "MODEL.ROI_HEADS.NUM_CLASSES",
    "MODEL.RETINANET.NUM_CLASSES", "MODEL.MASK_ON", "MODEL.KEYPOINT_ON",
)  # fmt: skip
def _detector(
    architecture: str, proposals: str, heads: str, classes: int, retina_classes: int, mask: bool, keypoints: bool
) -> dict[str, Any]:
    if architecture not in _KINDS:
        raise UntranslatableError(f"MODEL.META_ARCHITECTURE {architecture!r}, only {' or '.join(_KINDS)}")
    rcnn = architecture == "GeneralizedRCNN"
    if architecture != "RetinaNet" and proposals != "RPN":
        raise UntranslatableError(f"MODEL.PROPOSAL_GENERATOR.NAME {proposals!r}, only 'RPN'")
    if rcnn and heads not in _ROI_HEADS:
        raise UntranslatableError(f"MODEL.ROI_HEADS.NAME {heads!r}, only {' or '.join(_ROI_HEADS)}")
    return {
        "MODEL.RPN.NAME": _KINDS[architecture],
        "MODEL.ROI_HEADS.NAME": _ROI_HEADS[heads] if rcnn else "",
        "MODEL.NUM_CLASSES": retina_classes if architecture == "RetinaNet" else classes,
        "MODEL.MASK_ON": rcnn and mask,
        "MODEL.KEYPOINT_ON": rcnn and keypoints,
        "TEST.EVALUATOR": "proposals" if architecture == "ProposalNetwork" else "coco",
    }


@DETECTRON2.rule(
    "MODEL.BACKBONE.NAME", "MODEL.RESNETS.DEPTH", "MODEL.RESNETS.OUT_FEATURES", "MODEL.RESNETS.NUM_GROUPS",
    "MODEL.RESNETS.WIDTH_PER_GROUP", "MODEL.RESNETS.RES5_DILATION", "MODEL.RESNETS.RES2_OUT_CHANNELS",
)  # fmt: skip
def _body(
    builder: str, depth: int, features: Any, groups: int, width: int, dilation: int, res2_channels: int
) -> dict[str, Any]:
    if builder not in _BACKBONES:
        raise UntranslatableError(f"MODEL.BACKBONE.NAME {builder!r}, only {' or '.join(_BACKBONES)}")
    if res2_channels != (64 if depth in (18, 34) else 256):
        raise UntranslatableError(f"MODEL.RESNETS.RES2_OUT_CHANNELS {res2_channels} with DEPTH {depth}")
    if builder == "build_resnet_backbone":
        suffix = _single_map(single("MODEL.RESNETS.OUT_FEATURES", features), dilation)
    else:
        suffix = "FPN-RETINANET" if "retinanet" in builder else "FPN"
    return {
        **resnet_body(depth, groups, width, suffix),
        "MODEL.RESNETS.RES5_DILATION": dilation,
        "MODEL.RESNETS.NORM_EPS": 1e-5,
        "MODEL.FPN.P6_FROM": "C5",
    }


def _single_map(feature: str, dilation: int) -> str:
    names = {("res4", 1): "C4", ("res5", 1): "C5", ("res5", 2): "DC5"}
    if (feature, dilation) not in names:
        raise UntranslatableError(f"MODEL.RESNETS.OUT_FEATURES {feature!r} with RES5_DILATION {dilation}")
    return names[feature, dilation]


@DETECTRON2.rule("MODEL.FPN.IN_FEATURES", "MODEL.BACKBONE.NAME")
def _pyramid_inputs(features: Any, builder: str) -> dict[str, Any]:
    usual = {
        "build_resnet_fpn_backbone": ["res2", "res3", "res4", "res5"],
        "build_retinanet_resnet_fpn_backbone": ["res3", "res4", "res5"],
    }
    return {"MODEL.FPN.IN_FEATURES": () if not features or list(features) == usual.get(builder) else tuple(features)}


@DETECTRON2.rule("MODEL.RPN.IN_FEATURES", "MODEL.ROI_HEADS.IN_FEATURES", "MODEL.RETINANET.IN_FEATURES",
                 "MODEL.META_ARCHITECTURE")  # fmt: skip
def _maps(rpn: Any, heads: Any, retinanet: Any, architecture: str) -> dict[str, Any]:
    read = retinanet if architecture == "RetinaNet" else rpn
    usual = (["p2", "p3", "p4", "p5", "p6"], ["p3", "p4", "p5", "p6", "p7"], ["res4"], ["res5"])
    pooled = (["p2", "p3", "p4", "p5"], ["res4"], ["res5"])
    return {
        "MODEL.RPN.IN_FEATURES": () if list(read) in usual else tuple(read),
        "MODEL.ROI_HEADS.IN_FEATURES": () if architecture == "RetinaNet" or list(heads) in pooled else tuple(heads),
    }


@DETECTRON2.rule(
    "MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "MODEL.ANCHOR_GENERATOR.OFFSET",
    "MODEL.META_ARCHITECTURE",
)  # fmt: skip
def _anchors(sizes: Any, ratios: Any, offset: float, architecture: str) -> dict[str, Any]:
    section = "MODEL.RETINANET." if architecture == "RetinaNet" else "MODEL.RPN."
    return {
        f"{section}ANCHOR_SIZES": tuple(tuple(row) for row in sizes),
        f"{section}ASPECT_RATIOS": tuple(single("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", ratios)),
        f"{section}ANCHOR_OFFSET": offset,
        f"{section}ANCHOR_STYLE": "exact",
        f"{section}ANCHOR_STEP": "stride",
    }


@DETECTRON2.rule("MODEL.RPN.IOU_THRESHOLDS", "MODEL.RPN.CONV_DIMS", "MODEL.ROI_HEADS.IOU_THRESHOLDS",
                 "MODEL.RETINANET.IOU_THRESHOLDS")  # fmt: skip
def _thresholds(rpn: Any, convolutions: Any, heads: Any, retinanet: Any) -> dict[str, Any]:
    if any(dim != -1 for dim in convolutions):
        raise UntranslatableError(
            f"MODEL.RPN.CONV_DIMS {as_lists(convolutions)!r}: the RPN keeps the pyramid's channels"
        )
    (overlap,) = heads
    return {
        "MODEL.RPN.BG_IOU_THRESHOLD": rpn[0],
        "MODEL.RPN.FG_IOU_THRESHOLD": rpn[1],
        "MODEL.RPN.CONV_DEPTH": len(convolutions),
        "MODEL.RPN.LOSS_NORMALIZER": "batch_size",
        "MODEL.RPN.POST_NMS_PER": "image",
        "MODEL.ROI_HEADS.FG_IOU_THRESHOLD": overlap,
        "MODEL.ROI_HEADS.BG_IOU_THRESHOLD": overlap,
        "MODEL.ROI_HEADS.MIN_SIZE": -1.0,
        "MODEL.RETINANET.BG_IOU_THRESHOLD": retinanet[0],
        "MODEL.RETINANET.FG_IOU_THRESHOLD": retinanet[1],
        "MODEL.RETINANET.LOSS_NORMALIZER": "ema",
        "MODEL.RETINANET.CLIP_BEFORE_NMS": False,
    }


@DETECTRON2.rule(
    *(f"MODEL.ROI_{head}_HEAD.POOLER_TYPE" for head in ("BOX", "MASK", "KEYPOINT")),
    "MODEL.MASK_ON",
    "MODEL.KEYPOINT_ON",
)
def _pooling(box: str, mask: str, keypoint: str, mask_on: bool, keypoints_on: bool) -> dict[str, Any]:
    used = [box, *([mask] if mask_on and mask else []), *([keypoint] if keypoints_on else [])]
    kind = single("MODEL.ROI_*_HEAD.POOLER_TYPE", used)
    if kind not in ("ROIAlignV2", "ROIAlign"):
        raise UntranslatableError(f"MODEL.ROI_BOX_HEAD.POOLER_TYPE {kind!r}, only 'ROIAlignV2' or 'ROIAlign'")
    return {"MODEL.ROI_BOX_HEAD.POOLER_ALIGNED": kind == "ROIAlignV2"}


@DETECTRON2.rule("MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS")
def _keypoint_loss(visible: bool) -> dict[str, Any]:
    return {"MODEL.ROI_KEYPOINT_HEAD.NORMALIZER": "visible" if visible else "static"}


@DETECTRON2.rule(
    *(f"MODEL.ROI_BOX_HEAD.{key}" for key in ("USE_SIGMOID_CE", "USE_FED_LOSS")),
    *(f"MODEL.ROI_BOX_HEAD.FED_LOSS_{key}" for key in ("NUM_CLASSES", "FREQ_WEIGHT_POWER")),
)
def _class_loss(sigmoid: bool, federated: bool, classes: int, power: float) -> dict[str, Any]:
    if sigmoid != federated:
        raise UntranslatableError(
            f"MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE {sigmoid} with USE_FED_LOSS {federated}, only both or neither"
        )
    if not federated:
        return {"MODEL.ROI_BOX_HEAD.CLS_LOSS": "cross_entropy"}
    return {
        "MODEL.ROI_BOX_HEAD.CLS_LOSS": "federated",
        "MODEL.ROI_BOX_HEAD.FEDERATED_CLASSES": classes,
        "MODEL.ROI_BOX_HEAD.FEDERATED_POWER": power,
    }


@DETECTRON2.rule("INPUT.RANDOM_FLIP")
def _flip(kind: str) -> dict[str, Any]:
    return {
        "INPUT.FLIP_PROB": 0.5 if kind == "horizontal" else 0.0,
        "INPUT.VERTICAL_FLIP_PROB": 0.5 if kind == "vertical" else 0.0,
    }


@DETECTRON2.rule("DATALOADER.FILTER_EMPTY_ANNOTATIONS")
def _empty(drop: bool) -> dict[str, Any]:
    return {"DATALOADER.EMPTY": "drop" if drop else "keep"}


@DETECTRON2.rule(*(f"DATALOADER.{key}" for key in ("SAMPLER_TRAIN", "REPEAT_THRESHOLD", "REPEAT_SQRT")))
def _sampling(name: str, threshold: float, square_root: bool) -> dict[str, Any]:
    if name in ("TrainingSampler", "RandomSubsetTrainingSampler"):  # RANDOM_SUBSET_RATIO says what is not kept of it
        return {"DATALOADER.REPEAT_THRESHOLD": 0.0}
    if name != "RepeatFactorTrainingSampler":
        raise UntranslatableError(
            f"DATALOADER.SAMPLER_TRAIN {name!r}, only 'TrainingSampler' or 'RepeatFactorTrainingSampler'"
        )
    return {"DATALOADER.REPEAT_THRESHOLD": threshold, "DATALOADER.REPEAT_SQRT": square_root}


@DETECTRON2.rule(*(f"TEST.AUG.{key}" for key in ("ENABLED", "MIN_SIZES", "MAX_SIZE", "FLIP")))
def _augmentation(enabled: bool, sizes: Any, max_size: int, flip: bool) -> dict[str, Any]:
    if not enabled:
        return {"TEST.AUG.ENABLED": False}
    return {
        "TEST.AUG.ENABLED": True,
        "TEST.AUG.PLAIN": False,
        "TEST.AUG.MIN_SIZES": tuple(sizes),
        "TEST.AUG.MAX_SIZE": max_size,
        "TEST.AUG.FLIP": flip,
        "TEST.AUG.FLIP_VIEWS": "all",
        "TEST.AUG.MERGE": "nms",
        "TEST.AUG.NMS_PER_VIEW": True,
    }


@DETECTRON2.rule("SOLVER.LR_SCHEDULER_NAME", "SOLVER.BASE_LR", "SOLVER.BASE_LR_END")
def _schedule(name: str, rate: float, last_rate: float) -> dict[str, Any]:
    names = {"WarmupMultiStepLR": "step", "WarmupCosineLR": "cosine"}
    if name not in names:
        raise UntranslatableError(f"SOLVER.LR_SCHEDULER_NAME {name!r}, only {' or '.join(names)}")
    return {"SOLVER.LR_SCHEDULE": names[name], "SOLVER.COSINE_END_FACTOR": last_rate / rate if rate else 0.0}


@DETECTRON2.rule("SOLVER.WEIGHT_DECAY_BIAS")
def _bias_decay(value: float | None) -> dict[str, Any]:
    return {"SOLVER.WEIGHT_DECAY_BIAS": -1.0 if value is None else value}


@DETECTRON2.rule("SOLVER.AMP.ENABLED")
def _precision(enabled: bool) -> dict[str, Any]:
    return {"SOLVER.AMP": "auto" if enabled else "off"}


@DETECTRON2.rule(*(f"SOLVER.CLIP_GRADIENTS.{key}" for key in ("ENABLED", "CLIP_TYPE", "CLIP_VALUE", "NORM_TYPE")))
def _clipping(enabled: bool, kind: str, value: float, norm: float) -> dict[str, Any]:
    if enabled and kind not in ("value", "norm"):
        raise UntranslatableError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE {kind!r}, only 'value' or 'norm'")
    by_norm = enabled and kind == "norm"
    if by_norm and norm != 2:
        raise UntranslatableError(f"SOLVER.CLIP_GRADIENTS.NORM_TYPE {norm}, only 2.0")
    return {
        "SOLVER.CLIP_GRAD_VALUE": value if enabled and not by_norm else 0.0,
        "SOLVER.CLIP_GRAD_NORM": value if by_norm else 0.0,
        "SOLVER.CLIP_GRAD_NORM_PER": "parameter" if by_norm else "model",
    }


@DETECTRON2.rule(
    "MODEL.ROI_MASK_HEAD.NAME", "MODEL.POINT_HEAD.IN_FEATURES", "MODEL.ROI_HEADS.NUM_CLASSES",
    "MODEL.POINT_HEAD.NUM_CLASSES", "MODEL.POINT_HEAD.CLS_AGNOSTIC_MASK", "MODEL.MASK_ON", "MODEL.ROI_MASK_HEAD.FC_DIM",
    "MODEL.ROI_MASK_HEAD.NUM_FC", "MODEL.ROI_MASK_HEAD.OUTPUT_SIDE_RESOLUTION", "MODEL.ROI_MASK_HEAD.IN_FEATURES",
    "MODEL.ROI_MASK_HEAD.POINT_HEAD_ON",
)  # fmt: skip
def _masks(
    head: str, maps: Any, classes: int, point_classes: int, agnostic: bool, mask_on: bool, fc_dim: int, num_fc: int,
    side: int, coarse_maps: Any, points_on: bool,
) -> dict[str, Any]:  # fmt: skip
    if head in ("MaskRCNNConvUpsampleHead", "") or not mask_on:
        return {"MODEL.ROI_MASK_HEAD.NAME": "MaskRCNN"}
    if head != "PointRendMaskHead" and not (head == "CoarseMaskHead" and points_on):
        raise UntranslatableError(
            f"MODEL.ROI_MASK_HEAD.NAME {head!r}, only MaskRCNNConvUpsampleHead or PointRendMaskHead"
        )
    if point_classes != classes or agnostic:
        raise UntranslatableError("MODEL.POINT_HEAD must have the classes of ROI_HEADS, a mask for each")
    point_map = single("MODEL.POINT_HEAD.IN_FEATURES", maps)
    if list(coarse_maps) not in ([], [point_map]):
        raise UntranslatableError(f"MODEL.ROI_MASK_HEAD.IN_FEATURES {coarse_maps!r}, only that of POINT_HEAD")
    return {
        "MODEL.ROI_MASK_HEAD.NAME": "PointRend",
        "MODEL.POINT_HEAD.IN_FEATURE": point_map,
        "MODEL.POINT_HEAD.COARSE_SIDE": side,
        "MODEL.POINT_HEAD.COARSE_NUM_FC": num_fc,
        "MODEL.POINT_HEAD.COARSE_FC_DIM": fc_dim,
    }
