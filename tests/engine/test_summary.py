"""What a run says at its end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from detframe.config import get_cfg
from detframe.engine.saving import BestHook
from detframe.engine.summary import next_commands, summarise


class Files:
    """Records of one image."""

    def file_name(self, row):
        return "/data/my photos/a.jpg"


def inputs(test_sets, minutes=0.0):
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", 100, "SOLVER.MAX_MINUTES", minutes])
    return SimpleNamespace(cfg=cfg, records=Files(), test_sets={"val": Files()} if test_sets else {})


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/detframe", "train"])


def test_three_commands_to_copy(tmp_path):
    (tmp_path / "model_best.pth").touch()
    (tmp_path / "tensorboard").mkdir()
    assert next_commands(inputs(test_sets=True), tmp_path) == [
        f"detframe predict --weights {tmp_path}/model_best.pth --input '/data/my photos' --output {tmp_path}/found",
        f"detframe evaluate --config-file {tmp_path}/config.yaml",
        f"tensorboard --logdir {tmp_path}/tensorboard",
    ]


def test_a_checkpoint_that_needs_code_of_ones_own_is_told_to_import_it(tmp_path):
    run = inputs(test_sets=True)
    run.cfg.merge_from_list(["CUSTOM_IMPORTS", ["my_detector.py"]])
    predict, evaluate, *_ = next_commands(run, tmp_path)
    assert predict.endswith(" --allow-custom-imports") and "--allow" not in evaluate  # the config is the user's own


def test_without_an_evaluation_there_is_no_best_model(tmp_path):
    predict, train = next_commands(inputs(test_sets=False), tmp_path)
    assert f"--weights {tmp_path}/model_final.pth" in predict
    assert train == f"detframe train --config-file {tmp_path}/config.yaml --resume SOLVER.MAX_ITER 200"
    _, train = next_commands(inputs(test_sets=False, minutes=0.5), tmp_path)
    assert train.endswith("--resume SOLVER.MAX_MINUTES 1.0")  # MAX_ITER is not what ends it


@pytest.mark.parametrize(("iteration", "named"), [(60, True), (100, False)])
def test_how_good_it_is_and_where_everything_lies(tmp_path, caplog, iteration, named):
    caplog.set_level("INFO", "detframe")
    for name in ("model_best.pth", "model_final.pth", "log.txt"):
        (tmp_path / name).touch()
    best = BestHook(SimpleNamespace(), "bbox/AP")
    best.best, best.best_iteration = 51.25, iteration
    metrics = {"bbox/AP": 50.0, "bbox/AP50": 80.0, "bbox/AP75": 55.0}
    data = SimpleNamespace(skipped=3)
    weights = SimpleNamespace(averaged_by="")
    trainer = SimpleNamespace(iteration=100, metrics=metrics, hooks=[best], data=data, skipped=2, weights=weights)
    summarise(trainer, inputs(test_sets=True), tmp_path, 90.0, "2 images are missing")
    (record,) = caplog.records
    text = record.getMessage()
    assert record.result
    assert text.startswith("trained 100 iterations in 1.5 minutes\n2 images are missing\n")
    assert "left out 3 times" in text
    assert "\n2 steps were skipped, whose losses or gradients were not finite\n" in text
    assert "\nfinal model: bbox/AP 50.00, bbox/AP50 80.00\n" in text
    assert ("\nbest model:  bbox/AP 51.25, at iteration 60\n" in text) is named
    assert f"  {tmp_path}/model_best.pth: the detector" in text and f"  {tmp_path}/log.txt: this log" in text
    assert "config.yaml: " not in text  # it is not there
    assert text.count("\n  detframe ") == 2
