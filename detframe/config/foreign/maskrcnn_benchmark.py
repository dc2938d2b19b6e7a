"""maskrcnn-benchmark in detframe's keys.

Facts: their defaults and what their code makes of them: boxes from pixel to pixel, anchors of Detectron, frozen norms
without epsilon, ROIAlign without the half pixel, classes counted with the background.
"""

from __future__ import annotations

import re
from typing import Any

from detframe.config.foreign.program import Program, UntranslatableError, classes, resnet_body, single, switch

_NO_CHOICE = "detframe has one way to do it"
# The steps of the maps that the bodies and pyramids have: all that the keys can say of them, and no more
_POOLED = ((1 / 16,), (1 / 32,), (1 / 4, 1 / 8, 1 / 16, 1 / 32))
_ANCHORED = ((16,), (32,), (4, 8, 16, 32, 64))
DENSE_STRIDES = ((8, 16, 32, 64, 128),)
_RES5 = "ResNet50Conv5ROIFeatureExtractor"

MASKRCNN_BENCHMARK = Program(
    "maskrcnn-benchmark",
    "maskrcnn_benchmark",
    implied={
        "MODEL.META_ARCHITECTURE": _NO_CHOICE,
        "MODEL.RETINANET.STRADDLE_THRESH": "RetinaNet never left anchors out by it",
        "MODEL.ROI_HEADS.USE_FPN": "follows from the extractor",
        "MODEL.ROI_BOX_HEAD.PREDICTOR": "follows from the feature extractor",
        "MODEL.ROI_MASK_HEAD.PREDICTOR": "follows from the feature extractor",
        "MODEL.ROI_KEYPOINT_HEAD.PREDICTOR": "there is one",
        "MODEL.ROI_MASK_HEAD.RESOLUTION": "twice the pooled map's",
        "MODEL.ROI_KEYPOINT_HEAD.RESOLUTION": "four times the pooled map's",
        "MODEL.ROI_MASK_HEAD.MLP_HEAD_DIM": "the mask head has no fully connected layer",
        "MODEL.ROI_KEYPOINT_HEAD.MLP_HEAD_DIM": "the keypoint head has no fully connected layer",
        "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS": "masks are always pasted",
        "MODEL.RESNETS.STEM_FUNC": "the stem has the norm of the backbone",
        "MODEL.BACKBONE.USE_GN": "TRANS_FUNC says it",
        "MODEL.FBNET.": "belongs to FBNet",
        "DATALOADER.SIZE_DIVISIBILITY": "images are padded to what the pyramid needs",
        "TEST.EXPECTED_RESULTS": "nothing is compared with it",
        "TEST.EXPECTED_RESULTS_SIGMA_TOL": "nothing is compared with it",
        "AMP_VERBOSE": "there is no such log",
    },
    missing={
        "PATHS_CATALOG": "data sets are listed in datasets/catalog.yaml and DATASETS.CATALOG",
    },
)

MASKRCNN_BENCHMARK.same(
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
MASKRCNN_BENCHMARK.renamed({
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
MASKRCNN_BENCHMARK.only({
    "MODEL.RPN.ANCHOR_STRIDE": _ANCHORED,
    "MODEL.RETINANET.ANCHOR_STRIDES": DENSE_STRIDES,
    **{f"MODEL.ROI_{h}_HEAD.POOLER_SCALES": _POOLED for h in ("BOX", "MASK", "KEYPOINT")},
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
MASKRCNN_BENCHMARK.over_ours({
    "MODEL.RETINANET_ON": switch(
        {"MODEL.RPN.NAME": "RetinaNet", "MODEL.ROI_HEADS.NAME": ""}, {"MODEL.RPN.NAME": "AnchorRPN"}
    ),
    "MODEL.RPN_ONLY": switch({"MODEL.ROI_HEADS.NAME": ""}, {"MODEL.ROI_HEADS.NAME": "StandardROIHeads"}),
    "MODEL.ROI_BOX_HEAD.NUM_CLASSES": classes(background=1),
})  # fmt: skip

# What its catalog of weights, published by Detectron, names: addresses or our short names
_CATALOG = {
    "ImageNetPretrained/MSRA/R-50": "msra://R-50",
    "ImageNetPretrained/MSRA/R-101": "msra://R-101",
    "ImageNetPretrained/MSRA/R-50-GN": "caffe2://R-50-GN",
    "ImageNetPretrained/MSRA/R-101-GN": "caffe2://R-101-GN",
    "ImageNetPretrained/FAIR/20171220/X-101-64x4d": "caffe2://X-101-64x4d",
}
_DETECTRON = "https://dl.fbaipublicfiles.com/detectron/"
_DETECTRON_BODIES = {
    "ImageNetPretrained/FAIR/20171220/X-101-32x8d": "ImageNetPretrained/20171220/X-101-32x8d.pkl",
}
# Detectron's baselines of December 2017: name in the catalog -> time and code of the run
_DETECTRON_RUNS = {
    "35857197/e2e_faster_rcnn_R-50-C4_1x": "01_33_49.iAX0mXvW",
    "35857345/e2e_faster_rcnn_R-50-FPN_1x": "01_36_30.cUF7QR7I",
    "35857890/e2e_faster_rcnn_R-101-FPN_1x": "01_38_50.sNxI7sX7",
    "36761737/e2e_faster_rcnn_X-101-32x8d-FPN_1x": "06_31_39.5MIHi1fZ",
    "35858791/e2e_mask_rcnn_R-50-C4_1x": "01_45_57.ZgkA7hPB",
    "35858933/e2e_mask_rcnn_R-50-FPN_1x": "01_48_14.DzEQe4wC",
    "35861795/e2e_mask_rcnn_R-101-FPN_1x": "02_31_37.KqyEK4tT",
    "36761843/e2e_mask_rcnn_X-101-32x8d-FPN_1x": "06_35_59.RZotkLKI",
    "37129812/e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x": "09_35_36.8pzTQKYK",
    "37697547/e2e_keypoint_rcnn_R-50-FPN_1x": "08_42_54.kdzV35ao",
}


@MASKRCNN_BENCHMARK.rule("MODEL.WEIGHT")
def _weights(value: str | None) -> dict[str, Any]:
    """MODEL.WEIGHT with the names of the catalog as addresses, without the file name that FCOS puts after a #."""
    value = value or ""
    name = value.removeprefix("catalog://")
    if name != value:
        return {"MODEL.WEIGHTS": _of_catalog(name)}
    address, _, fragment = value.partition("#")
    return {"MODEL.WEIGHTS": value if fragment.startswith("sha256=") else address}


def _of_catalog(name: str) -> str:
    if name in _CATALOG:
        return _CATALOG[name]
    if name in _DETECTRON_BODIES:
        return _DETECTRON + _DETECTRON_BODIES[name]
    run = name.removeprefix("Caffe2Detectron/COCO/")
    if run not in _DETECTRON_RUNS:
        raise UntranslatableError(f"MODEL.WEIGHT: catalog://{name} is not in the catalog of maskrcnn-benchmark")
    model, title = run.split("/")
    data = "keypoints_coco_2014_" if "keypoint" in title else "coco_2014_"
    return (
        f"{_DETECTRON}{model}/12_2017_baselines/{title}.yaml.{_DETECTRON_RUNS[run]}/output/train/"
        f"{data}train%3A{data}valminusminival/generalized_rcnn/model_final.pkl"
    )


@MASKRCNN_BENCHMARK.rule("MODEL.BACKBONE.CONV_BODY", "MODEL.RESNETS.NUM_GROUPS", "MODEL.RESNETS.WIDTH_PER_GROUP")
def _body(conv_body: str, groups: int, width: int) -> dict[str, Any]:
    if "FBNet" in conv_body:
        raise UntranslatableError(f"MODEL.BACKBONE.CONV_BODY {conv_body}: detframe has no FBNet")
    match = re.fullmatch(r"R-(\d+)-(.+)", conv_body)
    if match is None:
        return {"MODEL.BACKBONE.CONV_BODY": conv_body}
    return resnet_body(int(match[1]), groups, width, match[2])


@MASKRCNN_BENCHMARK.rule("MODEL.RESNETS.TRANS_FUNC")
def _norm(function: str) -> dict[str, Any]:
    norms = {"BottleneckWithFixedBatchNorm": "FrozenBN", "BottleneckWithGN": "GN", "BottleneckWithBatchNorm": "BN"}
    if function not in norms:
        raise UntranslatableError(f"MODEL.RESNETS.TRANS_FUNC {function!r}, only {' or '.join(norms)}")
    norm = norms[function]
    # their frozen norm has no epsilon
    return {"MODEL.RESNETS.NORM": norm, "MODEL.RESNETS.NORM_EPS": 0.0 if norm == "FrozenBN" else 1e-5}


@MASKRCNN_BENCHMARK.rule(
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


@MASKRCNN_BENCHMARK.rule("MODEL.RPN.ANCHOR_SIZES", "MODEL.RPN.USE_FPN")
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


@MASKRCNN_BENCHMARK.rule(
    *(f"MODEL.RETINANET.{key}" for key in ("ANCHOR_SIZES", "OCTAVE", "SCALES_PER_OCTAVE", "BBOX_REG_WEIGHT"))
)
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


@MASKRCNN_BENCHMARK.rule(
    *(f"MODEL.ROI_BOX_HEAD.{k}" for k in ("FEATURE_EXTRACTOR", "USE_GN", "NUM_STACKED_CONVS", "CONV_HEAD_DIM"))
)
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


@MASKRCNN_BENCHMARK.rule(
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


@MASKRCNN_BENCHMARK.rule("MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", "MODEL.KEYPOINT_ON")
def _keypoints_share(shared: bool, keypoints_on: bool) -> dict[str, Any]:
    if shared and keypoints_on:
        raise UntranslatableError("MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR True has no counterpart here")
    return {}


@MASKRCNN_BENCHMARK.rule("INPUT.TO_BGR255", "INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD")
def _pixels(bgr: bool, mean: Any, std: Any) -> dict[str, Any]:
    scale = 1.0 if bgr else 255.0  # without TO_BGR255 the pixels are RGB from 0 to 1
    return {
        "INPUT.FORMAT": "BGR" if bgr else "RGB",
        "INPUT.PIXEL_MEAN": tuple(scale * value for value in mean),
        "INPUT.PIXEL_STD": tuple(scale * value for value in std),
    }


@MASKRCNN_BENCHMARK.rule(
    *(f"TEST.BBOX_AUG.{key}" for key in ("ENABLED", "H_FLIP", "SCALES", "MAX_SIZE", "SCALE_H_FLIP"))
)
def _augmentation(enabled: bool, flip: bool, scales: Any, max_size: int, flip_scales: bool) -> dict[str, Any]:
    if not enabled:
        return {"TEST.AUG.ENABLED": False}
    flip_scales = flip_scales and len(scales) > 0
    return {
        "TEST.AUG.ENABLED": True,
        "TEST.AUG.PLAIN": True,
        "TEST.AUG.MIN_SIZES": tuple(scales),
        "TEST.AUG.MAX_SIZE": max_size,
        "TEST.AUG.FLIP": flip or flip_scales,
        "TEST.AUG.FLIP_VIEWS": "all" if flip == flip_scales else "plain" if flip else "sizes",
        "TEST.AUG.MERGE": "nms",
        "TEST.AUG.NMS_PER_VIEW": False,
    }


@MASKRCNN_BENCHMARK.rule("DTYPE")
def _precision(kind: str) -> dict[str, Any]:
    if kind not in ("float32", "float16"):
        raise UntranslatableError(f"DTYPE {kind!r}, only 'float32' or 'float16'")
    return {"SOLVER.AMP": "auto" if kind == "float16" else "off"}


@MASKRCNN_BENCHMARK.rule()
def _fixed() -> dict[str, Any]:
    return {
        "MODEL.LEGACY_BOXES": True,
        "DATALOADER.EMPTY": "drop",
        "MODEL.ROI_KEYPOINT_HEAD.NORMALIZER": "visible",
        "SOLVER.WEIGHT_DECAY_NORM": -1.0,
    }


KIND = (
    "MODEL.RPN_ONLY", "MODEL.RETINANET_ON", "MODEL.MASK_ON", "MODEL.KEYPOINT_ON",
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "MODEL.ROI_BOX_HEAD.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES",
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", "TEST.DETECTIONS_PER_IMG",
)  # fmt: skip


@MASKRCNN_BENCHMARK.rule(*KIND)
def detector(
    rpn_only: bool, retinanet: bool, mask: bool, keypoints: bool, extractor: str, roi_classes: int, retina_classes: int,
    roi_limit: int, test_limit: int,
) -> dict[str, Any]:  # fmt: skip
    """Which detector it is; each kind has a number of classes of its own, with the background."""
    if retinanet:
        return dense_detector("RetinaNet", retina_classes, test_limit)
    return {
        "MODEL.RPN.NAME": "AnchorRPN",
        "MODEL.ROI_HEADS.NAME": "" if rpn_only else "Res5ROIHeads" if extractor == _RES5 else "StandardROIHeads",
        "MODEL.NUM_CLASSES": roi_classes - 1,
        "MODEL.MASK_ON": mask and not rpn_only,
        "MODEL.KEYPOINT_ON": keypoints and not rpn_only,
        "TEST.DETECTIONS_PER_IMG": roi_limit,
        "TEST.EVALUATOR": "proposals" if rpn_only else "coco",
    }


def dense_detector(kind: str, classes_and_background: int, limit: int) -> dict[str, Any]:
    """A detector without ROI heads, and the most that it finds on an image."""
    return {
        "MODEL.RPN.NAME": kind,
        "MODEL.ROI_HEADS.NAME": "",
        "MODEL.NUM_CLASSES": classes_and_background - 1,
        "MODEL.MASK_ON": False,
        "MODEL.KEYPOINT_ON": False,
        "TEST.DETECTIONS_PER_IMG": limit,
        "TEST.EVALUATOR": "coco",
    }


@MASKRCNN_BENCHMARK.rule("INPUT.MIN_SIZE_TRAIN")
def train_sizes(sizes: Any) -> dict[str, Any]:
    """The sizes that a training image may get, one of which is sampled."""
    return {"INPUT.MIN_SIZE_TRAIN": sizes, "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice"}
