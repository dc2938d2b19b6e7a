"""`export` in half precision and int8: what it is calibrated on, what is refused, and what the files say."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest

from detframe.backends import open_model
from detframe.config import get_cfg
from detframe.errors import InvalidValueError
from detframe.export import export, lowering, validation_data
from detframe.export.formats import FORMATS
from detframe.export.lowering import write_lowered
from detframe.export.training_images import TrainingImages, training_images
from tests.backends.handmade import DYNAMIC, card, fixed, write, write_data
from tests.export.conftest import META


def test_int8_without_a_training_set_leaves_nothing(tiny_model, tmp_path):
    model, cfg = tiny_model
    with pytest.raises(InvalidValueError, match=r"calibrated on the training set, and DATASETS\.TRAIN is empty"):
        export(model, cfg, META, tmp_path / "model.onnx", precision="int8")
    elsewhere = cfg.changed([("DATASETS.TRAIN", ("shapes_train",)), ("DATASETS.CATALOG", str(tmp_path / "no.yaml"))])
    with pytest.raises(InvalidValueError, match=r"shapes_train cannot be read here .*precision fp16"):
        export(model, elsewhere, META, tmp_path / "model.onnx", precision="int8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_program_is_written_in_fp32_alone(tiny_model, tmp_path, precision):
    model, cfg = tiny_model
    with pytest.raises(InvalidValueError, match=f"fp32 alone, not in {precision}"):
        export(model, cfg, META, tmp_path / "model.pt2", precision=precision)


@pytest.fixture
def records(tmp_path):
    return validation_data(get_cfg(), ("cat", "dog"), str(write_data(tmp_path)))[0]


@pytest.mark.parametrize(("limits", "shapes"), [
    (DYNAMIC, [(1, 3, 40, 60)] * 4),
    (fixed(80, 90), [(1, 3, 80, 90)] * 4),
    (fixed(None, None, 3), [(3, 3, 40, 60)]),
])  # fmt: skip
def test_training_images_are_what_the_file_takes(tmp_path, records, limits, shapes):
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 0, "INPUT.MAX_SIZE_TEST", 0, "MODEL.NUM_CLASSES", 2])
    images = TrainingImages(cfg, records, limits)
    assert [batch.shape for batch, _ in images.batches] == shapes
    found = images.score(write(tmp_path / "model.onnx", card(input=limits)))
    assert found == pytest.approx(100 if len(shapes) == 4 else 75, abs=2)  # without what fills no batch


def test_the_choice_of_training_images_is_always_the_same(tmp_path):
    write_data(tmp_path, 12)
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(f"mine:\n  format: coco\n  images: {tmp_path}\n  annotations: {tmp_path}/instances.json\n")
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.CATALOG", str(catalog), "DATASETS.TRAIN", "('mine',)", "MODEL.NUM_CLASSES", 2])
    several = [training_images(cfg, ("cat", "dog"), DYNAMIC, 5).batches for _ in range(2)]
    assert len(several[0]) == 5
    for (first, _), (second, _) in zip(*several, strict=True):
        np.testing.assert_array_equal(first, second)
    with pytest.raises(InvalidValueError, match="owl"):
        training_images(cfg, ("cat", "owl"), DYNAMIC)


def test_of_images_in_tiles_there_are_about_as_many_tiles(tmp_path):
    write_data(tmp_path, 12)
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(f"mine:\n  format: coco\n  images: {tmp_path}\n  annotations: {tmp_path}/instances.json\n")
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.CATALOG", str(catalog), "DATASETS.TRAIN", "('mine',)", "MODEL.NUM_CLASSES", 2])
    cfg.merge_from_list(["INPUT.TILES.SIZE", 32, "INPUT.MIN_SIZE_TEST", 0, "INPUT.MAX_SIZE_TEST", 0])
    for number, images in ((1, 1), (5, 1), (17, 2), (18, 3), (100, 12)):  # of 40x60 pixels, in six tiles each
        batches = training_images(cfg, ("cat", "dog"), DYNAMIC, number).batches
        assert [batch.shape for batch, _ in batches] == [(1, 3, 32, 32)] * 6 * images


@pytest.mark.parametrize(("name", "form"), [("fp16", "onnx"), ("fp16", "openvino"), ("int8", "openvino")])
def test_files_say_their_precision(exported, tmp_path, monkeypatch, name, form):
    if form == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setattr(lowering, "write_onnx", lambda *given: shutil.copyfile(exported.path, given[-1]))
    what = open_model(exported.path, "cpu").card
    target = tmp_path / f"model{FORMATS[form].suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 90), dtype=np.uint8)
    sizes = np.array([[64, 90]])

    class Images:
        batches = ((pixels, sizes),)

        @staticmethod
        def score(path):
            logging.info("as onnxruntime's quantizer logs")
            return 50.0

    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    lowered = replace(what, precision=name)
    details = write_lowered(None, (), (), lowered, target, FORMATS[form], Images() if name == "int8" else None)
    assert details["precision"] == name
    assert logging.getLogger().handlers == []  # that has turned on the log of everything nowhere
    session = open_model(target, "cpu")
    assert (session.card.precision, session.card.class_names) == (name, what.class_names)
    assert session.run(pixels, sizes)["count"].tolist() == pytest.approx([8], abs=2)
    assert {file.suffix for file in tmp_path.iterdir()} == ({".onnx"} if form == "onnx" else {".xml", ".bin"})
    size = sum(file.stat().st_size for file in tmp_path.iterdir() if file.suffix in (".onnx", ".bin"))
    assert size < 0.75 * exported.path.stat().st_size
