"""A small data set in a folder, as a user has one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

SIDE, SQUARE = 64, 24


def make_squares(folder: Path, train: int = 8, val: int = 3, missing: int = 0, empty: bool = False) -> Path:
    """Pictures with a bright square each, as Roboflow and ultralytics lay them out.

    Args:
        missing: labels without a picture, beside the others.
        empty: no picture has an object.
    """
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("valid", val)):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for number in range(count + (missing if split == "train" else 0)):
            image = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
            x, y = (int(v) for v in rng.integers(2, SIDE - SQUARE - 2, 2))
            image[y : y + SQUARE, x : x + SQUARE] = 255
            box = f"0 {(x + SQUARE / 2) / SIDE} {(y + SQUARE / 2) / SIDE} {SQUARE / SIDE} {SQUARE / SIDE}\n"
            (folder / split / "labels" / f"{split}{number}.txt").write_text("" if empty else box, encoding="utf-8")
            if number < count:
                cv2.imwrite(str(folder / split / "images" / f"{split}{number}.png"), image)
    text = "train: train/images\nval: valid/images\nnc: 1\nnames: [square]\n"
    (folder / "data.yaml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def squares(tmp_path: Path, monkeypatch) -> Path:
    """Eight pictures to train with and three to evaluate on, in the working folder; no weights, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETFRAME_OFFLINE", "1")
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    return make_squares(tmp_path / "squares")
