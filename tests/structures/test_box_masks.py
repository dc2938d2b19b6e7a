"""Predicted masks that stay on their boxes until somebody wants pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from detframe.structures import BoxMasks, rescale_prediction, select, to_cpu

SIZE = (40, 60)


def three() -> BoxMasks:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[5.0, 4, 30, 33], [20.5, -6, 70, 20.25], [0, 0, 60, 40]])
    return BoxMasks(torch.rand(3, 14, 14, generator=generator), boxes, SIZE)


def none() -> BoxMasks:
    return BoxMasks(torch.zeros(0, 14, 14), torch.zeros(0, 4), SIZE)


def prediction(masks: BoxMasks) -> dict:
    count = len(masks)
    return {
        "boxes": masks.boxes.clone(),
        "labels": torch.ones(count, dtype=torch.int64),
        "scores": torch.linspace(0.9, 0.1, count),
        "masks": masks,
    }


def test_rows_as_of_a_tensor():
    masks = three()
    pixels = masks.paste()
    assert len(masks) == 3 and masks.shape == pixels.shape == (3, 1, *SIZE)
    for keep in (torch.tensor([True, False, True]), torch.tensor([2, 0]), torch.tensor([], dtype=torch.int64)):
        assert torch.equal(masks[keep].paste(), pixels[keep])
        assert masks[keep].shape == pixels[keep].shape


def test_codes_are_those_of_the_pixels():
    masks = three()
    for threshold in (0.3, 0.5):
        pixels = (masks.paste()[:, 0] >= threshold).numpy().astype(np.uint8)
        wanted = [coco_mask.encode(np.asfortranarray(mask)) for mask in pixels]
        assert masks.encode(threshold) == wanted
    assert masks.encode() == masks.encode(0.5)


def test_rescaling_moves_boxes_and_keeps_probabilities():
    masks = three()
    before = masks.boxes.clone()
    moved = masks.rescale(SIZE, (80, 30))
    assert moved.size_hw == (80, 30) and moved.probs is masks.probs
    assert torch.equal(moved.boxes, before * torch.tensor([0.5, 2, 0.5, 2]))
    assert torch.equal(masks.boxes, before) and masks.size_hw == SIZE
    back = moved.rescale((80, 30), SIZE)
    torch.testing.assert_close(back.paste(), masks.paste())


def test_a_full_mask_in_twice_the_size_is_a_box_twice_as_large():
    """But for its four corners, which lie between cells of one and, in both directions, the zeros around the mask."""
    masks = BoxMasks(torch.ones(1, 14, 14), torch.tensor([[10.0, 10, 30, 25]]), SIZE).rescale(SIZE, (80, 120))
    wanted = np.zeros((80, 120), dtype=np.uint8)
    wanted[20:50, 20:60] = 1
    wanted[[20, 20, 49, 49], [20, 59, 20, 59]] = 0
    assert np.array_equal(coco_mask.decode(masks.encode()[0]), wanted)


def test_devices():
    masks = three()
    masks.probs.requires_grad_()
    assert masks.device == torch.device("cpu")
    assert isinstance(masks.cpu(), BoxMasks) and torch.equal(masks.cpu().probs, masks.probs)
    meta = masks.to("meta")
    assert meta.device.type == meta.boxes.device.type == "meta" and meta.size_hw == SIZE
    assert masks.probs.requires_grad and not masks.detach().probs.requires_grad


@pytest.mark.parametrize("masks", [three(), none()], ids=["three", "none"])
def test_a_prediction_with_them_is_selected_rescaled_and_copied(masks):
    whole = prediction(masks)
    kept = select(whole, whole["scores"] > 0.3)
    assert isinstance(kept["masks"], BoxMasks) and len(kept["masks"]) == len(kept["boxes"])
    scaled = rescale_prediction(kept, SIZE, (20, 90))
    assert torch.equal(scaled["masks"].paste(), kept["masks"].rescale(SIZE, (20, 90)).paste())
    # the boxes of the prediction are clipped to the image, those that the masks hang on are not
    assert len(scaled["boxes"]) == 0 or scaled["boxes"].min() >= 0
    assert whole["masks"] is masks and masks.size_hw == SIZE
    copied = to_cpu([scaled, whole])
    assert torch.equal(copied[0]["masks"].paste(), scaled["masks"].paste())
    assert copied[1]["masks"].encode() == masks.encode()


def test_no_masks():
    masks = none()
    assert len(masks) == 0 and masks.paste().shape == (0, 1, *SIZE) and masks.encode() == []
    assert masks.rescale(SIZE, (80, 30)).paste().shape == (0, 1, 80, 30)
    assert masks[torch.zeros(0, dtype=torch.bool)].shape == (0, 1, *SIZE)


def test_boxes_outside_of_the_image_and_without_area():
    boxes = torch.tensor([[100.0, 100, 120, 120], [-30, -30, -5, -5], [10, 10, 10, 20], [7, 5, 8, 6]])
    masks = BoxMasks(torch.ones(4, 14, 14), boxes, SIZE)
    assert coco_mask.area(masks.encode()).tolist() == [0, 0, 0, 1]
    assert masks.paste().nonzero().tolist() == [[3, 0, 5, 7]]
