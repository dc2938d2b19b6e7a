"""A smaller copy of a data set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from detframe.arrays.pixels import PixelForm
from detframe.cli import shrink_data
from detframe.data import load_image, load_records
from detframe.data.images import load_pixels
from tests.cli.test_runs import workplace  # noqa: F401  (a fixture)
from tests.data.channel_sets import scene, write_channels
from tests.data.sets import write_coco
from tests.data.tiffs import write_tiff


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


def smaller_file(folder: Path, source: Path, array: np.ndarray) -> Path:
    """The copy in half of its size of an image that is written as `source`."""
    (folder / "images").mkdir()
    write_channels(folder / "images" / source.name, array)
    images = [{"id": 1, "file_name": source.name, "height": array.shape[0], "width": array.shape[1]}]
    records = load_records(["mine"], str(write_coco(folder, [], images=images)), keep_empty=True)
    shrink_data.shrink(records, 0.5, folder / "half", folder / "half.json")
    (image,) = json.loads((folder / "half.json").read_text())["images"]
    return folder / "half" / image["file_name"]


@pytest.mark.parametrize(
    ("source", "channels", "dtype", "written"),
    [
        ("a.png", 1, "uint16", "a.png"),
        ("a.png", 3, "uint16", "a.png"),
        ("a.tif", 4, "uint8", "a.png"),
        ("a.tif", 4, "uint16", "a.png"),
        ("a.npy", 4, "uint16", "a.png"),
        ("a.npy", 2, "uint16", "a.npy"),
        ("a.npy", 6, "uint8", "a.npy"),
        ("a.npy", 3, "float32", "a.npy"),
    ],
)
def test_channels_and_values_of_the_files_are_kept(
    tmp_path: Path, source: str, channels: int, dtype: str, written: str
):
    array = scene(3, channels, dtype)[0]
    file = smaller_file(tmp_path, tmp_path / source, array)
    found = load_pixels(file, form=PixelForm(channels, as_stored=True, dtype=dtype))
    assert file.name == written and found.shape == (array.shape[0] // 2, array.shape[1] // 2, channels)
    mean = array.reshape(found.shape[0], 2, found.shape[1], 2, channels).astype(np.float64).mean((1, 3))
    np.testing.assert_allclose(found, mean, rtol=1e-6, atol=0 if dtype == "float32" else 0.5)


@pytest.mark.parametrize(
    ("stored", "extra", "grey"),
    [((200,), {262: (3, [0])}, 55), ((200, 90), {338: (3, [2])}, 200), ((60, 90), {338: (3, [1])}, 170)],
    ids=["ink", "transparent", "multiplied by its transparency"],
)
def test_a_grey_tiff_that_is_a_picture_stays_one(tmp_path: Path, stored: tuple, extra: dict, grey: int):
    folder = tmp_path / "images"
    folder.mkdir()
    write_tiff(folder / "1.tif", np.full((40, 60, len(stored)), stored, np.uint8), extra=extra)
    images = [{"id": 1, "file_name": "1.tif", "height": 40, "width": 60}]
    records = load_records(["mine"], str(write_coco(tmp_path, [], images=images)), keep_empty=True)
    shrink_data.shrink(records, 0.5, tmp_path / "half", tmp_path / "half.json")
    assert torch.equal(load_image(tmp_path / "half" / "1.png"), torch.full((3, 20, 30), grey, dtype=torch.uint8))
