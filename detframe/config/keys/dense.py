"""The keys of the RPN and of the dense detectors: AnchorRPN, FCOS and its kin, RetinaNet. Sizes are in pixels."""

from __future__ import annotations

from detframe.config.bounds import Number
from detframe.config.key import Key, section
from detframe.config.keys.common import (
    ANCHOR_SIZES,
    ARCHITECTURE,
    BOX_LOSS,
    BOX_WEIGHTS,
    COUNT,
    DIFFERENT_NAMES,
    FIRST_WEIGHTS,
    LAYERS,
    LENGTH,
    MEASURES,
    OR_NONE,
    PROBABILITY,
    RATIOS,
    STRENGTH,
    TARGETS,
    WEIGHT,
    Whole,
)

_STYLES = {
    "torchvision": "corners rounded to whole pixels",
    "exact": "not rounded, detectron2",
    "detectron": "centred in the cell, sides of whole pixels: Detectron, maskrcnn-benchmark",
}
_RATIOS = Key((0.5, 1.0, 2.0), "Anchor aspect ratios, height over width, the same for every level", like=RATIOS,
    resume=ARCHITECTURE)
_OFFSET = Key(0.0, "Offset of the anchors into their cell, in strides (detectron2's OFFSET)", within=(0, 1),
    resume=ARCHITECTURE)
_WEIGHTS = Key((1.0, 1.0, 1.0, 1.0), "Weights of (dx, dy, dw, dh) in the box encoding", like=BOX_WEIGHTS,
    resume=ARCHITECTURE)
_POSITIVE = "An anchor is positive at or above this IoU with a ground-truth box (or if it is the best match of one)"
_NEGATIVE = "An anchor is negative below this IoU with every ground-truth box; between the two it is ignored"
_PRIOR = Key(0.01, "Prior probability: the score of every class at the start of training", like=PROBABILITY,
    resume=FIRST_WEIGHTS)
_ALPHA = Key(0.25, "Focal loss: alpha, the weight of positives; negatives get 1 - alpha", within=(0, 1), resume=TARGETS)
_GAMMA = Key(2.0, "Loss of the classes: gamma, how far easy examples are down-weighted; 0 is cross entropy",
    like=STRENGTH, resume=TARGETS)
_CLASSES = Key("focal", "Loss of the classes (docs/losses.md)", registry="LOSSES", choices={
    "focal": "with LOSS_ALPHA and LOSS_GAMMA",
    "quality_focal": "scores are to be the IoU of the box, with LOSS_GAMMA (arXiv:2006.04388)",
    "varifocal": "the same, weighted by it, with VARIFOCAL_ALPHA and LOSS_GAMMA (arXiv:2008.13367)"}, resume=TARGETS)
_VARIFOCAL = Key(0.75, '"varifocal": alpha, the weight of entries without an object', like=WEIGHT, resume=TARGETS)
_OVERLAP = {"iou": "-ln IoU", "linear_iou": "1 - IoU", "giou": "1 - GIoU", "diou": "with the distance of the centres",
    "ciou": "with that and the aspect ratio (arXiv:1911.08287)", "nwd": "1 - NWD, with MODEL.NWD_CONSTANT"}
_BOXES = Key("giou", "Box regression loss", registry="LOSSES", choices=_OVERLAP)
_CANDIDATES = Key(1000, "Candidates kept per level before NMS", like=COUNT, resume=MEASURES)

_FEW = Whole(above=0, ceiling=1000)

# What "iou" of MODEL.RPN.ASSIGNER is in detectors on locations that have a rule of their own
OWN_RULES = {"ATSS": "atss", "GFL": "atss"}

ASSIGNMENT = section(
    resume=TARGETS,
    ATSS_K=Key(9, '"atss": cells of each level, nearest to the centre of an object, whose anchors are looked at',
        like=_FEW),
    NWD_K=Key(2, '"nwd": anchors that an object takes', like=_FEW),
    RFLA_K=Key((3, 1), '"rfla": fields that an object takes, then those of what is left, made smaller', each=Whole(
        at_least=0, ceiling=1000), sizes=(2,)),
    RFLA_SHRINK=Key(0.9, '"rfla": factor of the sides of the fields the second time', above=0, at_most=1),
    RFLA_FIELDS=Key((), '"rfla": theoretical receptive fields of the levels from the finest, in pixels, of which half '
        "is effective; empty: derived from the bottom-up network, as 35, 91, 267, 427 on P2..P5 of a ResNet-50, with "
        "two strides more on each coarser level", each=LENGTH, resume=ARCHITECTURE),
    RFLA_SHRUNK_TARGETS=Key(False, '"rfla": encode box targets from the fields made smaller, though boxes are decoded '
        "with whole ones, as the authors' release does (anchors of the RPN and of RetinaNet)"),
    FCOS_PRIOR=Key(8.0, '"atss" and "nwd" on locations, as of FCOS: side of the square that stands for one, in strides',
        like=LENGTH),
)

RPN = section(
    resume=TARGETS,
    NAME=Key("AnchorRPN", "The RPN, or a dense detector in its place", registry="RPN_HEADS", resume=ARCHITECTURE),
    IN_FEATURES=Key((), 'Feature maps that it takes, e.g. ["p2", "p3"]; empty is all', like=DIFFERENT_NAMES,
        resume=ARCHITECTURE),
    FINEST_LEVEL=Key("", "The finest level that the RPN or the dense detector in its place stands on; the pyramid is "
        "built so far, and ANCHOR_SIZES (RPN, RETINANET) and SIZES_OF_INTEREST are those of the coarsest levels: finer "
        "ones get half of the next, again and again, and superfluous ones are left out", choices={"": "what CONV_BODY "
        "and IN_FEATURES say", "p1": "P2' of EFPN, an anchor or a location every 2 pixels", "p2": "", "p3": "",
        "p4": "", "p5": ""}, resume=ARCHITECTURE),
    ANCHOR_SIZES=Key(((32,), (64,), (128,), (256,), (512,)), "Anchor sizes (square root of the area), one list per "
        "level from the finest; a single list serves all levels", like=ANCHOR_SIZES, resume=ARCHITECTURE),
    ASPECT_RATIOS=_RATIOS,
    ANCHOR_STYLE=Key("torchvision", "Geometry of the anchors of a cell", choices=_STYLES, resume=ARCHITECTURE),
    ANCHOR_OFFSET=_OFFSET,
    ANCHOR_STEP=Key("image", "Pixels from anchor to anchor", choices={"stride": "the stride of the level, detectron2",
        "image": "padded image size over grid size, torchvision; less on levels that were rounded up"},
        resume=ARCHITECTURE),
    ASSIGNER=Key("iou", "Which anchors or locations are to find an object: of the RPN, or of a dense detector in "
        "its place", choices={
        "iou": "by overlap, FG_IOU_THRESHOLD and BG_IOU_THRESHOLD; FCOS: by size and place, MODEL.FCOS; ATSS and GFL: "
        "as `atss`; TOOD: by task alignment",
        "atss": "of the nearest anchors those whose overlap stands out, arXiv:1912.02424",
        "nwd": "the nearest anchors by Wasserstein distance, however far, NWD-RKA, arXiv:2206.13996",
        "rfla": "the receptive fields most like the object, arXiv:2208.08738; they are the anchors, one a cell, in "
        "place of ANCHOR_SIZES and ASPECT_RATIOS"}, resume=ARCHITECTURE),
    ASSIGNMENT=ASSIGNMENT,
    CONV_DEPTH=Key(1, "3x3 convolutions before the two outputs", like=LAYERS, resume=ARCHITECTURE),
    BBOX_REG_WEIGHTS=_WEIGHTS,
    FG_IOU_THRESHOLD=Key(0.7, _POSITIVE, within=(0, 1)),
    BG_IOU_THRESHOLD=Key(0.3, _NEGATIVE, within=(0, 1)),
    BOUNDARY_THRESH=Key(-1.0, "Anchors that cross the image border by more than this many pixels are not sampled for "
        "the loss; -1 samples them too (maskrcnn-benchmark's STRADDLE_THRESH)", at_least=0, ceiling=1e9, also=(-1,)),
    BATCH_SIZE_PER_IMAGE=Key(256, "Anchors sampled per image for the loss", like=COUNT),
    POSITIVE_FRACTION=Key(0.5, "Largest fraction of positives among the sampled anchors", within=(0, 1)),
    BOX_LOSS_TYPE=Key("smooth_l1", "Box regression loss", choices=BOX_LOSS, registry="LOSSES"),
    SMOOTH_L1_BETA=Key(1.0 / 9.0, "Where smooth L1 goes over from L2 to L1; 0 is plain L1 (torchvision: 1/9, "
        "detectron2: 0)", like=WEIGHT),
    LOSS_NORMALIZER=Key("sampled", "What the losses are divided by", choices={"sampled": "the number sampled, "
        "torchvision", "batch_size": "BATCH_SIZE_PER_IMAGE x images, detectron2"}),
    LOSS_WEIGHT=Key(1.0, "Weight of both losses", like=WEIGHT),
    BBOX_REG_LOSS_WEIGHT=Key(1.0, "Extra weight of the box loss", like=WEIGHT),
    MIN_SIZE=Key(1e-3, "Proposals with a side shorter than this are dropped (torchvision: 1e-3, detectron2: 0, where "
        "the side must exceed it)", like=OR_NONE, resume=MEASURES),
    NMS_THRESH=Key(0.7, "Threshold of NMS among the proposals of a level, in the measure of NMS_METRIC", within=(0, 1),
        resume=MEASURES),
    NMS_METRIC=Key("iou", "By what a proposal that is too near to a better one is left out", choices={
        "iou": "by IoU", "nwd": "by the "
        "normalised Wasserstein distance, with MODEL.NWD_CONSTANT (arXiv:2110.13389, whose authors have NMS_THRESH "
        "0.85); cannot be exported"}, resume=MEASURES),
    PRE_NMS_TOP_N_TRAIN=Key(2000, "Proposals kept per level before NMS, by score, in training", like=COUNT),
    PRE_NMS_TOP_N_TEST=Key(1000, "Proposals kept per level before NMS, by score, in evaluation", like=COUNT,
        resume=MEASURES),
    POST_NMS_TOP_N_TRAIN=Key(2000, "Proposals kept after NMS in training, per image or level as POST_NMS_PER says "
        "(torchvision: 2000, detectron2: 1000)", like=COUNT),
    POST_NMS_TOP_N_TEST=Key(1000, "Proposals kept after NMS in evaluation, per image or level as POST_NMS_PER says",
        like=COUNT, resume=MEASURES),
    POST_NMS_PER=Key("image", "What POST_NMS_TOP_N counts by", choices={"image": "torchvision, detectron2",
        "level": "maskrcnn-benchmark, which then keeps FPN_POST_NMS_TOP_N of all levels"}, resume=MEASURES),
    FPN_POST_NMS_TOP_N_TRAIN=Key(2000, 'With POST_NMS_PER "level": proposals kept per image over all levels, in '
        "training", like=COUNT),
    FPN_POST_NMS_TOP_N_TEST=Key(2000, 'With POST_NMS_PER "level": proposals kept per image over all levels, in '
        "evaluation", like=COUNT, resume=MEASURES),
    FPN_POST_NMS_PER_BATCH=Key(False, "FPN_POST_NMS_TOP_N_TRAIN limits all images of a forward pass together instead "
        "of each (maskrcnn-benchmark); proposals then depend on how a batch is divided among ranks and accumulation "
        "steps, which nothing else does"),
)

FCOS = section(
    NUM_CONVS=Key(4, "Convolutions of each tower", like=LAYERS),
    NORM=Key("GN", "Normalisation of the convolutions of each tower", choices={"": "none", "GN": ""}),
    USE_DCN_IN_TOWER=Key(False, "Make the last convolution of each tower deformable"),
    PRIOR_PROB=_PRIOR,
    SIZES_OF_INTEREST=Key((), "Upper bound of the distance from a location to the farthest side of its box, for every "
        "level but the last, which takes the rest; empty is 8 strides of each level: 64, 128, 256, 512 on P3..P7",
        each=Number(above=0, ceiling=1e9), order="rising", resume=TARGETS),
    RANGE_INCLUSIVE=Key(True, "The bounds of a size range belong to both levels (the original: True, torchvision: to "
        "neither)", resume=TARGETS),
    CENTER_SAMPLING_RADIUS=Key(0.0, "Center sampling: locations are positive within this many strides of the centre of "
        "a box; 0: anywhere in the box. Improved FCOS: 1.5", like=WEIGHT, resume=TARGETS),
    LOCATION_OFFSET=Key(0.5, "Offset of locations into their cell, in strides (the original: 0.5, torchvision: 0)",
        within=(0, 1)),
    LOCATION_STEP=Key("stride", "Pixels from location to location", choices={"stride": "the stride of the level, the "
        "original", "image": "padded image size over grid size, torchvision"}),
    NORM_REG_TARGETS=Key(False, "Regress distances in strides, through ReLU, instead of in pixels, through exp "
        "(improved FCOS: True)"),
    USE_SCALE=Key(True, "A learned scale of the distances for each level (torchvision has none)"),
    CENTERNESS_ON_REG=Key(False, "Predict centerness from the regression tower instead of the classification tower "
        "(improved FCOS: True)"),
    BOX_QUALITY=Key("centerness", "What the extra output beside class and box predicts", choices={"centerness": "",
        "iou": "the IoU of the predicted box"}),
    IOU_LOSS_TYPE=Key("iou", "Box regression loss", registry="LOSSES", choices=_OVERLAP, resume=TARGETS),
    IOU_SMOOTHING=Key(1.0, "Added to intersection and union in the box loss (the original: 1, torchvision: 0)",
        like=WEIGHT, resume=TARGETS),
    WEIGHT_BY_CENTERNESS=Key(True, 'Weight the box loss by centerness (the original with "centerness": True, '
        'torchvision: False)', resume=TARGETS),
    SYNC_NORMALIZER=Key(True, "Average the loss normalisers over all ranks (torchvision: False)", resume=TARGETS),
    CLS_LOSS=_CLASSES,
    LOSS_ALPHA=_ALPHA,
    VARIFOCAL_ALPHA=_VARIFOCAL,
    LOSS_GAMMA=_GAMMA,
    INFERENCE_TH=Key(0.05, "Detections below this score are dropped: the class score, or what THRESH_WITH_CTR says",
        within=(0, 1), resume=MEASURES),
    THRESH_WITH_CTR=Key(False, "Apply INFERENCE_TH to the geometric mean of the class score and centerness",
        resume=MEASURES),
    PRE_NMS_TOP_N=_CANDIDATES,
    NMS_TH=Key(0.6, "IoU threshold of NMS among the detections of a class", within=(0, 1), resume=MEASURES),
)

ATSS = section(
    resume=TARGETS,
    BOX_LOSS_WEIGHT=Key(2.0, "Weight of the box loss", like=WEIGHT),
)

GFL = section(
    resume=TARGETS,
    REG_MAX=Key(16, "Largest distance from a location to a side, in strides; a distance is a distribution over 0 to "
        "REG_MAX", like=Whole(above=0, ceiling=256), resume=ARCHITECTURE),
    QFL_BETA=Key(2.0, "Quality focal loss: beta, how far entries that are nearly right are down-weighted; 0 is cross "
        "entropy", like=STRENGTH),
    BOX_LOSS_TYPE=_BOXES,
    BOX_LOSS_WEIGHT=Key(2.0, "Weight of the box loss", like=WEIGHT),
    DFL_WEIGHT=Key(0.25, "Weight of the distribution focal loss", like=WEIGHT),
)

TOOD = section(
    resume=TARGETS,
    NUM_CONVS=Key(6, "Convolutions of the tower, which both tasks share", like=Whole(above=0, ceiling=100),
        resume=ARCHITECTURE),
    ALPHA=Key(1.0, "Alignment of a location with an object, score^ALPHA * IoU^BETA: the power of the score",
        like=STRENGTH),
    BETA=Key(6.0, "The power of the IoU", like=STRENGTH),
    TOPK=Key(13, "Locations that an object takes: those in it of the largest alignment", like=_FEW),
    GAMMA=Key(2.0, "Class loss: gamma, how far entries that are nearly right are down-weighted; 0 is cross entropy",
        like=STRENGTH),
    BOX_LOSS_TYPE=_BOXES,
    BOX_LOSS_WEIGHT=Key(2.0, "Weight of the box loss", like=WEIGHT),
)

DYHEAD = section(
    resume=ARCHITECTURE,
    NUM_BLOCKS=Key(0, "Blocks of a dynamic head (arXiv:2106.08322) between the pyramid and the towers of FCOS, ATSS, "
        "GFL or TOOD, with the norm of MODEL.FCOS.NORM; 0: none, the paper: 6", like=LAYERS),
)

RETINANET = section(
    ANCHOR_SIZES=Key(tuple(tuple(s * 2 ** (i / 3) for i in range(3)) for s in (32, 64, 128, 256, 512)), "Anchor sizes "
        "(square root of the area), one list per level from the finest: three per octave, from 4 strides on",
        like=ANCHOR_SIZES),
    ASPECT_RATIOS=_RATIOS,
    ANCHOR_STYLE=Key("exact", "Geometry of the anchors of a cell", choices=_STYLES),
    ANCHOR_OFFSET=_OFFSET,
    ANCHOR_STEP=Key("stride", "Pixels from anchor to anchor", choices={"stride": "the stride of the level, detectron2",
        "image": "padded image size over grid size, torchvision"}),
    NUM_CONVS=Key(4, "Convolutions of each tower", like=LAYERS),
    NORM=Key("", "Normalisation of the convolutions of each tower", choices={"": "none", "GN": "", "BN": "one set of "
        "statistics for all levels"}),
    PRIOR_PROB=_PRIOR,
    BBOX_REG_WEIGHTS=_WEIGHTS,
    FG_IOU_THRESHOLD=Key(0.5, _POSITIVE, within=(0, 1), resume=TARGETS),
    BG_IOU_THRESHOLD=Key(0.4, _NEGATIVE, within=(0, 1), resume=TARGETS),
    CLS_LOSS=_CLASSES,
    LOSS_ALPHA=_ALPHA,
    VARIFOCAL_ALPHA=_VARIFOCAL,
    LOSS_GAMMA=_GAMMA,
    BOX_LOSS_TYPE=Key("smooth_l1", "Box regression loss", choices=BOX_LOSS, registry="LOSSES", resume=TARGETS),
    SMOOTH_L1_BETA=Key(0.0, "Where smooth L1 goes over from L2 to L1; 0 is plain L1 (torchvision, detectron2)",
        like=WEIGHT, resume=TARGETS),
    LOSS_NORMALIZER=Key("batch", "The number of positive anchors that the losses are divided by", choices={
        "batch": "of the batch, the paper",
        "image": "of each image, whose losses are then averaged, torchvision",
        "ema": "moving average over the steps, detectron2; of all ranks and accumulated parts",
        "detectron": "of the batch, with the number of images added for the class loss"}),
    BBOX_REG_LOSS_WEIGHT=Key(1.0, "Weight of the box loss (maskrcnn-benchmark: 1/4)", like=WEIGHT, resume=TARGETS),
    INFERENCE_TH=Key(0.05, "Detections below this score are dropped", within=(0, 1), resume=MEASURES),
    PRE_NMS_TOP_N=_CANDIDATES,
    NMS_TH=Key(0.5, "IoU threshold of NMS among the detections of a class", within=(0, 1), resume=MEASURES),
    CLIP_BEFORE_NMS=Key(True, "Clip boxes to the image before NMS (torchvision) instead of after it (detectron2)",
        resume=MEASURES),
    MIN_SIZE=Key(0.0, "Detections with a side shorter than this, or of 0, are dropped; -1 keeps all (torchvision)",
        like=OR_NONE, resume=MEASURES),
)
