"""Records in memory, and small configs, that tests of recipes share."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from detframe.config import get_cfg
from detframe.data import Metadata, RecordBuilder, Records, join


def make_records(*images, folder: Path | None = None, crowds: int = 0) -> Records:
    """Images (height, width, boxes xyxy), the first `crowds` boxes as crowds; with a folder, the files too."""
    metadata = Metadata(name="mine", class_names=("cat", "dog"), category_ids=(1, 2))
    builder = RecordBuilder(metadata)
    for number, (height, width, boxes) in enumerate(images, 1):
        path = (folder or Path("/nowhere")) / f"{number}.png"
        if folder is not None:
            noise = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
            cv2.imwrite(str(path), noise)
        builder.add_image(path, number, (height, width))
        for index, box in enumerate(boxes):
            builder.add_object(box, 1 + index % 2, iscrowd=index < crowds)
    return join([builder.build()])


def square(x: float, y: float, side: float) -> list[float]:
    """A box around (x, y)."""
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


AS_THEY_ARE = ("INPUT.MIN_SIZE_TRAIN", (0,), "INPUT.MIN_SIZE_TEST", 0)
DETECTORS = {
    "Faster R-CNN": ("MODEL.BACKBONE.CONV_BODY", "R-18-FPN"),
    "RetinaNet": (
        *("MODEL.BACKBONE.CONV_BODY", "R-18-FPN-RETINANET", "MODEL.RPN.NAME", "RetinaNet", "MODEL.ROI_HEADS.NAME", ""),
    ),
    "FCOS": (
        *("MODEL.BACKBONE.CONV_BODY", "R-18-FPN-RETINANET", "MODEL.RPN.NAME", "FCOS", "MODEL.ROI_HEADS.NAME", ""),
    ),
    "GFL": (*("MODEL.BACKBONE.CONV_BODY", "R-18-FPN-RETINANET", "MODEL.RPN.NAME", "GFL", "MODEL.ROI_HEADS.NAME", ""),),
    "C4": (
        *("MODEL.BACKBONE.CONV_BODY", "R-18-C4", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads"),
        *("MODEL.RPN.ANCHOR_SIZES", ((32, 64),)),
    ),
    "EFPN": (
        *("MODEL.BACKBONE.CONV_BODY", "R-18-EFPN", "MODEL.EFPN.WIDTH", 32),
        *("MODEL.RPN.ANCHOR_SIZES", ((16,), (32,), (64,), (128,), (256,), (512,))),
    ),
}


def config(*overrides, detector: str = "Faster R-CNN"):
    """A config whose images keep their size."""
    cfg = get_cfg()
    small = ("MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.FPN.OUT_CHANNELS", 16)
    cfg.merge_from_list([*small, *AS_THEY_ARE, *DETECTORS[detector], *overrides])
    return cfg
