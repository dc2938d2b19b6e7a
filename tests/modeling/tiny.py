"""A detector small enough for every test, two images of different sizes, and targets for them."""

from __future__ import annotations

import torch
from torch import nn

from detframe.config import get_cfg
from detframe.structures import ImageList

TINY = {
    "MODEL.DEVICE": "cpu",
    "MODEL.NUM_CLASSES": 3,
    "MODEL.BACKBONE.CONV_BODY": "R-18-FPN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.FPN.OUT_CHANNELS": 16,
}
DENSE = {"MODEL.BACKBONE.CONV_BODY": "R-18-FPN-RETINANET", "MODEL.ROI_HEADS.NAME": ""}


def tiny_config(keys, *opts):
    """The defaults, made small, with the keys of a test file and then the overrides of a test."""
    cfg = get_cfg()
    cfg.merge_from_list([word for pair in {**TINY, **keys}.items() for word in pair])
    cfg.merge_from_list(list(opts))
    return cfg


def make_target(boxes, labels, **more):
    """A training target of lists; the boxes may be none."""
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64), **more}


FULL = make_target([[4.0, 4, 40, 40], [20, 10, 60, 50]], [1, 3], seed=5)
EMPTY = make_target([], [], seed=6)


def make_images():
    """Two uint8 images of noise, 70x90 and 64x51, always the same."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator) for size in ((70, 90), (64, 51))]


def assert_finds_what_it_learned(model: nn.Module) -> None:
    """Overfitted to one picture, a model puts its box onto the object: no offset between grid and image."""
    image = torch.full((3, 96, 128), 30, dtype=torch.uint8)
    image[:, 40:72, 80:112] = 220
    target = make_target([[80.0, 40, 112, 72]], [2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        sum(model([image], [target]).values()).backward()
        optimizer.step()
    with torch.inference_mode():
        best = model.eval()([image])[0]
    assert best["labels"][0] == 2 and best["scores"][0] > 0.3
    assert (best["boxes"][0] - target["boxes"][0]).abs().max() < 4


def batch() -> ImageList:
    """Two images of unlike sizes, all zeros."""
    return ImageList(torch.zeros(2, 3, 64, 96), [(64, 96), (50, 61)])
