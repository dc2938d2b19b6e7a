"""COCO's categories are those that torchvision publishes with its weights."""

from __future__ import annotations

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from detframe.data.coco_categories import COCO_CATEGORIES


def test_numbers_and_names():
    theirs = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    named = {i: name for i, name in enumerate(theirs) if name not in ("__background__", "N/A")}
    assert named == COCO_CATEGORIES and len(named) == 80 and list(COCO_CATEGORIES) == sorted(named)
