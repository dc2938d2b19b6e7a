"""Evaluations in tiles: data sets from their files to AP of whole images, beside whole images."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from detframe.arrays.resize import resize_shape
from detframe.data import reading
from detframe.engine import launch
from detframe.engine.comparing import equal_shape, why_not
from detframe.evaluation.exported import FileModel
from tests.engine.tiles import SIZES, Spots, config, evaluated, on_a_rank, stable, write_squares
from tests.inference.spots import SpotSession


@pytest.fixture
def squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    return write_squares(tmp_path)


def test_what_is_right_in_every_tile_has_an_ap_of_100_on_the_images(squares: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "detframe")
    model = Spots()
    metrics, tests = evaluated(squares, model=model)
    assert metrics["bbox/AP"] == pytest.approx(100) and metrics["whole/bbox/AP"] == pytest.approx(100)
    tiles = 4 * 6 + 2 + 6 * 3 + 1 + 4 * 4  # of SIZES, 64 px at a stride of 32
    assert model.sizes[:tiles] == [(64, 64)] * tiles
    assert model.sizes[tiles : tiles + 5] == SIZES
    assert model.sizes[tiles + 5 :] == [equal_shape(config(squares), size_hw) for size_hw in SIZES]
    assert metrics["tiles/pixels"] == tiles * 64 * 64 / 5
    assert metrics["whole/pixels"] == sum(h * w for h, w in SIZES) / 5
    assert metrics["whole_equal_pixels/pixels"] == pytest.approx(metrics["tiles/pixels"], rel=0.02)
    assert all(metrics[f"{kind}/seconds"] > 0 for kind in ("tiles", "whole", "whole_equal_pixels"))
    assert "whole_equal_pixels/bbox/AP50" in metrics
    assert "evaluating 5 images of squares, in 61 tiles" in caplog.text
    assert "evaluation: 61 tiles in " in caplog.text and caplog.text.count("evaluation: 5 images in ") == 2
    assert "Whole images, at as many pixels" in caplog.text
    found = tests.evaluators["squares"].results()
    assert len(found) == sum(3 + 3 * number for number in range(5))


def test_whole_images_are_one_more_tile(squares: Path):
    """An image that is one tile is looked at once."""
    model = Spots()
    metrics, _ = evaluated(squares, "INPUT.TILES.WHOLE_IMAGE_TOO", True, "INPUT.TILES.COMPARE", False, model=model)
    assert metrics["bbox/AP"] == pytest.approx(100) and not [key for key in metrics if not key.startswith("bbox/")]
    assert len(model.sizes) == 61 + 4


def test_parts_that_are_never_joined_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So a merging that does nothing would be seen here: squares up to 60 px that overlaps of 16 px do not hold."""
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    squares = write_squares(tmp_path, longest=60)
    joined, _ = evaluated(squares, "INPUT.TILES.OVERLAP", 16, "INPUT.TILES.COMPARE", False)
    apart, _ = evaluated(squares, "INPUT.TILES.OVERLAP", 16, "INPUT.TILES.COMPARE", False, "INPUT.TILES.MERGE", "nms")
    assert joined["bbox/AP"] == pytest.approx(100)
    assert apart["bbox/AP"] < 80


def test_tiles_resized(squares: Path):
    """MIN_SIZE_TEST is of the tile, and predictions go back from it to the image."""
    model = Spots()
    metrics, _ = evaluated(squares, "INPUT.MIN_SIZE_TEST", 128, "INPUT.TILES.COMPARE", False, model=model)
    assert set(model.sizes) == {(128, 128)}
    assert metrics["bbox/AP50"] >= 0  # interpolated values are no squares any more; what counts is that sizes fit


def test_tiffs_are_read_by_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    metrics, _ = evaluated(write_squares(tmp_path, "tif"))
    assert metrics["bbox/AP"] == pytest.approx(100)


def test_an_exported_file(squares: Path):
    session = SpotSession()
    metrics, _ = evaluated(squares, model=FileModel(session))
    assert metrics["bbox/AP"] == pytest.approx(100) and metrics["whole/bbox/AP"] == pytest.approx(100)
    assert "whole_equal_pixels/bbox/AP" in metrics


def test_several_data_sets(squares: Path):
    again = squares.read_text() + squares.read_text().replace("squares:", "again:")
    squares.write_text(again)
    metrics, _ = evaluated(squares, "DATASETS.TEST", ("squares", "again"))
    assert metrics["squares/bbox/AP"] == metrics["again/bbox/AP"] == pytest.approx(100)
    assert metrics["again/whole/bbox/AP"] == pytest.approx(100) and metrics["again/tiles/pixels"] > 0


def test_what_whole_images_take_too_much_memory_for_is_left_out(
    squares: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    class Small(Spots):
        def forward(self, images):
            if max(image.shape[-2] * image.shape[-1] for image in images) > 50_000:
                raise torch.OutOfMemoryError("no memory")
            return super().forward(images)

    metrics, _ = evaluated(squares, model=Small())
    assert "whole/bbox/AP" in metrics and "whole_equal_pixels/bbox/AP" not in metrics
    assert "squares is not evaluated as whole images (whole_equal_pixels): the GPU has too little memory" in caplog.text
    monkeypatch.setattr("detframe.engine.comparing.MOST_PIXELS", 1000)
    metrics, _ = evaluated(squares)
    assert metrics["bbox/AP"] == pytest.approx(100) and not [key for key in metrics if key.startswith("whole")]


def test_no_large_image_is_read_whole_beside_its_tiles(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    squares, whole = write_squares(tmp_path, "tif"), []
    for module in ("data.scaled", "engine.comparing", "engine.evaluating"):
        monkeypatch.setattr(f"detframe.{module}.LARGE_PIXELS", 10_000)
    for name in ("load_image", "load_scaled"):
        monkeypatch.setattr(f"detframe.data.reading.{name}", _noting(whole, getattr(reading, name)))
    overrides = ("INPUT.MIN_SIZE_TEST", 32, "INPUT.MAX_SIZE_TEST", 64)
    model = Spots()
    metrics, _ = evaluated(squares, *overrides, model=model)
    assert {"1.tif", "3.tif"} >= set(whole)  # the others have more pixels
    assert metrics["whole/pixels"] == sum(h * w for h, w in model.sizes[-5:]) / 5
    assert model.sizes[-5:] == [resize_shape(size_hw, 32, 64) for size_hw in SIZES]
    assert "whole_equal_pixels/pixels" not in metrics
    assert "(whole_equal_pixels): all of an image of 210x150 pixels (width x height) would have to be" in caplog.text
    views = config(squares, *overrides, "TEST.AUG.ENABLED", True)  # which take images as they are in the files
    assert "would have to be in memory" in why_not("whole", views, model, np.array(SIZES))


def _noting(names: list[str], read):
    def noted(path, *args, **how):
        names.append(Path(path).name)
        return read(path, *args, **how)

    return noted


def test_images_that_cannot_be_read_are_missed(squares: Path, caplog: pytest.LogCaptureFixture):
    for number in (0, 3):
        (squares.parent / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    metrics, tests = evaluated(squares, "DATALOADER.ON_ERROR", "skip", "INPUT.TILES.COMPARE", False)
    assert 0 < metrics["bbox/AP"] < 100
    assert {row["image_id"] for row in tests.evaluators["squares"].results()} == {1, 2, 4}
    assert "2 of 5 images got no prediction entry" in caplog.text
    for number in range(5):
        (squares.parent / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(ValueError, match="none of the 5 images of squares could be read"):
        evaluated(squares, "DATALOADER.ON_ERROR", "skip", "INPUT.TILES.COMPARE", False)


def test_two_ranks_give_the_metrics_of_one(squares: Path):
    metrics, _ = evaluated(squares)
    assert [tuple(pair) for pair in launch(on_a_rank, 2, (str(squares),))] == stable(metrics)


def test_without_tiles_nothing_is_compared_or_measured(squares: Path):
    metrics, _ = evaluated(squares, "INPUT.TILES.SIZE", 0)
    assert metrics["bbox/AP"] == pytest.approx(100)
    assert all(key.startswith("bbox/") for key in metrics)


def test_a_training_on_tiles_is_evaluated_in_tiles_and_its_detector_predicts_in_tiles(tiny, tmp_path: Path):
    from detframe.engine import train
    from detframe.inference import Detector

    size = ("INPUT.TILES.SIZE", 48, "INPUT.TILES.OVERLAP", 0.25)
    metrics = train(tiny("SOLVER.MAX_ITER", 2, "SOLVER.STEPS", (), "TEST.EVAL_PERIOD", 1, *size))
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [row for row in rows if "bbox/AP" in row or "whole/bbox/AP" in row]
    assert [(row["iteration"], "bbox/AP" in row, "whole/bbox/AP" in row) for row in evaluated] == [
        (1, True, False),
        (2, True, False),
        (2, False, True),
    ]
    assert {"bbox/AP", "whole/bbox/AP", "whole_equal_pixels/bbox/AP", "tiles/pixels"} <= metrics.keys()
    detector = Detector.load(tmp_path / "out" / "model_final.pth", device="cpu")
    assert detector.uses_tiles() and not detector.uses_tiles(False)
    told: list[tuple[int, int]] = []
    detector.predict(np.zeros((60, 90, 3), np.uint8), progress=lambda *numbers: told.append(numbers))
    assert told[-1] == (6, 6)


def test_the_files_of_an_evaluation(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """evaluation.json, predictions in the image, pictures of whole images, and the page."""
    from detframe.engine import evaluate, run
    from detframe.engine.inputs import load_test_sets

    cfg = config(squares, "OUTPUT_DIR", str(tmp_path / "out"), "TEST.VISUALIZE", 2, "MODEL.WEIGHTS", "spots.pth")
    subject = run._Subject(cfg, Spots(), load_test_sets(cfg), 7, None)
    monkeypatch.setattr(run, "_of_weights", lambda cfg, allow: subject)
    metrics = evaluate(cfg)
    out = tmp_path / "out"
    written = json.loads((out / "evaluation.json").read_text())["metrics"]
    assert written == {key: None if math.isnan(value) else value for key, value in metrics.items()}
    assert written["bbox/AP"] == pytest.approx(100) and written["whole/pixels"] > 0
    rows = json.loads((out / "predictions_squares.json").read_text())
    assert len(rows) == 45 and max(row["bbox"][0] for row in rows) > 64
    pictures = sorted((out / "images").glob("predictions_squares_*.png"))
    assert len(pictures) == 2
    assert "In tiles, and whole" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    "evaluator, metric, value",
    [
        ("voc", "voc/AP50", 100),
        ("tt100k", "tt100k/F1", 100),
        ("proposals", "proposals/AR@100", 100),
    ],
)
def test_every_evaluator_gets_whole_images(squares: Path, evaluator: str, metric: str, value: float):
    more = ("TEST.TT100K_SCORE_THRESH", 0.0) if evaluator == "tt100k" else ()
    metrics, _ = evaluated(squares, "TEST.EVALUATOR", evaluator, *more)
    assert metrics[metric] == pytest.approx(value) and metrics[f"whole/{metric}"] == pytest.approx(value)
