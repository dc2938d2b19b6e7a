"""examples/join_pictures.py: photographs hold the pictures, and the boxes lie on the same objects."""

import cv2
import numpy as np
import pytest

from detframe.data.folder import read_folder
from tests.examples.conftest import load_example


def write_part(folder, count):
    """Black pictures of 64 pixels, each with one white square of 16 and its box."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number in range(count):
        picture, left = np.zeros((64, 64, 3), np.uint8), 8 + 4 * number
        picture[24:40, left : left + 16] = 255
        cv2.imwrite(str(folder / "images" / f"{number}.png"), picture)
        (folder / "labels" / f"{number}.txt").write_text(f"0 {(left + 8) / 64} 0.5 0.25 0.25\n")


def test_boxes_lie_on_their_objects(tmp_path):
    write_part(tmp_path / "data" / "train", 9)
    write_part(tmp_path / "data" / "val", 4)
    (tmp_path / "data" / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [square]\n")
    load_example("join_pictures").main([str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--side", "2"])
    sets = read_folder(tmp_path / "out").all_records()
    assert [len(sets[part]) for part in ("train", "val")] == [2, 1]  # the ninth picture is left out
    for record in [*sets["train"], *sets["val"]]:
        picture = cv2.imread(record["file_name"])
        assert picture.shape == (1280, 1280, 3) and len(record["boxes"]) == 4
        for x1, y1, x2, y2 in record["boxes"].round().int().tolist():
            assert picture[y1 + 9 : y2 - 9, x1 + 9 : x2 - 9].min() > 200  # white inside
            assert picture[y1 - 20 : y1 - 9, x1:x2].max() < 60  # black above


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="has none of the folders train/images"):
        load_example("join_pictures").main([str(tmp_path), "--output", str(tmp_path / "out")])
