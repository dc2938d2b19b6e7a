"""supervision's InferenceSlicer with a detector of detframe."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from tests.inference.conftest import picture

sv = pytest.importorskip("supervision")

IMAGE = picture(150, 230, seed=3)
HOW = {"slice_wh": (100, 90), "overlap_wh": (20, 20), "overlap_filter": sv.OverlapFilter.NONE}


def callback(detector):
    return lambda tiles: [p.to_supervision() for p in detector.predict(tiles, score_threshold=0.4)]


@pytest.mark.parametrize("given", [IMAGE, PIL.Image.fromarray(IMAGE)], ids=["array", "PIL"])
def test_slices_in_batches_are_found_where_they_lie(detector, given):
    found = sv.InferenceSlicer(callback(detector), batch_size=4, **HOW)(given)
    wanted = []
    for top in (0, 60):
        for left in (0, 80, 130):
            (prediction,) = detector.predict(IMAGE[top : top + 90, left : left + 100].copy(), score_threshold=0.4)
            wanted.append(np.asarray(prediction["boxes"]) + np.array([left, top, left, top]))
    wanted = np.concatenate(wanted)
    assert len(found) == len(wanted) > 0
    order, wanted_order = np.lexsort(found.xyxy.T.round(1)), np.lexsort(wanted.T.round(1))
    np.testing.assert_allclose(found.xyxy[order], wanted[wanted_order], atol=1e-3)
    assert set(found["class_name"]) <= {"circle", "square", "star"}


def test_one_slice_at_a_time_gives_the_same(detector):
    one = sv.InferenceSlicer(lambda tile: callback(detector)([tile])[0], **HOW)(IMAGE)
    batched = sv.InferenceSlicer(callback(detector), batch_size=8, **HOW)(IMAGE)
    np.testing.assert_allclose(one.xyxy, batched.xyxy, atol=1e-3)


@pytest.mark.parametrize("compact", [False, True])
def test_masks_of_slices_become_masks_of_the_image(mask_detector, compact):
    def tiles(images):
        return [p.to_supervision() for p in mask_detector.predict(images)]

    found = sv.InferenceSlicer(tiles, batch_size=4, compact_masks=compact, **HOW)(IMAGE)
    masks = np.asarray(found.mask)
    assert masks.shape == (len(found), 150, 230) and masks.dtype == bool and masks.any()
    for mask, (x1, y1, x2, y2) in zip(masks, found.xyxy, strict=True):
        rows, columns = np.nonzero(mask)
        if len(rows):
            assert columns.min() >= x1 - 2 and columns.max() <= x2 + 2 and rows.min() >= y1 - 2 and rows.max() <= y2 + 2
