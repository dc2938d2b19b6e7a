"""How much a step asks of a GPU, and how often it waits for one: never more than docs/benchmarks.md says."""

from __future__ import annotations

import pytest
import torch

from detframe.cli.benchmark_models import make_batch
from detframe.cli.benchmark_operations import count
from detframe.config import read_config, shipped_folder
from detframe.modeling import build_detection_model
from detframe.modeling.roi_heads import convs

# less to compute, by as many operations
LIGHT = [
    ("MODEL.DEVICE", "cpu"), ("MODEL.NUM_CLASSES", 5), ("MODEL.FPN.OUT_CHANNELS", 32),
    ("MODEL.RPN.POST_NMS_TOP_N_TRAIN", 60), ("MODEL.RPN.POST_NMS_TOP_N_TEST", 60),
    ("MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN", 60), ("MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", 60),
    ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32), ("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 64),
]  # fmt: skip
# config -> the most operations and waits of a training step, and of an inference; the numbers of images, pixels and
# objects change nothing
CEILINGS = {
    "faster_rcnn/faster_rcnn_R_50_FPN_1x": ((900, 1), (530, 2)),
    "mask_rcnn/mask_rcnn_R_50_FPN_1x": ((1130, 2), (690, 2)),
    "fcos/fcos_R_50_FPN_1x": ((1040, 0), (490, 1)),
    "retinanet/retinanet_R_50_FPN_1x": ((860, 0), (420, 2)),
    "atss/atss_R_50_FPN_1x": ((1230, 0), (490, 1)),
    "gfl/gfl_R_50_FPN_1x": ((1180, 0), (490, 1)),
    "cascade_rcnn/cascade_rcnn_R_50_FPN_1x": ((1290, 1), (660, 2)),
    "quick/point_rend_R_18_FPN_shapes": ((1250, 3), (740, 2)),
}


def model_and_batch(name):
    """The light model of a shipped config, and a batch for it."""
    cfg = read_config(shipped_folder("configs") / f"{name}.yaml")
    torch.manual_seed(0)
    model = build_detection_model(cfg.changed(LIGHT))
    images, targets = make_batch(2, 128, 160, torch.device("cpu"))
    for target in targets:
        target["labels"] = target["labels"].clamp(max=5)
    return model, images, targets


@pytest.mark.parametrize("name", CEILINGS)
def test_a_step_asks_for_no_more(name):
    model, images, targets = model_and_batch(name)
    for step, (operations, waits) in zip(("train", "inference"), CEILINGS[name], strict=True):
        found = count(model, step, images, targets).totals
        assert found[0] <= operations and found[1] <= waits, (step, found)
        assert found[0] > operations / 2  # else the ceiling says nothing any more


def test_what_is_counted_does_not_depend_on_the_maker_of_the_cpu(monkeypatch):
    model, images, targets = model_and_batch("faster_rcnn/faster_rcnn_R_50_FPN_1x")
    found = []
    for multiplies in (False, True):
        monkeypatch.setattr(convs, "_MULTIPLIES", multiplies)
        found.append([count(model, step, images, targets).totals for step in ("train", "inference")])
    assert found[0] == found[1]
