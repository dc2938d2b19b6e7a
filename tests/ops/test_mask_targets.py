"""Masks of objects cut out by regions."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from detframe.ops import crop_masks
from detframe.structures import LazyMasks
from detframe.structures.lazy_masks import draw, draw_window

TRIANGLE = [np.array([10.0, 5, 60, 20, 25, 70])]
TWO_PARTS = [np.array([5.0, 5, 20, 5, 20, 30, 5, 30]), np.array([40.0, 40, 70, 40, 70, 60, 40, 60])]
SIZE = (80, 90)


def forms():
    """The same two masks as polygons, compressed codes, plain run lengths and pixels."""
    pixels = np.stack([draw(TRIANGLE, SIZE), draw(TWO_PARTS, SIZE)])
    codes = [coco_mask.encode(np.asfortranarray(p.astype(np.uint8))) for p in pixels]
    plain = []
    for mask in pixels:
        flat = np.concatenate([[False], mask.T.reshape(-1)])
        changes = np.flatnonzero(flat[1:] != flat[:-1])
        plain.append({"size": list(SIZE), "counts": np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()})
    return {
        "polygons": LazyMasks([TRIANGLE, TWO_PARTS], SIZE),
        "codes": LazyMasks(codes, SIZE),
        "plain": LazyMasks(plain, SIZE),
        "pixels": torch.from_numpy(pixels),
    }


ROWS = torch.tensor([1, 0, 0, 1, 0])
BOXES = torch.tensor([[5.0, 5, 70, 60], [10, 5, 60, 70], [-4.5, -3, 30.2, 41.7], [30, 30, 95, 85], [70, 70, 75, 75]])


@pytest.mark.parametrize("form", ["codes", "plain", "pixels"])
def test_pixels_exactly_as_detectron2_crops_them(form):
    masks = forms()[form]
    pixels = forms()["pixels"][ROWS].float()
    rois = torch.cat([torch.arange(5.0)[:, None], BOXES], 1)
    wanted = (roi_align(pixels[:, None], rois, 28, 1.0, 0, aligned=True)[:, 0] >= 0.5).float()
    assert torch.equal(crop_masks(masks, ROWS, BOXES, 28), wanted)


@pytest.mark.parametrize("form", ["polygons", "codes", "plain", "pixels"])
def test_softly_as_torchvision_projects_them(form):
    wanted = project_masks_on_boxes(forms()["pixels"], BOXES, ROWS, 28)
    torch.testing.assert_close(crop_masks(forms()[form], ROWS, BOXES, 28, "soft"), wanted)


def test_polygons_are_drawn_on_the_grid_itself():
    """A rectangle in a box twice its size covers a quarter of the grid; a box around it alone, all of it."""
    masks = LazyMasks([[np.array([10.0, 20, 30, 20, 30, 60, 10, 60])]], SIZE)
    found = crop_masks(
        masks, torch.zeros(2, dtype=torch.int64), torch.tensor([[10.0, 20, 50, 100], [10, 20, 30, 60]]), 28
    )
    assert found[0, :14, :14].min() == 1 and found[0].sum() == 14 * 14
    assert found[1].min() == 1


def test_polygons_and_pixels_agree_but_at_outlines():
    exact, pixels = (crop_masks(forms()[f], ROWS, BOXES, 28) for f in ("polygons", "pixels"))
    assert (exact != pixels).float().mean() < 0.05 and exact[:4].sum() > 500


def test_a_window_of_each_form_is_that_part_of_the_mask():
    whole = forms()["pixels"].numpy()
    for form in ("polygons", "codes", "plain"):
        for row, segmentation in enumerate(forms()[form].segmentations):
            for window in ((0, 0, 90, 80), (3, 7, 44, 50), (60, 0, 61, 80), (30, 79, 90, 80)):
                x1, y1, x2, y2 = window
                found = draw_window(segmentation, SIZE, window)
                assert np.array_equal(found, whole[row, y1:y2, x1:x2]), (form, row, window)


def test_compressed_codes_of_every_kind_of_number():
    """Long runs, short runs, growing and shrinking ones: the codes' numbers are differences with a sign."""
    rng = np.random.default_rng(0)
    for density in (0.001, 0.05, 0.5, 0.99):
        pixels = rng.random((300, 200)) < density
        code = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
        assert np.array_equal(draw_window(code, (300, 200), (0, 0, 200, 300)), pixels)
        as_text = {**code, "counts": code["counts"].decode()}
        assert np.array_equal(draw_window(as_text, (300, 200), (50, 9, 80, 40)), pixels[9:40, 50:80])


def test_no_regions():
    assert crop_masks(forms()["polygons"], ROWS[:0], BOXES[:0], 28).shape == (0, 28, 28)
    assert crop_masks(torch.zeros(0, 8, 8), ROWS[:0], BOXES[:0], 14).shape == (0, 14, 14)
