"""What `detframe check` says of the shapes of batches, against counting them in the loader's own batches."""

from __future__ import annotations

import json
from itertools import islice

import cv2
import numpy as np
import pytest

from detframe.config import get_cfg, validate
from detframe.data import build_train_loader, load_records
from detframe.modeling.preprocessor import Preprocessor
from detframe.recipes.batch_shapes import batch_shapes

SCALES = ("INPUT.MIN_SIZE_TRAIN", (40, 64), "INPUT.MAX_SIZE_TRAIN", 0)


def config(*options):
    cfg = get_cfg()
    cfg.merge_from_list(["SEED", 3, "SOLVER.IMS_PER_BATCH", 4, "INPUT.MIN_SIZE_TEST", 0, *options])
    validate(cfg)
    return cfg


class Sizes:
    """Records of images of some sizes, without files."""

    def __init__(self, *sizes_hw, count=60):
        self.sizes_hw = np.array((sizes_hw * count)[:count], dtype=np.int32).reshape(-1, 2)

    def __len__(self):
        return len(self.sizes_hw)

    def select(self, rows):
        out = Sizes(count=0)
        out.sizes_hw = self.sizes_hw[rows]
        return out

    def sample_key(self, index):
        return index

    def file_name(self, index):
        return f"/data/{index}.jpg"


def choice_of(found, buckets):
    (choice,) = [choice for choice in found.choices if choice.buckets == buckets]
    return choice


def test_images_of_one_size_need_nothing():
    found = batch_shapes(config("INPUT.MIN_SIZE_TRAIN", (0,)), 32, {"train": Sizes((64, 96)), "val": Sizes((64, 96))})
    assert (found.choices[0].training, found.choices[0].evaluation, found.choices[0].padding) == (1, 1, 0)
    assert found.proposed == () and not found.findings()


def test_images_after_what_is_closed_have_shapes_of_their_own():
    keys = ("INPUT.TRANSFORMS", [{"Mosaic": {"size": 64}}], "INPUT.MIN_SIZE_TRAIN", (0,))
    sets = {"train": Sizes((96, 128)), "val": Sizes((96, 128))}
    assert batch_shapes(config(*keys), 32, sets).choices[0].training == 1
    for close_at in (0.9, 100):
        found = batch_shapes(config(*keys, "INPUT.CLOSE_AT", close_at), 32, sets)
        assert (found.choices[0].training, found.choices[0].padding) == (2, 0)


def test_wide_and_tall_images():
    sets = {"train": Sizes((64, 96), (96, 64), (96, 64)), "val": Sizes((64, 96), (96, 64), count=8)}
    found = batch_shapes(config("INPUT.MIN_SIZE_TRAIN", (0,), "TEST.IMS_PER_BATCH", 2), 32, sets)
    as_it_is = choice_of(found, ())
    assert as_it_is is found.choices[0] and (as_it_is.training, as_it_is.evaluation) == (
        2,
        1,
    )  # 20 wide, 40 tall; mixed
    assert as_it_is.padding == pytest.approx(0)
    assert choice_of(found, (128,)).padding == pytest.approx(1 - 64 * 96 / 128**2)
    assert choice_of(found, ((96, 96),)).padding == pytest.approx(1 / 3)
    assert found.proposed == ((64, 96), (96, 64), (96, 96))
    assert choice_of(found, found.proposed).training == 2


@pytest.mark.parametrize("more", [(), ("DATALOADER.ASPECT_RATIO_GROUPING", False)])
@pytest.mark.parametrize("buckets", [(), (64,), ((64, 128), (128, 64), (128, 128))])
def test_the_numbers_are_those_of_the_batches_that_are_loaded(shapes_records, buckets, more):
    cfg = config(*SCALES, "INPUT.BUCKETS", buckets, *more)
    choice = choice_of(batch_shapes(cfg, 32, {"train": shapes_records}), buckets)
    pad = Preprocessor((0.0,) * 3, (1.0,) * 3, False, 32, False, buckets)
    seen, pixels, padded = set(), 0, 0
    loader = build_train_loader(cfg.changed([("DATALOADER.NUM_WORKERS", 0)]), shapes_records)
    for images, _ in islice(loader, len(shapes_records) // 4):
        batch = pad(images)
        seen.add(batch.padded_hw)
        pixels += sum(image.shape[1] * image.shape[2] for image in images)
        padded += batch.tensors[:, 0].numel()
    assert choice.training == len(seen)
    assert choice.padding == pytest.approx(1 - pixels / padded)


@pytest.fixture
def shapes_records(tmp_path, monkeypatch):
    """16 black images of four sizes."""
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    sizes = [(40, 60), (60, 40), (50, 50), (30, 64)] * 4
    rows = []
    for number, (height, width) in enumerate(sizes):
        name = tmp_path / f"{number}.png"
        cv2.imwrite(str(name), np.zeros((height, width, 3), np.uint8))
        rows.append({"id": number + 1, "file_name": name.name, "height": height, "width": width})
    boxes = [
        {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [2, 2, 9, 9], "area": 81, "iscrowd": 0}
        for i in range(len(rows))
    ]
    content = {"images": rows, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(f"a: {{format: coco, images: {tmp_path}, annotations: {tmp_path / 'a.json'}}}\n")
    return load_records(["a"], str(catalog))


def test_views_of_an_evaluation_are_shapes_of_their_own():
    cfg = config("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (40, 64, 100), "TEST.AUG.PLAIN", False)
    found = batch_shapes(cfg, 32, {"val": Sizes((64, 64))})
    assert (found.choices[0].training, found.choices[0].evaluation) == (0, 2)  # 64, 64 and 128
    assert all(bucket[0] >= 100 for bucket in found.proposed[-1:])


def test_jitter_needs_a_bucket_of_its_size():
    cfg = config("INPUT.LSJ.ON", True, "INPUT.LSJ.SIZE", 96, "INPUT.BUCKETS", ((64, 96), (96, 64)))
    found = batch_shapes(cfg, 32, {"train": Sizes((60, 60), (64, 90))})
    (finding,) = found.findings()
    assert finding.severity == "error" and "holds 60 of the 60 images of train as training sees them" in finding.text
    assert (96, 96) in found.proposed


def test_many_images_are_sampled():
    train = Sizes((64, 96), (96, 64), count=9001)
    found = batch_shapes(config("INPUT.MIN_SIZE_TRAIN", (0,)), 32, {"train": train})
    assert found.choices[0].training == 3


def test_the_text_fits_the_screen():
    sets = {"train": Sizes((640, 961), (96, 640), (501, 64)), "val": Sizes((1064, 96), count=5)}
    lines = list(batch_shapes(config("INPUT.MIN_SIZE_TRAIN", (0,)), 32, sets).lines())
    assert max(map(len, lines)) <= 80
    assert lines[2].endswith("[], as it is")
    assert "INPUT.BUCKETS     [[1088,96]" in " ".join(lines[-2:])
