"""`predict --tiles`: images, files that are read by region, videos, and what is written of them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from detframe.cli import predict
from detframe.cli.predictor import Predictor
from detframe.cli.video_writer import VideoWriter
from detframe.data import ImageReadError
from detframe.inference import Detector
from detframe.visualization import draw_instances
from tests.cli.conftest import load
from tests.inference.spots import drawn, spotter, wanted


@pytest.fixture
def spots(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A perfect detector in the place of the file that --weights names; what it was asked comes back."""
    detector, session = spotter()
    monkeypatch.setattr(Detector, "load", lambda *args, **how: detector)
    return session


def run(output: Path, *words: object) -> int:
    return predict.main(["--weights", "spots.onnx", "--output", str(output), "--score", "0", *map(str, words)])


def save(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


def found_boxes(output: Path, image_id: int = 1) -> list[list[float]]:
    rows = [row["bbox"] for row in load(output / "predictions.json") if row["image_id"] == image_id]
    return sorted([x, y, x + w, y + h] for x, y, w, h in rows)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_each_object_once_and_all_that_is_written_of_it(spots: Any, tmp_path: Path, name: str):
    image = drawn(0, 150, 210, 20, 30)
    path = save(tmp_path / name, image)
    output = tmp_path / "found"
    assert run(output, "--input", path, "--tiles", 64, "OVERLAP=0.5", "--save-crops", "--format", "coco", "yolo") == 0
    assert {shape[2:] for shape in spots.batches} == {(64, 64)}
    assert found_boxes(output) == wanted(image)
    row = {"id": 1, "file_name": str(path), "width": 210, "height": 150, "drawing": name}
    assert load(output / "images.json")["images"] == [row]
    assert cv2.imread(str(output / name)) is not None
    sizes = sorted(cv2.imread(str(crop)).shape[:2] for crop in (output / "crops").rglob("*.jpg"))
    assert sizes == sorted((int(y2 - y1), int(x2 - x1)) for x1, y1, x2, y2 in wanted(image))
    assert len(next((output / "yolo").rglob("labels/**/a.txt")).read_text().splitlines()) == 20


def test_a_file_that_is_read_by_region_is_never_decoded_where_no_drawing_wants_it(
    spots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    image = drawn(0, 150, 210, 20, 30)
    path = save(tmp_path / "a.tif", image)
    monkeypatch.setattr("detframe.cli.pictures.Picture.pixels", None)
    monkeypatch.setattr("detframe.cli.pictures.Picture.to_draw", None)
    assert run(tmp_path / "found", "--input", path, "--tiles", 64, "OVERLAP=0.5", "--no-drawings") == 0
    assert found_boxes(tmp_path / "found") == wanted(image)


@pytest.mark.parametrize("limit", ["memory", "drawings"])
def test_a_file_that_is_too_large_for_memory_is_drawn_smaller(
    spots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], limit: str
):
    image = drawn(0, 1500, 2100, 20, 60)
    path = save(tmp_path / "a.tif", image)
    if limit == "memory":
        monkeypatch.setenv("DETFRAME_MAX_IMAGE_PIXELS", "2000000")
    else:
        monkeypatch.setattr("detframe.cli.pictures.WHOLE_PIXELS", 2_000_000)
    monkeypatch.setattr("detframe.cli.pictures.REDUCED_SIDE", 1100)
    monkeypatch.setattr("detframe.data.reduced._BAND_PIXELS", 2100 * 300)
    seen: list[Any] = []
    draw = draw_instances

    def drawing(pixels: Any, shown: Any, *words: Any, **how: Any) -> Any:
        seen.append((pixels, shown))
        return draw(pixels, shown, *words, **how)

    monkeypatch.setattr("detframe.visualization.draw_instances", drawing)
    assert run(tmp_path / "found", "--input", path, "--tiles", 512, "OVERLAP=0.5", "--strict", "--save-crops") == 0
    assert found_boxes(tmp_path / "found") == wanted(image)  # in pixels of the file, as the crops are
    [(pixels, shown)] = seen
    blocks = image.reshape(750, 2, 1050, 2, 3).mean((1, 3))
    assert pixels.shape == (750, 1050, 3) and np.abs(pixels - blocks).max() <= 1
    assert sorted(np.asarray(shown["boxes"]).tolist()) == sorted([x / 2 for x in box] for box in wanted(image))
    assert cv2.imread(str(tmp_path / "found" / "a.tif")).shape == (750, 1050, 3)
    crops = sorted(cv2.imread(str(crop)).shape[:2] for crop in (tmp_path / "found" / "crops").rglob("*.jpg"))
    assert crops == sorted((int(y2 - y1), int(x2 - x1)) for x1, y1, x2, y2 in wanted(image))
    said = capsys.readouterr().err
    assert "a.tif is very large: drawn with 1050x750 pixels" in said and "not drawn" not in said


def test_a_file_that_cannot_be_drawn_is_predicted_all_the_same(
    spots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken(*_: Any) -> None:
        raise ImageReadError("a.tif is damaged")

    image = drawn(0, 150, 210, 20, 30)
    path = save(tmp_path / "a.tif", image)
    monkeypatch.setattr("detframe.cli.pictures.Picture.to_draw", broken)
    assert run(tmp_path / "found", "--input", path, "--tiles", 64, "OVERLAP=0.5") == 0
    assert found_boxes(tmp_path / "found") == wanted(image)
    assert "not drawn: a.tif is damaged" in capsys.readouterr().err
    assert run(tmp_path / "strict", "--input", path, "--tiles", 64, "--strict") == 1


def test_videos(spots: Any, tmp_path: Path):
    image = np.zeros((120, 200, 3), np.uint8)
    image[20:60, 30:150] = 255  # wider than a tile
    writer = VideoWriter(tmp_path / "film.mp4", 10, Fraction(1, 1000))
    for number in range(3):
        writer.write(image, Fraction(number, 10))
    writer.close()
    assert run(tmp_path / "found", "--input", tmp_path / "film.mp4", "--tiles", 64, "--no-drawings") == 0
    assert {shape[2:] for shape in spots.batches} == {(64, 64)}
    assert [row["id"] for row in load(tmp_path / "found" / "images.json")["images"]] == [1, 2, 3]


def test_files_that_cannot_be_read_are_left_out(spots: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    image = drawn(0, 100, 100, 5, 20)
    whole = save(tmp_path / "whole.tif", image)
    (tmp_path / "cut.tif").write_bytes(whole.read_bytes()[:9000])
    (tmp_path / "cut.png").write_bytes(save(tmp_path / "whole.png", image).read_bytes()[:100])
    names = [tmp_path / name for name in ("cut.tif", "whole.tif", "cut.png", "whole.png")]
    assert run(tmp_path / "found", "--input", *names, "--tiles", 64, "OVERLAP=0.5") == 0
    index = load(tmp_path / "found" / "images.json")
    assert sorted(Path(row["file_name"]).name for row in index["left_out"]) == ["cut.png", "cut.tif"]
    assert [Path(row["file_name"]).name for row in index["images"]] == ["whole.tif", "whole.png"]
    assert found_boxes(tmp_path / "found", 1) == found_boxes(tmp_path / "found", 2) == wanted(image)
    errors = capsys.readouterr().err
    assert "cut.tif" in errors and "cut.png" in errors


def test_progress_of_a_large_image(spots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shown = []
    monkeypatch.setattr("detframe.cli.predictor.show_progress", lambda *words: shown.append(words))
    path = save(tmp_path / "a.png", drawn(0, 300, 300, 20, 30))
    assert run(tmp_path / "found", "--input", path, "--tiles", 64, "OVERLAP=0.5", "--no-drawings") == 0
    tiles = [words[1:] for words in shown if words[0] == "image 1: tiles"]
    assert tiles == [(number, 81) for number in range(1, 81)]
    assert shown[-1][:3] == ("images", 1, 1)


@pytest.mark.parametrize(
    "words, wanted",
    [
        ((), None),
        (("--tiles",), True),
        (("--tiles", "off"), False),
        (("--tiles", "512"), {"SIZE": 512}),
        (("--tiles", "512", "overlap=0.25", "MERGE=nms"), {"SIZE": 512, "OVERLAP": "0.25", "MERGE": "nms"}),
        (("--tiles", "OVERLAP=64"), {"OVERLAP": "64"}),
    ],
)
def test_what_the_words_mean(
    spots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], wanted: Any
):
    seen = []
    monkeypatch.setattr(Detector, "check", lambda self, nms, augment, tiles: seen.append(tiles))
    monkeypatch.setattr(Detector, "uses_tiles", lambda self, tiles: False)
    monkeypatch.setattr(Predictor, "images", lambda self, sources: None)
    run(tmp_path / "found", "--input", save(tmp_path / "a.png", drawn(0, 50, 50, 2, 9)), *words)
    assert seen == [wanted]


@pytest.mark.parametrize(
    "words, message",
    [
        (("--tiles",), "spots.onnx was not trained on tiles (INPUT.TILES.SIZE is 0), so give their side in pixels"),
        (("--tiles", "64", "OVERLAP=64"), "INPUT.TILES.OVERLAP"),
        (("--tiles", "64", "OVRLAP=0.5"), "there is no 'OVRLAP' in INPUT.TILES"),
        (("--tiles", "large"), "--tiles takes SIZE, and KEY=VALUE, keys of INPUT.TILES as OVERLAP=0.25, or 'off', not"),
        (("--tiles", "64", "OVERLAP=much"), "INPUT.TILES.OVERLAP"),
        (("--tiles", "-5"), "not '-5'; SIZE is a whole number of pixels above 0"),
        (("--tiles", "64.5"), "not '64.5'; SIZE is a whole number of pixels above 0"),
        (
            ("--tiles", "off", "OVERLAP=0.5"),
            "--tiles off leaves images whole and stands alone, not as --tiles off OVER",
        ),
    ],
)
def test_mistakes_are_one_message_before_anything_is_written(
    spots: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
):
    path = save(tmp_path / "a.png", drawn(0, 50, 50, 2, 9))
    assert run(tmp_path / "found", "--input", path, *words) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "found").exists()
