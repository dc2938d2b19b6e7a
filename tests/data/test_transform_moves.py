"""Whatever an entry of INPUT.TRANSFORMS does to an image, its boxes, masks, keypoints and ignored regions go along."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from detframe.config import get_cfg
from detframe.data.transforms import Pipeline, build_train_transforms
from detframe.registry import TRANSFORMS
from detframe.structures import LazyMasks, Target

HEIGHT, WIDTH = 72, 96
BOX = (30.0, 20.0, 62.0, 44.0)  # of the one object, which is white on black
ALBUMENTATIONS = pytest.mark.skipif(find_spec("albumentations") is None, reason="Albumentations is not installed")
MOVING: list[Any] = [
    {"Resize": {"min_sizes": [40, 110]}},
    {"LargeScaleJitter": {"size": 80, "min_scale": 0.8, "max_scale": 1.5}},
    "HorizontalFlip",
    "VerticalFlip",
    "RandomAffine",
    {"RandomAffine": {"degrees": 30, "shear": 10, "translate": 0.05, "scale": [0.7, 1.2]}},
    "RandomCropWithObjects",
    {"RandomCropWithObjects": {"keep": "all"}},
    {"v2.RandomHorizontalFlip": {"p": 0.5}},
    {"v2.RandomVerticalFlip": {"p": 0.5}},
    {"v2.RandomCrop": {"size": [60, 70]}},
    {"v2.RandomResizedCrop": {"size": [60, 70], "scale": [0.5, 1]}},
    {"v2.RandomZoomOut": {"p": 1}},
    {"v2.RandomShortestSize": {"min_size": [50, 100]}},
    {"v2.Pad": {"padding": [3, 7]}},
    pytest.param({"albumentations.HorizontalFlip": {"p": 0.5}}, marks=ALBUMENTATIONS),
    pytest.param({"albumentations.Transpose": {"p": 0.5}}, marks=ALBUMENTATIONS),
    pytest.param({"albumentations.RandomCrop": {"height": 60, "width": 70}}, marks=ALBUMENTATIONS),
    pytest.param({"albumentations.Affine": {"scale": [0.7, 1.2]}}, marks=ALBUMENTATIONS),
]
TURNING: list[Any] = [  # boxes around turned corners are larger than what they hold
    {"v2.RandomRotation": {"degrees": 30}},
    {"v2.RandomPerspective": {"distortion_scale": 0.3, "p": 1}},
    pytest.param({"albumentations.Affine": {"rotate": [-30, 30], "p": 1}}, marks=ALBUMENTATIONS),
    pytest.param({"albumentations.GridDistortion": {"p": 1}}, marks=ALBUMENTATIONS),  # which may lose points
    pytest.param({"albumentations.ElasticTransform": {"alpha": 60, "sigma": 8, "p": 1}}, marks=ALBUMENTATIONS),
]
STILL: list[Any] = [
    {"ColorJitter": {"brightness": 0.3, "hue": 0.1}},
    {"PhotometricDistort": {"swap": 0.5}},
    "GaussianBlur",
    "JPEGNoise",
    "CutOut",
    {"v2.ColorJitter": {"brightness": 0.5}},
    "v2.RandomPhotometricDistort",
    {"v2.RandomErasing": {"p": 1}},
    pytest.param({"albumentations.GaussNoise": {"p": 1}}, marks=ALBUMENTATIONS),
]
MIXING: list[Any] = [
    {"Mosaic": {"min_visible": 0}},
    {"Mosaic": {"size": 80, "min_visible": 0}},
    "MixUp",
    {"CopyPaste": {"p": 1}},
]


def pipeline(*entries: Any, **keys: Any) -> Pipeline:
    cfg = get_cfg()
    cfg.INPUT.TRANSFORMS, cfg.INPUT.MIN_SIZE_TRAIN = list(entries), (0,)
    for key, value in keys.items():
        cfg.INPUT[key] = value
    return build_train_transforms(cfg, [(0, 1)])


def painted(box: tuple[float, ...] = BOX, ignored: bool = True) -> tuple[Tensor, Target]:
    """One object with a polygon, keypoints at its upper left (left side) and lower right (right side) corners, and an
    ignored region in the same place."""
    x1, y1, x2, y2 = box
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    image[:, int(y1) : int(y2), int(x1) : int(x2)] = 255
    target: Any = {
        "boxes": torch.tensor([box]),
        "labels": torch.tensor([2]),
        "masks": LazyMasks([[[x1, y1, x2, y1, x2, y2, x1, y2]]], (HEIGHT, WIDTH)),
        "keypoints": torch.tensor([[[x1, y1, 2], [x2, y2, 1]]]),
        "image_id": 1,
    }
    return image, target | ({"ignore_boxes": torch.tensor([box])} if ignored else {})


def empty() -> tuple[Tensor, Target]:
    """An image without objects, of a data set with masks and keypoints."""
    image, target = painted(ignored=False)
    nothing: Any = {
        **target,
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": LazyMasks([], (HEIGHT, WIDTH)),
        "keypoints": torch.zeros(0, 2, 3),
    }
    return image, nothing


def others(generator: Generator) -> tuple[Tensor, Target, tuple[int, int]]:
    return (*painted((10.0, 6.0, 40.0, 70.0)), (HEIGHT, WIDTH))


def run(entry: Any, seed: int, sample: tuple[Tensor, Target] | None = None, **keys: Any) -> tuple[Tensor, Target]:
    return pipeline(entry, **keys)(*(sample or painted()), Generator().manual_seed(seed), None, others)


def around(pixels: np.ndarray) -> list[int] | None:
    """x1, y1, x2, y2 of what is true."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else None


def masks_of(target: Target) -> np.ndarray:
    masks = target["masks"]
    return (masks.decode() if isinstance(masks, LazyMasks) else masks).numpy()


@pytest.mark.parametrize("entry", MOVING, ids=str)
def test_the_box_lies_around_the_pixels_of_the_object(entry: Any) -> None:
    for seed in range(12):
        image, target = run(entry, seed)
        seen = around(image[0].numpy() > 127)
        if seen is None:
            assert not len(target["labels"])
            continue
        assert target["boxes"][0].tolist() == pytest.approx(seen, abs=1.6), (seed, entry)
        assert around(masks_of(target)[0]) == pytest.approx(seen, abs=1.6), (seed, entry)


@pytest.mark.parametrize("entry", TURNING, ids=str)
def test_turned_boxes_hold_the_pixels_of_the_object(entry: Any) -> None:
    for seed in range(6):
        image, target = run(entry, seed)
        seen = around(image[0].numpy() > 127)
        assert seen is not None
        assert around(masks_of(target)[0]) == pytest.approx(seen, abs=1.6), (seed, entry)
        x1, y1, x2, y2 = target["boxes"][0].tolist()
        assert x1 <= seen[0] + 1.6 and y1 <= seen[1] + 1.6 and x2 >= seen[2] - 1.6 and y2 >= seen[3] - 1.6


@pytest.mark.parametrize("entry", [*MOVING, *TURNING], ids=str)
def test_keypoints_stay_on_corners_of_the_object_and_keep_their_sides(entry: Any) -> None:
    """The corner of the mask that is nearest to a keypoint lies within two pixels; mirrored, rows are exchanged."""
    for seed in range(6):
        image, target = run(entry, seed)
        if not len(target["labels"]):
            continue
        rows, columns = np.nonzero(image[0].numpy() > 127)
        assert target["keypoints"].shape == (1, 2, 3)
        for x, y, visible in target["keypoints"][0].tolist():
            if visible:
                assert np.hypot(columns + 0.5 - x, rows + 0.5 - y).min() < 2.2, (seed, entry)
            else:
                assert (x, y) == (0, 0)


@pytest.mark.parametrize("name", ["HorizontalFlip", "v2.RandomHorizontalFlip", "albumentations.HorizontalFlip"])
def test_a_mirrored_left_side_is_a_right_one(name: str) -> None:
    if name.startswith("alb"):
        pytest.importorskip("albumentations")
    _, target = run({name: {"p": 1}}, 0)
    x1, y1, x2, y2 = BOX
    expected = [[WIDTH - x2, y2, 1], [WIDTH - x1, y1, 2]]  # the right one's visibility went along
    assert target["keypoints"][0].tolist() == expected


@pytest.mark.parametrize("entry", [*MOVING, *TURNING], ids=str)
def test_ignored_regions_move_as_boxes_do(entry: Any) -> None:
    for seed in range(4):
        image, target = run(entry, seed)
        height, width = image.shape[-2:]
        limit = torch.tensor([width, height, width, height])
        if len(target["labels"]):
            inside = torch.minimum(target["ignore_boxes"].clamp(min=0), limit)[0].tolist()
            # the object's own box is that of its mask where it was turned or cut
            assert inside[0] <= target["boxes"][0, 0] + 1.1 and inside[3] >= target["boxes"][0, 3] - 1.1


@pytest.mark.parametrize("entry", STILL, ids=str)
def test_what_changes_pixels_moves_nothing(entry: Any) -> None:
    before, changed = painted()[1], False
    for seed in range(4):
        image, target = run(entry, seed)
        assert image.shape == (3, HEIGHT, WIDTH) and image.dtype == torch.uint8
        changed = changed or not torch.equal(image, painted()[0])
        for key in ("boxes", "keypoints", "ignore_boxes"):
            assert torch.equal(target[key], before[key])  # type: ignore[literal-required]
        assert (masks_of(target) == masks_of(before)).all()
    assert changed


@pytest.mark.parametrize("entry", MIXING, ids=str)
def test_mixed_images_show_what_their_boxes_say(entry: Any) -> None:
    """All images are black with white objects: the boxes together hold all that is bright, and each holds some."""
    for seed in range(8):
        image, target = run(entry, seed, CLOSE_AT=0)
        if "Mosaic" in str(entry):
            image = torch.where(image == 114, 0, image)  # where no image reaches
        bright, covered = image[0].numpy() > 30, np.zeros(image.shape[-2:], dtype=bool)
        for box in target["boxes"].tolist():
            (x1, y1), (x2, y2) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
            assert bright[y1:y2, x1:x2].mean() > 0.6, (seed, entry)
            covered[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = True  # edges are smooth where it was resized
        assert not (bright & ~covered).any(), (seed, entry)
        assert len(target["labels"]) == len(masks_of(target)) == len(target["keypoints"])


@pytest.mark.parametrize("entry", [*MOVING, *TURNING, *STILL, *MIXING], ids=str)
def test_an_image_without_objects_stays_one(entry: Any) -> None:
    for seed in range(4):
        image, target = pipeline(entry, MIN_VISIBLE=0.5 * (seed % 2))(
            *empty(), Generator().manual_seed(seed), None, lambda generator: (*empty(), (HEIGHT, WIDTH))
        )
        assert target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)
        assert len(target["masks"]) == 0 and target["keypoints"].shape[1:] == (2, 3)  # type: ignore[arg-type]
        assert image.dtype == torch.uint8


@pytest.mark.parametrize("entry", [*MOVING, *TURNING, *STILL, *MIXING], ids=str)
def test_a_sample_is_a_function_of_its_seed_and_leaves_other_randomness_alone(entry: Any) -> None:
    torch.manual_seed(5)
    first = run(entry, 3)
    after = torch.rand(())
    torch.manual_seed(5)
    np.random.seed(1)
    assert torch.rand(()) == after
    image, target = run(entry, 3)
    assert torch.equal(image, first[0]) and torch.equal(target["boxes"], first[1]["boxes"])


def test_every_transform_of_detframe_is_tested_here() -> None:
    tested = {
        next(iter(e)) if isinstance(e, dict) else e for e in [*MOVING, *STILL, *MIXING] if isinstance(e, (str, dict))
    }
    own = {name for name, member in TRANSFORMS if member.__module__.startswith("detframe.")}
    assert own and own <= tested


def test_min_visible_counts_what_a_transform_leaves() -> None:
    """Of a box that a crop leaves some columns of, and of one that was turned before, to a part in a thousand."""
    shift = {"v2.RandomCrop": {"size": [HEIGHT, 50]}}
    for seed in range(20):
        _, kept = run(shift, seed)
        _, target = run(shift, seed, MIN_VISIBLE=0.6)
        share = 0.0
        if len(kept["labels"]):  # whose height is never cut
            share = float(kept["boxes"][0, 2] - kept["boxes"][0, 0]) / (BOX[2] - BOX[0])
        if abs(share - 0.6) > 1e-3:
            assert len(target["labels"]) == (share >= 0.6), (seed, share)


@pytest.mark.parametrize(
    ("entry", "share"),
    [
        ({"v2.CenterCrop": {"size": [HEIGHT, 15]}}, 15 / 32),  # columns 40.5 to 55.5, rounded to 40 to 55
        ({"v2.CenterCrop": {"size": [31, 96]}}, 23 / 24),  # rows 20.5 to 51.5, rounded to 20 or 21
        ({"v2.RandomRotation": {"degrees": [90, 90]}}, 1.0),
        ({"v2.RandomAffine": {"degrees": [45, 45], "translate": [0, 0]}}, 1.0),
        ({"v2.RandomPerspective": {"distortion_scale": 0.0, "p": 1}}, 1.0),
        pytest.param(
            {"albumentations.Crop": {"x_min": 43, "y_min": 0, "x_max": 96, "y_max": 72}}, 19 / 32, marks=ALBUMENTATIONS
        ),
    ],
    ids=str,
)
def test_the_part_of_a_box_that_other_libraries_leave_is_exact(entry: Any, share: float) -> None:
    for least, stays in ((share - 0.05, True), (min(1.0, share + 0.05), share > 0.95)):
        _, target = run(entry, 0, MIN_VISIBLE=least)
        assert len(target["labels"]) == stays, (entry, least)


@pytest.mark.parametrize(
    ("entry", "corners"),
    [
        ({"v2.RandomHorizontalFlip": {"p": 1}}, [(0, 72), (96, 0)]),  # whose left and right exchange rows
        ({"v2.Resize": {"size": [36, 192]}}, [(0, 0), (192, 36)]),
        ({"v2.Pad": {"padding": [3, 7]}}, [(3, 7), (99, 79)]),
        ({"v2.CenterCrop": {"size": [72, 90]}}, [(0, 0), (0, 0)]),
        pytest.param({"albumentations.HorizontalFlip": {"p": 1}}, [(0, 72), (96, 0)], marks=ALBUMENTATIONS),
        pytest.param({"albumentations.Transpose": {"p": 1}}, [(72, 96), (0, 0)], marks=ALBUMENTATIONS),
    ],
    ids=str,
)
def test_keypoints_on_the_border_stay_and_those_outside_are_absent(
    entry: Any, corners: list[tuple[float, float]]
) -> None:
    _, target = run(entry, 0, painted((0.0, 0.0, float(WIDTH), float(HEIGHT))))
    keypoints = target["keypoints"][0]
    assert (keypoints[:, :2] - torch.tensor(corners)).abs().max() < 0.02
    assert (keypoints[:, 2] > 0).tolist() == ["CenterCrop" not in str(entry)] * 2


def test_min_visible_of_a_transform_of_detframe_counts_the_box() -> None:
    shift = {"RandomAffine": {"translate": 0.7, "scale": [1, 1]}}
    outcomes = set()
    for seed in range(30):
        _, kept = run(shift, seed)
        _, target = run(shift, seed, MIN_VISIBLE=0.6)
        sides = kept["boxes"][:, 2:] - kept["boxes"][:, :2]
        share = float(sides.prod(1).sum()) / ((BOX[2] - BOX[0]) * (BOX[3] - BOX[1]))
        if abs(share - 0.6) > 1e-3:
            assert len(target["labels"]) == (share > 0.6), (seed, share)
            outcomes.add(share > 0.6)
    assert outcomes == {True, False}


@pytest.mark.parametrize("entry", [*MOVING, {"Mosaic": {"min_visible": 0}}, {"CopyPaste": {"p": 1}}], ids=str)
def test_masks_of_pixels_and_whatever_else_is_known_of_objects_go_along(entry: Any) -> None:
    """As targets of a model may have them: bool (N, H, W), and entries of each object."""

    def known(generator: Generator | None = None) -> Any:
        image, target = others(generator)[:2] if generator else painted()  # type: ignore[misc]
        more: Any = {"masks": target["masks"].decode(), "iscrowd": torch.tensor([True]), "area": torch.tensor([5.0])}  # type: ignore[union-attr]
        return image, {**target, **more}

    for seed in range(3):
        image, target = pipeline(entry)(
            *known(), Generator().manual_seed(seed), None, lambda generator: (*known(generator), (HEIGHT, WIDTH))
        )
        count = len(target["labels"])
        assert len(masks_of(target)) == len(target["iscrowd"]) == len(target["area"]) == count, (seed, entry)
        bright = (image[0].numpy() > 127) & (count > 0)
        assert (masks_of(target).any(0) != bright).sum() <= 0.2 * bright.sum() + 2, (seed, entry)


CUTTING: list[Any] = [
    {"LargeScaleJitter": {"size": 60, "min_scale": 1.2, "max_scale": 2}},
    {"RandomCropWithObjects": {"scale": [0.2, 0.4]}},
    {"RandomAffine": {"translate": 0.5, "scale": [1, 1]}},
    {"v2.RandomCrop": {"size": [40, 50]}},
]


@pytest.mark.parametrize("cut", CUTTING, ids=str)
def test_what_was_cut_off_does_not_come_back(cut: Any) -> None:
    """A polygon that reached beyond the image stays cut where a later entry shows what is beyond."""
    away = {"RandomAffine": {"degrees": 5, "scale": [0.5, 0.6], "translate": 0}}
    wide, seen = (12.0, 20.0, 90.0, 60.0), 0
    for seed in range(8):
        image, target = pipeline(cut, away)(*painted(wide), Generator().manual_seed(seed), None, others)
        bright = image[0].numpy() > 180
        if not len(target["labels"]):
            continue
        mask = masks_of(target)[0]
        assert (mask & ~bright).sum() <= 0.25 * bright.sum(), (seed, cut)
        assert target["boxes"][0].tolist() == pytest.approx(around(mask), abs=1.6), (seed, cut)
        seen += 1
    assert seen > 4


CUTTING_ELSEWHERE: list[Any] = [
    {"v2.RandomCrop": {"size": [40, 50]}},
    {"v2.RandomAffine": {"degrees": 40, "translate": [0.3, 0.3]}},
    pytest.param({"albumentations.RandomCrop": {"height": 40, "width": 50}}, marks=ALBUMENTATIONS),
    pytest.param({"albumentations.Perspective": {"scale": [0.15, 0.2], "p": 1}}, marks=ALBUMENTATIONS),
    pytest.param({"albumentations.Rotate": {"limit": 60, "crop_border": True, "p": 1}}, marks=ALBUMENTATIONS),
]


@pytest.mark.parametrize("entry", [*CUTTING[:3], *CUTTING_ELSEWHERE], ids=str)
def test_what_is_cut_gets_the_box_of_what_is_left_of_its_mask(entry: Any) -> None:
    """A part of a diamond has a smaller box than the same part of the box around it."""
    x1, y1, x2, y2 = 12.0, 10.0, 84.0, 62.0
    image, target = painted((x1, y1, x2, y2), ignored=False)
    target["masks"] = LazyMasks([[[(x1 + x2) / 2, y1, x2, 36.0, (x1 + x2) / 2, y2, x1, 36.0]]], (HEIGHT, WIDTH))
    image = image * target["masks"].decode()
    cut = 0
    for seed in range(12):
        seen, moved = run(entry, seed, (image, target))
        height, width = seen.shape[-2:]
        pixels = around(seen[0].numpy() > 127)
        if pixels is None or len(moved["labels"]) == 0:
            continue
        if pixels[0] == 0 or pixels[1] == 0 or pixels[2] == width or pixels[3] == height:
            assert moved["boxes"][0].tolist() == pytest.approx(pixels, abs=2), (seed, entry)
            cut += 1
    assert cut > 3


def test_a_crop_by_overlap_goes_by_objects_alone() -> None:
    """RandomIoUCrop sees neither keypoints nor ignored regions: an object stays, sides keep their rows, and a region
    stays of which a part is shown."""
    cropped = False
    for seed in range(40):
        image, target = painted()
        target["ignore_boxes"] = torch.tensor([[0.0, 0.0, WIDTH, HEIGHT], list(BOX)])
        image, target = pipeline("v2.RandomIoUCrop")(image, target, Generator().manual_seed(seed))
        cropped = cropped or image.shape[-2:] != (HEIGHT, WIDTH)
        assert target["labels"].tolist() == [2]
        assert target["keypoints"][0, :, 2].tolist() in ([2, 1], [2, 0], [0, 1], [0, 0])
        height, width = image.shape[-2:]
        assert target["ignore_boxes"][0].tolist() == [0, 0, width, height]
    assert cropped
