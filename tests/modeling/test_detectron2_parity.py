"""Faster R-CNN with detectron2's weights computes what detectron2 computes."""

from __future__ import annotations

import pytest

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

NAMES = {
    "loss_rpn_cls": "loss_rpn_cls",
    "loss_rpn_box": "loss_rpn_loc",
    "loss_roi_cls": "loss_cls",
    "loss_roi_box": "loss_box_reg",
}


@pytest.fixture(scope="module")
def setup():
    ref, arrays = reference("d2_faster_rcnn_R_50_FPN")
    cfg = get_cfg()
    cfg.merge_from_file("configs/Base-Faster-RCNN-FPN-detectron2.yaml")
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 80, "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10**6, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 10**6])
    model = build_detection_model(cfg)
    report = load_weights(model, reference_state(ref))
    return ref, arrays, model, report


def test_every_weight_finds_its_place(setup):
    ref, _, _, report = setup
    assert report.kind == "detectron2"
    assert len(report.loaded) == len(ref["state"])
    assert not (report.missing or report.unused or report.reinitialised)


def test_losses(setup):
    ref, _, model, _ = setup
    model.train()
    losses = model(*reference_batch(ref))
    assert set(losses) == set(NAMES)
    for ours, theirs in NAMES.items():
        assert losses[ours].item() == pytest.approx(ref["losses"][theirs], rel=1e-4), ours


def test_features(setup):
    ref, arrays, model, _ = setup
    assert_golden_features(model, ref, arrays, [f"p{i}" for i in range(2, 7)])


def test_detections(setup):
    ref, arrays, model, _ = setup
    assert_golden_detections(model, ref, arrays)
