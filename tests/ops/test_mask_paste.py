"""Masks brought into the image, as pixels and as run-length codes."""

import tracemalloc

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detframe.ops import encode_masks, paste_masks


def discs(count, size=28):
    """Soft discs that fill their boxes, the value one half at the outline."""
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    distance = (axis[:, None] ** 2 + axis[None] ** 2).sqrt()
    return torch.sigmoid((0.9 - distance) * 12).expand(count, -1, -1).contiguous()


def random_boxes(count, width, height, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 1.2 - 20
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 90], 1)


def test_every_pixel_is_looked_up_at_its_centre():
    """Against grid_sample, which defines it: boxes within, across and beyond the border, and tiny ones."""
    boxes = torch.cat([random_boxes(20, 100, 80), torch.tensor([[10.2, 10.1, 10.9, 11.3], [300, 300, 320, 310.0]])])
    probs = torch.rand(len(boxes), 14, 14)
    found = paste_masks(probs, boxes, (80, 100))
    assert found.shape == (22, 1, 80, 100)
    for mask, box, one in zip(probs, boxes, found[:, 0], strict=True):
        x = ((torch.arange(100) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1).expand(80, 100)
        y = ((torch.arange(80) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1)[:, None].expand(80, 100)
        wanted = F.grid_sample(mask[None, None], torch.stack([x, y], -1)[None], align_corners=False)[0, 0]
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-4)


def test_it_agrees_with_torchvision_but_at_outlines():
    """torchvision rounds boxes to pixels: within a pixel and a half of an outline, it may differ."""
    limit = torch.tensor([200.0, 160, 200, 160])
    boxes = random_boxes(40, 200, 160, seed=1).clamp(min=0).minimum(limit)
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 12).all(1)]
    probs = discs(len(boxes))
    ours, theirs = (
        paste_masks(probs, boxes, (160, 200)) >= 0.5,
        paste_masks_in_image(probs[:, None], boxes, (160, 200)) >= 0.5,
    )
    assert theirs.flatten(1).any(1).sum() > 10
    grown = F.max_pool2d(theirs.float(), 5, 1, 2) > 0
    kept = F.max_pool2d((~theirs).float(), 5, 1, 2) == 0
    assert not (ours & ~grown).any()
    assert not (kept & ~ours).any()


@pytest.mark.parametrize("threshold", [0.5, 0.01, 0.9])
def test_codes_are_those_of_the_pixels(threshold):
    """Also of masks that fill whole columns, so that runs go on from one to the next."""
    boxes = torch.cat(
        [random_boxes(30, 60, 40), torch.tensor([[-5.0, -50, 70, 90], [3, -30, 20, 80], [90, 90, 99, 99]])]
    )
    probs = torch.cat([torch.rand(30, 7, 7), torch.ones(3, 7, 7)])
    codes = encode_masks(probs, boxes, (40, 60), threshold)
    pixels = (paste_masks(probs, boxes, (40, 60))[:, 0] >= threshold).numpy()
    for code, mask in zip(codes, pixels, strict=True):
        wanted = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert code["size"] == [40, 60] and code["counts"] == wanted["counts"]
    assert codes[30]["counts"] == coco_mask.encode(np.ones((40, 60), dtype=np.uint8, order="F"))["counts"]


def test_no_masks():
    empty = torch.zeros(0, 28, 28)
    assert paste_masks(empty, torch.zeros(0, 4), (5, 6)).shape == (0, 1, 5, 6)
    assert encode_masks(empty, torch.zeros(0, 4), (5, 6)) == []


def test_a_hundred_masks_of_a_large_photograph_take_little_memory():
    """100 masks over 4000x3000 pixels, some of half the image: far from the 4.8 GB of their pixels."""
    boxes = random_boxes(100, 3900, 2900)
    boxes[:5] = torch.tensor([100.0, 200, 2300, 2600])
    probs = discs(100)
    tracemalloc.start()
    codes = encode_masks(probs, boxes, (3000, 4000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # tensors are not traced; the largest window is one mask of 2200x2400 pixels in float32, 21 MB
    assert len(codes) == 100 and peak < 200e6
    areas = coco_mask.area(codes)
    assert areas[0] == pytest.approx(np.pi / 4 * 0.81 * 2200 * 2400, rel=0.01)
