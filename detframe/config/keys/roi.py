"""The keys of the ROI heads: boxes, masks, points, keypoints. Sizes are in pixels."""

from __future__ import annotations

from detframe.config.bounds import Each, Number
from detframe.config.key import Key, section
from detframe.config.keys.common import (
    ARCHITECTURE,
    BOX_LOSS,
    BOX_WEIGHTS,
    CHANNELS,
    COUNT,
    DIFFERENT_NAMES,
    FRACTION,
    LAYERS,
    MEASURES,
    NORM,
    OR_NONE,
    RESOLUTION,
    SAMPLING_RATIO,
    STRENGTH,
    TARGETS,
    WEIGHT,
    WIDE,
)

_SAMPLING = Key(2, "Sampling points of ROIAlign per bin and direction; 0 adapts to the size of the RoI (detectron2), "
    "torchvision uses 2", like=SAMPLING_RATIO)

ROI_HEADS = section(
    resume=TARGETS,
    NAME=Key("StandardROIHeads", 'The heads that classify and refine proposals; "" has none: detections are those of '
        'MODEL.RPN.NAME, which are class-agnostic proposals (label 1, objectness as score) where that is AnchorRPN',
        registry="ROI_HEADS", empty=True, resume=ARCHITECTURE),
    IN_FEATURES=Key((), 'Feature maps that RoIs are pooled from, e.g. ["p2", "p3"]; empty is all up to stride 32',
        like=DIFFERENT_NAMES, resume=ARCHITECTURE),
    ASSIGNER=Key("iou", "What FG_IOU_THRESHOLD, BG_IOU_THRESHOLD and ROI_BOX_CASCADE_HEAD.IOUS are thresholds of",
        choices={"iou": "IoU", "nwd": "the normalised Wasserstein distance, with MODEL.NWD_CONSTANT "
        "(arXiv:2110.13389)"}),
    FG_IOU_THRESHOLD=Key(0.5, "A proposal is foreground at or above this IoU with a ground-truth box", within=(0, 1)),
    BG_IOU_THRESHOLD=Key(0.5, "A proposal is background below this IoU with every ground-truth box; between the two it "
        "is not sampled", within=(0, 1)),
    BATCH_SIZE_PER_IMAGE=Key(512, "Proposals sampled per image for the loss", like=COUNT),
    POSITIVE_FRACTION=Key(0.25, "Largest fraction of foreground among the sampled proposals", within=(0, 1)),
    BBOX_REG_WEIGHTS=Key((10.0, 10.0, 5.0, 5.0), "Weights of (dx, dy, dw, dh) in the box encoding", like=BOX_WEIGHTS,
        resume=ARCHITECTURE),
    SCORE_THRESH=Key(0.05, "Detections below this score are dropped", within=(0, 1), resume=MEASURES),
    NMS=Key(0.5, "IoU threshold of NMS among the detections of a class", within=(0, 1), resume=MEASURES),
    MIN_SIZE=Key(1e-2, "Detections with a side shorter than this are dropped (torchvision: 1e-2, detectron2: keeps "
        "all, -1)", like=OR_NONE, resume=MEASURES),
)

ROI_BOX_HEAD = section(
    POOLER_RESOLUTION=Key(7, "Side of the pooled feature map of an RoI", like=RESOLUTION),
    POOLER_SAMPLING_RATIO=_SAMPLING,
    POOLER_ALIGNED=Key(False, "Shift the sampling points by half a pixel, so that they sit at pixel centres "
        "(detectron2: True, torchvision: False)"),
    POOLER_CANONICAL_SIZE=Key(224, "An RoI of this size (square root of the area) is pooled from level "
        "POOLER_CANONICAL_LEVEL", above=0, ceiling=2**15),
    POOLER_CANONICAL_LEVEL=Key(4, "The level of RoIs of POOLER_CANONICAL_SIZE: 4 is p4", like=LAYERS),
    NUM_CONV=Key(0, "3x3 convolutions before the fully connected layers", like=LAYERS),
    CONV_DIM=Key(256, "Channels of those convolutions", like=CHANNELS),
    NORM=Key("", "Normalisation of those convolutions", choices=NORM),
    NUM_FC=Key(2, "Number of fully connected layers", like=LAYERS),
    MLP_HEAD_DIM=Key(1024, "Width of the fully connected layers", like=WIDE),
    FC_NORM=Key("", "Normalisation of the fully connected layers", choices={"": "none", "GN": "maskrcnn-benchmark with "
        "USE_GN"}),
    CLS_AGNOSTIC_BBOX_REG=Key(False, "One box regression for all classes instead of one per class"),
    CLS_LOSS=Key("cross_entropy", "Loss of the classes (docs/losses.md)", registry="LOSSES", choices={
        "cross_entropy": "with MODEL.LABEL_SMOOTHING", "softmax_focal": "cross entropy in which what is nearly right "
        "counts less, with FOCAL_GAMMA", "federated": "each class by itself, of few classes in each image, LVIS "
        "(arXiv:2103.07461)", "seesaw": "rare classes are punished less by frequent ones (arXiv:2008.10032)"},
        resume=ARCHITECTURE),
    FOCAL_GAMMA=Key(2.0, '"softmax_focal": gamma, how fast the loss of what is nearly right falls', like=STRENGTH,
        resume=TARGETS),
    FEDERATED_CLASSES=Key(50, '"federated": classes in the loss of an image whose annotations do not say which were '
        "looked for: those of its objects, and others drawn at random", like=COUNT, resume=TARGETS),
    FEDERATED_POWER=Key(0.5, '"federated": classes are drawn by CLASS_FREQUENCIES to this power; 0 draws all alike',
        like=STRENGTH, resume=TARGETS),
    CLASS_FREQUENCIES=Key((), '"federated": in how many images each class is; empty is counted in the training data',
        each=Number(at_least=0, ceiling=1e12), resume=TARGETS),
    SEESAW_P=Key(0.8, '"seesaw": p, the exponent by which rarer classes are punished less', like=STRENGTH,
        resume=TARGETS),
    SEESAW_Q=Key(2.0, '"seesaw": q, the exponent by which classes that are mistaken for the right one are punished '
        "more", like=STRENGTH, resume=TARGETS),
    BOX_LOSS_TYPE=Key("smooth_l1", "Box regression loss", choices=BOX_LOSS, registry="LOSSES", resume=TARGETS),
    SMOOTH_L1_BETA=Key(1.0 / 9.0, "Where smooth L1 goes over from L2 to L1; 0 is plain L1 (torchvision: 1/9, "
        "detectron2: 0)", like=WEIGHT, resume=TARGETS),
    BBOX_REG_LOSS_WEIGHT=Key(1.0, "Weight of the box loss", like=WEIGHT, resume=TARGETS),
    TRAIN_ON_PRED_BOXES=Key(False, "Mask and keypoint heads train on the boxes that the box head predicts, instead of "
        "on the proposals (PointRend)", resume=TARGETS),
)

ROI_BOX_CASCADE_HEAD = section(
    IOUS=Key((0.5, 0.6, 0.7), "With ROI_HEADS.NAME CascadeROIHeads: IoU threshold of foreground in each stage",
        each=FRACTION, filled=True),
    BBOX_REG_WEIGHTS=Key(((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)), "Weights of "
        "(dx, dy, dw, dh) in the box encoding of each stage", like=Each(BOX_WEIGHTS, filled=True)),
)

ROI_MASK_HEAD = section(
    NAME=Key("MaskRCNN", "The head that predicts masks", registry="MASK_HEADS"),
    POOLER_RESOLUTION=Key(14, "Side of the pooled feature map of an RoI; masks are twice as large", like=RESOLUTION),
    POOLER_SAMPLING_RATIO=_SAMPLING,
    NUM_CONV=Key(4, "3x3 convolutions before the transposed convolution", like=LAYERS),
    CONV_DIM=Key(256, "Channels of the convolutions", like=CHANNELS),
    NORM=Key("", "Normalisation of the 3x3 convolutions", choices=NORM),
    CLS_AGNOSTIC_MASK=Key(False, "One mask for all classes instead of one per class"),
    TARGET_MODE=Key("exact", "How mask targets are cropped to an RoI", choices={"exact": "polygons rasterised at the "
        "size of the mask, detectron2", "soft": "interpolated from pixels, torchvision"}, resume=TARGETS),
    LOSS_WEIGHT=Key(1.0, "Weight of the mask loss", like=WEIGHT, resume=TARGETS),
)

POINT_HEAD = section(
    IN_FEATURE=Key("p2", "With ROI_MASK_HEAD.NAME PointRend: the feature map that points are sampled from"),
    COARSE_SIDE=Key(7, "Side of the coarse masks", like=RESOLUTION),
    COARSE_NUM_FC=Key(2, "Fully connected layers of the coarse mask head", like=LAYERS),
    COARSE_FC_DIM=Key(1024, "Width of those layers", like=WIDE),
    NUM_FC=Key(3, "Layers of the point head", like=LAYERS),
    FC_DIM=Key(256, "Width of the layers of the point head", like=CHANNELS),
    NUM_POINTS=Key(196, "Points per RoI in training", like=COUNT, resume=TARGETS),
    OVERSAMPLE=Key(3, "Candidates per point: so many times NUM_POINTS are sampled at random first", above=0,
        ceiling=1000, resume=TARGETS),
    IMPORTANCE=Key(0.75, "Fraction of points chosen by their uncertainty; the rest is random", within=(0, 1),
        resume=TARGETS),
    SUBDIVISION_STEPS=Key(5, "How many times the side of a mask is doubled in inference", at_least=0, ceiling=10,
        resume=MEASURES),
    SUBDIVISION_POINTS=Key(784, "Points refined in each of these steps", like=COUNT, resume=MEASURES),
)

ROI_KEYPOINT_HEAD = section(
    NUM_KEYPOINTS=Key(0, "Keypoints per object; 0 takes the number from the data set", at_least=0, ceiling=10_000),
    POOLER_RESOLUTION=Key(14, "Side of the pooled feature map of an RoI; heatmaps are four times as large",
        like=RESOLUTION),
    POOLER_SAMPLING_RATIO=_SAMPLING,
    CONV_DIMS=Key((512,) * 8, "Channels of the 3x3 convolutions", each=CHANNELS),
    NORMALIZER=Key("visible", "How the loss is normalised", choices={"visible": "by the number of visible keypoints",
        "static": "by that of all that the sampled RoIs may have: detectron2 without "
        "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS"}, resume=TARGETS),
    LOSS_WEIGHT=Key(1.0, "Weight of the keypoint loss", like=WEIGHT, resume=TARGETS),
)
