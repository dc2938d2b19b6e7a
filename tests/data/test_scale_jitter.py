"""Large-scale jitter: what is drawn in an image stays under its box, mask and keypoint."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detframe.config import get_cfg
from detframe.data.transforms import LargeScaleJitter, build_train_transforms, crop_target
from detframe.structures import LazyMasks, select
from detframe.structures.lazy_masks import encode


def scene(height: int = 120, width: int = 160, as_code: bool = False):
    """A white rectangle on black, its box, its mask, its middle and a keypoint that is absent."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, 30:70, 40:100] = 255
    polygon = np.array([40.0, 30, 100, 30, 100, 70, 40, 70])
    masks = LazyMasks([encode((image[0] > 0).numpy()) if as_code else [polygon]], (height, width))
    target = {
        "boxes": torch.tensor([[40.0, 30, 100, 70]]),
        "labels": torch.tensor([1]),
        "keypoints": torch.tensor([[[70.0, 50, 2], [0, 0, 0]]]),
        "masks": masks,
    }
    return image, target


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("as_code", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_everything_moves_together(seed: int, as_code: bool):
    cfg = get_cfg()
    cfg.merge_from_list(
        ["INPUT.LSJ.ON", True, "INPUT.LSJ.SIZE", 128, "INPUT.LSJ.MIN_SCALE", 0.5, "INPUT.FLIP_PROB", 0.5]
    )
    image, target = build_train_transforms(cfg)(*scene(as_code=as_code), generator(seed))
    height, width = image.shape[-2:]
    assert max(height, width) <= 128
    white = image[0] > 127
    if not len(target["labels"]):
        assert white.float().mean() < 0.01
        return
    x1, y1, x2, y2 = target["boxes"][0].tolist()
    assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    places = white.nonzero()
    found = [*places.min(0).values.flip(0).tolist(), *(places.max(0).values.flip(0) + 1).tolist()]
    assert np.abs(np.array(found) - [x1, y1, x2, y2]).max() <= 1.5
    mask = target["masks"].decode()[0]
    assert mask.shape == (height, width)
    assert (mask != white).float().mean() < 0.02
    (x, y, seen), absent = target["keypoints"][0].tolist()
    assert absent == [0, 0, 0]
    if seen:
        assert white[min(int(y), height - 1), min(int(x), width - 1)]
    else:
        assert (x, y) == (0, 0)


def test_the_scale_runs_from_tiny_to_huge_and_the_cut_moves():
    jitter = LargeScaleJitter(100, 0.1, 2.0)
    sizes, corners = [], set()
    for seed in range(60):
        image, target = jitter(*scene(), generator(seed))
        sizes.append(max(image.shape[-2:]))
        if sizes[-1] == 100:
            corners.add(tuple(target["boxes"][0, :2].round().tolist()))
    assert min(sizes) < 25 and sizes.count(100) > 15 and len(corners) > 10
    again = jitter(*scene(), generator(3))
    assert torch.equal(again[0], jitter(*scene(), generator(3))[0])


def test_a_target_cut_by_hand():
    _, target = scene()
    cut = crop_target(target, (50, 40, 90, 60))
    assert cut["boxes"].tolist() == [[-10, -10, 50, 30]]
    assert cut["keypoints"].tolist() == [[[20, 10, 2], [0, 0, 0]]]
    assert cut["masks"].decode().all() and cut["masks"].size_hw == (20, 40)
    assert crop_target(target, (0, 0, 60, 40))["keypoints"].tolist() == [[[0, 0, 0], [0, 0, 0]]]


def test_a_window_larger_than_the_image_adds_nothing():
    for as_code in (False, True):
        _, target = scene(as_code=as_code)
        whole, larger = target["masks"].decode(), target["masks"].crop((0, 0, 200, 150)).decode()
        assert torch.equal(larger[:, :120, :160], whole) and larger.sum() == whole.sum()


def test_an_image_without_objects():
    image, target = scene()
    none = select(target, torch.zeros(1, dtype=torch.bool))
    for seed in range(6):
        out, moved = LargeScaleJitter(64, 0.5, 2.0)(image, none, generator(seed))
        assert moved["boxes"].shape == (0, 4) and moved["keypoints"].shape == (0, 2, 3)
        assert moved["masks"].decode().shape == (0, *out.shape[-2:])


def test_an_object_outside_of_the_cut_is_removed():
    """Of two objects in opposite corners a cut of half the sides holds at most one with its middle."""
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.LSJ.ON", True, "INPUT.LSJ.SIZE", 50, "INPUT.LSJ.MIN_SCALE", 2.0, "INPUT.FLIP_PROB", 0])
    corners = torch.tensor([[0.0, 0, 10, 10], [90, 90, 100, 100]])
    polygons = [[np.array([x1, y1, x2, y1, x2, y2, x1, y2])] for x1, y1, x2, y2 in corners.tolist()]
    target = {"boxes": corners, "labels": torch.tensor([1, 2]), "masks": LazyMasks(polygons, (100, 100))}
    counts = []
    for seed in range(40):
        _, moved = build_train_transforms(cfg)(torch.zeros(3, 100, 100, dtype=torch.uint8), target, generator(seed))
        counts.append(len(moved["labels"]))
        assert len(moved["masks"]) == counts[-1] <= 1
        assert moved["masks"].decode().flatten(1).any(1).all()
    assert {0, 1} == set(counts)


@pytest.mark.parametrize("window", [(0, 0, 60, 50), (50, 35, 160, 120), (35, 45, 95, 68), (101, 0, 160, 120)])
def test_polygons_cut_as_their_pixels_are(window: tuple[int, int, int, int]):
    """Also where they leave the cut; a slanted side may differ by a pixel in a row."""
    slanted = [np.array([40.0, 30, 100, 37, 88, 70, 52, 64])]
    masks = LazyMasks([slanted], (120, 160))
    x1, y1, x2, y2 = window
    whole = masks.decode()[:, y1:y2, x1:x2]
    cut = masks.crop(window).decode()
    assert cut.shape == whole.shape and (cut != whole).sum() <= 0.02 * whole.sum()
    again = LazyMasks([encode(masks.decode()[0].numpy())], (120, 160)).crop(window).decode()
    assert torch.equal(again, whole)


@pytest.mark.parametrize("as_code", [False, True])
def test_the_box_of_an_object_that_is_cut_is_that_of_its_mask(as_code: bool):
    """A triangle whose box is the whole image: a cut shows part of it, or nothing; one without a mask keeps its box."""
    masks = LazyMasks([[np.array([0.0, 100, 100, 0, 100, 100])]], (100, 100))
    if as_code:
        masks = LazyMasks([encode(masks.decode()[0].numpy())], (100, 100))
    masks = LazyMasks([*masks.segmentations, []], (100, 100))
    target = {"boxes": torch.tensor([[0.0, 0, 100, 100]] * 2), "labels": torch.tensor([1, 2]), "masks": masks}
    left = []
    for seed in range(30):
        image = torch.zeros(3, 100, 100, dtype=torch.uint8)
        _, moved = LargeScaleJitter(40, 2.5, 2.5)(image, target, generator(seed))
        left.append(len(moved["labels"]))
        if left[-1] == 2:
            rows, columns = moved["masks"].decode()[0].nonzero().unbind(1)
            assert moved["boxes"][0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert moved["labels"][-1] == 2 and (moved["boxes"][-1, 2:] - moved["boxes"][-1, :2]).tolist() == [100, 100]
    assert set(left) == {1, 2}
