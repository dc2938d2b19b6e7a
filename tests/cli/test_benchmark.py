"""tools/benchmark.py: the same weights on both sides, steps in turn, results that can be read again."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from detframe.cli.benchmark import main
from detframe.cli.benchmark_models import make_batch, model_pair, sides_beside
from detframe.cli.benchmark_steps import interleave
from detframe.config import get_cfg


def test_a_run_writes_medians_and_ratios(tmp_path):
    path = tmp_path / "results.json"
    words = [
        "--size",
        "64",
        "64",
        "--batch",
        "1",
        "--rounds",
        "1",
        "--precision",
        "fp32",
        "--what",
        "inference",
        "stages",
    ]
    assert main([*words, "--json", str(path), "MODEL.DEVICE", "cpu"]) == 0
    results = json.loads(path.read_text())
    row = results["inference/fp32"]
    assert row["ratio"] == row["torchvision_s"] / row["detframe_s"] > 0
    assert set(results["stages/fp32"]) == {"preprocessor", "backbone", "rpn", "roi_heads", "backward", "optimizer"}
    assert "torch" in results["machine"]


def test_both_models_compute_the_same():
    torch.manual_seed(0)
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    device = torch.device("cpu")
    theirs, ours = model_pair(cfg, 96, 128, device)
    images, _ = make_batch(1, 96, 128, device)
    with torch.inference_mode():
        a, b = theirs.eval()(images)[0], ours.eval()(images)[0]
    assert len(a["boxes"]) == len(b["boxes"])
    torch.testing.assert_close(a["scores"], b["scores"], atol=1e-4, rtol=1e-3)


def test_without_detectron2_a_comparison_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    assert main(["--beside", "detectron2", "--size", "64", "64", "MODEL.DEVICE", "cpu"]) == 2
    assert "--beside detectron2 needs it installed, and it cannot be imported" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::UserWarning")  # of its calls of PyTorch
def test_detectron2s_models_compute_the_same():
    pytest.importorskip("detectron2.modeling")
    torch.manual_seed(0)
    cfg, device = get_cfg(), torch.device("cpu")
    cfg.MODEL.DEVICE = "cpu"
    batch = make_batch(1, 96, 128, device)
    theirs, ours = sides_beside("detectron2", cfg, "mask_rcnn", batch, device)
    with torch.inference_mode():
        found, own = theirs.model.eval()(theirs.images)[0]["instances"], ours.model.eval()(ours.images)[0]
    torch.testing.assert_close(found.scores[:20], own["scores"][:20], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.pred_boxes.tensor[:20], own["boxes"][:20], atol=1e-2, rtol=1e-3)
    theirs, ours = sides_beside("detectron2", cfg, "retinanet", batch, device)
    losses = [list(side.model(side.images, side.targets).values()) for side in (theirs, ours)]
    torch.testing.assert_close(*losses, atol=0, rtol=1e-4)


def test_steps_are_taken_in_turn_and_the_first_rounds_do_not_count():
    order = []
    rows = interleave([lambda: order.append("a"), lambda: order.append("b")], 3, torch.device("cpu"))
    assert "".join(order) == "ab" * 5
    assert [len(row) for row in rows] == [3, 3]


def test_data_needs_a_data_set(capsys):
    assert main(["--what", "data"]) == 2
    assert "DATASETS.TRAIN" in capsys.readouterr().err


def test_folding_is_timed_against_its_absence(tmp_path):
    path = tmp_path / "results.json"
    words = ["--what", "folding", "--size", "64", "64", "--batch", "1", "--rounds", "1", "--precision", "fp32"]
    opts = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.CONV_BODY", "R-18-FPN", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", "8"]
    assert main([*words, "--json", str(path), *opts]) == 0
    row = json.loads(path.read_text())["folding"]["fp32"]
    assert row["ratio"] == row["without_s"] / row["with_s"] > 0


def test_evaluation_is_timed_beside_pycocotools_with_the_same_result(tmp_path):
    path = tmp_path / "results.json"
    words = ["--what", "evaluation", "--images", "40", "--rounds", "1", "--json", str(path)]
    assert main(words) == 0
    row = json.loads(path.read_text())["evaluation"]
    assert row["ratio"] == row["pycocotools_s"] / row["detframe_s"] > 5
    assert 5 < row["AP"]["detframe"] < 95
    assert abs(row["AP"]["detframe"] - row["AP"]["pycocotools"]) < 1e-6
    assert set(row["memory_mb"]) == {"detframe", "pycocotools"}


def test_a_detector_that_torchvisions_weights_do_not_fit_is_sent_elsewhere(tmp_path, caplog, capsys):
    words = ["--what", "stages", "--size", "64", "64", "--config-file", "configs/quick/faster_rcnn_MNV2_FPN_bccd.yaml"]
    assert main([*words, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]) == 2
    told = capsys.readouterr().err + caplog.text
    assert "cannot take; --what roofline" in told and "'MNV2-FPN'" in told
