"""A smaller copy of a data set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from detframe.cli import shrink_data
from detframe.data import load_image, load_records
from tests.cli.test_runs import workplace  # noqa: F401  (a fixture)
from tests.data.sets import write_coco


def test_images_and_boxes_shrink_together(workplace: Path):  # noqa: F811
    assert shrink_data.main(["--datasets", "shapes_train", "--factor", "0.5", "--output", "half"]) == 0
    catalog = workplace / "catalog.yaml"
    images, annotations = workplace / "half" / "shapes_train", workplace / "half" / "annotations" / "shapes_train.json"
    catalog.write_text(f"half: {{format: coco, images: {images}, annotations: {annotations}}}\n")
    whole, half = load_records(["shapes_train"]), load_records(["half"], str(catalog))
    assert half.metadata.class_names == whole.metadata.class_names and len(half) == len(whole)
    assert half.metadata.category_ids == whole.metadata.category_ids
    assert sum(len(record["boxes"]) for record in whole) > 0
    for a, b in zip(whole, half, strict=True):
        assert b["size_hw"] == tuple(round(side / 2) for side in a["size_hw"])
        torch.testing.assert_close(b["boxes"], a["boxes"] / 2)
        torch.testing.assert_close(b["area"], a["area"] / 4)
        assert torch.equal(b["labels"], a["labels"]) and torch.equal(b["iscrowd"], a["iscrowd"])
        assert b["image_id"] == a["image_id"] and torch.equal(b["ann_ids"], a["ann_ids"])
        large, small = load_image(a["file_name"]).float(), load_image(b["file_name"]).float()
        assert (torch.nn.functional.avg_pool2d(large, 2) - small).abs().max() <= 0.5


def test_a_factor_that_does_not_shrink(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        shrink_data.main(["--datasets", "shapes_train", "--factor", "2", "--output", "x"])
    assert "between 0 and 1, not 2" in capsys.readouterr().err


def test_images_of_one_name_in_two_folders_do_not_meet(tmp_path: Path):
    for folder in ("a", "b"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        shutil.copy(write_coco(tmp_path / folder, []).parent / "images" / "1.png", tmp_path / "images" / folder)
    images = [{"id": i, "file_name": f"{folder}/1.png", "height": 40, "width": 60} for i, folder in enumerate("ab", 1)]
    records = load_records(["mine"], str(write_coco(tmp_path, [], images=images)), keep_empty=True)
    shrink_data.shrink(records, 0.5, tmp_path / "half", tmp_path / "half.json")
    names = [image["file_name"] for image in json.loads((tmp_path / "half.json").read_text())["images"]]
    assert names == ["1.png", "1_2.png"] and all((tmp_path / "half" / name).is_file() for name in names)
