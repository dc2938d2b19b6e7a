"""The detector predicts on a file what the evaluation loop predicts on it, and the written results score the same."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from detframe.data import build_test_loader, load_records
from detframe.evaluation import COCOEvaluator, run_evaluation
from detframe.inference import Detector, to_coco_results
from tests.inference.conftest import NAMES, picture

SIZES = [(60, 90), (60, 90), (120, 80), (200, 120), (96, 96)]


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Five pictures with random objects, as COCO JSON with sparse category ids."""
    monkeypatch.setenv("DETFRAME_DATASETS", str(tmp_path))
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index, (height, width) in enumerate(SIZES):
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture(height, width, seed=index)[:, :, ::-1])
        images.append({"id": 50 + index, "file_name": f"{index}.png", "height": height, "width": width})
        for _ in range(4):
            x, y = float(rng.integers(0, width - 20)), float(rng.integers(0, height - 20))
            box = [x, y, float(rng.integers(8, 20)), float(rng.integers(8, 20))]
            annotations.append({"id": len(annotations), "image_id": 50 + index, "bbox": box, "category_id": 5})
    categories = [{"id": i, "name": name} for i, name in zip((1, 5, 9), NAMES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content))
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(f"few: {{format: coco, images: {tmp_path}, annotations: {tmp_path / 'a.json'}}}\n")
    return load_records(["few"], catalog=str(catalog))


def test_detector_and_evaluation_agree(records, checkpoint_path):
    detector = Detector.load(checkpoint_path, device="cpu", amp="off")
    cfg = detector.cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(["TEST.IMS_PER_BATCH", 1, "DATALOADER.NUM_WORKERS", 0])
    evaluator = COCOEvaluator(records)
    metrics = run_evaluation(detector.model, build_test_loader(cfg, records), evaluator)

    predictions = detector.predict([record["file_name"] for record in records], batch_size=4)
    rows = to_coco_results(predictions, [record["image_id"] for record in records], detector.category_ids)
    expected = evaluator.results()
    assert len(rows) == len(expected) > 5
    assert [row["image_id"] for row in rows] == [row["image_id"] for row in expected]
    assert {row["category_id"] for row in rows} <= {1, 5, 9}
    boxes, expected_boxes = (torch.tensor([row["bbox"] for row in part]) for part in (rows, expected))
    close = (boxes - expected_boxes).abs().amax(dim=1) < 0.01
    assert close.float().mean() > 0.95  # equal scores may change places
    torch.testing.assert_close(
        torch.tensor([row["score"] for row in rows]),
        torch.tensor([row["score"] for row in expected]),
        rtol=0,
        atol=1e-4,
    )
    assert "bbox/AP-star" in metrics
