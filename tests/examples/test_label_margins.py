"""Margins around drawn blobs: a spread that is known gives the AP that follows from it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.examples.conftest import load_example

SIDE = 200


@pytest.fixture(scope="module")
def example():
    return load_example("label_margins")


def write(folder, margins, seed):
    """Four pictures of nine dark blobs each; boxes lie `margins(rng)` (left, top, right, bottom) pixels around them."""
    rng = np.random.default_rng(seed)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(4):
        picture, lines = np.full((SIDE, SIDE), 200, np.uint8), []
        for row in range(3):
            for column in range(3):
                x, y, w, h = 20 + 60 * column, 20 + 60 * row, *rng.integers(12, 22, 2)
                picture[y : y + h, x : x + w] = 30
                left, top, right, bottom = margins(rng)
                x1, y1, x2, y2 = x - left, y - top, x + w + right, y + h + bottom
                box = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]) / SIDE
                lines.append("0 " + " ".join(f"{value:.6f}" for value in box))
        cv2.imwrite(str(folder / "images" / f"{number}.png"), picture)
        (folder / "labels" / f"{number}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def printed(example, tmp_path, capsys, margins):
    for seed, part in enumerate(("train", "val")):
        write(tmp_path / part, margins, seed)
    example.main(["--train", str(tmp_path / "train"), "--val", str(tmp_path / "val")])
    return " ".join(capsys.readouterr().out.split())


def test_margins_that_are_always_alike_cost_nothing(example, tmp_path, capsys):
    text = printed(example, tmp_path, capsys, lambda rng: (4, 5, 6, 7))
    assert text.startswith("36 boxes; mean IoU of the fit 1.000")
    assert "AP 100.0, AP50 100.0, AP75 100.0" in text


def test_margins_that_vary_lower_ap(example, tmp_path, capsys):
    text = printed(example, tmp_path, capsys, lambda rng: tuple(rng.integers(2, 10, 4)))
    ap, ap50, ap75 = (float(part.split()[1]) for part in text.split("; ")[-1].split(", ")[-3:])
    assert ap75 < ap50 <= 100 and 20 < ap < 80


def test_a_folder_without_boxes_is_an_error(example, tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    with pytest.raises(SystemExit, match="no box"):
        example.main(["--train", str(tmp_path), "--val", str(tmp_path)])
