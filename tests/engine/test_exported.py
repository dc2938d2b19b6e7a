"""`evaluate` on exported files: the AP that a checkpoint of the same detections would have. The files are hand-made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from detframe.cli.main import main
from detframe.compat import read_weights
from detframe.config import ConfigNode, get_cfg
from detframe.engine import evaluate
from tests.backends import handmade

SIZES = [(40, 60), (64, 64), (90, 30), (120, 200)]
FORMS = {
    "any size": handmade.DYNAMIC,
    "resized": handmade.DYNAMIC.__class__(None, None, None, min_size=100, max_size=160, divisor=32),
    "fixed size": handmade.fixed(96, 128),
    "fixed size and batch": handmade.fixed(128, 96, batch=3),
}


@pytest.fixture
def catalog(tmp_path) -> Path:
    """Data whose objects are what the hand-made detector finds."""
    images, annotations = [], []
    for number, (height, width) in enumerate(SIZES, 1):
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[..., 0] = 250 - 10 * number
        PIL.Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        for category, (x1, y1, x2, y2) in zip((17, 18), handmade.SHARES, strict=False):
            box = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height]
            row = {"id": len(annotations) + 1, "image_id": number, "category_id": category, "bbox": box, "iscrowd": 0}
            annotations.append({**row, "area": box[2] * box[3]})
    categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "data.json").write_text(json.dumps(content))
    path = tmp_path / "catalog.yaml"
    path.write_text(f"known: {{format: coco, images: {tmp_path}, annotations: {tmp_path / 'data.json'}}}\n")
    return path


def settings(tmp_path: Path, weights: Path, **more) -> ConfigNode:
    cfg = get_cfg()
    own = {"MODEL.WEIGHTS": str(weights), "OUTPUT_DIR": str(tmp_path / "out"), "DATALOADER.NUM_WORKERS": 0}
    cfg.merge_from_list([word for item in (own | more).items() for word in item])
    return cfg


def on(catalog: Path) -> dict[str, object]:
    return {"DATASETS.CATALOG": str(catalog), "DATASETS.TEST": ("known",)}


@pytest.mark.parametrize("form", FORMS)
def test_the_ap_of_a_file(tmp_path, catalog, form):
    path = handmade.write(tmp_path / "model.onnx", handmade.card(input=FORMS[form]))
    metrics = evaluate(settings(tmp_path, path, **on(catalog)))
    assert metrics["bbox/AP"] > 99 and metrics["bbox/AP50"] > 99.9 and metrics["bbox/AP-dog"] > 99
    written = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert written["weights"] == str(path) and written["iteration"] == 7
    assert written["metrics"]["bbox/AP"] == pytest.approx(metrics["bbox/AP"])


@pytest.mark.parametrize("form", FORMS)
def test_images_are_cut_before_they_come_to_a_file(tmp_path, catalog, form):
    """So INPUT.TILES is the caller's; a tile larger than the images changes nothing."""
    path = handmade.write(tmp_path / "model.onnx", handmade.card(input=FORMS[form]))
    one, four = (
        evaluate(settings(tmp_path, path, **on(catalog), **{"INPUT.TILES.SIZE": size, "INPUT.TILES.COMPARE": False}))
        for size in (10_000, 40)
    )
    assert one["bbox/AP"] > 99 > 50 > four["bbox/AP"]


def test_files_that_find_something_else_have_less(tmp_path, catalog, monkeypatch):
    monkeypatch.setattr(handmade, "SHARES", [[0.0, 0.0, 0.5, 0.5], [0.0, 0.6, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    metrics = evaluate(settings(tmp_path, handmade.write(tmp_path / "model.onnx"), **on(catalog)))
    assert metrics["bbox/AP-cat"] > 99 and metrics["bbox/AP-dog"] < 1


def test_openvino_and_the_report(tmp_path, catalog):
    pytest.importorskip("openvino")
    path = handmade.write_openvino(tmp_path / "model.xml", handmade.card())
    metrics = evaluate(settings(tmp_path, path, **on(catalog), **{"TEST.REPORT": True}))
    assert metrics["bbox/AP"] > 99
    rows = json.loads((tmp_path / "out/predictions_known.json").read_text())
    assert {row["category_id"] for row in rows} == {17, 18} and (tmp_path / "out/report.html").is_file()


def test_masks_and_keypoints_are_scored_too(tmp_path, catalog):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 2, "MODEL.MASK_ON", True])
    path = handmade.write(tmp_path / "model.onnx", handmade.card(config=cfg.dump()), masks=True)
    data = json.loads((tmp_path / "data.json").read_text())
    for row in data["annotations"]:
        x, y, w, h = row["bbox"]
        row["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (tmp_path / "data.json").write_text(json.dumps(data))
    metrics = evaluate(settings(tmp_path, path, **on(catalog)))
    assert metrics["bbox/AP"] > 99 and "segm/AP" in metrics


def test_without_data_of_the_caller_those_of_the_training(tmp_path, catalog, capsys):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 2, *(word for item in on(catalog).items() for word in item)])
    path = handmade.write(tmp_path / "model.onnx", handmade.card(config=cfg.dump()))
    words = ["DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "out")]
    assert main(["evaluate", "--weights", str(path), *words]) == 0
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["metrics"]["bbox/AP"] > 99


def test_other_data_of_the_training_catalog(tmp_path, catalog, capsys):
    """Its name is enough, as for a checkpoint; of a catalog that is not here the shipped one takes the place."""
    words = ["DATASETS.TEST", "kept", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "out")]
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 2, *(word for item in on(catalog).items() for word in item)])
    path = handmade.write(tmp_path / "model.onnx", handmade.card(config=cfg.dump()))
    catalog.write_text(catalog.read_text() + catalog.read_text().replace("known", "kept"))
    assert main(["evaluate", "--weights", str(path), *words]) == 0
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["metrics"]["bbox/AP"] > 99
    catalog.unlink()
    assert main(["evaluate", "--weights", str(path), *words]) == 2
    assert "no data set is called 'kept'" in capsys.readouterr().err


def test_no_data_at_all(tmp_path):
    with pytest.raises(ValueError, match=r"DATASETS.TEST is empty"):
        evaluate(settings(tmp_path, handmade.write(tmp_path / "model.onnx")))
    assert not (tmp_path / "out").exists()


def test_data_of_other_classes(tmp_path, catalog):
    path = handmade.write(tmp_path / "model.onnx", handmade.card(class_names=("dog", "cat")))
    with pytest.raises(ValueError, match=r"model.onnx"):
        evaluate(settings(tmp_path, path, **on(catalog)))


def test_what_a_file_fixes(tmp_path, catalog, caplog):
    path = handmade.write(tmp_path / "model.onnx")
    for key, value in (("TEST.NMS", "soft"), ("MODEL.ROI_HEADS.SCORE_THRESH", 0.3), ("TEST.DETECTIONS_PER_IMG", 7)):
        with pytest.raises(ValueError, match=f"{key} cannot be set for .*model.onnx"):
            evaluate(settings(tmp_path, path, **on(catalog), **{key: value}))
    same = {"TEST.NMS": "class", "INPUT.MIN_SIZE_TEST": 64}  # what it has; and what is not in the graph
    assert evaluate(settings(tmp_path, path, **on(catalog), **same))["bbox/AP"] > 99
    fixed = handmade.write(tmp_path / "fixed.onnx", handmade.card(input=handmade.fixed(96, 96)))
    with pytest.raises(ValueError, match=r"INPUT.MIN_SIZE_TEST cannot be set for .*fixed.onnx"):
        evaluate(settings(tmp_path, fixed, **on(catalog), **{"INPUT.MIN_SIZE_TEST": 64}))


@pytest.mark.parametrize("key", ["TEST.LOSS", "TEST.AUG.ENABLED"])
def test_what_a_file_cannot(tmp_path, catalog, key):
    with pytest.raises(ValueError, match=f"{key} is True, but an exported file only predicts"):
        evaluate(settings(tmp_path, handmade.write(tmp_path / "model.onnx"), **on(catalog), **{key: True}))


def test_a_config_file_that_says_otherwise_is_warned_of(tmp_path, catalog, caplog):
    path = handmade.write(tmp_path / "model.onnx")
    (tmp_path / "config.yaml").write_text("TEST: {DETECTIONS_PER_IMG: 9}\n")
    cfg = settings(tmp_path, path, **on(catalog))
    cfg.merge_from_file(tmp_path / "config.yaml")
    assert evaluate(cfg)["bbox/AP"] > 99
    assert "was exported with other values than the config has of TEST.DETECTIONS_PER_IMG" in caplog.text


def test_a_truncated_file_on_the_command_line(tmp_path, catalog, capsys):
    path = handmade.write(tmp_path / "model.onnx")
    path.write_bytes(path.read_bytes()[:100])
    words = ["DATASETS.TEST", "known", "DATASETS.CATALOG", str(catalog), "OUTPUT_DIR", str(tmp_path / "out")]
    assert main(["evaluate", "--weights", str(path), *words]) == 2
    assert "model.onnx is no ONNX file, or a truncated one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.onnx", "model.xml", "model.pt2"])
def test_an_exported_file_where_a_checkpoint_is_needed(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"<net>" if name.endswith("xml") else b"PK\x03\x04 or anything")
    with pytest.raises(ValueError, match=rf"{name} is an exported detector \(.*name the checkpoint \(.pth\)"):
        read_weights(path)


def test_training_does_not_begin_with_one(tmp_path, catalog, capsys):
    path = handmade.write(tmp_path / "model.onnx")
    words = ["DATASETS.TRAIN", "known", "DATASETS.CATALOG", str(catalog), "OUTPUT_DIR", str(tmp_path / "out")]
    words += ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(path), "SOLVER.MAX_ITER", "1", "DATALOADER.NUM_WORKERS", "0"]
    assert main(["train", *words]) == 2
    assert "model.onnx is an exported detector (ONNX)" in capsys.readouterr().err


def test_images_and_predictions_are_tensors_on_the_cpu(tmp_path):
    from detframe.backends import open_model
    from detframe.evaluation.exported import FileModel

    model = FileModel(open_model(handmade.write(tmp_path / "model.onnx", masks=True)))
    images = [torch.full((3, 20, 30), 255, dtype=torch.uint8), torch.zeros((3, 8, 40), dtype=torch.uint8)]
    first, second = model(images)
    assert first["masks"].shape == (2, 1, 20, 30) and first["boxes"][0].tolist() == [0, 0, 15, 10]
    assert len(second["boxes"]) == 0 and second["labels"].dtype == torch.int64
