"""Predicting with a trained checkpoint."""

from detframe.evaluation.results import to_coco_results
from detframe.inference.detector import Detector
from detframe.inference.inputs import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, list_images, list_media
from detframe.inference.videos import read_video

__all__ = [
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "Detector",
    "list_images",
    "list_media",
    "read_video",
    "to_coco_results",
]
