"""Reading ahead and finishing behind: order, errors, little memory, and the time that is saved."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from detframe.arrays.pixels import COLOURS
from detframe.cli import predictor
from detframe.cli.crops import CropNames
from detframe.cli.overlap import Behind, map_ahead, read_ahead
from detframe.cli.sources import Source
from detframe.inference import inputs
from detframe.inference.prediction import ImagePrediction


def test_reading_ahead_keeps_order_and_stops_at_its_bound():
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            begun.append(number)
            yield number

    reading = read_ahead(items(), 4)
    assert next(reading) == 0
    time.sleep(0.3)
    assert len(begun) <= 7
    assert list(reading) == list(range(1, 100))


def test_an_error_of_what_is_read_comes_after_the_items_before_it():
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    reading = read_ahead(items(), 4)
    assert next(reading) == 1
    with pytest.raises(KeyError, match="broken"):
        next(reading)


def test_nothing_goes_on_when_the_reading_is_given_up():
    before = threading.active_count()
    reading = read_ahead(iter(range(10**9)), 2)
    next(reading)
    reading.close()
    assert threading.active_count() == before


def test_map_ahead_gives_results_and_errors_in_order():
    def inverse(number: int) -> float:
        time.sleep(0.01 * (number % 3))
        return 1 / number

    found = list(map_ahead(inverse, [4, 2, 0, 1], threads=3, most=3))
    assert [item for item, _ in found] == [4, 2, 0, 1]
    assert [future.result() for item, future in found if item] == [0.25, 0.5, 1.0]
    assert isinstance(found[2][1].exception(), ZeroDivisionError)


def test_work_behind_is_used_in_order_and_bounded():
    used: list[int] = []
    waiting, most = 0, 0

    def make(number: int) -> int:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        time.sleep(0.01 if number % 2 else 0.03)
        waiting -= 1
        return number

    with Behind(most=4, threads=2) as behind:
        for number in range(12):
            behind.add(lambda number=number: make(number), used.append)
    assert used == list(range(12)) and most == 2


def test_an_error_behind_comes_at_the_latest_at_the_end():
    def broken() -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), Behind() as behind:
        behind.add(broken, lambda _: None)
    used: list[int] = []
    with pytest.raises(KeyError), Behind() as behind:
        behind.add(lambda: 1, used.append)
        raise KeyError("of the computing")


class SlowDetector:
    """Takes 30 ms for an image, and finds nothing."""

    class_names, category_ids, meta, form = ("cat",), (1,), {}, COLOURS

    def predict_iter(self, images: Iterator[np.ndarray], **how: object) -> Iterator[ImagePrediction]:
        for image in images:
            time.sleep(0.03)
            empty = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, np.int64)}
            yield ImagePrediction(empty, size_hw=image.shape[:2], class_names=self.class_names)


def test_predicting_overlaps_with_reading_and_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each of the three takes 30 ms for an image."""

    def slow_image(place: str, *_: object) -> np.ndarray:
        time.sleep(0.03)
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(inputs, "as_array", slow_image)
    monkeypatch.setattr(predictor, "write_image", lambda path, image: time.sleep(0.03))
    monkeypatch.setattr(predictor.Predictor, "_drawn", lambda *_: np.zeros((8, 8, 3), np.uint8))
    sources = [Source(f"{n}.png", f"{n}.png", "image", tmp_path / f"{n}.png", f"{n}.png") for n in range(40)]
    with predictor.Predictor(SlowDetector(), tmp_path, predictor.Choices(), CropNames(tmp_path, [])) as running:
        started = time.monotonic()
        running.images(sources)
        took = time.monotonic() - started
    assert running.num_images == 40
    assert took < 0.75 * 40 * 3 * 0.03, took  # one after the other: 3.6 s; together 1.3 s


def test_the_three_overlap():
    """Reading, computing and writing that take equally long take little more than one of them."""

    def slow(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            time.sleep(0.02)
            yield item

    started = time.monotonic()
    with Behind() as behind:
        for _ in read_ahead(slow(iter(range(30))), 4):
            time.sleep(0.02)
            behind.add(lambda: time.sleep(0.02), lambda _: None)
    took = time.monotonic() - started
    assert took < 0.8 * 30 * 3 * 0.02, took  # one after the other: 1.8 s; together 0.65 s
