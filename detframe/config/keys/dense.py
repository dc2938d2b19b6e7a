"""The keys of what stands on the pyramid and proposes or detects: AnchorRPN, FCOS, RetinaNet. Sizes are in pixels."""

from __future__ import annotations

from detframe.config.bounds import Number
from detframe.config.key import Key, section
from detframe.config.keys.common import (
    ANCHOR_SIZES,
    ARCHITECTURE,
    BOX_LOSS,
    BOX_WEIGHTS,
    COUNT,
    FIRST_WEIGHTS,
    LAYERS,
    MEASURES,
    NAMES,
    OR_NONE,
    PROBABILITY,
    RATIOS,
    STRENGTH,
    TARGETS,
    WEIGHT,
)

_STYLES = {
    "torchvision": "corners on whole pixels",
    "exact": "detectron2",
    "detectron": "around the middle of the cell, shapes of whole pixels: Detectron, maskrcnn-benchmark",
}
_RATIOS = Key((0.5, 1.0, 2.0), "Anchor heights over widths, the same for every level", like=RATIOS, resume=ARCHITECTURE)
_OFFSET = Key(0.0, "Moves the anchors into their cell, in strides (detectron2's OFFSET)", within=(0, 1),
    resume=ARCHITECTURE)
_WEIGHTS = Key((1.0, 1.0, 1.0, 1.0), "Weights of (dx, dy, dw, dh) in the box coding", like=BOX_WEIGHTS,
    resume=ARCHITECTURE)
_POSITIVE = "An anchor is positive at or above this IoU with a ground-truth box (and where it is that box's best)"
_NEGATIVE = "An anchor is negative below this IoU with every ground-truth box; between the two it is ignored"
_PRIOR = Key(0.01, "Score of every class before training", like=PROBABILITY, resume=FIRST_WEIGHTS)
_ALPHA = Key(0.25, "Focal loss: weight of positives, whose complement is that of negatives", within=(0, 1),
    resume=TARGETS)
_GAMMA = Key(2.0, "Focal loss: how much less what is easy counts; 0 is cross entropy", like=STRENGTH, resume=TARGETS)
_CANDIDATES = Key(1000, "Candidates kept per level before NMS", like=COUNT, resume=MEASURES)

RPN = section(
    resume=TARGETS,
    NAME=Key("AnchorRPN", "What stands on the pyramid and proposes or detects", registry="RPN_HEADS",
        resume=ARCHITECTURE),
    IN_FEATURES=Key((), 'Maps of the extractor that it reads, as ["p2", "p3"]; empty is all', like=NAMES,
        resume=ARCHITECTURE),
    ANCHOR_SIZES=Key(((32,), (64,), (128,), (256,), (512,)), "Anchor sizes (square root of the area), one tuple a "
        "level from the finest; a single tuple serves all levels", like=ANCHOR_SIZES, resume=ARCHITECTURE),
    ASPECT_RATIOS=_RATIOS,
    ANCHOR_STYLE=Key("torchvision", "Anchors of a cell", choices=_STYLES, resume=ARCHITECTURE),
    ANCHOR_OFFSET=_OFFSET,
    ANCHOR_STEP=Key("image", "Pixels between anchors", choices={"stride": "that of the level, detectron2",
        "image": "the padded image over the cells, torchvision, which is less on levels that rounded up"},
        resume=ARCHITECTURE),
    CONV_DEPTH=Key(1, "3x3 convolutions before the two outputs", like=LAYERS, resume=ARCHITECTURE),
    BBOX_REG_WEIGHTS=_WEIGHTS,
    FG_IOU_THRESHOLD=Key(0.7, _POSITIVE, within=(0, 1)),
    BG_IOU_THRESHOLD=Key(0.3, _NEGATIVE, within=(0, 1)),
    BOUNDARY_THRESH=Key(-1.0, "Anchors that leave the image by more than this many pixels are not drawn for the loss; "
        "-1 draws them too (maskrcnn-benchmark's STRADDLE_THRESH)", at_least=0, ceiling=1e9, also=(-1,)),
    BATCH_SIZE_PER_IMAGE=Key(256, "Anchors drawn per image for the loss", like=COUNT),
    POSITIVE_FRACTION=Key(0.5, "Largest share of positives among the anchors drawn", within=(0, 1)),
    BOX_LOSS_TYPE=Key("smooth_l1", "Box loss", choices=BOX_LOSS),
    SMOOTH_L1_BETA=Key(1.0 / 9.0, "Where the smooth-L1 loss turns from squared to linear; 0 is plain L1 (torchvision: "
        "1/9, detectron2: 0)", like=WEIGHT),
    LOSS_NORMALIZER=Key("sampled", "What the losses are divided by", choices={"sampled": "the anchors really drawn, "
        "torchvision", "batch_size": "BATCH_SIZE_PER_IMAGE x images, detectron2"}),
    LOSS_WEIGHT=Key(1.0, "Weight of both losses", like=WEIGHT),
    BBOX_REG_LOSS_WEIGHT=Key(1.0, "One more weight of the box loss", like=WEIGHT),
    MIN_SIZE=Key(1e-3, "Proposals with a side shorter than this are dropped (torchvision: 1e-3, detectron2: 0, where "
        "the side must exceed it)", like=OR_NONE, resume=MEASURES),
    NMS_THRESH=Key(0.7, "IoU of the non-maximum suppression of proposals, always within a level", within=(0, 1),
        resume=MEASURES),
    PRE_NMS_TOP_N_TRAIN=Key(2000, "Proposals kept per level before NMS, by score, in training", like=COUNT),
    PRE_NMS_TOP_N_TEST=Key(1000, "Proposals kept per level before NMS, by score, in evaluation", like=COUNT,
        resume=MEASURES),
    POST_NMS_TOP_N_TRAIN=Key(2000, "Proposals kept after NMS in training, of what POST_NMS_PER says (torchvision: "
        "2000, detectron2: 1000)", like=COUNT),
    POST_NMS_TOP_N_TEST=Key(1000, "Proposals kept after NMS in evaluation, of what POST_NMS_PER says", like=COUNT,
        resume=MEASURES),
    POST_NMS_PER=Key("image", "Of what POST_NMS_TOP_N is the number", choices={"image": "torchvision, detectron2",
        "level": "maskrcnn-benchmark, which then keeps FPN_POST_NMS_TOP_N of all levels"}, resume=MEASURES),
    FPN_POST_NMS_TOP_N_TRAIN=Key(2000, 'With POST_NMS_PER "level": proposals kept per image over all levels, in '
        "training", like=COUNT),
    FPN_POST_NMS_TOP_N_TEST=Key(2000, 'With POST_NMS_PER "level": proposals kept per image over all levels, in '
        "evaluation", like=COUNT, resume=MEASURES),
    FPN_POST_NMS_PER_BATCH=Key(False, "FPN_POST_NMS_TOP_N_TRAIN counts all images of a pass together instead of each "
        "(maskrcnn-benchmark); so proposals, unlike all else, depend on how a batch is divided among ranks and "
        "accumulation steps"),
)

FCOS = section(
    NUM_CONVS=Key(4, "Convolutions of each tower", like=LAYERS),
    NORM=Key("GN", "Norm of the convolutions of each tower", choices={"": "none", "GN": ""}),
    USE_DCN_IN_TOWER=Key(False, "Make the last convolution of each tower a deformable one"),
    PRIOR_PROB=_PRIOR,
    SIZES_OF_INTEREST=Key((), "Largest distance from a location to a side of its box, for every level but the last, "
        "which takes the rest; empty is 8 strides of each level: 64, 128, 256, 512 on P3..P7",
        each=Number(above=0, ceiling=1e9), order="rising", resume=TARGETS),
    RANGE_INCLUSIVE=Key(True, "Count the bounds of a size range to both levels (the original: True, torchvision: "
        "neither)", resume=TARGETS),
    CENTER_SAMPLING_RADIUS=Key(0.0, "A location is positive within this many strides of a box's centre; 0: anywhere in "
        "the box. Improved FCOS: 1.5", like=WEIGHT, resume=TARGETS),
    LOCATION_OFFSET=Key(0.5, "Locations are shifted by this share of the stride into their cell (the original: 0.5, "
        "torchvision: 0)", within=(0, 1)),
    LOCATION_STEP=Key("stride", "Pixels between locations", choices={"stride": "that of the level, the original",
        "image": "the padded image over the cells, torchvision"}),
    NORM_REG_TARGETS=Key(False, "Predict distances through ReLU in strides instead of through exp in pixels (improved "
        "FCOS: True)"),
    USE_SCALE=Key(True, "A learned factor on the distances of each level (torchvision has none)"),
    CENTERNESS_ON_REG=Key(False, "Predict centre-ness from the regression tower instead of the classification tower "
        "(improved FCOS: True)"),
    BOX_QUALITY=Key("centerness", "What the extra output learns", choices={"centerness": "",
        "iou": "the overlap of the predicted box"}),
    IOU_LOSS_TYPE=Key("iou", "Box loss", choices={"iou": "-ln IoU", "linear_iou": "1 - IoU", "giou": "1 - GIoU"},
        resume=TARGETS),
    IOU_SMOOTHING=Key(1.0, "Added to intersection and union in the box loss (the original: 1, torchvision: 0)",
        like=WEIGHT, resume=TARGETS),
    WEIGHT_BY_CENTERNESS=Key(True, 'Weigh the box loss by centre-ness (the original with "centerness": True, '
        "torchvision: False)", resume=TARGETS),
    SYNC_NORMALIZER=Key(True, "Loss normalisers are those of all ranks, not of each (torchvision: False)",
        resume=TARGETS),
    LOSS_ALPHA=_ALPHA,
    LOSS_GAMMA=_GAMMA,
    INFERENCE_TH=Key(0.05, "Detections below this score are dropped: the class score, or what THRESH_WITH_CTR says",
        within=(0, 1), resume=MEASURES),
    THRESH_WITH_CTR=Key(False, "Compare with INFERENCE_TH the geometric mean of the class score and centre-ness",
        resume=MEASURES),
    PRE_NMS_TOP_N=_CANDIDATES,
    NMS_TH=Key(0.6, "IoU of the non-maximum suppression of detections, within a class", within=(0, 1), resume=MEASURES),
)

RETINANET = section(
    ANCHOR_SIZES=Key(tuple(tuple(s * 2 ** (i / 3) for i in range(3)) for s in (32, 64, 128, 256, 512)),
        "Anchor sizes (square root of the area), one tuple a level from the finest: three octave thirds from 4 strides "
        "on", like=ANCHOR_SIZES),
    ASPECT_RATIOS=_RATIOS,
    ANCHOR_STYLE=Key("exact", "Anchors of a cell", choices=_STYLES),
    ANCHOR_OFFSET=_OFFSET,
    ANCHOR_STEP=Key("stride", "Pixels between anchors", choices={"stride": "that of the level, detectron2",
        "image": "the padded image over the cells, torchvision"}),
    NUM_CONVS=Key(4, "Convolutions of each tower", like=LAYERS),
    NORM=Key("", "Norm of the convolutions of each tower", choices={"": "none", "GN": "", "BN": "one set of statistics "
        "for all levels"}),
    PRIOR_PROB=_PRIOR,
    BBOX_REG_WEIGHTS=_WEIGHTS,
    FG_IOU_THRESHOLD=Key(0.5, _POSITIVE, within=(0, 1), resume=TARGETS),
    BG_IOU_THRESHOLD=Key(0.4, _NEGATIVE, within=(0, 1), resume=TARGETS),
    LOSS_ALPHA=_ALPHA,
    LOSS_GAMMA=_GAMMA,
    BOX_LOSS_TYPE=Key("smooth_l1", "Box loss", choices=BOX_LOSS, resume=TARGETS),
    SMOOTH_L1_BETA=Key(0.0, "Where the smooth-L1 loss turns from squared to linear; 0 is plain L1 (torchvision, "
        "detectron2)", like=WEIGHT, resume=TARGETS),
    LOSS_NORMALIZER=Key("batch", "By which positive anchors the losses are divided", choices={"batch": "those of the "
        "batch, the paper", "image": "those of each image, whose losses are then averaged, torchvision",
        "ema": "their moving average over the steps, detectron2; of all ranks and accumulated parts",
        "detectron": "those of the batch, with the number of images added for the class loss"}),
    BBOX_REG_LOSS_WEIGHT=Key(1.0, "Weight of the box loss (maskrcnn-benchmark: 1/4)", like=WEIGHT, resume=TARGETS),
    INFERENCE_TH=Key(0.05, "Detections below this score are dropped", within=(0, 1), resume=MEASURES),
    PRE_NMS_TOP_N=_CANDIDATES,
    NMS_TH=Key(0.5, "IoU of the non-maximum suppression of detections, within a class", within=(0, 1), resume=MEASURES),
    CLIP_BEFORE_NMS=Key(True, "Cut boxes to the image before NMS (torchvision) instead of after it (detectron2)",
        resume=MEASURES),
    MIN_SIZE=Key(0.0, "Detections with a side shorter than this, or of 0, are dropped; -1 keeps all (torchvision)",
        like=OR_NONE, resume=MEASURES),
)
