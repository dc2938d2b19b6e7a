"""Models of the shipped FCOS configs have the parts that the name says, and narrow ones of them train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detframe.config import get_cfg, shipped_folder
from detframe.layers import DeformConv
from detframe.modeling import build_detection_model
from detframe.modeling.build import build_backbone
from detframe.registry import RPN_HEADS

FILES = sorted((shipped_folder("configs") / "fcos").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parts_of_the_model(path: Path):
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 80, "MODEL.DEVICE", "cpu"])
    # without memory for the weights
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    head = RPN_HEADS.get(cfg.MODEL.RPN.NAME).from_config(cfg, backbone.out_channels, backbone.strides)
    assert list(backbone.strides.values()) == [8, 16, 32, 64, 128]
    body = [name for name, module in backbone.named_modules() if isinstance(module, DeformConv)]
    towers = [name for name, module in head.named_modules() if isinstance(module, DeformConv)]
    # blocks of res3, res4, res5 (ResNet) or of res4, res5 (ResNeXt)
    blocks = (13 if "R_50" in path.stem else 30 if "R_101" in path.stem else 26) if "dcnv2" in path.stem else 0
    assert len(body) == blocks and len(towers) == (2 if "dcnv2" in path.stem else 0)


@pytest.mark.parametrize("name", ["imprv_dcnv2_R_50_FPN_1x", "syncbn_bs32_c128_MNV2_FPN_1x"])
@pytest.mark.parametrize("objects", [2, 0])
def test_a_narrow_one_trains_every_parameter_and_detects(name: str, objects: int):
    cfg = get_cfg()
    cfg.merge_from_file(shipped_folder("configs") / "fcos" / f"fcos_{name}.yaml")
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 2, "MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", 8])
    cfg.merge_from_list(["MODEL.FPN.OUT_CHANNELS", 32])
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    images = [torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8) for _ in range(2)]
    boxes = torch.tensor([[8.0, 8.0, 60.0, 60.0], [50.0, 20.0, 120.0, 90.0]])[:objects]
    targets = [{"boxes": boxes, "labels": torch.tensor([1, 2])[:objects]} for _ in images]
    losses = model.train()(images, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        detections = model.eval()(images)
    assert len(detections) == 2 and all(torch.isfinite(d["boxes"]).all() for d in detections)
