"""Annotated images that do not exist, in a run: one error before anything is made, or left out and counted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from detframe.engine import evaluate, train
from detframe.engine.inputs import load_inputs, missing_images


@pytest.fixture
def torn(datasets: Path, tmp_path: Path) -> tuple[str, ...]:
    """Overrides for the shapes, of which three training and two test images are gone."""
    shutil.copytree(datasets / "shapes", tmp_path / "shapes")
    entries = {}
    for split, count in (("train", 3), ("val", 2)):
        folder = tmp_path / "shapes" / split
        for image in sorted(folder.iterdir())[:count]:
            image.unlink()
        annotations = tmp_path / "shapes" / "annotations" / f"{split}.json"
        entries[f"torn_{split}"] = {"format": "coco", "images": str(folder), "annotations": str(annotations)}
    (tmp_path / "torn.yaml").write_text(yaml.safe_dump(entries))
    sets = ("DATASETS.TRAIN", ("torn_train",), "DATASETS.TEST", ("torn_val",))
    return ("DATASETS.CATALOG", str(tmp_path / "torn.yaml"), *sets)


def test_the_missing_images_of_all_sets_are_one_error(tiny, tmp_path, torn):
    with pytest.raises(FileNotFoundError) as caught:
        train(tiny(*torn))
    first, second = str(caught.value).splitlines()
    assert first.startswith("data set 'torn_train': 3 annotated images do not exist; there is no image called ")
    assert second.startswith("data set 'torn_val': 2 annotated images do not exist; ")
    assert not (tmp_path / "out").exists()


def test_they_are_left_out_of_training_and_evaluation_and_counted(tiny, tmp_path, torn, caplog):
    cfg = tiny(*torn, "DATALOADER.ON_ERROR", "skip", "SOLVER.MAX_ITER", 2)
    metrics = train(cfg)
    assert "bbox/AP" in metrics
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("torn_train: 3 annotated images do not exist and were left out") == 1
    assert log.count("torn_val: 2 annotated images do not exist and were left out") == 1
    assert "annotated images that do not exist were left out: 3 of torn_train, 2 of torn_val" in log
    assert "training data torn_train: 21 images" in log
    assert "evaluating 6 images of torn_val; 2 that do not exist are left out" in log
    weights = ("MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth"))
    with pytest.raises(FileNotFoundError, match="2 annotated images"):
        evaluate(tiny(*torn, *weights))
    again = evaluate(tiny(*torn, *weights, "DATALOADER.ON_ERROR", "skip"))
    assert again["bbox/AP"] == pytest.approx(metrics["bbox/AP"], nan_ok=True)


def test_the_config_that_is_written_finds_its_catalog_from_any_folder(tiny, tmp_path, torn, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs = load_inputs(tiny(*torn, "DATASETS.CATALOG", "torn.yaml", "DATALOADER.ON_ERROR", "skip"), None)
    assert inputs.cfg.DATASETS.CATALOG == str(tmp_path / "torn.yaml")


def test_nothing_is_said_where_all_images_are_there(tiny):
    assert missing_images(load_inputs(tiny(), None)) == ""
