"""Pure functions of tensors, of nothing else: no config, no registry, no device, no in-place edits of arguments."""

from detframe.ops.anchors import anchor_templates, grid_anchors, grid_step
from detframe.ops.boxes import CONTINUOUS, BoxCoder, Matches, Matching, inside_images, match_boxes, pairwise_iou
from detframe.ops.keypoints import heatmaps_to_keypoints, keypoint_loss, keypoints_to_cells
from detframe.ops.losses import BoxLoss, distribution_focal, quality_focal, sigmoid_focal, varifocal
from detframe.ops.mask_paste import encode_masks, paste_masks
from detframe.ops.region_bags import RoIs
from detframe.ops.roi_align import roi_align_pyramid
from detframe.ops.sampling import Sampling, random_keys, sample_balanced
from detframe.ops.suppression import soft_scores, weighted_boxes

__all__ = [
    "CONTINUOUS",
    "BoxCoder",
    "BoxLoss",
    "Matches",
    "Matching",
    "RoIs",
    "Sampling",
    "anchor_templates",
    "distribution_focal",
    "encode_masks",
    "grid_anchors",
    "grid_step",
    "heatmaps_to_keypoints",
    "inside_images",
    "keypoint_loss",
    "keypoints_to_cells",
    "match_boxes",
    "pairwise_iou",
    "paste_masks",
    "quality_focal",
    "random_keys",
    "roi_align_pyramid",
    "sample_balanced",
    "sigmoid_focal",
    "soft_scores",
    "varifocal",
    "weighted_boxes",
]
