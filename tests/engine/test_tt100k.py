"""Tsinghua-Tencent 100K from file to metrics: the shipped configs, made small, on a tiny tree."""

from __future__ import annotations

import math

import pytest

from detframe.config import find_config, get_cfg
from detframe.engine import evaluate, train
from tests.data.tt100k_sets import sign, write_tt100k
from tests.engine.ranks import TINY


@pytest.mark.parametrize("name", ["FPN", "EFPN"])
def test_train_and_evaluate(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DETFRAME_DATASETS", raising=False)
    tree = {f"train/{i}.jpg": [sign("i2", (5, 5, 25, 25)), sign("zz", (30, 5, 40, 15))] for i in range(4)}
    catalog = write_tt100k(tmp_path, tree, split="train")
    cfg = get_cfg()
    cfg.merge_from_file(find_config(f"tt100k/faster_rcnn_R_50_{name}_tt100k.yaml"))
    assert cfg.INPUT.FLIP_PROB == 0 and cfg.TEST.EVALUATOR == "tt100k"
    small = {
        **{key: value for key, value in TINY.items() if not key.startswith("DATASETS.")},
        "MODEL.WEIGHTS": "",
        "MODEL.BACKBONE.CONV_BODY": f"R-18-{name}",
        "MODEL.EFPN.WIDTH": 8,
        "DATASETS.TRAIN": ("signs",),
        "DATASETS.TEST": ("signs",),
        "DATASETS.CATALOG": str(catalog),
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.STEPS": (1,),
        "SOLVER.BEST_METRIC": "tt100k/F1",
        "OUTPUT_DIR": str(tmp_path / "out"),
    }
    cfg.merge_from_list([word for pair in small.items() for word in pair])
    metrics = train(cfg)
    assert 0 <= metrics["tt100k/recall"] <= 100 and 0 <= metrics["tt100k/recall-small"] <= 100
    assert math.isnan(metrics["tt100k/recall-medium"]) and "bbox/AP-i2" in metrics
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(tmp_path / "out" / "model_final.pth")
    again = evaluate(cfg)
    assert {key: again[key] for key in metrics if "/" in key} == pytest.approx(metrics, nan_ok=True)
