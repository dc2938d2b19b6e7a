"""The programs' own files, with overrides in their words, give detectors that compute what they compute."""

from __future__ import annotations

import pytest
import torch

from detframe.compat import load_weights
from detframe.config import get_cfg
from detframe.modeling import build_detection_model
from tests.config.foreign import standard_configs
from tests.modeling.parity import (
    assert_golden_detections,
    assert_same_detections,
    reference,
    reference_batch,
    reference_state,
)
from tests.modeling.test_mask_parity import ellipses

GOLDEN = {
    "d2_faster_rcnn_R_50_FPN": "detectron2",
    "d2_mask_rcnn_R_50_FPN": "detectron2",
    "d2_retinanet_R_50_FPN": "detectron2",
    "fcos_R_50_FPN": "fcos",
    "fcos_imprv_R_50_FPN": "fcos",
}
LOSSES = {
    "loss_rpn_cls": "loss_rpn_cls",
    "loss_rpn_box": "loss_rpn_loc",
    "loss_roi_cls": "loss_cls",
    "loss_roi_box": "loss_box_reg",
    "loss_mask": "loss_mask",
    "loss_retinanet_cls": "loss_cls",
    "loss_retinanet_box": "loss_box_reg",
    "loss_fcos_cls": "loss_cls",
    "loss_fcos_box": "loss_reg",
    "loss_fcos_quality": "loss_centerness",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_and_detections(name: str):
    ref, arrays = reference(name)
    cfg = get_cfg()
    cfg.merge_from_file(standard_configs(GOLDEN[name])[ref["config"]])
    cfg.merge_from_list(ref["overrides"])
    model = build_detection_model(cfg)
    report = load_weights(model, reference_state(ref))
    assert not (set(report.missing) - {"rpn.loss_normalizer"} or report.unused or report.reinitialised)
    pixel = int(cfg.MODEL.LEGACY_BOXES)
    model.train()
    images, targets = reference_batch(ref, pixel)
    if cfg.MODEL.MASK_ON:
        for image, target in zip(images, targets, strict=True):
            target["masks"] = ellipses(target["boxes"], *image.shape[-2:])
    with torch.no_grad():
        losses = model(images, targets)
    assert len(losses) == len(ref["losses"])
    for ours, value in losses.items():
        assert value.item() == pytest.approx(ref["losses"][LOSSES[ours]], rel=1e-4), ours
    assert_golden_detections(model, ref, arrays, pixel)
    # the larger image fills the batch, so that alone it is computed as in it
    with torch.inference_mode():
        alone = model(images[:1])[0]
    boxes, scores, classes = (torch.from_numpy(arrays[f"det0.{k}"]) for k in ("boxes", "scores", "classes"))
    alone["boxes"] = alone["boxes"] - torch.tensor([0.0, 0, pixel, pixel])
    assert_same_detections(alone, boxes, classes.long() + 1, scores, atol=1e-4)
