"""Transforms: boxes, masks and keypoints move with the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch import Generator, Tensor

from detframe.config import get_cfg
from detframe.data import resize_shape
from detframe.data.transforms import (
    ColorJitter,
    Compose,
    HorizontalFlip,
    Resize,
    VerticalFlip,
    build_test_transforms,
    build_train_transforms,
)
from detframe.data.transforms.pipeline import Given
from detframe.structures import LazyMasks, Target
from tests.data.sets import pixels

HEIGHT, WIDTH = 48, 64
BOXES = [[8.0, 4.0, 24.0, 20.0], [40.0, 30.0, 60.0, 46.0], [0.0, 0.0, 64.0, 48.0]]


def rectangle(box: list[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def sample() -> tuple[Tensor, Target]:
    """Rectangles, so that masks can be compared with boxes; the second one as run lengths."""
    filled = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    filled[30:46, 40:60] = 1
    masks = LazyMasks([[rectangle(BOXES[0])], coco_mask.encode(filled), [rectangle(BOXES[2])]], (HEIGHT, WIDTH))
    keypoints = torch.tensor([[[b[0], b[1], 2], [b[2], b[3], 1], [0, 0, 0]] for b in BOXES])
    target: Any = {
        "boxes": torch.tensor(BOXES),
        "labels": torch.tensor([1, 2, 3]),
        "masks": masks,
        "keypoints": keypoints,
        "image_id": 5,
    }
    return torch.from_numpy(pixels(HEIGHT, WIDTH)).permute(2, 0, 1), target


def apply(*transforms: Any, seed: int = 0) -> tuple[Tensor, Target]:
    image, target = sample()
    return Compose(transforms)(image, target, Generator().manual_seed(seed))


def check_consistent(image: Tensor, target: Target) -> None:
    """Masks fill their boxes; keypoints still lie on corners."""
    masks = target["masks"].decode()  # type: ignore[union-attr]
    assert masks.shape == (3, *image.shape[-2:])
    for mask, box in zip(masks, target["boxes"], strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        found = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
        assert (found - box).abs().max() <= 1.0
        assert abs(float(mask.sum()) / float((box[2:] - box[:2]).prod()) - 1) < 0.1
    corners_x, corners_y = target["boxes"][:, None, [0, 2]], target["boxes"][:, None, [1, 3]]
    points = target["keypoints"][target["keypoints"][..., 2] > 0].view(3, 2, 3)
    assert (points[..., :1] - corners_x).abs().min(-1).values.max() < 1e-4
    assert (points[..., 1:2] - corners_y).abs().min(-1).values.max() < 1e-4


@pytest.mark.parametrize(
    ("size_hw", "min_size", "max_size", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),  # 1066.67 rounds up, as in detectron2; torchvision's models say 1066
        ((640, 480), 800, 1333, (1067, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((300, 1000), 800, 1333, (400, 1333)),
        ((300, 1000), 800, 0, (800, 2667)),
        ((480, 640), 0, 0, (480, 640)),
        ((480, 640), 0, 100, (480, 640)),
        ((480, 640), 240, 1333, (240, 320)),
        ((1, 4000), 8, 100, (1, 100)),
    ],
)
def test_resize_shape(size_hw: tuple[int, int], min_size: int, max_size: int, expected: tuple[int, int]) -> None:
    assert resize_shape(size_hw, min_size, max_size) == expected


@pytest.mark.parametrize("size", [24, 48, 77])
def test_resize(size: int) -> None:
    image, target = apply(Resize((size,)))
    assert image.shape == (3, *resize_shape((HEIGHT, WIDTH), size))
    assert image.dtype == torch.uint8
    scale = torch.tensor([image.shape[2] / WIDTH, image.shape[1] / HEIGHT] * 2)
    torch.testing.assert_close(target["boxes"], torch.tensor(BOXES) * scale)
    assert type(target["boxes"]) is Tensor
    check_consistent(image, target)


def test_resize_to_the_same_size_touches_nothing() -> None:
    image, target = sample()
    out, _ = Compose([Resize((48,))])(image, target, Generator())
    assert out.data_ptr() == image.data_ptr()


def test_resize_smooths_when_it_shrinks() -> None:
    stripes = torch.zeros(3, 64, 64, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    out, _ = Resize((8,))(stripes, {"boxes": torch.zeros(0, 4)}, Generator())
    assert (out.float() - 127.5).abs().max() < 20


def test_horizontal_flip() -> None:
    image, target = apply(HorizontalFlip(1.0))
    assert torch.equal(image, sample()[0].flip(-1))
    assert target["boxes"][0].tolist() == [WIDTH - 24, 4, WIDTH - 8, 20]
    check_consistent(image, target)


def test_vertical_flip() -> None:
    image, target = apply(VerticalFlip(1.0))
    assert torch.equal(image, sample()[0].flip(-2))
    assert target["boxes"][0].tolist() == [8, HEIGHT - 20, 24, HEIGHT - 4]
    check_consistent(image, target)


def test_flip_after_resize() -> None:
    check_consistent(*apply(Resize((33,)), HorizontalFlip(1.0), VerticalFlip(1.0)))


def test_stages_are_those_of_what_happens() -> None:
    image, target = sample()
    pipeline = Compose([Resize((48,)), HorizontalFlip(0.0), VerticalFlip(1.0)])
    names = [stage.name for stage in pipeline.stages(Given(image, target, Generator()))]
    assert names == ["", "VerticalFlip", "clip_and_drop"]  # images have 48 pixels already


@pytest.mark.parametrize("flip", [HorizontalFlip, VerticalFlip])
def test_flips_exchange_left_and_right_keypoints(flip: Any) -> None:
    _, plain = apply(flip(1.0))
    _, target = apply(flip(1.0, ((0, 1),)))
    assert torch.equal(target["keypoints"], plain["keypoints"][:, [1, 0, 2]])
    _, twice = apply(flip(1.0, ((0, 1),)), flip(1.0, ((0, 1),)))
    assert torch.equal(twice["keypoints"], sample()[1]["keypoints"])


def test_absent_keypoints_stay_at_zero() -> None:
    _, target = apply(Resize((77,)), HorizontalFlip(1.0), VerticalFlip(1.0))
    assert not target["keypoints"][:, 2].any()


def test_boxes_are_clipped_and_those_without_area_dropped_with_their_rows() -> None:
    image, target = sample()
    target["boxes"] = torch.tensor([[-5.0, -5, 30, 30], [70, 10, 90, 20], [50, 40, 80, 60]])
    _, out = Compose([])(image, target, Generator())
    assert out["boxes"].tolist() == [[0, 0, 30, 30], [50, 40, 64, 48]]
    assert out["labels"].tolist() == [1, 3]
    assert len(out["masks"]) == len(out["keypoints"]) == 2
    assert len(target["boxes"]) == 3  # the argument is as it was


def test_a_target_without_objects() -> None:
    image, _ = sample()
    empty: Any = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.long),
        "masks": LazyMasks([], (HEIGHT, WIDTH)),
        "keypoints": torch.zeros(0, 3, 3),
    }
    pipeline = Compose([Resize((30,)), HorizontalFlip(1.0, ((0, 1),)), VerticalFlip(1.0), ColorJitter(0.1)])
    image, target = pipeline(image, empty, Generator())
    assert target["boxes"].shape == (0, 4)
    assert target["keypoints"].shape == (0, 3, 3)
    assert target["masks"].decode().shape == (0, *image.shape[-2:])  # type: ignore[union-attr]


def test_the_generator_decides_everything() -> None:
    pipeline = (Resize((30, 40, 50)), HorizontalFlip(0.5), VerticalFlip(0.5), ColorJitter(0.4, 0.4, 0.4, 0.1))
    state = torch.get_rng_state()
    first = [apply(*pipeline, seed=seed) for seed in range(12)]
    torch.manual_seed(99)
    again = [apply(*pipeline, seed=seed) for seed in range(12)]
    torch.set_rng_state(state)
    for (image_a, target_a), (image_b, target_b) in zip(first, again, strict=True):
        assert torch.equal(image_a, image_b)
        assert torch.equal(target_a["boxes"], target_b["boxes"])
    assert len({image.shape for image, _ in first}) == 3
    assert len({tuple(target["boxes"][0].tolist()) for _, target in first}) > 4


def test_the_global_random_stream_is_not_touched() -> None:
    state = torch.get_rng_state()
    apply(Resize((30, 40)), HorizontalFlip(0.5), ColorJitter(0.4, 0.4, 0.4, 0.1))
    assert torch.equal(torch.get_rng_state(), state)


def test_range_draws_every_size() -> None:
    sizes = {apply(Resize((20, 23), sampling="range"), seed=seed)[0].shape[1] for seed in range(60)}
    assert sizes == {20, 21, 22, 23}


def test_scale_draws_every_size_of_a_long_image_too() -> None:
    resize = Resize((30, 50), 50, sampling="scale")
    shapes = {resize.size_after((40, 80), Generator().manual_seed(seed)) for seed in range(300)}
    assert shapes == {((longer + 1) // 2, longer) for longer in range(30, 51)}  # "range": all of them 25 x 50
    assert resize.largest((40, 80)) == (25, 50)
    assert Resize((30, 50), 0, sampling="scale").size_after((40, 80), Generator())[1] >= 60


def test_colour_jitter_leaves_the_target_alone() -> None:
    image, target = apply(ColorJitter(0.5, 0.5, 0.5, 0.2), seed=3)
    assert image.dtype == torch.uint8
    assert not torch.equal(image, sample()[0])
    assert target["boxes"].tolist() == BOXES
    darker = [
        ColorJitter(brightness=0.5)(sample()[0], {}, Generator().manual_seed(s))[0].float().mean() for s in range(30)
    ]
    mean = sample()[0].float().mean()
    assert min(darker) >= 0.49 * mean
    assert max(darker) > 1.1 * mean > 0.9 * mean > min(darker)


def test_what_is_off_is_left_out() -> None:
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", 0, "INPUT.FLIP_PROB", 0, "INPUT.MIN_SIZE_TEST", 0])
    assert build_train_transforms(cfg).transforms == ()
    assert build_test_transforms(cfg).transforms == ()
    cfg.merge_from_list(
        ["INPUT.MIN_SIZE_TRAIN", (24, 32), "INPUT.FLIP_PROB", 0.5, "INPUT.VERTICAL_FLIP_PROB", 0.5, "INPUT.HUE", 0.1]
    )
    kinds = [type(t) for t in build_train_transforms(cfg).transforms]
    assert kinds == [Resize, HorizontalFlip, VerticalFlip, ColorJitter]
