"""FCOS (tianzhi0549/FCOS), which grew out of maskrcnn-benchmark, in detframe's keys.

Facts: the keys that it adds and their defaults, from fcos_core/config/defaults.py at commits 157edb68 and 6591c89f (the
latter for RESNETS and all that follows it), and what its code makes of them.
"""

from __future__ import annotations

from typing import Any

from detframe.config.foreign.maskrcnn_benchmark import (
    DENSE_STRIDES,
    KIND,
    MASKRCNN_BENCHMARK,
    dense_detector,
    detector,
    train_sizes,
)
from detframe.config.foreign.program import Program, classes, switch

FCOS = Program(
    "FCOS",
    {
        "MODEL.FCOS_ON": True,
        "MODEL.USE_SYNCBN": False,
        "MODEL.FCOS.NUM_CLASSES": 81,
        "MODEL.FCOS.FPN_STRIDES": [8, 16, 32, 64, 128],
        "MODEL.FCOS.PRIOR_PROB": 0.01,
        "MODEL.FCOS.INFERENCE_TH": 0.05,
        "MODEL.FCOS.NMS_TH": 0.6,
        "MODEL.FCOS.PRE_NMS_TOP_N": 1000,
        "MODEL.FCOS.LOSS_ALPHA": 0.25,
        "MODEL.FCOS.LOSS_GAMMA": 2.0,
        "MODEL.FCOS.NUM_CONVS": 4,
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.0,
        "MODEL.FCOS.IOU_LOSS_TYPE": "iou",
        "MODEL.FCOS.NORM_REG_TARGETS": False,
        "MODEL.FCOS.CENTERNESS_ON_REG": False,
        "MODEL.FCOS.USE_DCN_IN_TOWER": False,
        "INPUT.MIN_SIZE_RANGE_TRAIN": (-1, -1),
        "SOLVER.DCONV_OFFSETS_LR_FACTOR": 1.0,
    },
    parent=MASKRCNN_BENCHMARK,
    instead_of=(detector, train_sizes),
)
FCOS.only({"MODEL.FCOS.FPN_STRIDES": DENSE_STRIDES})
FCOS.over_ours({
    "MODEL.FCOS_ON": switch({"MODEL.RPN.NAME": "FCOS", "MODEL.ROI_HEADS.NAME": ""}, {"MODEL.RPN.NAME": "AnchorRPN"}),
    "MODEL.FCOS.NUM_CLASSES": classes(background=1),
})  # fmt: skip


@FCOS.rule(*KIND, "MODEL.FCOS_ON", "MODEL.FCOS.NUM_CLASSES")
def _detector(*read: Any) -> dict[str, Any]:
    *of_benchmark, fcos, classes_and_background = read
    return dense_detector("FCOS", classes_and_background, of_benchmark[-1]) if fcos else detector(*of_benchmark)


@FCOS.rule("MODEL.USE_SYNCBN")
def _synchronised(value: bool) -> dict[str, Any]:
    return {"MODEL.MOBILENET.NORM": "SyncBN" if value else "BN"}


@FCOS.rule("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_RANGE_TRAIN")
def _train_sizes(sizes: Any, span: Any) -> dict[str, Any]:
    low, high = span
    if low != -1:
        return {"INPUT.MIN_SIZE_TRAIN": (low, high), "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"}
    return train_sizes(sizes)


FCOS.same(
    *(f"MODEL.FCOS.{key}" for key in ("NUM_CONVS", "PRIOR_PROB", "LOSS_ALPHA", "LOSS_GAMMA", "INFERENCE_TH", "NMS_TH")),
    *(f"MODEL.FCOS.{key}" for key in ("PRE_NMS_TOP_N", "CENTER_SAMPLING_RADIUS", "IOU_LOSS_TYPE", "NORM_REG_TARGETS")),
    *(f"MODEL.FCOS.{key}" for key in ("CENTERNESS_ON_REG", "USE_DCN_IN_TOWER")),
)
FCOS.only({"SOLVER.DCONV_OFFSETS_LR_FACTOR": (1.0,)})
