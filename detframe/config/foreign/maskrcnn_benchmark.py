"""maskrcnn-benchmark and FCOS, which grew out of it, in detframe's keys.

Facts: their defaults and what their code makes of them: boxes from pixel to pixel, anchors of Detectron, frozen norms
without epsilon, ROIAlign without the half pixel, classes counted with the background.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from detframe.config.foreign.catalog import weights
from detframe.config.foreign.rules import Build, Dialect, UntranslatableError, resnet_body, single

_NO_CHOICE = "detframe has one way to do it"
_DERIVED = "follows from the extractor"

_IMPLIED = {
    "MODEL.META_ARCHITECTURE": _NO_CHOICE,
    "MODEL.RPN.ANCHOR_STRIDE": _DERIVED,
    "MODEL.RETINANET.ANCHOR_STRIDES": _DERIVED,
    "MODEL.RETINANET.STRADDLE_THRESH": "RetinaNet never left anchors out by it",
    "MODEL.ROI_HEADS.USE_FPN": _DERIVED,
    "MODEL.ROI_BOX_HEAD.POOLER_SCALES": _DERIVED,
    "MODEL.ROI_MASK_HEAD.POOLER_SCALES": _DERIVED,
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES": _DERIVED,
    "MODEL.ROI_BOX_HEAD.PREDICTOR": "follows from the feature extractor",
    "MODEL.ROI_MASK_HEAD.PREDICTOR": "follows from the feature extractor",
    "MODEL.ROI_KEYPOINT_HEAD.PREDICTOR": "there is one",
    "MODEL.ROI_MASK_HEAD.RESOLUTION": "twice the pooled map's",
    "MODEL.ROI_KEYPOINT_HEAD.RESOLUTION": "four times the pooled map's",
    "MODEL.ROI_MASK_HEAD.MLP_HEAD_DIM": "the mask head has no fully connected layer",
    "MODEL.ROI_KEYPOINT_HEAD.MLP_HEAD_DIM": "the keypoint head has no fully connected layer",
    "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS": "masks are always pasted",
    "MODEL.RESNETS.STEM_FUNC": "the stem has the norm of the body",
    "MODEL.BACKBONE.USE_GN": "TRANS_FUNC says it",
    "MODEL.FBNET.": "belongs to FBNet",
    "DATALOADER.SIZE_DIVISIBILITY": "images are padded to what the pyramid needs",
    "TEST.EXPECTED_RESULTS": "nothing is compared with it",
    "TEST.EXPECTED_RESULTS_SIGMA_TOL": "nothing is compared with it",
    "AMP_VERBOSE": "there is no such log",
}
_MISSING = {
    "TEST.BBOX_AUG.": "there is no augmentation in tests",
    "PATHS_CATALOG": "data sets are listed in datasets/catalog.yaml and DATASETS.CATALOG",
}

_RES5 = "ResNet50Conv5ROIFeatureExtractor"

MASKRCNN_BENCHMARK = Dialect("maskrcnn-benchmark", ("maskrcnn_benchmark",), implied=_IMPLIED, missing=_MISSING)
FCOS = Dialect(
    "FCOS",
    ("maskrcnn_benchmark", "fcos"),
    implied={**_IMPLIED, "MODEL.FCOS.FPN_STRIDES": _DERIVED},
    missing=_MISSING,
)


_FAMILY = (MASKRCNN_BENCHMARK, FCOS)
for dialect in _FAMILY:
    dialect.same(
        "MODEL.DEVICE",
        "DATALOADER.NUM_WORKERS",
        "OUTPUT_DIR",
        "MODEL.BACKBONE.FREEZE_CONV_BODY_AT",
        "MODEL.RESNETS.STRIDE_IN_1X1",
        "MODEL.RESNETS.RES5_DILATION",
        "MODEL.RESNETS.STAGE_WITH_DCN",
        "MODEL.RESNETS.WITH_MODULATED_DCN",
        "MODEL.RESNETS.DEFORMABLE_GROUPS",
        *(f"MODEL.RPN.{key}" for key in ("FG_IOU_THRESHOLD", "BG_IOU_THRESHOLD", "BATCH_SIZE_PER_IMAGE")),
        *(f"MODEL.RPN.{key}" for key in ("POSITIVE_FRACTION", "NMS_THRESH", "MIN_SIZE", "ASPECT_RATIOS")),
        *(f"MODEL.RPN.PRE_NMS_TOP_N_{phase}" for phase in ("TRAIN", "TEST")),
        *(f"MODEL.RPN.POST_NMS_TOP_N_{phase}" for phase in ("TRAIN", "TEST")),
        *(f"MODEL.RPN.FPN_POST_NMS_TOP_N_{phase}" for phase in ("TRAIN", "TEST")),
        "MODEL.RPN.FPN_POST_NMS_PER_BATCH",
        *(f"MODEL.ROI_HEADS.{key}" for key in ("FG_IOU_THRESHOLD", "BG_IOU_THRESHOLD", "BATCH_SIZE_PER_IMAGE")),
        *(f"MODEL.ROI_HEADS.{key}" for key in ("POSITIVE_FRACTION", "BBOX_REG_WEIGHTS", "SCORE_THRESH", "NMS")),
        *(f"MODEL.ROI_{h}_HEAD.POOLER_RESOLUTION" for h in ("BOX", "MASK", "KEYPOINT")),
        *(f"MODEL.ROI_{h}_HEAD.POOLER_SAMPLING_RATIO" for h in ("BOX", "MASK", "KEYPOINT")),
        "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM",
        *(f"MODEL.RETINANET.{key}" for key in ("NUM_CONVS", "PRIOR_PROB", "LOSS_ALPHA", "LOSS_GAMMA")),
        *(f"MODEL.RETINANET.{key}" for key in ("FG_IOU_THRESHOLD", "BG_IOU_THRESHOLD", "ASPECT_RATIOS")),
        *(f"MODEL.RETINANET.{key}" for key in ("INFERENCE_TH", "NMS_TH", "PRE_NMS_TOP_N")),
        *(f"INPUT.{key}" for key in ("MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST")),
        *(f"INPUT.{key}" for key in ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE")),
        "DATASETS.TRAIN",
        "DATASETS.TEST",
        "DATALOADER.ASPECT_RATIO_GROUPING",
        *(f"SOLVER.{key}" for key in ("MAX_ITER", "BASE_LR", "BIAS_LR_FACTOR", "MOMENTUM", "WEIGHT_DECAY", "GAMMA")),
        *(f"SOLVER.{key}" for key in ("WEIGHT_DECAY_BIAS", "WARMUP_FACTOR", "WARMUP_ITERS", "WARMUP_METHOD")),
        *(f"SOLVER.{key}" for key in ("STEPS", "CHECKPOINT_PERIOD", "IMS_PER_BATCH")),
        "TEST.IMS_PER_BATCH",
    )
    dialect.renamed({
        "MODEL.CLS_AGNOSTIC_BBOX_REG": "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG",
        "MODEL.FPN.USE_RELU": "MODEL.FPN.RELU",
        "MODEL.RPN.STRADDLE_THRESH": "MODEL.RPN.BOUNDARY_THRESH",
        "MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS": "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS",
        "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES": "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
        "MODEL.RETINANET.BBOX_REG_BETA": "MODEL.RETINANET.SMOOTH_L1_BETA",
        "INPUT.HORIZONTAL_FLIP_PROB_TRAIN": "INPUT.FLIP_PROB",
        "INPUT.VERTICAL_FLIP_PROB_TRAIN": "INPUT.VERTICAL_FLIP_PROB",
        "SOLVER.TEST_PERIOD": "TEST.EVAL_PERIOD",
    })  # fmt: skip
    dialect.only({
        "MODEL.RPN.RPN_HEAD": ("SingleConvRPNHead",),
        "MODEL.GROUP_NORM.DIM_PER_GP": (-1,),
        "MODEL.GROUP_NORM.NUM_GROUPS": (32,),
        "MODEL.GROUP_NORM.EPSILON": (1e-5,),
        "MODEL.RESNETS.RES2_OUT_CHANNELS": (256,),
        "MODEL.RESNETS.STEM_OUT_CHANNELS": (64,),
        "MODEL.ROI_BOX_HEAD.DILATION": (1,),
        "MODEL.ROI_MASK_HEAD.DILATION": (1,),
        "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD": (0.5,),
        "MODEL.ROI_KEYPOINT_HEAD.FEATURE_EXTRACTOR": ("KeypointRCNNFeatureExtractor",),
    })  # fmt: skip


def _both(*reads: str) -> Callable[[Build], Build]:
    """Decorator: a rule of both programs."""

    def add(build: Build) -> Build:
        for dialect in _FAMILY:
            dialect.rule(*reads)(build)
        return build

    return add


_both("MODEL.WEIGHT")(weights)


@_both("MODEL.BACKBONE.CONV_BODY", "MODEL.RESNETS.NUM_GROUPS", "MODEL.RESNETS.WIDTH_PER_GROUP")
def _body(conv_body: str, groups: int, width: int) -> dict[str, Any]:
    if "FBNet" in conv_body:
        raise UntranslatableError(f"MODEL.BACKBONE.CONV_BODY {conv_body}: detframe has no FBNet")
    match = re.fullmatch(r"R-(\d+)-(.+)", conv_body)
    if match is None:
        return {"MODEL.BACKBONE.CONV_BODY": conv_body}
    return resnet_body(int(match[1]), groups, width, match[2])


@_both("MODEL.RESNETS.TRANS_FUNC")
def _norm(function: str) -> dict[str, Any]:
    norms = {"BottleneckWithFixedBatchNorm": "FrozenBN", "BottleneckWithGN": "GN", "BottleneckWithBatchNorm": "BN"}
    if function not in norms:
        raise UntranslatableError(f"MODEL.RESNETS.TRANS_FUNC {function!r}, only {' or '.join(norms)}")
    norm = norms[function]
    # their frozen norm has no epsilon
    return {"MODEL.RESNETS.NORM": norm, "MODEL.RESNETS.NORM_EPS": 0.0 if norm == "FrozenBN" else 1e-5}


@_both(
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS",
    "MODEL.BACKBONE.OUT_CHANNELS",
    "MODEL.FPN.USE_GN",
    "MODEL.RETINANET.USE_C5",
    "MODEL.BACKBONE.CONV_BODY",
)
def _pyramid(
    channels: int, older_channels: int | None, group_norm: bool, p6_from_c5: bool, conv_body: str
) -> dict[str, Any]:
    out: dict[str, Any] = {"MODEL.FPN.NORM": "GN" if group_norm else ""}
    if "FPN" in conv_body:
        out["MODEL.FPN.OUT_CHANNELS"] = channels if older_channels is None else older_channels
        out["MODEL.FPN.P6_FROM"] = "C5" if p6_from_c5 else "P5"
    return out


@_both("MODEL.RPN.ANCHOR_SIZES", "MODEL.RPN.USE_FPN")
def _rpn_anchors(sizes: Any, has_pyramid: bool) -> dict[str, Any]:
    if any(isinstance(size, (list, tuple)) for size in sizes):  # as detframe's own key has them
        rows = tuple(sizes)
    else:
        rows = tuple((size,) for size in sizes) if has_pyramid else (tuple(sizes),)
    return {
        "MODEL.RPN.ANCHOR_SIZES": rows,
        "MODEL.RPN.POST_NMS_PER": "level" if has_pyramid else "image",
        "MODEL.RPN.ANCHOR_STYLE": "detectron",
        "MODEL.RPN.ANCHOR_STEP": "stride",
        "MODEL.RPN.SMOOTH_L1_BETA": 1.0 / 9.0,
        "MODEL.RPN.LOSS_NORMALIZER": "sampled",
    }


@_both(*(f"MODEL.RETINANET.{key}" for key in ("ANCHOR_SIZES", "OCTAVE", "SCALES_PER_OCTAVE", "BBOX_REG_WEIGHT")))
def _retinanet(sizes: Any, octave: float, scales: int, weight: float) -> dict[str, Any]:
    rows = tuple(tuple(size * octave ** (i / scales) for i in range(scales)) for size in sizes)
    return {
        "MODEL.RETINANET.ANCHOR_SIZES": rows,
        "MODEL.RETINANET.ANCHOR_STYLE": "detectron",
        "MODEL.RETINANET.ANCHOR_STEP": "stride",
        "MODEL.RETINANET.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        "MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT": 1.0 / weight,
        "MODEL.RETINANET.LOSS_NORMALIZER": "detectron",
        "MODEL.RETINANET.CLIP_BEFORE_NMS": True,
    }


@_both(*(f"MODEL.ROI_BOX_HEAD.{k}" for k in ("FEATURE_EXTRACTOR", "USE_GN", "NUM_STACKED_CONVS", "CONV_HEAD_DIM")))
def _box_head(extractor: str, group_norm: bool, convs: int, dim: int) -> dict[str, Any]:
    prefix = "MODEL.ROI_BOX_HEAD."
    norm = "GN" if group_norm else ""
    plain: dict[str, Any] = {"NUM_CONV": 0, "NORM": "", "NUM_FC": 2, "FC_NORM": ""}
    kinds: dict[str, dict[str, Any]] = {
        _RES5: plain,
        "FPN2MLPFeatureExtractor": {**plain, "FC_NORM": norm},
        "FPNXconv1fcFeatureExtractor": {**plain, "NUM_CONV": convs, "CONV_DIM": dim, "NORM": norm, "NUM_FC": 1},
    }
    if extractor not in kinds:
        raise UntranslatableError(f"{prefix}FEATURE_EXTRACTOR {extractor!r}, only {' or '.join(kinds)}")
    fixed = {"SMOOTH_L1_BETA": 1.0, "POOLER_ALIGNED": False, "POOLER_CANONICAL_SIZE": 224, "POOLER_CANONICAL_LEVEL": 4}
    values = {prefix + key: value for key, value in (kinds[extractor] | fixed).items()}
    return {**values, "MODEL.ROI_HEADS.MIN_SIZE": -1.0}


@_both(
    *(f"MODEL.ROI_MASK_HEAD.{key}" for key in ("FEATURE_EXTRACTOR", "CONV_LAYERS", "USE_GN")),
    "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR",
    "MODEL.MASK_ON",
)
def _mask_head(extractor: str, layers: Any, group_norm: bool, shared: bool, mask_on: bool) -> dict[str, Any]:
    prefix = "MODEL.ROI_MASK_HEAD."
    if extractor == _RES5:
        return {f"{prefix}NUM_CONV": 0, f"{prefix}NORM": ""}
    if extractor != "MaskRCNNFPNFeatureExtractor":
        raise UntranslatableError(f"{prefix}FEATURE_EXTRACTOR {extractor!r} has no counterpart here")
    if shared and mask_on:
        raise UntranslatableError(
            f"{prefix}SHARE_BOX_FEATURE_EXTRACTOR True with {extractor}: only res5 is shared here"
        )
    dim = single(f"{prefix}CONV_LAYERS", layers)
    return {f"{prefix}NUM_CONV": len(layers), f"{prefix}CONV_DIM": dim, f"{prefix}NORM": "GN" if group_norm else ""}


@_both("MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", "MODEL.KEYPOINT_ON")
def _keypoints_share(shared: bool, keypoints_on: bool) -> dict[str, Any]:
    if shared and keypoints_on:
        raise UntranslatableError("MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR True has no counterpart here")
    return {}


@_both("INPUT.TO_BGR255", "INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD")
def _pixels(bgr: bool, mean: Any, std: Any) -> dict[str, Any]:
    scale = 1.0 if bgr else 255.0  # without TO_BGR255 the pixels are RGB from 0 to 1
    return {
        "INPUT.FORMAT": "BGR" if bgr else "RGB",
        "INPUT.PIXEL_MEAN": tuple(scale * value for value in mean),
        "INPUT.PIXEL_STD": tuple(scale * value for value in std),
    }


@_both("DTYPE")
def _precision(kind: str) -> dict[str, Any]:
    if kind not in ("float32", "float16"):
        raise UntranslatableError(f"DTYPE {kind!r}, only 'float32' or 'float16'")
    return {"SOLVER.AMP": "auto" if kind == "float16" else "off"}


@_both()
def _fixed() -> dict[str, Any]:
    return {
        "MODEL.LEGACY_BOXES": True,
        "DATALOADER.EMPTY": "drop",
        "MODEL.ROI_KEYPOINT_HEAD.NORMALIZER": "visible",
        "SOLVER.WEIGHT_DECAY_NORM": -1.0,
    }


_KIND = (
    "MODEL.RPN_ONLY", "MODEL.RETINANET_ON", "MODEL.MASK_ON", "MODEL.KEYPOINT_ON",
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "MODEL.ROI_BOX_HEAD.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES",
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", "TEST.DETECTIONS_PER_IMG",
)  # fmt: skip


@MASKRCNN_BENCHMARK.rule(*_KIND)
@FCOS.rule(*_KIND, "MODEL.FCOS_ON", "MODEL.FCOS.NUM_CLASSES")
def _detector(
    rpn_only: bool, retinanet: bool, mask: bool, keypoints: bool, extractor: str, roi_classes: int, retina_classes: int,
    roi_limit: int, test_limit: int, fcos: bool = False, fcos_classes: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Which detector it is; each kind has a number of classes of its own, with the background."""
    kind = "FCOS" if fcos else "RetinaNet" if retinanet else "AnchorRPN"
    classes = {"AnchorRPN": roi_classes, "RetinaNet": retina_classes, "FCOS": fcos_classes}[kind]
    dense = kind != "AnchorRPN"
    heads = "" if dense or rpn_only else "Res5ROIHeads" if extractor == _RES5 else "StandardROIHeads"
    return {
        "MODEL.RPN.NAME": kind,
        "MODEL.ROI_HEADS.NAME": heads,
        "MODEL.NUM_CLASSES": classes - 1,
        "MODEL.MASK_ON": mask and bool(heads),
        "MODEL.KEYPOINT_ON": keypoints and bool(heads),
        "TEST.DETECTIONS_PER_IMG": test_limit if dense else roi_limit,
        "TEST.EVALUATOR": "coco" if heads or dense else "proposals",
    }


@FCOS.rule("MODEL.USE_SYNCBN")
def _synchronised(value: bool) -> dict[str, Any]:
    return {"MODEL.MOBILENET.NORM": "SyncBN" if value else "BN"}


@MASKRCNN_BENCHMARK.rule("INPUT.MIN_SIZE_TRAIN")
def _sizes_of_benchmark(sizes: Any) -> dict[str, Any]:
    return {"INPUT.MIN_SIZE_TRAIN": sizes, "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice"}


@FCOS.rule("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_RANGE_TRAIN")
def _sizes_of_fcos(sizes: Any, span: Any) -> dict[str, Any]:
    low, high = span
    if low != -1:
        return {"INPUT.MIN_SIZE_TRAIN": (low, high), "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"}
    return {"INPUT.MIN_SIZE_TRAIN": sizes, "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice"}


FCOS.same(
    *(f"MODEL.FCOS.{key}" for key in ("NUM_CONVS", "PRIOR_PROB", "LOSS_ALPHA", "LOSS_GAMMA", "INFERENCE_TH", "NMS_TH")),
    *(f"MODEL.FCOS.{key}" for key in ("PRE_NMS_TOP_N", "CENTER_SAMPLING_RADIUS", "IOU_LOSS_TYPE", "NORM_REG_TARGETS")),
    *(f"MODEL.FCOS.{key}" for key in ("CENTERNESS_ON_REG", "USE_DCN_IN_TOWER")),
)
FCOS.only({"SOLVER.DCONV_OFFSETS_LR_FACTOR": (1.0,)})
