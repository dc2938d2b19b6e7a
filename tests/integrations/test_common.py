"""What the adapters share takes predictions of tensors and of arrays alike."""

from __future__ import annotations

import numpy as np
import pytest

from detframe.integrations.common import mask_pixels
from detframe.structures import BoxMasks
from tests.inference.conftest import picture


def test_masks_of_every_form_have_the_same_pixels(mask_detector):
    image = picture(90, 140, seed=3)
    (on_boxes,) = mask_detector.predict(image, paste_masks=False)
    (pasted,) = mask_detector.predict(image)
    masks = on_boxes["masks"]
    as_arrays = BoxMasks(masks.probs.numpy(), masks.boxes.numpy(), masks.size_hw)
    whole = pasted["masks"].numpy()[:, 0] >= 0.45
    assert whole.any() and len(whole) == len(masks)
    for row, wanted in enumerate(whole):
        for form in (masks, as_arrays, pasted["masks"], pasted["masks"].numpy(), pasted["masks"].numpy()[:, 0]):
            found = mask_pixels(form, row, 0.45)
            assert found.dtype == bool
            np.testing.assert_array_equal(found, wanted)


def rows(objects):
    return [
        (one.bbox.to_xyxy(), one.mask and one.mask.segmentation, one.score.value, one.category.id) for one in objects
    ]


@pytest.mark.parametrize("kind", ["detector", "mask_detector"])
def test_predictions_as_arrays_give_sahi_the_same_objects(kind, request, monkeypatch):
    pytest.importorskip("sahi")
    from sahi.predict import get_prediction

    from detframe.integrations.sahi import DetframeDetectionModel

    detector = request.getfixturevalue(kind)
    image = picture(90, 140, seed=3)
    model = DetframeDetectionModel(model=detector)
    of_tensors = get_prediction(image, model).object_prediction_list
    predict = detector.predict
    monkeypatch.setattr(detector, "predict", lambda *args, **how: [p.to_numpy() for p in predict(*args, **how)])
    of_arrays = get_prediction(image, model).object_prediction_list
    assert rows(of_arrays) == rows(of_tensors) != []
