"""Masks of objects cut out by regions."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import project_masks_on_boxes
from torchvision.ops import roi_align

from detframe.structures import LazyMasks, crop_masks, sample_masks
from detframe.structures.lazy_masks import draw, draw_window
from detframe.structures.mask_targets import draw_in_box
from tests.ops.test_points import bilinear

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


@pytest.mark.parametrize("form", ["polygons", "codes", "plain", "pixels"])
def test_boxes_of_any_kind_softly_as_torchvision_projects_them(form):
    """Of one pixel, of less, without area, with corners in the wrong order, around and outside of the image."""
    boxes = torch.tensor(
        [
            [20.0, 20, 21, 21],
            [20.3, 20.2, 20.5, 20.4],
            [22.5, 10, 22.5, 30],
            [30, 30, 20, 20],
            [-20, -30, 120, 110],
            [200, 200, 230, 220],
            [-40, -40, -10, -10],
        ]
    )
    rows = torch.tensor([0, 0, 0, 0, 1, 0, 1])
    wanted = project_masks_on_boxes(forms()["pixels"], boxes, rows, 14)
    assert wanted[:5].flatten(1).any(1).all() and not wanted[5:].any()
    # each alone, too: what is drawn of a mask depends on all the boxes that look at it
    torch.testing.assert_close(crop_masks(forms()[form], rows, boxes, 14, "soft"), wanted)
    for i in range(len(boxes)):
        alone = crop_masks(forms()[form], rows[i : i + 1], boxes[i : i + 1], 14, "soft")
        torch.testing.assert_close(alone[0], wanted[i])


@pytest.mark.parametrize("form", ["codes", "plain", "pixels"])
def test_boxes_at_the_border_exactly_as_detectron2_crops_them(form):
    boxes = torch.tensor([[20.0, 20, 21, 21], [-20, -30, 120, 110], [200, 200, 230, 220], [22.5, 10, 22.5, 30]])
    rows = torch.tensor([0, 1, 1, 0])
    rois = torch.cat([torch.arange(4.0)[:, None], boxes], 1)
    pixels = forms()["pixels"][rows].float()[:, None]
    wanted = (roi_align(pixels, rois, 28, 1.0, 0, aligned=True)[:, 0] >= 0.5).float()
    assert wanted[0].all() and wanted[1].any() and not wanted[2].any()
    assert torch.equal(crop_masks(forms()[form], rows, boxes, 28), wanted)


def test_polygons_as_coco_draws_them_within_the_box():
    """All parts of an object, moved and scaled in double precision and drawn by pycocotools, box by box."""
    found = crop_masks(forms()["polygons"], ROWS, BOXES, 28)
    for mask, row, box in zip(found, ROWS.tolist(), BOXES.double().numpy(), strict=True):
        moved = []
        for part in (TRIANGLE, TWO_PARTS)[row]:
            x, y = part[0::2], part[1::2]
            x, y = (x - box[0]) * (28 / (box[2] - box[0])), (y - box[1]) * (28 / (box[3] - box[1]))
            moved.append(np.stack([x, y], 1).flatten().tolist())
        wanted = np.maximum.reduce([coco_mask.decode(code) for code in coco_mask.frPyObjects(moved, 28, 28)])
        assert np.array_equal(mask.numpy(), wanted)


def test_polygons_in_a_box_without_area_or_outside():
    masks = forms()["polygons"]
    boxes = torch.tensor([[25.0, 25, 25, 25], [200, 200, 230, 220], [24, 24, 25, 25]])
    found = crop_masks(masks, torch.zeros(3, dtype=torch.int64), boxes, 14)
    assert found[1].sum() == 0 and found[2].min() == 1 and found.isfinite().all()
    assert crop_masks(LazyMasks([[]], SIZE), torch.tensor([0]), boxes[2:], 14).sum() == 0


@pytest.mark.parametrize("mode", ["exact", "soft"])
@pytest.mark.parametrize("form", ["polygons", "codes", "pixels"])
def test_boxes_that_are_not_finite_see_nothing(form, mode):
    boxes = torch.tensor([[float("nan"), 5, 60, 60], [0, 0, float("inf"), 60], [10, 5, 60, 70]])
    found = crop_masks(forms()[form], torch.zeros(3, dtype=torch.int64), boxes, 14, mode)
    assert not found[:2].any()
    assert torch.equal(found[2:], crop_masks(forms()[form], torch.tensor([0]), boxes[2:], 14, mode))


def test_pixels_of_uint8_may_be_255():
    pixels = forms()["pixels"].to(torch.uint8)
    for mode in ("exact", "soft"):
        assert torch.equal(crop_masks(pixels * 255, ROWS, BOXES, 28, mode), crop_masks(pixels, ROWS, BOXES, 28, mode))


def test_each_code_is_unrolled_once(monkeypatch):
    calls = []

    def counted(segmentation, size_hw, window):
        calls.append(window)
        return draw_window(segmentation, size_hw, window)

    monkeypatch.setattr("detframe.structures.mask_targets.draw_window", counted)
    crop_masks(forms()["codes"], torch.zeros(50, dtype=torch.int64), torch.tensor([[20.0, 20, 40, 50]] * 50), 28)
    assert calls == [(18, 18, 42, 52)]


def test_an_unknown_mode_is_an_error():
    with pytest.raises(ValueError, match=r"exact, soft, not 'hard'"):
        crop_masks(forms()["polygons"], ROWS, BOXES, 28, "hard")


def test_no_regions():
    assert crop_masks(forms()["polygons"], ROWS[:0], BOXES[:0], 28).shape == (0, 28, 28)
    assert crop_masks(torch.zeros(0, 8, 8), ROWS[:0], BOXES[:0], 14).shape == (0, 14, 14)


def test_a_huge_polygon_in_a_tiny_box_is_drawn_at_once():
    """In the box's grid its coordinates are millions; drawn as they are, its outline takes gigabytes."""
    polygon = np.array([0, 0, 2e5, 0, 2e5, 2e5, 0.505, 2e5, 0.505, 0.5, 0, 0.5])
    found = draw_in_box([polygon], np.array([0.5, 0.4, 0.51, 0.6], dtype=np.float32), 28)
    assert found[:14].all() and found[14:].mean() > 0.8
    assert not draw_in_box([polygon + 1e6], np.array([0.5, 0.4, 0.51, 0.6], dtype=np.float32), 28).any()


def test_values_of_masks():
    polygons = [[np.array([5.0, 3, 25, 3, 25, 20, 5, 20])], [np.array([0.0, 0, 12, 0, 0, 12])]]
    lazy = LazyMasks(polygons, (30, 40))
    rows = torch.tensor([1, 0, 0])
    points = torch.rand(3, 40, 2) * torch.tensor([44.0, 34]) - 2
    pixels = lazy.decode()
    for masks in (lazy, pixels, pixels.to(torch.uint8) * 255, pixels.float()):
        found = sample_masks(masks, rows, points)
        for r in range(3):
            for p in range(40):
                x, y = points[r, p].tolist()
                assert abs(float(found[r, p]) - bilinear(pixels[rows[r]], x, y)) < 1e-4
