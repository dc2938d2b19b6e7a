"""On real annotations, read by detframe, the metrics are those of pycocotools on the original JSON."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from detframe.data import load_records
from detframe.evaluation import COCOEvaluator, oracle_check
from tests.evaluation.fakes import noisy_predictions, targets_of
from tests.evaluation.reference import pycocotools_stats
from tests.evaluation.test_coco import STATS


@pytest.fixture
def datasets(shared, monkeypatch, tmp_path):
    monkeypatch.setenv("DETFRAME_DATASETS", str(shared / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return shared / "data"


def test_tiny_coco(datasets):
    records = load_records(["tiny_coco_val"])
    evaluator = COCOEvaluator(records)
    evaluator.update(targets_of(records), noisy_predictions(records))
    metrics = evaluator.compute()
    file = json.loads((datasets / "tiny_coco/annotations/instances_val2017.json").read_text())
    expected = pycocotools_stats(file, evaluator.results())
    assert expected[0] > 10
    for name, value in zip(STATS, expected, strict=False):
        assert metrics[f"bbox/{name}"] == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("name", ["tiny_coco_val", "tiny_coco_keypoints_val", "bccd_test"])
def test_oracle(datasets, name):
    metrics = oracle_check(load_records([name]))
    scores = {key: value for key, value in metrics.items() if "/AP" in key and not math.isnan(value)}
    assert ("segm/AP" in scores) == ("coco" in name) and ("keypoints/AP" in scores) == ("keypoints" in name)
    assert np.allclose(list(scores.values()), 100), scores
