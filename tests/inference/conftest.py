"""A tiny detector with random weights, saved as training saves it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detframe.config import get_cfg
from detframe.inference import Detector
from detframe.modeling import build_detection_model
from tests.threads import one_thread  # noqa: F401

NAMES = ("circle", "square", "star")


def tiny_cfg():
    cfg = get_cfg()
    settings = {
        "MODEL.DEVICE": "cpu",
        "MODEL.NUM_CLASSES": 3,
        "MODEL.BACKBONE.CONV_BODY": "R-18-FPN",
        "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
        "MODEL.FPN.OUT_CHANNELS": 16,
        "MODEL.RPN.PRE_NMS_TOP_N_TEST": 100,
        "MODEL.RPN.POST_NMS_TOP_N_TEST": 50,
        "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
        "MODEL.RPN.ANCHOR_SIZES": ((8,), (16,), (32,), (64,), (128,)),
        "INPUT.MIN_SIZE_TEST": 96,
        "INPUT.MAX_SIZE_TEST": 160,
        "TEST.DETECTIONS_PER_IMG": 20,
        "SOLVER.MAX_ITER": "12ep",
        "OUTPUT_DIR": "/a/folder/of/another/machine",
        "MODEL.WEIGHTS": "/weights/of/another/machine.pth",
    }
    cfg.merge_from_list([word for item in settings.items() for word in item])
    return cfg


def tiny_checkpoint():
    cfg = tiny_cfg()
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    with torch.no_grad():  # spread the scores, so that their order is not decided by float errors
        for parameter in model.roi_heads.parameters():
            parameter.mul_(3)
    meta = {
        "format": 1,
        "detframe_version": "0.1.0",
        "config": cfg.dump(),
        "class_names": list(NAMES),
        "category_ids": [1, 5, 9],
        "keypoint_names": [],
        "keypoint_flip_pairs": [],
        "input_format": "RGB",
        "iteration": 7,
        "metrics": {"bbox/AP": 12.5},
    }
    return {"model": model.state_dict(), "meta": meta}


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model_best.pth"
    torch.save(tiny_checkpoint(), path)
    return path


def picture(height, width, seed):
    """Coloured rectangles on noise, RGB uint8."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    for _ in range(6):
        y, x = rng.integers(0, height - 10), rng.integers(0, width - 10)
        image[y : y + rng.integers(8, height), x : x + rng.integers(8, width)] = rng.integers(0, 255, 3)
    return image


@pytest.fixture(scope="module")
def detector(checkpoint_path):
    """The tiny detector, loaded."""
    return Detector.load(checkpoint_path, device="cpu", amp="off")
