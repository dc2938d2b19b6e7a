"""Exported detectors of other channels than RGB: what the file takes, and that it finds what the checkpoint finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detframe.errors import InvalidValueError
from detframe.inference import Detector
from detframe.modeling import build_detection_model
from tests.data.channel_sets import MEANS, scene, write_channels
from tests.engine.ranks import tiny_config

pytestmark = pytest.mark.slow  # an export takes half a minute
CHANNELS = 4


@pytest.fixture(scope="module")
def detector() -> Detector:
    mean, std = [MEANS, [value / 10 for value in MEANS]]
    words = ("INPUT.CHANNELS", CHANNELS, "INPUT.PIXEL_MEAN", mean, "INPUT.PIXEL_STD", std, "MODEL.NUM_CLASSES", 2)
    cfg = tiny_config(words)  # images stay as large as they are
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.05)
    return Detector(model.eval(), cfg, {"class_names": ["odd", "even"], "category_ids": [1, 2]}, "off")


@pytest.fixture(scope="module", params=["onnx", "xml"])
def exported(request, detector, tmp_path_factory) -> Detector:
    pytest.importorskip({"onnx": "onnxruntime", "xml": "openvino"}[request.param])
    path = tmp_path_factory.mktemp("exported") / f"model.{request.param}"
    detector.export(path, size=(64, 64), batch=1)  # proves it on images around the mean of the model
    return Detector.load(path)


def test_the_card_says_what_the_file_takes(exported):
    form = exported.card.input
    assert (form.channels, form.values) == (CHANNELS, "float32")
    assert exported.form.as_stored and exported.form.channels == CHANNELS


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_a_file_finds_what_the_checkpoint_finds(detector, exported, tmp_path, dtype):
    pixels = scene(3, CHANNELS, dtype)[0]
    path: Path = tmp_path / "a.npy"
    write_channels(path, pixels)
    for given in (pixels, path, torch.from_numpy(pixels).permute(2, 0, 1)):
        (one,), (two,) = detector.predict(given), exported.predict(given)
        assert len(one["scores"]) > 0
        np.testing.assert_allclose(np.asarray(two["scores"])[:5], np.asarray(one["scores"])[:5], atol=2e-3)
        np.testing.assert_allclose(np.asarray(two["boxes"])[:1], np.asarray(one["boxes"])[:1], atol=0.1)


def test_colours_are_refused(exported):
    with pytest.raises(InvalidValueError, match="this detector sees 4 channels"):
        exported.predict(np.zeros((64, 64, 3), np.uint8))
