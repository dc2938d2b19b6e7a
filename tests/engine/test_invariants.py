"""What docs/architecture.md says holds everywhere, end to end, with a real detector on small shapes."""

import json
import signal
from pathlib import Path

import pytest
import torch

from detframe.engine import evaluate, launch, train
from tests.engine import ranks
from tests.engine.fakes import last_state

# A schedule that kills its own process in the middle of the training, as a cluster would
KILLER = """
import os, signal
from detframe.registry import LR_SCHEDULES

@LR_SCHEDULES.register("tests-killer")
def build(cfg):
    def factor(iteration):
        if iteration == 6 and os.environ.get("KILL_NOW"):
            os.kill(os.getpid(), signal.SIGKILL)
        return 1.0 / (1 + iteration)
    return factor
"""
LOSSES = ("loss", "loss_rpn_cls", "loss_rpn_box", "loss_roi_cls", "loss_roi_box", "lr")


def rows(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def numbers(folder):
    """What must not depend on how the run was made: losses and metrics, without times and memory."""
    return [{k: v for k, v in row.items() if k in LOSSES or "/" in k or k == "iteration"} for row in rows(folder)]


def load(folder, name="model_final.pth"):
    return torch.load(Path(folder) / name, weights_only=True)


def assert_same_tensors(a, b):
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert different == []


@pytest.fixture
def killer(tmp_path):
    path = tmp_path / "killer.py"
    path.write_text(KILLER)
    return ("CUSTOM_IMPORTS", (str(path),), "SOLVER.LR_SCHEDULE", "tests-killer")


def test_kill_and_resume_is_bit_exact(tiny, tmp_path, killer, root, run_python, datasets):
    """N steps equal N/2 steps, kill -9, --resume, N/2 steps; also with other numbers of workers."""
    cfg = tiny("OUTPUT_DIR", str(tmp_path / "whole"), *killer, "SOLVER.EMA_DECAY", 0.9)
    train(cfg)

    parts = tiny("OUTPUT_DIR", str(tmp_path / "parts"), *killer, "SOLVER.EMA_DECAY", 0.9)
    config = tmp_path / "tiny.yaml"
    config.write_text(parts.dump())
    program = [root / "tools" / "train_net.py", "--config-file", config]
    env = {"DETFRAME_DATASETS": str(datasets), "DETFRAME_CACHE": str(datasets / "cache")}
    killed = run_python(*program, "DATALOADER.NUM_WORKERS", "1", KILL_NOW="1", **env)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "parts" / "last_checkpoint").read_text().strip() == "model_0000004.pth"
    assert rows(tmp_path / "parts")[-1]["iteration"] == 6
    resumed = run_python(*program, "--resume", **env)
    assert resumed.returncode == 0, resumed.stderr
    assert "dropped 1 rows after iteration 4" in resumed.stdout

    for name in ("model_final.pth", "model_0000008.pth"):
        one, two = load(tmp_path / "whole", name), load(tmp_path / "parts", name)
        assert_same_tensors(one["model"], two["model"])
    assert_same_tensors(one["training"]["model"], two["training"]["model"])
    states = [content["training"]["optimizer"]["state"] for content in (one, two)]
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert_same_tensors(state, states[1][key])
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "parts")
    log = (tmp_path / "parts" / "log.txt").read_text()
    assert "going on from" in log


def test_two_ranks_equal_one(tiny, tmp_path):
    """Training, AP, and batches, ranks or everything without objects; all in one start of two processes."""
    one = tiny("OUTPUT_DIR", str(tmp_path / "one"))
    two = tiny("OUTPUT_DIR", str(tmp_path / "two"))
    train(one)
    good = {"OPTIMIZER": "AdamW", "BASE_LR": 0.003, "STEPS": (), "MAX_ITER": 100, "LOG_PERIOD": 50}
    good = [word for key, value in good.items() for word in (f"SOLVER.{key}", value)]
    losses = ("TEST.LOSS", True)
    trained = train(tiny("OUTPUT_DIR", str(tmp_path / "good"), *good, *losses, "TEST.VISUALIZE", 0))
    assert trained["bbox/AP"] > 0 and trained["val/loss"] > 0
    weights = ("MODEL.WEIGHTS", str(tmp_path / "good" / "model_final.pth"))
    evaluation = tiny("OUTPUT_DIR", str(tmp_path / "evaluation"), *weights, *losses, "TEST.REPORT", True)

    found = launch(ranks.two_ranks_detector, 2, (two, evaluation))

    # Later a proposal that is as good as another may win on one side only, as sums are rounded in another order
    ours, theirs = (load(tmp_path / name, "model_0000004.pth") for name in ("one", "two"))
    torch.testing.assert_close(ours["model"], theirs["model"], rtol=1e-4, atol=1e-5)
    for mine, other in zip(numbers(tmp_path / "one")[:2], numbers(tmp_path / "two")[:2], strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert len(theirs["training"]["rng"]) == 2
    assert (tmp_path / "two" / "log_rank1.txt").read_text()

    assert found["evaluated"] == pytest.approx(trained, abs=1e-9, nan_ok=True)
    detections = json.loads((tmp_path / "evaluation" / "predictions_shapes_val.json").read_text())
    assert len({row["image_id"] for row in detections}) == 8  # of both ranks
    reported = json.loads((tmp_path / "evaluation" / "report.json").read_text())["sets"]["shapes_val"]
    assert [note for note in reported["notes"] if "other weights" in note] == []
    assert len(found["empty"]) == 3 + len(ranks.KINDS)
    for by_rank in found["empty"]:
        assert by_rank == [(2, []), (2, [])]


def test_files_of_a_run(tiny, tmp_path):
    metrics = train(tiny("TEST.EVAL_PERIOD", 4, "SOLVER.KEEP_LAST", 1))
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("config.yaml", "log.txt", "metrics.jsonl", "last_checkpoint", "images", "tensorboard"),
        *("model_0000008.pth", "model_best.pth", "model_final.pth"),
    }
    assert {"bbox/AP", "bbox/AP50", "bbox/AP75", "bbox/APs", "bbox/AP-circle"} <= metrics.keys()
    found = rows(out)
    assert [row["iteration"] for row in found if "loss" in row] == [2, 4, 6, 8]
    assert [row["iteration"] for row in found if "bbox/AP" in row] == [4, 8]
    assert "NUM_CLASSES: 5" in (out / "config.yaml").read_text()
    content = load(out)
    assert content["meta"]["class_names"] == ["circle", "square", "triangle", "star", "cross"]
    assert content["meta"]["category_ids"] == [1, 3, 7, 8, 12]
    pictures = {path.name for path in (out / "images").iterdir()}
    assert {"train_0_0000001.png", "predictions_shapes_val_0_0000008.png"} <= pictures
    log = (out / "log.txt").read_text()
    assert "global batch 4 = 4 images x 1 rank x 1 accumulation step, lr 0.01" in log
    assert "AP50" in log


def test_resume_of_a_finished_run(tiny, tmp_path):
    metrics = train(tiny("SOLVER.MAX_ITER", 2))
    before = (tmp_path / "out" / "model_final.pth").stat().st_mtime_ns
    again = train(tiny("SOLVER.MAX_ITER", 2), resume=True)
    assert again == pytest.approx(metrics, nan_ok=True)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "nothing to do" in log
    assert "at iteration 2 of SOLVER.MAX_ITER 2; raise SOLVER.MAX_ITER to go on" in log
    assert (tmp_path / "out" / "model_final.pth").stat().st_mtime_ns == before
    longer = train(tiny("SOLVER.MAX_ITER", 4), resume=True)
    assert longer.keys() == metrics.keys()
    assert load(tmp_path / "out")["meta"]["iteration"] == 4
    assert [row["iteration"] for row in rows(tmp_path / "out") if "loss" in row] == [2, 4]


def test_resume_without_a_checkpoint_begins(tiny, tmp_path):
    train(tiny("SOLVER.MAX_ITER", 1, "DATASETS.TEST", ()), resume=True)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "there is no checkpoint in" in log
    assert "nothing is evaluated" in log
    assert last_state(tmp_path / "out")["iteration"] == 1


def test_an_older_run_is_set_aside_and_its_weights_still_load(tiny, tmp_path):
    out = tmp_path / "out"
    train(tiny("SOLVER.MAX_ITER", 1, "DATASETS.TEST", ()))
    first = load(out)["model"]
    train(tiny("SOLVER.MAX_ITER", 1, "DATASETS.TEST", (), "MODEL.WEIGHTS", str(out / "model_final.pth"), "SEED", 3))
    (previous,) = out.glob("previous_*")
    assert_same_tensors(load(previous)["model"], first)
    assert [row["iteration"] for row in rows(out)] == [1]
    assert "held an older run" in (out / "log.txt").read_text()
    assert "loaded" in (out / "log.txt").read_text()


def test_resume_with_another_architecture(tiny):
    train(tiny("SOLVER.MAX_ITER", 1, "DATASETS.TEST", ()))
    with pytest.raises(ValueError, match="another architecture"):
        train(tiny("SOLVER.MAX_ITER", 2, "MODEL.FPN.OUT_CHANNELS", 24, "DATASETS.TEST", ()), resume=True)
    with pytest.raises(ValueError, match=r"began with SOLVER\.OPTIMIZER SGD"):
        train(tiny("SOLVER.MAX_ITER", 2, "SOLVER.OPTIMIZER", "AdamW", "DATASETS.TEST", ()), resume=True)


def test_half_written_checkpoint_is_named(tiny, tmp_path):
    train(tiny("SOLVER.MAX_ITER", 1, "DATASETS.TEST", ()))
    path = tmp_path / "out" / "model_0000001.pth"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model_0000001\.pth is half-written"):
        train(tiny("SOLVER.MAX_ITER", 2), resume=True)


def test_mistakes_are_found_before_training(tiny, tmp_path):
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN is empty"):
        train(tiny("DATASETS.TRAIN", ()))
    with pytest.raises(ValueError, match="ACCUMULATE_STEPS"):
        train(tiny("SOLVER.ACCUMULATE_STEPS", 3))
    with pytest.raises(ValueError, match=r"SOLVER\.BEST_METRIC 'mAP' is no metric"):
        train(tiny("SOLVER.BEST_METRIC", "mAP"))
    with pytest.raises(ValueError, match="needs evaluations during training"):
        train(tiny("SOLVER.EARLY_STOP_PATIENCE", 2))
    with pytest.raises(ValueError, match="5 classes"):
        train(tiny("MODEL.NUM_CLASSES", 6))
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is empty"):
        evaluate(tiny())


@pytest.mark.parametrize("norm", ["GN", "BN"])
def test_a_step_that_diverges_is_replayed(tiny, tmp_path, capsys, norm):
    from detframe.cli.replay import main

    with pytest.raises(FloatingPointError, match=r"000002\.jpg(.|\n)*likely cause: the learning rate") as caught:
        train(tiny("SOLVER.BASE_LR", 1e30, "SOLVER.WARMUP_ITERS", 0, "MODEL.RESNETS.NORM", norm))
    (bundle,) = (tmp_path / "out" / "nonfinite").iterdir()
    assert str(bundle) in str(caught.value)
    recorded = torch.load(bundle, weights_only=True)
    assert main([str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "reproduced: the step is not finite again" in shown
    assert "before the step already" not in shown
    for key in recorded["losses"]:
        assert key in shown
    assert main([str(tmp_path / "absent.pth")]) == 2


def test_same_seed_same_run(tiny, tmp_path):
    for name in ("a", "b"):
        train(
            tiny("SOLVER.MAX_ITER", 2, "DATASETS.TEST", (), "OUTPUT_DIR", str(tmp_path / name), "DETERMINISTIC", True)
        )
    assert_same_tensors(load(tmp_path / "a")["model"], load(tmp_path / "b")["model"])
    train(tiny("SOLVER.MAX_ITER", 2, "DATASETS.TEST", (), "OUTPUT_DIR", str(tmp_path / "c"), "SEED", -1))
    assert "SEED: -1" not in (tmp_path / "c" / "config.yaml").read_text()


def test_two_test_sets_have_prefixes(tiny, datasets, tmp_path):
    catalog = tmp_path / "catalog.yaml"
    folder = datasets / "shapes"
    catalog.write_text(f"again: {{format: coco, images: {folder}/val, annotations: {folder}/annotations/val.json}}\n")
    cfg = tiny("SOLVER.MAX_ITER", 1, "DATASETS.TEST", ("shapes_val", "again"), "DATASETS.CATALOG", str(catalog))
    metrics = train(cfg)
    assert {"shapes_val/bbox/AP", "again/bbox/AP"} <= metrics.keys()
    assert load(tmp_path / "out", "model_best.pth")["meta"]["iteration"] == 1
