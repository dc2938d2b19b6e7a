"""A setting that passes the check of the config builds and trains a model, or is an error that names its key."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detframe.config import find_config, get_cfg, validate
from detframe.errors import UserError
from detframe.modeling import build_detection_model

SMALL = (
    *(
        "MODEL.DEVICE",
        "cpu",
        "MODEL.NUM_CLASSES",
        2,
        "MODEL.RESNETS.STEM_OUT_CHANNELS",
        8,
        "MODEL.FPN.OUT_CHANNELS",
        16,
    ),
    *("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16, "MODEL.RPN.POST_NMS_TOP_N_TRAIN", 30, "MODEL.RPN.POST_NMS_TOP_N_TEST", 30),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 16),
)


def check_a_step(kind: str, key: str, value: Any) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(find_config(f"quick/{kind}_shapes.yaml"))
    cfg.merge_from_list([*SMALL, key, value])
    validate(cfg)
    model = build_detection_model(cfg)
    images = [torch.full((3, 64, 64), 100, dtype=torch.uint8)] * 2
    target: Any = {"boxes": torch.tensor([[5.0, 6, 30, 40], [10, 12, 60, 50]]), "labels": torch.tensor([1, 2])}
    loss = sum(model(images, [target] * 2).values())
    assert torch.isfinite(loss)
    loss.backward()
    with torch.no_grad():
        model.eval()(images)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("faster_rcnn_R_18_FPN", "MODEL.RPN.CONV_DEPTH", 0),
        ("faster_rcnn_R_18_FPN", "MODEL.RPN.ANCHOR_OFFSET", 1),
        ("faster_rcnn_R_18_FPN", "MODEL.RPN.POSITIVE_FRACTION", 0),
        ("faster_rcnn_R_18_FPN", "MODEL.RPN.NMS_THRESH", 0),
        ("faster_rcnn_R_18_FPN", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 1),
        ("faster_rcnn_R_18_FPN", "MODEL.ROI_BOX_HEAD.NUM_FC", 0),
        ("faster_rcnn_R_18_FPN", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", -1),
        ("faster_rcnn_R_18_FPN", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 1),
        ("faster_rcnn_R_18_FPN", "MODEL.FPN.OUT_CHANNELS", 1),
        ("fcos_R_18_FPN", "MODEL.FCOS.NUM_CONVS", 0),
        ("fcos_R_18_FPN", "MODEL.FCOS.CENTER_SAMPLING_RADIUS", 1e6),
        ("retinanet_R_18_FPN", "MODEL.RETINANET.NUM_CONVS", 0),
        ("retinanet_R_18_FPN", "MODEL.RETINANET.MIN_SIZE", -1),
    ],
)
def test_settings_at_their_limits_work(kind: str, key: str, value: Any):
    check_a_step(kind, key, value)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("faster_rcnn_R_18_FPN", "MODEL.RPN.ANCHOR_SIZES", [1, 2, 3]),
        ("faster_rcnn_R_18_FPN", "MODEL.RPN.IN_FEATURES", ["nothing"]),
        ("faster_rcnn_R_18_FPN", "MODEL.ROI_HEADS.IN_FEATURES", ["res2"]),
        ("faster_rcnn_R_18_FPN", "MODEL.FPN.IN_FEATURES", ["res3", "res5"]),
        ("faster_rcnn_R_18_FPN", "MODEL.RESNETS.NUM_GROUPS", 3),
        ("faster_rcnn_R_18_FPN", "MODEL.RESNETS.NORM_EPS", 2),
        ("faster_rcnn_R_18_FPN", "MODEL.FREEZE", ["nothing*"]),
        ("faster_rcnn_R_18_FPN", "MODEL.DEVICE", "nothing"),
        ("faster_rcnn_R_18_FPN", "MODEL.RPN.NAME", "nothing"),
        ("fcos_R_18_FPN", "MODEL.FCOS.SIZES_OF_INTEREST", [1, 2]),
    ],
)
def test_settings_that_fit_no_model_name_their_key(kind: str, key: str, value: Any):
    with pytest.raises(UserError, match=key.rpartition(".")[2] if key != "MODEL.FREEZE" else key):
        check_a_step(kind, key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.RPN.ASSIGNER", "simota"),
        ("MODEL.FPN.UPSAMPLE", "bicubic"),
        ("MODEL.ROI_HEADS.ASSIGNER", "rfla"),
    ],
)
def test_no_model_is_built_with_a_word_that_its_key_does_not_know(key: str, value: Any):
    """What a training refuses, the model alone refuses too, and does not take for something else."""
    cfg = get_cfg()
    cfg.merge_from_list([*SMALL, key, value])
    with pytest.raises(ValueError, match=f"{key} must be .*, not {value!r} "):
        build_detection_model(cfg)


def test_other_sections_do_not_keep_a_model_from_being_built():
    cfg = get_cfg()
    cfg.merge_from_list([*SMALL, "MODEL.BACKBONE.CONV_BODY", "R-18-FPN", "SOLVER.STEPS", (5, 5)])
    assert build_detection_model(cfg) is not None
