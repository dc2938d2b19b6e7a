"""COCO's categories are those that torchvision publishes with its weights."""

from __future__ import annotations

import pytest
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from detframe.data.coco_categories import COCO_CATEGORIES, coco_labels


def test_numbers_and_names():
    theirs = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    named = {i: name for i, name in enumerate(theirs) if name not in ("__background__", "N/A")}
    assert named == COCO_CATEGORIES and len(named) == 80 and list(COCO_CATEGORIES) == sorted(named)


def test_labels_of_detectors_by_their_number():
    assert coco_labels(1) == ((1, "person"),)
    assert len(coco_labels(80)) == 80 and coco_labels(80)[-1] == (90, "toothbrush")
    by_id = coco_labels(90)
    assert [number for number, _ in by_id] == list(range(1, 91)) and by_id[11] == (12, "unused 12")
    assert len({name for _, name in by_id}) == 90
    with pytest.raises(ValueError, match="not 5"):
        coco_labels(5)
