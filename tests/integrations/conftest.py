"""Small detectors of every kind of prediction, with random weights, as training saves them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detframe.inference import Detector
from detframe.modeling import build_detection_model
from tests.inference.conftest import one_thread, tiny_cfg, tiny_checkpoint

__all__ = ["one_thread"]


def save_checkpoint(path: Path, *settings: object) -> Path:
    """A detector of categories 1, 5 and 9, whose scores lie far apart, above and below 0.4."""
    cfg = tiny_cfg()
    cfg.merge_from_list(list(settings))
    torch.manual_seed(2)
    model = build_detection_model(cfg)
    with torch.no_grad():
        for parameter in model.roi_heads.parameters():
            parameter.mul_(2)
    torch.save({"model": model.state_dict(), "meta": {**tiny_checkpoint()["meta"], "config": cfg.dump()}}, path)
    return path


def load(path: Path) -> Detector:
    return Detector.load(path, device="cpu", amp="off")


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("plain") / "model_best.pth")


@pytest.fixture(scope="session")
def detector(checkpoint_path):
    return load(checkpoint_path)


@pytest.fixture(scope="session")
def mask_detector(tmp_path_factory):
    settings = ("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8)
    return load(save_checkpoint(tmp_path_factory.mktemp("masks") / "model_best.pth", *settings))


@pytest.fixture(scope="session")
def keypoint_detector(tmp_path_factory):
    settings = (
        "MODEL.KEYPOINT_ON",
        True,
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS",
        4,
        "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS",
        (8,),
    )
    return load(save_checkpoint(tmp_path_factory.mktemp("keypoints") / "model_best.pth", *settings))


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """FiftyOne with a database of its own; the test is skipped where there is no FiftyOne or no database."""
    fiftyone = pytest.importorskip("fiftyone")
    from fiftyone.core.config import FiftyOneConfigError

    fiftyone.config.database_validation = False  # whichever version of MongoDB is there
    fiftyone.config.do_not_track = True
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path_factory.mktemp("database")))
        try:
            fiftyone.list_datasets()
        except FiftyOneConfigError as error:
            pytest.skip(f"no database: {error}")
        yield
