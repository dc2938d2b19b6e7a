"""The first convolution of weights learned on RGB, for images of other channels."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.models import mobilenet_v2, resnet18

from detframe.compat import load_weights
from detframe.config import get_cfg
from detframe.modeling import build_detection_model

STEMS = {"R-18-FPN": "backbone.body.conv1.weight", "MNV2-FPN": "backbone.body.features.0.0.weight"}


def model_of(body: str, channels: int):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.CONV_BODY", body, "MODEL.NUM_CLASSES", 2, "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(["MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32])
    cfg.merge_from_list(["INPUT.CHANNELS", channels, "INPUT.PIXEL_MEAN", [0.0] * channels])
    cfg.merge_from_list(["INPUT.PIXEL_STD", [1.0] * channels])
    return build_detection_model(cfg)


@pytest.mark.parametrize("channels", [1, 2, 4, 13, 64])
@pytest.mark.parametrize(("body", "classifier"), [("R-18-FPN", resnet18), ("MNV2-FPN", mobilenet_v2)])
def test_a_picture_of_equal_channels_gives_what_it_gave(body, classifier, channels):
    torch.manual_seed(0)
    published = classifier(weights=None).state_dict()
    model = model_of(body, channels)
    report = load_weights(model, published)
    own = model.state_dict()[STEMS[body]]
    theirs = published[STEMS[body].removeprefix("backbone.body.")]
    grey = torch.rand(1, 1, 32, 32)
    expected = F.conv2d(grey.expand(-1, 3, -1, -1), theirs, stride=2)
    torch.testing.assert_close(
        F.conv2d(grey.expand(-1, channels, -1, -1), own, stride=2), expected, rtol=1e-4, atol=1e-5
    )
    said = f"{STEMS[body]}: 3 -> {channels} input channels, each the mean of the 3, times 3/{channels}"
    assert said in report.table() and STEMS[body] in report.loaded
    assert not report.reinitialised and not report.unused


def test_nothing_is_said_of_rgb_and_of_as_many_channels():
    four = model_of("R-18-FPN", 4)
    report = load_weights(model_of("R-18-FPN", 4), four.state_dict())
    assert "input channels" not in report.table() and not report.reinitialised
    assert "input channels" not in load_weights(model_of("R-18-FPN", 3), resnet18(weights=None).state_dict()).table()


def test_a_checkpoint_of_other_channels_starts_one():
    report = load_weights(model_of("R-18-FPN", 5), model_of("R-18-FPN", 4).state_dict())
    assert "4 -> 5 input channels, each the mean of the 4, times 4/5" in report.table()
