"""FCOS with the original's weights computes what the original computes, plain and improved."""

from __future__ import annotations

import pytest
import torch

from detframe.compat import load_weights
from detframe.config import get_cfg
from detframe.modeling import build_detection_model
from tests.modeling.parity import (
    assert_golden_detections,
    assert_golden_features,
    reference,
    reference_batch,
    reference_state,
)

NAMES = {"loss_fcos_cls": "loss_cls", "loss_fcos_box": "loss_reg", "loss_fcos_quality": "loss_centerness"}
IMPROVED = {
    "CENTER_SAMPLING_RADIUS": 1.5,
    "IOU_LOSS_TYPE": "giou",
    "NORM_REG_TARGETS": True,
    "CENTERNESS_ON_REG": True,
}


@pytest.fixture(scope="module", params=["fcos_R_50_FPN", "fcos_imprv_R_50_FPN"])
def setup(request):
    ref, arrays = reference(request.param)
    cfg = get_cfg()
    cfg.merge_from_file("configs/Base-FCOS-original.yaml")
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 80, "MODEL.DEVICE", "cpu"])
    if "imprv" in request.param:
        for key, value in IMPROVED.items():
            cfg.MODEL.FCOS[key] = value
    model = build_detection_model(cfg)
    report = load_weights(model, reference_state(ref))
    return ref, arrays, model, report


def test_every_weight_finds_its_place(setup):
    _, _, _, report = setup
    assert report.kind == "FCOS"
    assert not (report.missing or report.unused or report.reinitialised)


def test_losses(setup):
    ref, _, model, _ = setup
    model.train()
    with torch.no_grad():
        losses = model(*reference_batch(ref, pixel=1))
    assert set(losses) == set(NAMES)
    for ours, theirs in NAMES.items():
        assert losses[ours].item() == pytest.approx(ref["losses"][theirs], rel=1e-4), ours


def test_features(setup):
    ref, arrays, model, _ = setup
    assert_golden_features(model, ref, arrays, list("01234"))


def test_detections(setup):
    ref, arrays, model, _ = setup
    assert_golden_detections(model, ref, arrays, pixel=1)
