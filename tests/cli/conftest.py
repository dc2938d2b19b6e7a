"""A small random detector in a checkpoint of detframe's format, and pictures for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.recipes.conftest import squares  # noqa: F401

TINY = [
    "MODEL.BACKBONE.CONV_BODY", "R-18-FPN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0,
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 8,
    "MODEL.RESNETS.NORM", "BN",
    "MODEL.FPN.OUT_CHANNELS", 16,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32,
    "MODEL.RPN.POST_NMS_TOP_N_TEST", 50,
    "MODEL.ROI_HEADS.SCORE_THRESH", 0.0,
    "MODEL.DEVICE", "cpu",
    "MODEL.NUM_CLASSES", 2,
    "INPUT.MIN_SIZE_TEST", 0,
    "INPUT.MAX_SIZE_TEST", 0,
    "TEST.DETECTIONS_PER_IMG", 5,
]  # fmt: skip


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, write_checkpoint: Callable[..., Path]) -> Path:
    """A detector of two classes, "cat" (category 3) and "dog" (category 7), with random weights."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model_final.pth")


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[..., Path]:
    """Write such a checkpoint with other settings: write_checkpoint(path, "KEY", value)."""
    return _write_checkpoint


def _write_checkpoint(path: Path, *opts: object) -> Path:
    import torch

    from detframe import __version__
    from detframe.config import get_cfg
    from detframe.modeling import build_detection_model

    cfg = get_cfg()
    cfg.merge_from_list([*TINY, *opts])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_detection_model(cfg)
    meta = {
        "format": 1,
        "detframe_version": __version__,
        "config": cfg.dump(),
        "class_names": ["cat", "dog"],
        "category_ids": [3, 7],
        "keypoint_names": [],
        "keypoint_flip_pairs": [],
        "input_format": "RGB",
        "iteration": 1,
        "metrics": {},
    }
    torch.save({"model": model.state_dict(), "meta": meta}, path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three small pictures."""
    import cv2

    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (48, 64, 3)), ("b.jpg", (64, 48, 3)), ("c.png", (48, 64, 3))):
        cv2.imwrite(str(folder / name), rng.integers(0, 255, shape, dtype=np.uint8))
    return folder


def run(checkpoint: Path, output: Path, *words: object) -> int:
    """`detframe predict` with that detector on the CPU; gives the exit code."""
    from detframe.cli import predict

    return predict.main(["--weights", str(checkpoint), "--output", str(output), "--device", "cpu", *map(str, words)])


def load(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))
