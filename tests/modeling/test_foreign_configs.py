"""Detectors of other programs' standard configs are built, with the parts that their names say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detframe.config import get_cfg, validate
from detframe.layers import DeformConv
from detframe.modeling import build_detection_model
from tests.config.foreign import PROGRAMS, names, standard_configs

CONFIGS = [(program, name) for program in PROGRAMS for name in names(program, translatable=True)]


@pytest.mark.parametrize(("program", "name"), CONFIGS, ids=[f"{p}-{Path(n).stem}" for p, n in CONFIGS])
def test_it_is_built(program: str, name: str):
    cfg = get_cfg()
    cfg.merge_from_file(standard_configs(program)[name])
    cfg.merge_from_list(["MODEL.DEVICE", "meta"])
    validate(cfg)
    with torch.device("meta"):  # without memory for the weights
        model = build_detection_model(cfg)
    stem = Path(name).stem.lower()
    parts = {type(module).__name__ for module in model.modules()}
    assert ("MaskBranch" in parts) == ("mask" in stem and "rcnn" in stem and "rpn" not in stem)
    assert ("KeypointBranch" in parts) == ("keypoint" in stem)
    assert ("CascadeROIHeads" in parts) == ("cascade" in stem)
    assert ("PointRendBranch" in parts) == ("pointrend" in stem)
    assert ("FCOS" in parts) == stem.startswith("fcos") and ("RetinaNet" in parts) == stem.startswith("retinanet")
    assert (model.roi_heads is None) == stem.startswith(("fcos", "retinanet", "rpn"))
    deformable = [m for m in model.backbone.modules() if isinstance(m, DeformConv)]
    assert bool(deformable) == ("dcn" in stem or "dconv" in stem)
    blocks = len([n for n, _ in model.backbone.named_modules() if n.startswith("body.layer3.") and n.count(".") == 2])
    expected = {"r_50": 6, "r-50": 6, "r_101": 23, "r-101": 23, "x_101": 23, "x_152": 36, "x-152": 36}
    assert blocks == next((count for word, count in expected.items() if word in stem), 0)
