"""Images predicted in batches give what they give alone, as exactly as `Detector.predict` says."""

import pytest
import torch

from detframe.config import get_cfg
from detframe.inference import Detector
from detframe.modeling import build_detection_model

META = {"class_names": ["red cell", "white cell", "platelet"], "category_ids": [1, 2, 3]}


def detector(name, amp):
    """Random weights whose scores differ as those of trained ones."""
    cfg = get_cfg()
    cfg.merge_from_file(f"configs/quick/{name}_R_18_FPN_shapes.yaml")
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 3, "MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", 16])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 128])
    torch.manual_seed(0)
    model = build_detection_model(cfg).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(("cls_score.weight", "bbox_pred.weight", "cls_logits.weight")):
                parameter.mul_(6)
    return Detector(model, cfg, META, amp=amp)


def partners(first, second, pixels, score):
    """The share of detections above the lowest score kept that have one of the same class and place in the other."""
    best = first["scores"] > first["scores"].min() + score
    near = (first["boxes"][:, None] - second["boxes"]).abs().amax(-1) < pixels
    near &= (first["scores"][:, None] - second["scores"]).abs() < score
    near &= first["labels"][:, None] == second["labels"]
    return float(near.any(1)[best].float().mean()) if bool(best.any()) else 1.0


@pytest.fixture(scope="module")
def photos(shared):
    return sorted((shared / "data" / "bccd" / "JPEGImages").iterdir())[:24]


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet", "fcos"])
def test_real_images_in_float32(photos, root, monkeypatch, name):
    monkeypatch.chdir(root)
    tested = detector(name, "off")
    alone, together = (tested.predict(photos, batch_size=size) for size in (1, 8))
    assert len(photos) == 24 and sum(len(p["scores"]) for p in alone) > 200
    for one, other in zip(alone, together, strict=True):
        assert partners(one, other, 0.01, 1e-4) == partners(other, one, 0.01, 1e-4) == 1.0


def test_real_images_in_half_precision(photos, root, monkeypatch):
    monkeypatch.chdir(root)
    tested = detector("faster_rcnn", "bf16")
    alone, together = (tested.predict(photos[:8], batch_size=size) for size in (1, 8))
    for one, other in zip(alone, together, strict=True):
        assert partners(one, other, 4.0, 0.05) > 0.9
