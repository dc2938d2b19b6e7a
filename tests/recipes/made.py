"""Facts and machines that are made up, for choices that are pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from detframe.recipes.facts import DataFacts
from detframe.recipes.machine import GIGABYTE, Machine
from detframe.recipes.weights import FoundWeights
from detframe.recipes.wish import Wish

TWO_CORES = Machine(2, 8 * GIGABYTE)
ONE_GPU = Machine(16, 64 * GIGABYTE, "NVIDIA L4", 22 * GIGABYTE)
FOUR_GPUS = Machine(64, 512 * GIGABYTE, "NVIDIA A100", 40 * GIGABYTE, ranks=4)
WEIGHTS = FoundWeights("torchvision://MobileNet_V2_Weights.IMAGENET1K_V1", "found in a cache")


def facts(
    images: int = 200,
    size_hw: tuple[int, int] = (480, 640),
    side: float = 100.0,
    per_image: int = 4,
    spread: float = 1.3,
    ratio: float = 1.0,
    **others: Any,
) -> DataFacts:
    """Images of one size with so many objects each, whose sides are spread evenly around one, on a log scale."""
    rng = np.random.default_rng(0)
    count = images * per_image
    sides = side * spread ** rng.uniform(-1, 1, count)
    ratios = ratio * 1.2 ** rng.uniform(-1, 1, count)
    values = {
        "classes": ("raccoon",),
        "sizes_hw": np.tile(size_hw, (images, 1)),
        "objects": np.full(images, per_image),
        "val_images": max(1, images // 4),
        "most_objects": per_image,
        "widths": sides / np.sqrt(ratios),
        "heights": sides * np.sqrt(ratios),
        "centres_y": rng.uniform(0, 1, count),
        "owners": np.repeat(np.arange(images), per_image),
        "labels": np.ones(count, dtype=np.int64),
        "with_class": np.array([images]),
    }
    return DataFacts(**{**values, **others})


def wish(**values: Any) -> Wish:
    """A wish with weights, unless others are given."""
    return Wish(**{"weights": WEIGHTS, **values})
