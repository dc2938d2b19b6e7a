"""Masks brought into the image, as pixels and as run-length codes."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from detframe.ops import encode_masks, paste_masks
from detframe.ops.mask_paste import _paste_chunks, _paste_windows


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


@pytest.mark.parametrize("seed", range(6))
def test_it_agrees_with_torchvision_but_at_outlines(seed):
    """torchvision grows boxes and rounds them: pixels on either side of an outline may differ, and no others.

    Where its mask runs into the border of the image, the outline is there.
    """
    limit = torch.tensor([200.0, 160, 200, 160])
    boxes = random_boxes(40, 200, 160, seed=seed).clamp(min=0).minimum(limit)
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) > 12).all(1)]
    probs = discs(len(boxes))
    ours = paste_masks(probs, boxes, (160, 200)) >= 0.5
    theirs = paste_masks_in_image(probs[:, None], boxes, (160, 200)) >= 0.5
    assert theirs.flatten(1).any(1).sum() > 10
    beside_mask = F.max_pool2d(theirs.float(), 3, 1, 1) > 0
    beside_ground = F.max_pool2d(F.pad((~theirs).float(), (1, 1, 1, 1), value=1.0), 3, 1) > 0
    different, outline = ours != theirs, beside_mask & beside_ground
    assert not (different & ~outline).any()
    assert 0 < different.sum() < 0.25 * outline.sum()


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


def test_a_threshold_that_every_pixel_reaches_is_an_error():
    with pytest.raises(ValueError, match="above 0, not 0"):
        encode_masks(torch.rand(1, 7, 7), random_boxes(1, 60, 40), (40, 60), 0)


EMPTY = [
    [10.5, 10.5, 10.5, 20.5],
    [10.5, 10.5, 20.5, 10.5],
    [20.0, 20, 10, 10],
    [float("nan"), 5, 20, 20],
    [0, 0, float("inf"), 20],
    [float("-inf"), 0, 20, 20],
    [200, 200, 230, 240],
    [-60, -50, -20, -20],
]


@pytest.mark.parametrize("box", EMPTY, ids=str)
@pytest.mark.parametrize("paste", [_paste_windows, _paste_chunks])
def test_boxes_without_pixels_give_empty_masks(box, paste):
    boxes = torch.tensor([box, [5.0, 5, 25, 25]], dtype=torch.float32)
    found = paste(torch.ones(2, 7, 7), boxes, (40, 60))
    assert not found[0].any() and found[1].sum() > 300
    codes = encode_masks(torch.ones(2, 7, 7), boxes, (40, 60))
    assert coco_mask.area(codes).tolist() == [0, int((found[1] >= 0.5).sum())]


def test_a_box_of_one_pixel_is_that_pixel():
    found = paste_masks(torch.ones(1, 28, 28), torch.tensor([[12.0, 7, 13, 8]]), (20, 30))
    assert found.nonzero().tolist() == [[0, 0, 7, 12]] and found[0, 0, 7, 12] == 1


def test_many_at_once_is_one_by_one(monkeypatch):
    """The way of a GPU, in chunks of two masks, gives what that of a CPU gives."""
    monkeypatch.setattr("detframe.ops.mask_paste._CHUNK_PIXELS", 2 * 80 * 100 + 5)
    probs, boxes = torch.rand(7, 14, 14), random_boxes(7, 100, 80, seed=3)
    torch.testing.assert_close(_paste_chunks(probs, boxes, (80, 100)), _paste_windows(probs, boxes, (80, 100)))


def test_autocast_does_not_round_masks():
    """The evaluation runs under autocast, where products are in half precision otherwise."""
    probs, boxes = torch.rand(9, 14, 14), random_boxes(9, 100, 80)
    pasted, codes = paste_masks(probs, boxes, (80, 100)), encode_masks(probs, boxes, (80, 100))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(paste_masks(probs, boxes, (80, 100)), pasted)
        assert encode_masks(probs, boxes, (80, 100)) == codes
    assert paste_masks(probs.half(), boxes, (80, 100)).dtype == torch.float32


def test_no_masks():
    empty = torch.zeros(0, 28, 28)
    assert paste_masks(empty, torch.zeros(0, 4), (5, 6)).shape == (0, 1, 5, 6)
    assert encode_masks(empty, torch.zeros(0, 4), (5, 6)) == []


LARGE = """
import resource, torch
from pycocotools import mask as coco_mask
from detframe.ops import encode_masks

axis = (torch.arange(28) + 0.5) / 28 * 2 - 1
disc = torch.sigmoid((0.9 - (axis[:, None] ** 2 + axis[None] ** 2).sqrt()) * 12)
corner = torch.rand(100, 2) * 2800
boxes = torch.cat([corner, corner + 20 + torch.rand(100, 2) * 200], 1)
boxes[:5] = torch.tensor([100.0, 200, 2300, 2600])
boxes[5] = torch.tensor([0.0, 0, 4000, 3000])
encode_masks(disc[None], boxes[6:7], (30, 40))  # libraries load what they need
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
codes = encode_masks(disc.expand(100, -1, -1), boxes, (3000, 4000))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
areas = coco_mask.area(codes)
print(grown // 1024, len(codes), areas[0], areas[5])
"""


def test_a_hundred_masks_of_a_large_photograph_take_little_memory(run_python):
    """100 masks over 4000x3000 pixels, one of them all of the image: 4.8 GB as pixels, and less than 0.5 as codes."""
    done = run_python("-c", LARGE)
    assert done.returncode == 0, done.stderr
    grown_mb, count, half, full = (int(word) for word in done.stdout.split())
    assert count == 100 and grown_mb < 500
    assert half == pytest.approx(np.pi / 4 * 0.81 * 2200 * 2400, rel=0.01)
    assert full == pytest.approx(np.pi / 4 * 0.81 * 3000 * 4000, rel=0.01)
