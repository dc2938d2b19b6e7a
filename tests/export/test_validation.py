"""The images that a file is proved on, and AP of both on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from detframe.config import get_cfg
from detframe.data import load_records
from detframe.errors import InvalidValueError, UserError
from detframe.export import export, validation_data
from detframe.export.validation import spread
from tests.data.sets import annotation, pixels, save_image, write_catalog
from tests.export.conftest import META

NAMES = ("cat", "dog", "owl")


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """A catalog with a data set "animals" of four pictures."""
    folder = tmp_path / "animals"
    folder.mkdir()
    images, annotations = [], []
    for i in range(4):
        save_image(folder / f"{i}.png", pixels(60 + 10 * i, 90 - 5 * i, i))
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 60 + 10 * i, "width": 90 - 5 * i})
        annotations.append(annotation(i + 1, i + 1, [5, 6, 30, 40], category=(3, 7, 11)[i % 3]))
    categories = [{"id": number, "name": name} for number, name in zip((3, 7, 11), NAMES, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(content), encoding="utf-8")
    entry = {"format": "coco", "images": str(folder), "annotations": str(folder / "labels.json")}
    return write_catalog(tmp_path, {"animals": entry})


def config(catalog: Path | str = "", *names: str):
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.CATALOG", str(catalog), "DATASETS.TEST", list(names), "TEST.EVALUATOR", "coco"])
    return cfg


def test_the_test_set_of_the_checkpoint(animals: Path):
    records, reason = validation_data(config(animals, "animals"), NAMES)
    assert records is not None and len(records) == 4 and reason == ""


def test_none_where_the_checkpoint_names_none():
    assert validation_data(config(), NAMES) == (None, "DATASETS.TEST of the checkpoint is empty")


def test_none_where_the_data_are_not_here(animals: Path):
    records, reason = validation_data(config("/nowhere/catalog.yaml", "animals"), NAMES)
    assert records is None and "animals, cannot be read here" in reason and "/nowhere/catalog.yaml" in reason


def test_data_by_name_and_by_path(animals: Path):
    assert len(validation_data(config(animals), NAMES, "animals")[0]) == 4
    assert len(validation_data(config(), NAMES, str(animals.parent / "animals"))[0]) == 4


def test_data_of_other_classes_are_refused(animals: Path):
    with pytest.raises(InvalidValueError, match="same class names"):
        validation_data(config(animals), ("cat", "dog", "cow"), "animals")
    with pytest.raises(UserError, match="cow"):
        validation_data(config(), ("cat", "cow"), str(animals.parent / "animals"))
    assert validation_data(config(animals), None, "animals")[0] is not None  # proposals have no classes


def test_data_that_do_not_exist(animals: Path):
    with pytest.raises(UserError, match="did you mean 'animals'"):
        validation_data(config(animals), NAMES, "animal")
    with pytest.raises(UserError, match="does not exist"):
        validation_data(config(animals), NAMES, "./no/such/folder")


def test_images_are_taken_from_all_over_the_data(animals: Path):
    records = load_records(["animals"], str(animals))
    assert spread(records, 3).image_ids.tolist() == [1, 3, 4]
    assert spread(records, 9) is records
    with pytest.raises(InvalidValueError, match="not 0"):
        spread(records, 0)


def test_both_are_scored_on_them(tiny_model, quick, animals: Path, tmp_path: Path):
    model, cfg = tiny_model
    records = load_records(["animals"], str(animals))
    target = tmp_path / "out" / "a.onnx"
    target.parent.mkdir()
    report = export(model, cfg, META, target, records=records, num_images=3)
    assert report.data == "3 images of animals" and not report.warnings
    assert set(report.metrics) == {"bbox/AP"}
    pytorch, file = report.metrics["bbox/AP"]
    assert pytorch == pytest.approx(file, abs=0.1)
    written = json.loads(target.with_name("a.onnx.report.json").read_text(encoding="utf-8"))
    assert written["metrics"]["bbox/AP"] == {"pytorch": pytorch, "file": file}
    assert written["checks"][-1]["images"] == 3 and written["seconds_per_image"]["file"] > 0


def test_a_detector_of_tiles_is_scored_on_whole_images(tiny_model, quick, animals: Path, tmp_path: Path, monkeypatch):
    from detframe.evaluation import COCOEvaluator

    scored = []
    update = COCOEvaluator.update

    def noted(self, targets, predictions):
        scored.append([(target["image_id"], target["orig_size_hw"], "tile" in target) for target in targets])
        update(self, targets, predictions)

    monkeypatch.setattr(COCOEvaluator, "update", noted)
    model, cfg = tiny_model
    cut = cfg.changed([("INPUT.TILES.SIZE", 64), ("INPUT.TILES.OVERLAP", 0.1)])
    records = load_records(["animals"], str(animals))
    (tmp_path / "out").mkdir()
    report = export(model, cut, META, tmp_path / "out" / "a.onnx", records=records, num_images=2)
    assert "bbox/AP" in report.metrics
    last = report.evidence.checks[-1]
    assert last.name == f"2 images of animals, cut into {last.images} tiles"
    assert last.images == 6  # 2 beside 1, and 2 upon 2
    assert sorted(row for one in scored for row in one) == [(1, (60, 90), False)] * 2 + [(4, (90, 75), False)] * 2


def test_a_lower_ap_is_refused(tiny_model, quick, animals: Path, tmp_path: Path, monkeypatch):
    from detframe.errors import EvidenceError
    from detframe.export import evidence

    class Evaluator:
        made = 0

        def __init__(self):
            Evaluator.made += 1
            self.ap = 50.0 - 0.2 * (Evaluator.made - 1)

        def update(self, targets, predictions):
            pass

        def compute(self):
            return {"bbox/AP": self.ap, "bbox/AP50": 10.0}

    monkeypatch.setattr(evidence, "build_evaluator", lambda *_: Evaluator())
    model, cfg = tiny_model
    target = tmp_path / "out" / "a.onnx"
    target.parent.mkdir()
    with pytest.raises(EvidenceError, match=r"bbox/AP is 50.00 in PyTorch and 49.80 in the file \(tolerance 0.1\)"):
        export(model, cfg, META, target, records=load_records(["animals"], str(animals)))
    assert list(target.parent.iterdir()) == []
