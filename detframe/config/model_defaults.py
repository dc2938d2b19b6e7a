"""The config keys of MODEL but for the heads on regions (roi_defaults.py): defaults, and one comment on each.

Sizes are in pixels.
"""

from __future__ import annotations

from detframe.config.config import ConfigNode

_C = ConfigNode()

_C.MODEL = ConfigNode()
# "auto" (CUDA where there is one, else CPU), "cpu", "cuda" or "cuda:1"
_C.MODEL.DEVICE = "auto"
# Checkpoint to start from: a file, an http(s) address (with "#sha256=..." to have it checked),
# "torchvision://ResNet50_Weights.IMAGENET1K_V1", "msra://R-50" and others (docs/weights.md), or "" (random)
_C.MODEL.WEIGHTS = ""
# Accept WEIGHTS of another architecture, which fill less than 90 % of the backbone or a head in pieces only
_C.MODEL.ALLOW_PARTIAL_WEIGHTS = False
# Number of foreground classes K; 0 takes it from the training data
_C.MODEL.NUM_CLASSES = 0
# Boxes run from pixel to pixel inside of the model, a width being x2 - x1 + 1, as in Detectron, maskrcnn-benchmark and
# FCOS: in overlaps, coding, clipping and sizes. Targets and predictions are the same either way
_C.MODEL.LEGACY_BOXES = False
# Keep images and feature maps in channels_last memory format (faster convolutions on CPU and on tensor cores)
_C.MODEL.CHANNELS_LAST = True
# Compile the backbone with torch.compile (needs a C++ compiler on the CPU; costs minutes at the start)
_C.MODEL.COMPILE = False

_C.MODEL.BACKBONE = ConfigNode()
# Member of BACKBONES, a complete extractor, as "R-50-FPN"
_C.MODEL.BACKBONE.CONV_BODY = "R-50-FPN"
# Freeze the first stages of the body: 0 none, 1 the stem, 2 the stem and the first stage, ..., 5 all
_C.MODEL.BACKBONE.FREEZE_CONV_BODY_AT = 2
# Freeze what these shell patterns match among the names of parameters, as "backbone.fpn.*" or "*.bn?.*"; a pattern that
# matches nothing is an error
_C.MODEL.FREEZE = ()

_C.MODEL.RESNETS = ConfigNode()
# Norm of the body: "FrozenBN" (affine map, statistics fixed), "BN", "SyncBN" (BN on a single process), "GN"
_C.MODEL.RESNETS.NORM = "FrozenBN"
# Added to the variance; torchvision's COCO_V1 detection weights were trained with 0.0, everything else with 1e-5
_C.MODEL.RESNETS.NORM_EPS = 1e-5
# Groups of the 3x3 convolutions (ResNeXt); 0 takes what CONV_BODY names (R: 1, X-101-32x8d: 32)
_C.MODEL.RESNETS.NUM_GROUPS = 0
# Width of each group in the first stage; 0 takes what CONV_BODY names (R: 64, X-101-32x8d: 8)
_C.MODEL.RESNETS.WIDTH_PER_GROUP = 0
# Put the stride of a bottleneck into its 1x1 convolution (Caffe2/MSRA weights) instead of its 3x3 (torchvision)
_C.MODEL.RESNETS.STRIDE_IN_1X1 = False
# Channels after the stem; the stages are 1, 2, 4, 8 times as wide (times 4 for bottlenecks). 64 is the ResNet paper's
_C.MODEL.RESNETS.STEM_OUT_CHANNELS = 64
# Dilation of res5, which then keeps the stride of res4: 1 (none) or 2; "...-DC5" makes it 2
_C.MODEL.RESNETS.RES5_DILATION = 1
# Deformable 3x3 convolutions (the second of each block) in the stages res2, res3, res4, res5, frozen ones as well
_C.MODEL.RESNETS.STAGE_WITH_DCN = (False, False, False, False)
# They also weight their sampling points (DCNv2, arXiv:1811.11168) instead of only moving them (arXiv:1703.06211)
_C.MODEL.RESNETS.WITH_MODULATED_DCN = True
# Parts of the input channels that move their sampling points independently
_C.MODEL.RESNETS.DEFORMABLE_GROUPS = 1

_C.MODEL.MOBILENET = ConfigNode()
# Norm of a MobileNetV2 body: "FrozenBN" (affine map, statistics fixed), "BN", "SyncBN" (BN on a single process)
_C.MODEL.MOBILENET.NORM = "BN"

_C.MODEL.FPN = ConfigNode()
# Channels of every level of the pyramid
_C.MODEL.FPN.OUT_CHANNELS = 256
# Norm after each lateral and output convolution: "" (none), "GN", "BN", "SyncBN"
_C.MODEL.FPN.NORM = ""
# Pyramids up to P7 ("...-FPN-RETINANET"): P6 is made from "P5" (FCOS, torchvision) or "C5" (RetinaNet's paper)
_C.MODEL.FPN.P6_FROM = "P5"
# The body's maps that the pyramid reads, neighbours from fine to coarse, as ("res3", "res4"); empty is all of stride 4
# or more, and of 8 or more for "...-FPN-RETINANET" and "...-BIFPN"
_C.MODEL.FPN.IN_FEATURES = ()
# Levels above the body's: one by "maxpool", two by convolutions ("p6p7"), or "none"; "auto" is what CONV_BODY says
_C.MODEL.FPN.TOP = "auto"
# A lateral and what comes from the level above make their "sum" or their average, "avg"
_C.MODEL.FPN.FUSE = "sum"
# How a level is brought to the size of the finer one: "nearest" or "bilinear"
_C.MODEL.FPN.UPSAMPLE = "nearest"
# ReLU after each lateral and output convolution and its norm
_C.MODEL.FPN.RELU = False
# False leaves out the top-down path (ablation 1d of the FPN paper)
_C.MODEL.FPN.TOP_DOWN = True
# False leaves out the lateral connections but the coarsest, which is upsampled all the way (ablation 1e)
_C.MODEL.FPN.LATERAL = True
# True gives the finest level alone to the heads, which puts all anchors there (ablation 1f)
_C.MODEL.FPN.FINEST_ONLY = False
# "...-BIFPN": rounds of fusion, down and up
_C.MODEL.FPN.BIFPN_REPEATS = 3
# "...-IMGPYR", a body over an image pyramid: scales of the images, falling
_C.MODEL.FPN.IMAGE_SCALES = (2.0, 1.0, 0.5, 0.25)
# "...-IMGPYR": the body's map that is read from each scale
_C.MODEL.FPN.IMAGE_FEATURE = "res4"

_C.MODEL.EFPN = ConfigNode()
# Inner channels of the texture transfer; 512 is the paper's, whose cost exceeds the rest of the detector
_C.MODEL.EFPN.WIDTH = 512
# Blocks of the content extractor and of the texture extractor
_C.MODEL.EFPN.CONTENT_BLOCKS = 1
_C.MODEL.EFPN.TEXTURE_BLOCKS = 2
# What one of those blocks is: "residual" convolutions (the paper), "swin" (two window attention blocks, the second of
# them shifted), or "hat" (a residual hybrid attention group). Attention at stride 4 is slow: keep WIDTH small (128)
_C.MODEL.EFPN.EXTRACTOR = "residual"
_C.MODEL.EFPN.ATTENTION = ConfigNode()
# Side of the windows of "swin" and "hat", in cells
_C.MODEL.EFPN.ATTENTION.WINDOW = 8
# Heads of attention; WIDTH must be a multiple of it
_C.MODEL.EFPN.ATTENTION.HEADS = 4
# Width of the MLP over WIDTH
_C.MODEL.EFPN.ATTENTION.MLP_RATIO = 2.0
# "hat": hybrid attention blocks in a group, every other one shifted
_C.MODEL.EFPN.ATTENTION.HAT_DEPTH = 2
# "hat": the convolutions beside the attention go through WIDTH / HAT_COMPRESS channels
_C.MODEL.EFPN.ATTENTION.HAT_COMPRESS = 3
# "hat": the attention to channels goes through WIDTH / HAT_SQUEEZE channels
_C.MODEL.EFPN.ATTENTION.HAT_SQUEEZE = 30
# "hat": weight of those convolutions beside the attention
_C.MODEL.EFPN.ATTENTION.HAT_CONV_SCALE = 0.01
# "hat": by which part of WINDOW the overlapping windows are larger; that must be an even number of cells
_C.MODEL.EFPN.ATTENTION.HAT_OVERLAP = 0.5
# Add the enlarged map of p3 to P3' (the authors' release) or not (the paper's formula)
_C.MODEL.EFPN.SKIP = True
# C2' comes from the body's own first stage, run once more (the release), or from one of its own
_C.MODEL.EFPN.SHARE_RES2 = True
# With ROI_HEADS.NAME ExtendedROIHeads: regions are pooled once, the smallest from P2' ("exclusive"), or in evaluation
# those up to level DUPLICATE_UP_TO from P2' and from their ordinary level, and compete ("duplicate")
_C.MODEL.EFPN.ROI_ASSIGNMENT = "exclusive"
# 2 (below 112 pixels by the default canonical size) is the release's choice for COCO, 1 (below 56) for Tsinghua-Tencent
_C.MODEL.EFPN.DUPLICATE_UP_TO = 2
# A box head for P2' alone, which starts as a copy of the shared one where the weights have none of its own
_C.MODEL.EFPN.SEPARATE_HEAD = False

_C.MODEL.DISTILL = ConfigNode()
# Train EFPN's extension to give, on a smaller image, the pyramid of a larger one in its second stage (docs/efpn.md)
_C.MODEL.DISTILL.ON = False
# The teacher sees the "full" image and the student its 2x2 averages, or the teacher the "enlarged" image (twice)
_C.MODEL.DISTILL.TEACHER = "full"
# Maps that are matched: "p2" by P2', "p3" by P3'
_C.MODEL.DISTILL.FEATURES = ("p2", "p3")
# Weight of the difference inside of objects beside that everywhere: the paper's lambda
_C.MODEL.DISTILL.POSITIVE_WEIGHT = 1.0
# Add the losses of detection on the full image
_C.MODEL.DISTILL.DETECTION = False

_C.MODEL.RPN = ConfigNode()
# Member of RPN_HEADS: what stands on the pyramid and proposes or detects
_C.MODEL.RPN.NAME = "AnchorRPN"
# Maps of the extractor that it reads, as ["p2", "p3"]; empty is all
_C.MODEL.RPN.IN_FEATURES = ()
# Anchor sizes (square root of the area), one tuple a level from the finest; a single tuple serves all levels
_C.MODEL.RPN.ANCHOR_SIZES = ((32,), (64,), (128,), (256,), (512,))
# Anchor heights over widths, the same for every level
_C.MODEL.RPN.ASPECT_RATIOS = (0.5, 1.0, 2.0)
# Anchors of a cell: "torchvision" (corners on whole pixels), "exact" (detectron2), or "detectron" (around the middle of
# the cell, shapes of whole pixels: Detectron, maskrcnn-benchmark)
_C.MODEL.RPN.ANCHOR_STYLE = "torchvision"
# Moves the anchors into their cell, in strides (detectron2's OFFSET)
_C.MODEL.RPN.ANCHOR_OFFSET = 0.0
# Pixels between anchors: the level's "stride" (detectron2), or the padded "image" over the cells (torchvision), which
# is less on levels that rounded up
_C.MODEL.RPN.ANCHOR_STEP = "image"
# 3x3 convolutions before the two outputs
_C.MODEL.RPN.CONV_DEPTH = 1
# Weights of (dx, dy, dw, dh) in the box coding
_C.MODEL.RPN.BBOX_REG_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
# An anchor is positive at or above this IoU with a ground-truth box (and where it is that box's best)
_C.MODEL.RPN.FG_IOU_THRESHOLD = 0.7
# An anchor is negative below this IoU with every ground-truth box; between the two it is ignored
_C.MODEL.RPN.BG_IOU_THRESHOLD = 0.3
# Anchors that leave the image by more than this many pixels are not drawn for the loss; -1 draws them too
# (maskrcnn-benchmark's STRADDLE_THRESH)
_C.MODEL.RPN.BOUNDARY_THRESH = -1.0
# Anchors drawn per image for the loss
_C.MODEL.RPN.BATCH_SIZE_PER_IMAGE = 256
# Largest share of positives among them
_C.MODEL.RPN.POSITIVE_FRACTION = 0.5
# Box loss: "smooth_l1" on the deltas, or "giou" (1 - GIoU) on the boxes
_C.MODEL.RPN.BOX_LOSS_TYPE = "smooth_l1"
# Where the smooth-L1 loss turns from squared to linear; 0 is plain L1 (torchvision: 1/9, detectron2: 0)
_C.MODEL.RPN.SMOOTH_L1_BETA = 1.0 / 9.0
# Divide the losses by the anchors really drawn ("sampled", torchvision) or by BATCH_SIZE_PER_IMAGE x images
# ("batch_size", detectron2)
_C.MODEL.RPN.LOSS_NORMALIZER = "sampled"
# Weight of both losses, and one more of the box loss
_C.MODEL.RPN.LOSS_WEIGHT = 1.0
_C.MODEL.RPN.BBOX_REG_LOSS_WEIGHT = 1.0
# Proposals with a side shorter than this are dropped (torchvision: 1e-3, detectron2: 0, where the side must exceed it)
_C.MODEL.RPN.MIN_SIZE = 1e-3
# IoU of the non-maximum suppression of proposals, always within a level
_C.MODEL.RPN.NMS_THRESH = 0.7
# Proposals kept per level before NMS, by score
_C.MODEL.RPN.PRE_NMS_TOP_N_TRAIN = 2000
_C.MODEL.RPN.PRE_NMS_TOP_N_TEST = 1000
# Proposals kept after NMS: per image, or per level where POST_NMS_PER is "level" (torchvision trains with 2000,
# detectron2 with 1000)
_C.MODEL.RPN.POST_NMS_TOP_N_TRAIN = 2000
_C.MODEL.RPN.POST_NMS_TOP_N_TEST = 1000
# POST_NMS_TOP_N counts "image" (torchvision, detectron2) or "level" (maskrcnn-benchmark, which then keeps
# FPN_POST_NMS_TOP_N of all levels)
_C.MODEL.RPN.POST_NMS_PER = "image"
# With POST_NMS_PER "level": proposals kept per image over all levels
_C.MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN = 2000
_C.MODEL.RPN.FPN_POST_NMS_TOP_N_TEST = 2000
# In training that counts all images of a pass together instead of each (maskrcnn-benchmark); so proposals, unlike all
# else, depend on how a batch is divided among ranks and accumulation steps
_C.MODEL.RPN.FPN_POST_NMS_PER_BATCH = False

_C.MODEL.FCOS = ConfigNode()
# Convolutions of each tower, and their norm ("" or "GN")
_C.MODEL.FCOS.NUM_CONVS = 4
_C.MODEL.FCOS.NORM = "GN"
# Make the last convolution of each tower a deformable one
_C.MODEL.FCOS.USE_DCN_IN_TOWER = False
# Score of every class before training
_C.MODEL.FCOS.PRIOR_PROB = 0.01
# Largest distance from a location to a side of its box, for every level but the last, which takes the rest; empty is
# 8 strides of each level: 64, 128, 256, 512 on P3..P7
_C.MODEL.FCOS.SIZES_OF_INTEREST = ()
# Count the bounds of a size range to both levels (the original: True, torchvision: neither)
_C.MODEL.FCOS.RANGE_INCLUSIVE = True
# A location is positive within this many strides of a box's centre; 0: anywhere in the box. Improved FCOS: 1.5
_C.MODEL.FCOS.CENTER_SAMPLING_RADIUS = 0.0
# Locations are shifted by this share of the stride into their cell (the original: 0.5, torchvision: 0)
_C.MODEL.FCOS.LOCATION_OFFSET = 0.5
# Pixels between locations: as MODEL.RPN.ANCHOR_STEP, "stride" (the original) or "image" (torchvision)
_C.MODEL.FCOS.LOCATION_STEP = "stride"
# Predict distances through ReLU in strides instead of through exp in pixels (improved FCOS: True)
_C.MODEL.FCOS.NORM_REG_TARGETS = False
# A learned factor on the distances of each level (torchvision has none)
_C.MODEL.FCOS.USE_SCALE = True
# Predict centre-ness from the regression tower instead of the classification tower (improved FCOS: True)
_C.MODEL.FCOS.CENTERNESS_ON_REG = False
# What the extra output learns: "centerness", or "iou", the overlap of the predicted box
_C.MODEL.FCOS.BOX_QUALITY = "centerness"
# Box loss: "iou" (-ln IoU), "linear_iou" (1 - IoU), "giou" (1 - GIoU)
_C.MODEL.FCOS.IOU_LOSS_TYPE = "iou"
# Added to intersection and union in the box loss (the original: 1, torchvision: 0)
_C.MODEL.FCOS.IOU_SMOOTHING = 1.0
# Weigh the box loss by centre-ness (the original with "centerness": True, torchvision: False)
_C.MODEL.FCOS.WEIGHT_BY_CENTERNESS = True
# Loss normalisers are those of all ranks, not of each (torchvision: False)
_C.MODEL.FCOS.SYNC_NORMALIZER = True
# Focal loss
_C.MODEL.FCOS.LOSS_ALPHA = 0.25
_C.MODEL.FCOS.LOSS_GAMMA = 2.0
# Detections below this score are dropped: the class score, or with THRESH_WITH_CTR its geometric mean with centre-ness
_C.MODEL.FCOS.INFERENCE_TH = 0.05
_C.MODEL.FCOS.THRESH_WITH_CTR = False
# Candidates kept per level before NMS, and its IoU
_C.MODEL.FCOS.PRE_NMS_TOP_N = 1000
_C.MODEL.FCOS.NMS_TH = 0.6

_C.MODEL.RETINANET = ConfigNode()
# Anchor sizes (square root of the area), one tuple a level from the finest: three octave thirds from 4 strides on
_C.MODEL.RETINANET.ANCHOR_SIZES = tuple(tuple(s * 2 ** (i / 3) for i in range(3)) for s in (32, 64, 128, 256, 512))
# Anchor heights over widths, the same for every level
_C.MODEL.RETINANET.ASPECT_RATIOS = (0.5, 1.0, 2.0)
# As of MODEL.RPN
_C.MODEL.RETINANET.ANCHOR_STYLE = "exact"
_C.MODEL.RETINANET.ANCHOR_OFFSET = 0.0
# Pixels between anchors: as MODEL.RPN.ANCHOR_STEP, "stride" (detectron2) or "image" (torchvision)
_C.MODEL.RETINANET.ANCHOR_STEP = "stride"
# Convolutions of each tower, and their norm: "" (none), "GN" or "BN" (one set of statistics for all levels)
_C.MODEL.RETINANET.NUM_CONVS = 4
_C.MODEL.RETINANET.NORM = ""
# Score of every class before training
_C.MODEL.RETINANET.PRIOR_PROB = 0.01
# Weights of (dx, dy, dw, dh) in the box coding
_C.MODEL.RETINANET.BBOX_REG_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
# An anchor is positive at or above this IoU with a ground-truth box (and where it is that box's best)
_C.MODEL.RETINANET.FG_IOU_THRESHOLD = 0.5
# An anchor is negative below this IoU with every ground-truth box; between the two it is ignored
_C.MODEL.RETINANET.BG_IOU_THRESHOLD = 0.4
# Focal loss
_C.MODEL.RETINANET.LOSS_ALPHA = 0.25
_C.MODEL.RETINANET.LOSS_GAMMA = 2.0
# Box loss: "smooth_l1" on the deltas, or "giou" (1 - GIoU) on the boxes
_C.MODEL.RETINANET.BOX_LOSS_TYPE = "smooth_l1"
# Where the smooth-L1 loss turns from squared to linear; 0 is plain L1 (torchvision, detectron2)
_C.MODEL.RETINANET.SMOOTH_L1_BETA = 0.0
# Divide the losses by the positive anchors: of the "batch" (the paper), of each "image", whose losses are then averaged
# (torchvision), or by their moving average over the steps ("ema", detectron2; of all ranks and accumulated parts).
# "detectron" is "batch", with the number of images added for the class loss
_C.MODEL.RETINANET.LOSS_NORMALIZER = "batch"
# Weight of the box loss (maskrcnn-benchmark: 1/4)
_C.MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT = 1.0
# Detections below this score are dropped
_C.MODEL.RETINANET.INFERENCE_TH = 0.05
# Candidates kept per level before NMS, and its IoU, within a class
_C.MODEL.RETINANET.PRE_NMS_TOP_N = 1000
_C.MODEL.RETINANET.NMS_TH = 0.5
# Cut boxes to the image before NMS (torchvision) instead of after it (detectron2)
_C.MODEL.RETINANET.CLIP_BEFORE_NMS = True
# Detections with a side shorter than this, or of 0, are dropped; -1 keeps all (torchvision)
_C.MODEL.RETINANET.MIN_SIZE = 0.0

MODEL = _C.MODEL
