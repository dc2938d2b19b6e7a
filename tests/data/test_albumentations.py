"""Boxes and keypoints of Albumentations lie where the image lies, whichever transform moves it."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from detframe.config import get_cfg
from detframe.data.transforms import build_train_transforms
from detframe.structures import Target

albumentations = pytest.importorskip("albumentations")
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:albumentations")  # that there are better ones

HEIGHT, WIDTH = 120, 160
SPOT = 2.0  # standard deviation of what is drawn, in pixels
REACH = 8  # of its box, on each side
# Arguments that make a transform move the image a good deal; those that are not here have their defaults
ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "Affine": [
        {"scale": [1.3, 1.3]},
        {"rotate": [20, 20], "scale": 0.7},
        {"rotate": [30, 30], "fit_output": True},
        {"rotate": [-75, -75], "scale": [0.5, 0.5], "fit_output": True},
    ],
    "AtLeastOneBBoxRandomCrop": [{"height": 90, "width": 90}],
    "CenterCrop": [{"height": 90, "width": 101}],
    "Crop": [{"x_min": 20, "y_min": 11, "x_max": 140, "y_max": 100}],
    "CropAndPad": [{"px": -7}, {"percent": 0.1}, {"percent": -0.2}, {"px": [5, -3, 8, 2], "keep_size": False}],
    "LongestMaxSize": [{"max_size": 401}, {"max_size": 77}],
    "PadIfNeeded": [{"min_height": 200, "min_width": 203}],
    "RandomCrop": [{"height": 100, "width": 120}],
    "RandomResizedCrop": [{"size": [201, 220]}, {"size": [50, 60], "scale": [0.6, 1.0]}],
    "RandomScale": [{"scale_limit": [1, 1]}, {"scale_limit": [0.447, 0.447]}, {"scale_limit": [-0.53, -0.53]}],
    "RandomSizedBBoxSafeCrop": [{"height": 200, "width": 301}],
    "RandomSizedCrop": [{"min_max_height": [80, 100], "size": [300, 310]}],
    "Resize": [{"height": 240, "width": 480}, {"height": 61, "width": 70}],
    "Rotate": [{"limit": [20, 20]}, {"limit": [-33, -33], "crop_border": True}],
    "SafeRotate": [{"limit": [20, 20]}, {"limit": [-75, -75]}],
    "SmallestMaxSize": [{"max_size": 401}, {"max_size_hw": [77, None]}],
}
# Those of which there is no map of the plane that is straight everywhere
BENDING = {"ElasticTransform", "GridDistortion", "GridElasticDeform", "OpticalDistortion", "PiecewiseAffine"}
BENDING |= {"Perspective", "RandomGridShuffle", "ThinPlateSpline"}
# Those that hide parts of the image, of which it takes several, or which a list refuses
OTHERS = {"CoarseDropout", "ConstrainedCoarseDropout", "CropNonEmptyMaskIfExists", "Erasing", "FrequencyMasking"}
OTHERS |= {"GridDropout", "Lambda", "MaskDropout", "Morphological", "Mosaic", "NoOp", "OverlayElements", "PixelDropout"}
OTHERS |= {"RandomCropNearBBox", "TimeMasking", "XYMasking"}


def moving() -> list[Any]:
    """An entry for each transform of the installed Albumentations that moves the image along straight lines."""
    known = inspect.getmembers(albumentations, inspect.isclass)
    names = [name for name, one in known if issubclass(one, albumentations.DualTransform)]
    volumes = {name for name in names if issubclass(getattr(albumentations, name), albumentations.Transform3D)}
    left = sorted(set(names) - volumes - BENDING - OTHERS - {"DualTransform"})
    return [{f"albumentations.{name}": {**given, "p": 1}} for name in left for given in ARGUMENTS.get(name, [{}])]


def spot(x: float, y: float) -> tuple[Tensor, Target]:
    """A spot of light with a keypoint in its middle and a box around it, which is also an ignored region."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    light = 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * SPOT**2))
    box = torch.tensor([[x - REACH, y - REACH, x + REACH, y + REACH]])
    target: Target = {
        "boxes": box,
        "labels": torch.tensor([1]),
        "keypoints": torch.tensor([[[x, y, 2.0]]]),
        "ignore_boxes": box.clone(),
        "image_id": 1,
    }
    return torch.from_numpy(light.astype(np.float32)).repeat(3, 1, 1), target


def middle(image: Tensor) -> Tensor:
    """Where the light of an image is, as (x, y)."""
    light = image[0].double() * (image[0] > 1e-3)
    rows = (torch.arange(light.shape[0]) + 0.5) * light.sum(1)
    columns = (torch.arange(light.shape[1]) + 0.5) * light.sum(0)
    return torch.stack([columns.sum(), rows.sum()]) / light.sum()


KEEPING = ["Affine", "CoarseDropout", "CropAndPad", "ElasticTransform", "Erasing", "GridDistortion", "GridDropout"]
KEEPING += ["GridElasticDeform", "HorizontalFlip", "NoOp", "OpticalDistortion", "Perspective", "PiecewiseAffine"]
KEEPING += ["PixelDropout", "RandomGridShuffle", "Rotate", "SafeRotate", "ThinPlateSpline", "VerticalFlip", "XYMasking"]
CHANGING = [("Affine", "fit_output", True), ("Rotate", "crop_border", True), ("CropAndPad", "keep_size", False)]
CHANGING += [("Perspective", "keep_size", False)]
NEEDED: dict[str, dict[str, Any]] = {
    "Affine": {"rotate": [20, 20]},
    "CropAndPad": {"px": 4},
    "GridElasticDeform": {"num_grid_xy": [4, 4], "magnitude": 6},
    "XYMasking": {"num_masks_x": 1, "num_masks_y": 1, "mask_x_length": 5, "mask_y_length": 5},
}


def largest_after(name: str, **arguments: Any) -> tuple[int, int]:
    cfg = get_cfg()
    cfg.INPUT.TRANSFORMS = [{f"albumentations.{name}": {**NEEDED.get(name, {}), **arguments, "p": 1}}]
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    transforms = build_train_transforms(cfg)
    image, _ = transforms(*spot(80.3, 60.4), Generator().manual_seed(0))
    assert not arguments or image.shape[-2:] != (HEIGHT, WIDTH)
    return transforms.largest_after((HEIGHT, WIDTH))


@pytest.mark.parametrize("name", KEEPING)
def test_what_keeps_the_size_is_known_to(name: str) -> None:
    assert largest_after(name) == (HEIGHT, WIDTH)


@pytest.mark.parametrize(("name", "argument", "value"), CHANGING)
def test_what_an_argument_makes_change_the_size_is_not_taken_to_keep_it(name: str, argument: str, value: bool) -> None:
    with pytest.raises(ValueError, match=f"what becomes of it in albumentations.{name}"):
        largest_after(name, **{argument: value})


@pytest.mark.parametrize("entry", moving(), ids=str)
def test_points_and_boxes_go_where_the_image_goes(entry: dict[str, Any]) -> None:
    cfg = get_cfg()
    cfg.INPUT.TRANSFORMS, cfg.INPUT.MIN_SIZE_TRAIN = [entry], (0,)
    transforms = build_train_transforms(cfg)
    seen = 0
    for seed in range(2):
        for x, y in ((50.3, 41.7), (90.2, 70.9), (110.4, 50.5)):
            image, target = transforms(*spot(x, y), Generator().manual_seed(seed))
            if not len(target["boxes"]):
                continue
            box, limit = target["boxes"][0], torch.tensor([image.shape[2], image.shape[1]] * 2)
            if (torch.cat([box[:2], limit[2:] - box[2:]]) < 1).any():
                continue  # it is cut, or nearly
            light, seen = middle(image), seen + 1
            torch.testing.assert_close(target["keypoints"][0, 0, :2].double(), light, atol=0.06, rtol=0)
            torch.testing.assert_close((box[:2] + box[2:]).double() / 2, light, atol=0.06, rtol=0)
            torch.testing.assert_close(target["ignore_boxes"][0], box)
    assert seen >= 2
