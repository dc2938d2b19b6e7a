"""Faster R-CNN with detectron2's weights computes what detectron2 computes."""

from __future__ import annotations

import pytest
import torch

from detframe.compat import load_weights
from detframe.config import get_cfg
from detframe.modeling import build_detection_model
from tests.modeling.parity import assert_same_detections, reference, reference_batch, reference_state

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
    model.eval()
    with torch.inference_mode():
        features = model.backbone(model.preprocessor(reference_batch(ref)[0]).tensors)
    for name, feature in features.items():
        expected = torch.from_numpy(arrays[f"feature.{name}.mean"])
        torch.testing.assert_close(feature.mean((2, 3)), expected, rtol=1e-4, atol=1e-4)


def test_detections(setup):
    ref, arrays, model, _ = setup
    model.eval()
    with torch.inference_mode():
        predictions = model(reference_batch(ref)[0])
    for i, prediction in enumerate(predictions):
        boxes, scores, classes = (torch.from_numpy(arrays[f"det{i}.{k}"]) for k in ("boxes", "scores", "classes"))
        assert_same_detections(prediction, boxes, classes.long() + 1, scores, atol=1e-4)
