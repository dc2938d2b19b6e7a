"""Evaluations with TEST.AUG and TEST.NMS."""

from __future__ import annotations

import logging

import pytest
import torch

from detframe.engine import train
from detframe.engine.evaluating import TestSets
from detframe.engine.inputs import load_test_sets
from detframe.inference import Detector
from detframe.modeling import build_detection_model


@pytest.fixture
def scored(tiny):
    """A function: metrics of an untrained model, the same each time, with overrides."""

    def run(*overrides):
        cfg = tiny("MODEL.WEIGHTS", "", "MODEL.NUM_CLASSES", 5, "MODEL.ROI_HEADS.SCORE_THRESH", 0.01, *overrides)
        sets = load_test_sets(cfg)
        torch.manual_seed(0)
        tests = TestSets(cfg, sets, None)
        metrics = tests.evaluate(build_detection_model(cfg), 0)
        (evaluator,) = tests.evaluators.values()
        return metrics, evaluator.results()

    return run


def test_one_view_is_a_plain_evaluation(scored):
    metrics, results = scored()
    same, same_results = scored("TEST.AUG.ENABLED", True, "TEST.AUG.FLIP", False)
    assert same == pytest.approx(metrics, nan_ok=True) and len(results) > 10
    assert [row["bbox"] for row in same_results] == [row["bbox"] for row in results]
    assert [row["score"] for row in same_results] == [row["score"] for row in results]


def test_several_views(scored, caplog):
    caplog.set_level(logging.INFO, "detframe")
    _, plain = scored()
    assert "views (TEST.AUG)" not in caplog.text
    words = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (48,), "TEST.AUG.MERGE", "wbf")
    _, merged = scored(*words)
    assert "each image is predicted in 4 views (TEST.AUG)" in caplog.text
    assert len(merged) > 10 and [row["bbox"] for row in merged] != [row["bbox"] for row in plain]
    _, soft = scored("TEST.NMS", "soft")
    assert [row["score"] for row in soft] != [row["score"] for row in plain]


def test_a_training_leaves_a_detector_that_looks_as_it_did(tiny, tmp_path):
    """TEST.AUG and TEST.NMS travel in the checkpoint."""
    train(tiny("SOLVER.MAX_ITER", 1, "SOLVER.STEPS", (), "TEST.AUG.ENABLED", True, "TEST.NMS", "agnostic"))
    detector = Detector.load(tmp_path / "out" / "model_final.pth", device="cpu")
    assert detector.model.nms.kind == "agnostic" and len(detector.augmented(None).views) == 2
    assert detector.augmented(False) is None
