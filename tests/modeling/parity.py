"""What the parity tests share: reference weights and images, and the comparison of detections."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))

import formula  # noqa: E402


def reference(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The JSON and the arrays of a golden result."""
    return json.loads((GOLDEN / f"{name}.json").read_text()), dict(np.load(GOLDEN / f"{name}.npz"))


def reference_state(ref: dict[str, Any]) -> dict[str, Tensor]:
    """The reference's weights, rebuilt from their names."""
    return {n: torch.from_numpy(formula.fill(n, tuple(shape), kind)) for n, (shape, kind) in ref["state"].items()}


def reference_batch(ref: dict[str, Any], pixel: int = 0) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """The reference's images (uint8 RGB) and targets (labels from 1).

    Args:
        pixel: 1 where the reference's boxes run from pixel to pixel, and ours to the end of the last one.
    """
    images, targets = [], []
    for seed, (height, width) in zip(ref["seeds"], ref["sizes"], strict=True):
        images.append(torch.from_numpy(formula.image(seed, height, width)).permute(2, 0, 1))
        boxes, classes = formula.ground_truth(seed, height, width, ref["ground_truth_count"], ref["num_classes"])
        far = torch.tensor([0.0, 0, pixel, pixel])
        targets.append({"boxes": torch.from_numpy(boxes) + far, "labels": torch.from_numpy(classes).long() + 1})
    return images, targets


def assert_same_detections(ours: dict[str, Tensor], boxes: Tensor, labels: Tensor, scores: Tensor, atol: float) -> None:
    """Every reference detection has one of ours with its class, its box and its score; ties may change places."""
    assert len(ours["boxes"]) == len(boxes) > 0
    # some references keep boxes without area, whose overlap is undefined
    pixel = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    overlap = box_iou(ours["boxes"] + pixel, boxes + pixel) * (ours["labels"][:, None] == labels[None])
    best, match = overlap.max(0)
    assert best.min() > 0.999, f"{int((best <= 0.999).sum())} detections have no counterpart"
    assert len(match.unique()) == len(boxes)
    torch.testing.assert_close(ours["scores"][match], scores, atol=atol, rtol=1e-4)
    torch.testing.assert_close(ours["boxes"][match], boxes, atol=max(atol, 2e-3), rtol=1e-4)


def assert_golden_features(model: Any, ref: dict[str, Any], arrays: dict[str, np.ndarray], names: list[str]) -> None:
    """The means of every feature map are the reference's, which calls the levels `names`, finest first."""
    model.eval()
    with torch.inference_mode():
        features = model.backbone(model.preprocessor(reference_batch(ref)[0]).tensors)
    assert len(features) == len(names)
    for name, feature in zip(names, features.values(), strict=True):
        expected = torch.from_numpy(arrays[f"feature.{name}.mean"])
        torch.testing.assert_close(feature.mean((2, 3)), expected, rtol=1e-4, atol=1e-4)


def assert_golden_detections(model: Any, ref: dict[str, Any], arrays: dict[str, np.ndarray], pixel: int = 0) -> None:
    """The detections in both reference images are the reference's; `pixel` as in `reference_batch`."""
    model.eval()
    with torch.inference_mode():
        predictions = model(reference_batch(ref)[0])
    assert len(predictions) == 2
    for i, prediction in enumerate(predictions):
        boxes, scores, classes = (torch.from_numpy(arrays[f"det{i}.{k}"]) for k in ("boxes", "scores", "classes"))
        prediction["boxes"] = prediction["boxes"] - torch.tensor([0.0, 0, pixel, pixel])
        assert_same_detections(prediction, boxes, classes.long() + 1, scores, atol=1e-4)
