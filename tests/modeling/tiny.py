"""A detector small enough for every test, two images of different sizes, and targets for them."""

from __future__ import annotations

import torch

from detframe.config import get_cfg

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
