"""The config keys of the heads on regions, below MODEL: their defaults, and one comment on each.

Sizes are in pixels.
"""

from __future__ import annotations

from detframe.config.config import ConfigNode
from detframe.config.model_defaults import MODEL

_C = ConfigNode()
_C.MODEL = MODEL

_C.MODEL.ROI_HEADS = ConfigNode()
# Member of ROI_HEADS: what refines the proposals; "" leaves the detections of the RPN head as they are, which are
# class-agnostic proposals (label 1, objectness as score) where that is AnchorRPN
_C.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
# Maps of the extractor that regions are pooled from, as ["p2", "p3"]; empty is all up to stride 32
_C.MODEL.ROI_HEADS.IN_FEATURES = ()
# A proposal is foreground at or above this IoU with a ground-truth box
_C.MODEL.ROI_HEADS.FG_IOU_THRESHOLD = 0.5
# It is background below this IoU with every one; between the two it is not drawn
_C.MODEL.ROI_HEADS.BG_IOU_THRESHOLD = 0.5
# Proposals drawn per image for the loss
_C.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 512
# Largest share of foreground among them
_C.MODEL.ROI_HEADS.POSITIVE_FRACTION = 0.25
# Weights of (dx, dy, dw, dh) in the box coding
_C.MODEL.ROI_HEADS.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
# Detections below this score are dropped
_C.MODEL.ROI_HEADS.SCORE_THRESH = 0.05
# IoU of the non-maximum suppression of detections, within a class
_C.MODEL.ROI_HEADS.NMS = 0.5
# Detections with a side shorter than this are dropped (torchvision: 1e-2, detectron2: keeps all, -1)
_C.MODEL.ROI_HEADS.MIN_SIZE = 1e-2

_C.MODEL.ROI_BOX_HEAD = ConfigNode()
# Side of the pooled feature map of a region
_C.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
# Sampling points per bin and direction; 0 adapts to the size of the region (detectron2), torchvision uses 2
_C.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = 2
# Shift the sampling points by half a pixel, so that they sit at pixel centres (detectron2: True, torchvision: False)
_C.MODEL.ROI_BOX_HEAD.POOLER_ALIGNED = False
# A region with this side (square root of the area) is pooled from level POOLER_CANONICAL_LEVEL
_C.MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE = 224
_C.MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_LEVEL = 4
# 3x3 convolutions before the fully connected layers, their channels, and their norm ("", "GN", "BN", "SyncBN")
_C.MODEL.ROI_BOX_HEAD.NUM_CONV = 0
_C.MODEL.ROI_BOX_HEAD.CONV_DIM = 256
_C.MODEL.ROI_BOX_HEAD.NORM = ""
# Number of fully connected layers, their width, and their norm ("", or "GN" as maskrcnn-benchmark with USE_GN)
_C.MODEL.ROI_BOX_HEAD.NUM_FC = 2
_C.MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM = 1024
_C.MODEL.ROI_BOX_HEAD.FC_NORM = ""
# One box regression for all classes instead of one per class
_C.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = False
# Box loss: "smooth_l1" on the deltas, or "giou" (1 - GIoU) on the boxes
_C.MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE = "smooth_l1"
# Where the smooth-L1 loss turns from squared to linear; 0 is plain L1 (torchvision: 1/9, detectron2: 0)
_C.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = 1.0 / 9.0
# Weight of the box loss
_C.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT = 1.0
# Masks and keypoints train on the boxes that the box head makes of the regions, instead of on the regions (PointRend)
_C.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES = False

_C.MODEL.ROI_BOX_CASCADE_HEAD = ConfigNode()
# With ROI_HEADS.NAME CascadeROIHeads: IoU from which a region is foreground, stage by stage, and the weights of
# (dx, dy, dw, dh) in each
_C.MODEL.ROI_BOX_CASCADE_HEAD.IOUS = (0.5, 0.6, 0.7)
_C.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS = (
    (10.0, 10.0, 5.0, 5.0),
    (20.0, 20.0, 10.0, 10.0),
    (30.0, 30.0, 15.0, 15.0),
)

# Predict a mask for each detection
_C.MODEL.MASK_ON = False
_C.MODEL.ROI_MASK_HEAD = ConfigNode()
# Member of MASK_HEADS
_C.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNN"
# As of ROI_BOX_HEAD; masks have twice the resolution
_C.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
_C.MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO = 2
# 3x3 convolutions before the transposed one, their channels, and their norm ("", "GN", "BN", "SyncBN")
_C.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
_C.MODEL.ROI_MASK_HEAD.CONV_DIM = 256
_C.MODEL.ROI_MASK_HEAD.NORM = ""
# One mask for all classes instead of one per class
_C.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = False
# How the mask of an object is cut out for a region: "exact" (polygons drawn at the size of the mask, detectron2) or
# "soft" (interpolated between pixels, torchvision)
_C.MODEL.ROI_MASK_HEAD.TARGET_MODE = "exact"
_C.MODEL.ROI_MASK_HEAD.LOSS_WEIGHT = 1.0

_C.MODEL.POINT_HEAD = ConfigNode()
# With ROI_MASK_HEAD.NAME PointRend: the map that points are looked up in
_C.MODEL.POINT_HEAD.IN_FEATURE = "p2"
# Side of the coarse masks, and the fully connected layers that make them
_C.MODEL.POINT_HEAD.COARSE_SIDE = 7
_C.MODEL.POINT_HEAD.COARSE_NUM_FC = 2
_C.MODEL.POINT_HEAD.COARSE_FC_DIM = 1024
# Layers of the point head, and their width
_C.MODEL.POINT_HEAD.NUM_FC = 3
_C.MODEL.POINT_HEAD.FC_DIM = 256
# Points of a region in training; OVERSAMPLE times as many are drawn, and the share IMPORTANCE is the least certain ones
_C.MODEL.POINT_HEAD.NUM_POINTS = 196
_C.MODEL.POINT_HEAD.OVERSAMPLE = 3
_C.MODEL.POINT_HEAD.IMPORTANCE = 0.75
# How often a mask is doubled in inference, and the points that are predicted anew each time
_C.MODEL.POINT_HEAD.SUBDIVISION_STEPS = 5
_C.MODEL.POINT_HEAD.SUBDIVISION_POINTS = 784

# Predict keypoints for each detection
_C.MODEL.KEYPOINT_ON = False
_C.MODEL.ROI_KEYPOINT_HEAD = ConfigNode()
# Keypoints of an object; 0 takes the number from the data set
_C.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 0
# As of ROI_BOX_HEAD; heatmaps have four times the resolution
_C.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION = 14
_C.MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO = 2
# Channels of the 3x3 convolutions
_C.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = (512,) * 8
# The loss is a mean over the "visible" keypoints, or a sum over all that there may be ("static": detectron2 without
# NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS)
_C.MODEL.ROI_KEYPOINT_HEAD.NORMALIZER = "visible"
_C.MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT = 1.0

__all__ = ["MODEL"]
