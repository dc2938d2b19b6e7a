"""Predicting with a trained checkpoint, or with a file exported from one, which needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detframe.lazy import lazily

if TYPE_CHECKING:
    from detframe.evaluation.results import to_coco_results
    from detframe.inference.detector import Detector
    from detframe.inference.inputs import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, list_images, list_media
    from detframe.inference.prediction import ImagePrediction
    from detframe.inference.videos import read_video
else:
    __getattr__ = lazily(
        __name__,
        {
            "detframe.evaluation.results": "to_coco_results",
            "detector": "Detector",
            "inputs": "IMAGE_EXTENSIONS VIDEO_EXTENSIONS list_images list_media",
            "prediction": "ImagePrediction",
            "videos": "read_video",
        },
    )

__all__ = [
    "IMAGE_EXTENSIONS",
    "VIDEO_EXTENSIONS",
    "Detector",
    "ImagePrediction",
    "list_images",
    "list_media",
    "read_video",
    "to_coco_results",
]
