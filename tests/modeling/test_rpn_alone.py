"""A region proposal network without ROI heads: what it trains and what it returns."""

from __future__ import annotations

import pytest
import torch

from detframe.modeling import build_detection_model
from tests.modeling.tiny import EMPTY, FULL, make_images, tiny_config

LIMITS = ("MODEL.RPN.PRE_NMS_TOP_N_TEST", 400, "MODEL.RPN.POST_NMS_TOP_N_TEST", 150, "TEST.DETECTIONS_PER_IMG", 3)


def build(*opts):
    torch.manual_seed(0)
    return build_detection_model(tiny_config({}, *LIMITS, *opts))


@pytest.mark.parametrize("limits", ["image", "level"])
def test_detections_are_the_proposals_of_the_whole_detector(limits):
    opts = ("MODEL.RPN.POST_NMS_PER", limits, "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", 150)
    whole, alone = build(*opts).eval(), build(*opts, "MODEL.ROI_HEADS.NAME", "").eval()
    missing = alone.load_state_dict(whole.state_dict(), strict=False)
    assert not missing.missing_keys and all(key.startswith("roi_heads.") for key in missing.unexpected_keys)
    assert alone.class_agnostic and not whole.class_agnostic
    seen = []
    hook = whole.rpn.register_forward_hook(lambda _m, _a, out: seen.append(out[0]))
    with torch.no_grad():
        whole(make_images())
        predictions = alone(make_images())
    hook.remove()
    for i, prediction in enumerate(predictions):
        valid = seen[0].valid[i]
        assert torch.equal(prediction["boxes"], seen[0].boxes[i][valid])
        assert torch.equal(prediction["scores"], seen[0].scores[i][valid])
        assert torch.equal(prediction["labels"], torch.ones_like(prediction["labels"]))
        assert len(prediction["scores"]) == 150 and bool((prediction["scores"].diff() <= 0).all())


@pytest.mark.parametrize("body", [(), ("MODEL.BACKBONE.CONV_BODY", "R-18-C4", "MODEL.RPN.ANCHOR_SIZES", ((16, 32),))])
@pytest.mark.parametrize("targets", [[FULL, EMPTY], [EMPTY, EMPTY]], ids=["one empty", "all empty"])
def test_training_and_images_without_objects(targets, body):
    model = build("MODEL.ROI_HEADS.NAME", "", *body).train()
    losses = model(make_images(), targets)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_box"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
