"""A region proposal network alone, from training to average recall and to a Detector."""

from __future__ import annotations

import json

import pytest
import torch

from detframe.engine import evaluate, train
from detframe.inference import Detector

ALONE = ("MODEL.ROI_HEADS.NAME", "", "TEST.EVALUATOR", "proposals", "SOLVER.BEST_METRIC", "proposals/AR@100")


def test_train_evaluate_and_load(tiny, tmp_path):
    metrics = train(tiny(*ALONE, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (1,), "TEST.DETECTIONS_PER_IMG", 2))
    assert len(metrics) == 8 and 0 < metrics["proposals/AR@100"] <= metrics["proposals/AR@1000"] < 100
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert any("loss_rpn_cls" in row for row in rows) and not any("loss_roi_cls" in row for row in rows)
    best = tmp_path / "out" / "model_best.pth"
    again = evaluate(tiny(*ALONE, "MODEL.WEIGHTS", str(best)))
    assert again == pytest.approx(metrics, nan_ok=True)
    detector = Detector.load(best, device="cpu")
    assert detector.class_names == ("object",) and detector.category_ids == (1,)
    (prediction,) = detector.predict(torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert 2 < len(prediction["boxes"]) <= 50 and set(prediction["labels"].tolist()) == {1}


def test_average_precision_over_several_classes_is_refused(tiny):
    opts = ("MODEL.ROI_HEADS.NAME", "", "MODEL.WEIGHTS", "")
    with pytest.raises(ValueError, match=r"compares 5 classes, .* set TEST\.EVALUATOR proposals"):
        train(tiny(*opts, "SOLVER.MAX_ITER", 2))
    with pytest.raises(ValueError, match=r"BEST_METRIC 'bbox/AP' is no metric .* as 'proposals/AR@1000'"):
        train(tiny(*opts, "TEST.EVALUATOR", "proposals", "SOLVER.MAX_ITER", 2))
