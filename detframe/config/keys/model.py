"""The keys of MODEL as a whole, and its parts."""

from __future__ import annotations

from detframe.config.key import Key, section
from detframe.config.keys.backbone import BACKBONE, MOBILENET, RESNETS
from detframe.config.keys.common import ARCHITECTURE, FIRST_WEIGHTS, HOW, NAMES, TRAINED
from detframe.config.keys.dense import FCOS, RETINANET, RPN
from detframe.config.keys.pyramids import DISTILL, EFPN, FPN
from detframe.config.keys.roi import (
    POINT_HEAD,
    ROI_BOX_CASCADE_HEAD,
    ROI_BOX_HEAD,
    ROI_HEADS,
    ROI_KEYPOINT_HEAD,
    ROI_MASK_HEAD,
)

MODEL = section(
    resume=ARCHITECTURE,
    DEVICE=Key("auto", '"auto" (CUDA where there is one, else CPU), "cpu", "cuda" or "cuda:1"', resume=HOW),
    WEIGHTS=Key("", 'Checkpoint to start from: a file, an http(s) address (with "#sha256=..." to have it checked), '
        '"torchvision://ResNet50_Weights.IMAGENET1K_V1", "msra://R-50" and others (docs/weights.md), or "" (random)',
        resume=FIRST_WEIGHTS),
    ALLOW_PARTIAL_WEIGHTS=Key(False, "Accept WEIGHTS of another architecture, which fill less than 90 % of the "
        "backbone or only part of a head", resume=FIRST_WEIGHTS),
    NUM_CLASSES=Key(0, "Number of foreground classes K; 0 takes it from the training data", at_least=0,
        ceiling=100_000),
    LEGACY_BOXES=Key(False, "Inside the model, x2 and y2 of a box are its last pixels, so that its width is x2 - x1 + "
        "1 (in IoU, box encoding, clipping and sizes), as in Detectron, maskrcnn-benchmark and FCOS. Targets and "
        "predictions are the same either way"),
    CHANNELS_LAST=Key(True, "Keep images and feature maps in channels_last memory format (faster convolutions on CPU "
        "and on tensor cores)", resume=HOW),
    COMPILE=Key(False, "Compile the backbone with torch.compile (needs a C++ compiler on the CPU; costs minutes at the "
        "start)", resume=HOW),
    BACKBONE=BACKBONE,
    FREEZE=Key((), 'Freeze the parameters whose names match one of these shell patterns, e.g. "backbone.fpn.*" or '
        '"*.bn?.*"; a pattern that matches nothing is an error', like=NAMES, resume=TRAINED),
    RESNETS=RESNETS,
    MOBILENET=MOBILENET,
    FPN=FPN,
    EFPN=EFPN,
    DISTILL=DISTILL,
    RPN=RPN,
    FCOS=FCOS,
    RETINANET=RETINANET,
    ROI_HEADS=ROI_HEADS,
    ROI_BOX_HEAD=ROI_BOX_HEAD,
    ROI_BOX_CASCADE_HEAD=ROI_BOX_CASCADE_HEAD,
    MASK_ON=Key(False, "Predict a mask for each detection"),
    ROI_MASK_HEAD=ROI_MASK_HEAD,
    POINT_HEAD=POINT_HEAD,
    KEYPOINT_ON=Key(False, "Predict keypoints for each detection"),
    ROI_KEYPOINT_HEAD=ROI_KEYPOINT_HEAD,
)
