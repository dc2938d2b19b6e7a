"""Pictures of an evaluation in tiles: whole images with what AP is scored on, or the tile with most objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detframe.data.images import load_pixels
from detframe.engine import pictures as pictures_module
from detframe.engine.evaluating import TestSets
from detframe.engine.inputs import load_test_sets
from detframe.engine.pictures import fullest_tile
from tests.engine.tiles import SIZES, Spots, config, write_squares


class Writer:
    """Takes what is drawn; whatever goes wrong there shows."""

    active = True

    def __init__(self) -> None:
        self.tags: list[str] = []

    def drawing(self) -> Writer:
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        pass

    def picture(self, iteration: int, tag: str, picture: Any) -> None:
        self.tags.append(tag)


def shown(catalog: Path, monkeypatch: pytest.MonkeyPatch, *overrides: Any) -> list[tuple[Any, ...]]:
    """Image, target, prediction and name of each picture of an evaluation."""
    seen: list[tuple[Any, ...]] = []

    def note(image: Any, target: Any, prediction: Any, *words: Any) -> np.ndarray:
        seen.append((image, target, prediction, words[-1]))
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(pictures_module, "side_by_side", note)
    cfg, writer = config(catalog, *overrides), Writer()
    TestSets(cfg, load_test_sets(cfg), None, writer).evaluate(Spots(), 7)  # type: ignore[arg-type]
    assert writer.tags == [f"predictions_squares_{number}" for number in range(len(seen))]
    return seen


def boxes(instances: Any) -> list[Any]:
    return sorted(np.asarray(instances["boxes"]).tolist())


def test_whole_images_with_merged_detections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = shown(write_squares(tmp_path), monkeypatch, "TEST.VISUALIZE", 3)
    assert [name for *_, name in seen] == ["0.png", "1.png", "2.png"]
    for number, (image, target, prediction, _) in enumerate(seen):
        assert np.array_equal(image, load_pixels(tmp_path / f"{number}.png"))
        assert len(target["boxes"]) == 3 + 3 * number and boxes(prediction) == boxes(target)
    assert shown(tmp_path / "catalog.yaml", monkeypatch, "TEST.VISUALIZE", 0) == []


def test_whole_images_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures_module, "_LONGEST_SIDE", 105)
    [(image, target, prediction, name)] = shown(write_squares(tmp_path), monkeypatch, "TEST.VISUALIZE", 1)
    assert image.shape == (75, 105, 3) and name == "0.png"
    monkeypatch.setattr(pictures_module, "_LONGEST_SIDE", 4096)
    [(_, large, _, _)] = shown(tmp_path / "catalog.yaml", monkeypatch, "TEST.VISUALIZE", 1)
    assert boxes(target) == boxes(prediction) == (np.array(boxes(large)) / 2).tolist()


@pytest.mark.parametrize("whole_too", [False, True])
def test_the_tile_with_most_objects_of_images_that_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_too: bool
) -> None:
    catalog = write_squares(tmp_path, "tif")
    monkeypatch.setattr(pictures_module, "max_pixels", lambda: 20_000)
    overrides = ("TEST.VISUALIZE", 2, "INPUT.TILES.WHOLE_IMAGE_TOO", whole_too)
    large, small = shown(catalog, monkeypatch, *overrides)
    assert small[3] == "1.tif" and small[0].shape == (*SIZES[1], 3)
    image, target, prediction, name = large
    window = [int(word) for word in name.partition("[")[2].partition("]")[0].split(",")]
    assert name == f"0.tif {window}, the tile with most objects"
    x1, y1, x2, y2 = window
    assert np.array_equal(image, load_pixels(tmp_path / "0.tif")[y1:y2, x1:x2]) and image.shape == (64, 64, 3)
    assert boxes(prediction) == boxes(target) and len(target["boxes"]) == len(target["labels"]) > 0
    assert np.asarray(target["boxes"]).min() >= 0 and np.asarray(target["boxes"]).max() <= 64


def test_the_fullest_tile() -> None:
    tiles = np.array([[0, 0, 32, 32], [24, 0, 56, 32], [40, 0, 72, 32], [0, 0, 72, 32]])
    objects = torch.tensor([[2.0, 2, 6, 6], [42, 4, 50, 9], [60, 3, 70, 9], [10, 10, 12, 12], [12, 12, 14, 14]])
    crowds = torch.tensor([0, 0, 0, 1, 1]).bool()
    target: Any = {"boxes": objects, "iscrowd": crowds, "orig_size_hw": (32, 72)}
    assert fullest_tile(target, tiles) == (40, 0, 72, 32)
    assert fullest_tile({**target, "iscrowd": ~crowds}, tiles) == (0, 0, 32, 32)
    assert fullest_tile({**target, "boxes": objects[:0], "iscrowd": crowds[:0]}, tiles) == (0, 0, 32, 32)
