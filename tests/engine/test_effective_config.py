"""The config that a model is built from is made in one place, for training, evaluation and trials."""

from __future__ import annotations

import pytest
import torch

from detframe.checkpoint import Checkpoint
from detframe.config import get_cfg
from detframe.data import Metadata
from detframe.engine import evaluate
from detframe.engine.inputs import effective_config
from detframe.errors import InvalidValueError

DATA = Metadata("mine", ("cat", "dog"), (1, 2))
BGR = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"


def config(*words):
    cfg = get_cfg()
    cfg.merge_from_list(list(words))
    cfg.freeze()
    return cfg


def checkpoint(*words):
    meta = {"config": config(*words).dump(), "class_names": ["cat", "dog"], "category_ids": [1, 2]}
    return Checkpoint({"weight": torch.zeros(1)}, meta)


def test_classes_are_those_of_the_data():
    cfg = config()
    out = effective_config(cfg, DATA)
    assert (out.MODEL.NUM_CLASSES, out.is_frozen(), cfg.MODEL.NUM_CLASSES) == (2, True, 0)
    with pytest.raises(ValueError, match=r"MODEL\.NUM_CLASSES is 3, but the data set mine has 2 classes"):
        effective_config(config("MODEL.NUM_CLASSES", 3), DATA)


def test_the_input_is_that_of_the_published_weights():
    out = effective_config(config("MODEL.WEIGHTS", BGR), DATA)
    assert (out.INPUT.FORMAT, out.INPUT.PIXEL_STD) == ("BGR", (1.0, 1.0, 1.0))
    assert effective_config(config(), DATA).INPUT.FORMAT == "RGB"


def test_the_input_is_that_of_the_checkpoint():
    trained = checkpoint("INPUT.FORMAT", "BGR", "INPUT.PIXEL_MEAN", (1.0, 2.0, 3.0))
    out = effective_config(config("MODEL.WEIGHTS", "model_final.pth"), DATA, trained)
    assert (out.INPUT.FORMAT, out.INPUT.PIXEL_MEAN, out.MODEL.NUM_CLASSES) == ("BGR", (1.0, 2.0, 3.0), 2)


def test_what_somebody_has_set_stays(caplog):
    out = effective_config(config("INPUT.FORMAT", "RGB"), DATA, checkpoint("INPUT.FORMAT", "BGR"))
    assert out.INPUT.FORMAT == "RGB" and "they may not work together" in caplog.text


def test_evaluating_weights_alone_points_at_the_config_that_lies_beside_them(tmp_path):
    (tmp_path / "model_best.pth").touch()
    with pytest.raises(InvalidValueError, match=r"catalog to evaluate on$"):
        evaluate(get_cfg().changed([("MODEL.WEIGHTS", str(tmp_path / "model_best.pth"))]))
    (tmp_path / "config.yaml").touch()
    with pytest.raises(InvalidValueError, match=rf"--config-file {tmp_path / 'config.yaml'}$"):
        evaluate(get_cfg().changed([("MODEL.WEIGHTS", str(tmp_path / "model_best.pth"))]))
