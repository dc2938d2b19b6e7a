"""examples/ellipse_masks.py: boxes get masks that copy-paste can cut out."""

import json
import math

import numpy as np
import pytest
import yaml
from pycocotools import mask as coco_masks

from detframe.data import load_records
from tests.data.sets import annotation, write_catalog, write_coco
from tests.examples.conftest import load_example


def test_the_polygon_fills_the_ellipse_in_the_box():
    polygon = load_example("ellipse_masks").ellipse(np.array([10.0, 20.0, 70.0, 60.0]))
    pixels = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects([polygon], 100, 100)))
    assert pixels.sum() == pytest.approx(math.pi * 30 * 20, rel=0.02)
    rows, columns = pixels.nonzero()
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (10, 70, 20, 60)


def test_a_data_set_of_boxes_comes_back_with_masks(tmp_path, capsys):
    boxes = [
        annotation(1, 1, [4, 5, 20, 10], category=5),
        annotation(2, 1, [30, 2, 8, 30]),
        annotation(3, 2, [0, 0, 60, 40]),
    ]
    catalog = write_coco(tmp_path, boxes, [(40, 60), (40, 60)])
    file = tmp_path / "with masks.json"
    load_example("ellipse_masks").main(["mine", "--catalog", str(catalog), "--output", str(file)])
    printed = yaml.safe_load(capsys.readouterr().out)
    before = load_records(["mine"], str(catalog))
    after = load_records(["with masks"], str(write_catalog(tmp_path, printed)))
    assert len(after) == len(before) == 2 and after.metadata.class_names == before.metadata.class_names
    rows = json.loads(file.read_text())["annotations"]
    assert len(rows) == 3 and all(len(row["segmentation"][0]) == 48 for row in rows)
    for old, new in zip(before, after, strict=True):
        assert old["file_name"] == new["file_name"]
        np.testing.assert_allclose(new["boxes"], old["boxes"], atol=1e-3)
        np.testing.assert_array_equal(new["labels"], old["labels"])
