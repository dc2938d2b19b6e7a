"""predictions_<set>.json, read back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from detframe.arrays.results import ImageResult, coco_rows
from detframe.errors import InvalidValueError
from detframe.files import write_json
from detframe.report.predictions import predictions_file, read_predictions

ROW = {"image_id": 7, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}


def test_what_an_evaluation_writes_is_read_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 2000, (500, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 900, (500, 2)).astype(np.float32)], axis=1)
    scores, labels = rng.uniform(0, 1, 500).astype(np.float32), rng.integers(1, 3, 500)
    path = write_json(tmp_path / "p.json", coco_rows(5, ImageResult(boxes, labels, scores), (10, 30)))
    result = read_predictions(path, (10, 30))[5]
    np.testing.assert_array_equal(result.boxes, boxes)
    np.testing.assert_array_equal(result.scores, scores)
    np.testing.assert_array_equal(result.labels, labels)


def test_numbers_that_are_none_are_left_out_and_counted(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps([ROW, {**ROW, "score": float("nan")}, {**ROW, "bbox": [0, 0, float("inf"), 1]}]))
    result = read_predictions(path, (1, 3))[7]
    assert (len(result), result.not_finite, result.labels.tolist()) == (1, 2, [2])


def test_no_detections(tmp_path):
    (tmp_path / "p.json").write_text("[]")
    assert read_predictions(tmp_path / "p.json", (1,)) == {}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no JSON"),
        ("[{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("{}", "must be a list"),
        ("[3]", "entry 0"),
        ("[null]", "entry 0"),
        (json.dumps([ROW, {**ROW, "category_id": 9}]), "entry 1 .* has category_id 9"),
        (json.dumps([{**ROW, "category_id": [1]}]), "entry 0"),
        (json.dumps([{**ROW, "bbox": [1, 2, 3]}]), "entry 0"),
        (json.dumps([{**ROW, "bbox": "1234"}]), "category_id|entry 0"),
        (json.dumps([{**ROW, "score": "high"}]), "entry 0"),
        (json.dumps([{**ROW, "image_id": {}}]), "entry 0"),
        (json.dumps([{"image_id": 1}]), "entry 0"),
        (json.dumps([{**ROW, "score": 10**400}]), "entry 0"),
        (json.dumps([{**ROW, "bbox": [1, 2, 3, 10**400]}]), "entry 0"),
    ],
)
def test_a_file_that_holds_something_else(tmp_path, text, word):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(InvalidValueError, match=word):
        read_predictions(path, (1, 3))


def test_a_name_of_a_data_set_is_no_way_out_of_the_folder(tmp_path):
    assert predictions_file(tmp_path, "../../x").parent == tmp_path
    assert predictions_file(tmp_path, "coco_2017_val").name == "predictions_coco_2017_val.json"
