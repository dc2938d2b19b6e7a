"""Short names of published weights, and the input format that comes with them."""

from __future__ import annotations

import logging

import pytest

from detframe.compat import apply_input_format, apply_saved_format
from detframe.compat.body_weights import BODY_WEIGHTS, address_of, input_format
from detframe.config import get_cfg, validate

HOST = "https://dl.fbaipublicfiles.com/"
BGR = (103.53, 116.28, 123.675)


def _cfg(*overrides, weights="msra://R-50"):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.WEIGHTS", weights, *overrides])
    return cfg


def _format(cfg):
    return cfg.INPUT.FORMAT, cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD, cfg.MODEL.RESNETS.STRIDE_IN_1X1


def test_names_and_addresses():
    assert address_of("msra://R-101") == HOST + "detectron2/ImageNetPretrained/MSRA/R-101.pkl"
    assert address_of("detectron2://ImageNetPretrained/MSRA/R-50.pkl") == address_of("msra://R-50")
    assert address_of("output/model.pth") == "output/model.pth"
    with pytest.raises(ValueError, match=r"unknown weights 'msra://R-51'; did you mean 'msra://R-50'"):
        address_of("msra://R-51")


@pytest.mark.parametrize(
    ("weights", "std", "stride"),
    [
        ("msra://R-50", (1.0, 1.0, 1.0), True),
        ("msra://R-101", (1.0, 1.0, 1.0), True),
        ("caffe2://X-101-32x8d", (57.375, 57.12, 58.395), False),
        ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", (1.0, 1.0, 1.0), True),
        (
            HOST + "detectron2/ImageNetPretrained/FAIR/X-101-32x8d.pkl#sha256=" + "0" * 64,
            (57.375, 57.12, 58.395),
            False,
        ),
    ],
)
def test_untouched_keys_follow_the_weights(weights, std, stride, caplog):
    cfg = _cfg(weights=weights)
    cfg.freeze()
    with caplog.at_level(logging.INFO):
        out = apply_input_format(cfg)
    assert _format(out) == ("BGR", BGR, std, stride)
    assert out.is_frozen() and cfg.INPUT.FORMAT == "RGB"
    assert "INPUT.FORMAT BGR" in caplog.text and weights in caplog.text
    validate(out)
    caplog.clear()
    assert _format(apply_input_format(out)) == _format(out) and not caplog.records


@pytest.mark.parametrize("weights", ["", "model.pth", "torchvision://ResNet50_Weights.IMAGENET1K_V2"])
def test_the_defaults_are_torchvisions(weights, caplog):
    assert _format(apply_input_format(_cfg(weights=weights))) == _format(get_cfg())
    assert not caplog.records


def test_what_was_set_stays_with_a_warning(tmp_path, caplog):
    path = tmp_path / "c.yaml"
    path.write_text("MODEL: {WEIGHTS: 'msra://R-50'}\nINPUT:\n  FORMAT: RGB\n")
    cfg = get_cfg()
    cfg.merge_from_file(path)
    out = apply_input_format(cfg)
    assert out.INPUT.FORMAT == "RGB" and out.INPUT.PIXEL_MEAN == BGR
    [record] = [r for r in caplog.records if r.levelno == logging.WARNING]
    for word in ("INPUT.FORMAT is RGB", "c.yaml:3", "msra://R-50 was made with BGR"):
        assert word in record.getMessage()


def test_means_of_the_same_images_agree(caplog):
    detectron = (102.9801, 115.9465, 122.7717)
    cfg = _cfg("INPUT.FORMAT", "BGR", "INPUT.PIXEL_MEAN", detectron, weights="msra://R-50")
    assert apply_input_format(cfg).INPUT.PIXEL_MEAN == detectron and "may not work together" not in caplog.text


def test_a_value_assigned_in_python_stays(caplog):
    cfg = _cfg(weights="torchvision://ResNet50_Weights.IMAGENET1K_V1")
    cfg.INPUT.PIXEL_STD = (1.0, 1.0, 1.0)
    assert apply_input_format(cfg).INPUT.PIXEL_STD == (1.0, 1.0, 1.0)
    assert "INPUT.PIXEL_STD is (1.0, 1.0, 1.0)" in caplog.text


def test_what_was_set_is_known_in_another_process():
    cfg = _cfg("INPUT.FORMAT", "RGB")
    rebuild, arguments = cfg.__reduce__()  # what a pickle of it holds
    with_sources = rebuild(*arguments)
    assert with_sources.source("INPUT.FORMAT") == "an override"
    assert apply_input_format(with_sources).INPUT.FORMAT == "RGB"


def test_a_checkpoint_of_detframe_brings_its_format(caplog):
    trained = apply_input_format(_cfg())
    out = apply_saved_format(_cfg("INPUT.PIXEL_STD", (2, 2, 2), weights="model_final.pth"), dict(trained.leaves()))
    assert _format(out) == ("BGR", BGR, (2, 2, 2), True)
    assert "INPUT.PIXEL_STD is (2, 2, 2) (set by an override), but the checkpoint was made with" in caplog.text


OWN_UNITS = ("INPUT.CHANNELS", 5, "INPUT.PIXEL_MEAN", (900.0,) * 5, "INPUT.PIXEL_STD", (30.0,) * 5)
DEEP = ("INPUT.DEPTH", "file", "INPUT.PIXEL_MEAN", (900.0,) * 3, "INPUT.PIXEL_STD", (30.0,) * 3)


@pytest.mark.parametrize("words", [OWN_UNITS, DEEP], ids=["channels", "depth"])
@pytest.mark.parametrize("weights", ["msra://R-50", "torchvision://ResNet50_Weights.IMAGENET1K_V1"])
def test_images_as_they_are_stored_have_their_own_format(words, weights, caplog):
    out = apply_input_format(_cfg(*words, weights=weights))
    assert _format(out)[:3] == ("RGB", words[3], words[5])
    saved = dict(apply_input_format(_cfg(weights=weights)).leaves())  # a checkpoint of colours
    assert _format(apply_saved_format(_cfg(*words, weights="model_final.pth"), saved))[:3] == _format(out)[:3]
    assert "may not work together" not in caplog.text
    other = _cfg(*words, "INPUT.PIXEL_MEAN", (500.0,) * len(words[5]), weights="model_final.pth")
    apply_saved_format(other, dict(out.leaves()))
    assert "INPUT.PIXEL_MEAN is (500" in caplog.text  # of images of the same form it counts


def test_every_entry_is_a_pickle_with_a_format():
    for name in BODY_WEIGHTS:
        assert address_of(name).startswith(HOST) and address_of(name).endswith(".pkl")
        assert input_format(name).order == "BGR"
