"""Copy-paste: what is laid over an image, and what is left of what lay there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detframe.config import ConfigNode, get_cfg
from detframe.data import ImageReadError, Records, build_train_loader, load_records
from detframe.data.transforms.copy_paste import paste_objects
from detframe.structures import LazyMasks
from tests.data.sets import annotation, coco_records, write_catalog
from tests.data.test_make_shapes import script, shapes  # noqa: F401  (fixtures)

SIZE = (60, 80)


def image_with(boxes: list[list[float]], shade: int, size: tuple[int, int] = SIZE):
    """Rectangles of a shade on black, as polygons; a keypoint in the middle of each."""
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, int(y1) : int(y2), int(x1) : int(x2)] = shade
    polygons = [[np.array([x1, y1, x2, y1, x2, y2, x1, y2], dtype=float)] for x1, y1, x2, y2 in boxes]
    middles = [[[(x1 + x2) / 2, (y1 + y2) / 2, 2.0]] for x1, y1, x2, y2 in boxes]
    target = {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.full((len(boxes),), shade),
        "keypoints": torch.tensor(middles).reshape(-1, 1, 3),
        "masks": LazyMasks(polygons, size),
    }
    return image, target


def test_pixels_masks_boxes_and_keypoints():
    """A new object covers the right half of one, all of another, and nothing of a third."""
    image, target = image_with([[10.0, 10, 30, 30], [40, 12, 50, 28], [60, 40, 75, 55]], 100)
    other, objects = image_with([[20.0, 5, 55, 35]], 200)
    out, joined = paste_objects(image, target, other, objects)
    assert (
        (out[0, 5:35, 20:55] == 200).all()
        and (out[0, 10:30, 10:20] == 100).all()
        and (out[0, 40:55, 60:75] == 100).all()
    )
    assert joined["labels"].tolist() == [100, 100, 200]
    assert joined["boxes"].tolist() == [[10, 10, 20, 30], [60, 40, 75, 55], [20, 5, 55, 35]]
    masks = joined["masks"].decode()
    assert torch.equal(masks[0], (out[0] == 100) & (torch.arange(80) < 40))
    assert torch.equal(masks[2], out[0] == 200)
    assert joined["keypoints"][:, 0, 2].tolist() == [1, 2, 2]
    assert (image[0] == 200).sum() == 0 and len(target["labels"]) == 3  # what was handed in is as it was


def test_images_of_different_sizes_and_objects_beyond_the_border():
    image, target = image_with([[5.0, 5, 15, 15]], 100)
    other, objects = image_with([[70.0, 50, 120, 90], [100, 10, 110, 20]], 200, (100, 130))
    out, joined = paste_objects(image, target, other, objects)
    assert out.shape == (3, *SIZE)
    assert joined["boxes"].tolist() == [[5, 5, 15, 15], [70, 50, 80, 60]]
    assert torch.equal(joined["masks"].decode()[1], out[0] == 200)
    small, few = image_with([[2.0, 2, 9, 9]], 200, (20, 20))
    out, joined = paste_objects(image, target, small, few)
    # the small image covers a corner, which leaves the box as it was
    assert joined["boxes"].tolist() == [[5, 5, 15, 15], [2, 2, 9, 9]]


def test_nothing_to_paste():
    image, target = image_with([[5.0, 5, 15, 15]], 100)
    other, objects = image_with([], 200)
    out, joined = paste_objects(image, target, other, objects)
    assert torch.equal(out, image) and joined is target
    empty, none = image_with([], 100)
    _, joined = paste_objects(empty, none, *image_with([[5.0, 5, 15, 15]], 200))
    assert joined["labels"].tolist() == [200]


def test_without_masks():
    image, target = image_with([[5.0, 5, 15, 15]], 100)
    del target["masks"]
    with pytest.raises(ValueError, match="COPY_PASTE_PROB"):
        paste_objects(image, target, image, target)


def test_what_is_left_of_an_object():
    """A strip of 10 x 40 pixels stays, one of 5 x 40 does not, nor does a dot; a frame keeps its box, so it stays."""
    image, target = image_with([[0.0, 0, 40, 40], [50, 0, 90, 40], [0, 50, 40, 90], [50, 50, 90, 90]], 100, (100, 100))
    covers = [[10.0, 0, 40, 40], [55, 0, 90, 40], [1, 50, 40, 90], [0, 51, 1, 90], [52, 52, 90, 90]]
    _, joined = paste_objects(image, target, *image_with(covers, 200, (100, 100)))
    assert joined["boxes"][:2].tolist() == [[0, 0, 10, 40], [50, 50, 90, 90]]
    assert joined["labels"].tolist() == [100] * 2 + [200] * 5


def test_objects_without_pixels_are_not_pasted():
    image, target = image_with([[5.0, 5, 15, 15]], 100)
    other, objects = image_with([[20.0, 5, 55, 35], [60, 40, 70, 50]], 200)
    objects["masks"] = LazyMasks([[], objects["masks"].segmentations[1]], SIZE)
    out, joined = paste_objects(image, target, other, objects)
    assert joined["boxes"].tolist() == [[5, 5, 15, 15], [60, 40, 70, 50]] and (out == 200).sum() == 3 * 100


def test_the_box_of_an_object_that_the_border_cuts_is_that_of_its_mask():
    """Of a triangle only the tip is inside, which is lower than the triangle."""
    image, target = image_with([], 100)
    other = torch.full((3, 60, 160), 200, dtype=torch.uint8)
    triangle = [np.array([60.0, 30, 140, 0, 140, 60])]
    objects = {
        "boxes": torch.tensor([[60.0, 0, 140, 60]]),
        "labels": torch.tensor([200]),
        "masks": LazyMasks([triangle], (60, 160)),
    }
    out, joined = paste_objects(image, target, other, objects)
    rows, columns = (out[0] == 200).nonzero().unbind(1)
    assert rows.min() > 15
    assert joined["boxes"].tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    assert torch.equal(joined["masks"].decode()[0], out[0] == 200)


def test_an_image_of_a_set_without_objects_needs_no_masks():
    image, target = image_with([], 100)
    del target["masks"]
    _, joined = paste_objects(image, target, *image_with([[5.0, 5, 15, 15]], 200))
    assert len(joined["masks"]) == len(joined["boxes"]) == 1
    assert paste_objects(image, target, image, target)[1] is target


def small_set(folder: Path, **more: object) -> Records:
    """Five images with a square of class 1 each, with a mask, and a crowd of class 2 over half of the image."""
    rows = []
    for image in range(1, 6):
        polygon = [5, 5, 25, 5, 25, 25, 5, 25]
        rows.append(annotation(len(rows) + 1, image, [5, 5, 20, 20], segmentation=[polygon], **more))
        code = {"size": [40, 60], "counts": [0, 1200, 1200]}
        rows.append(annotation(len(rows) + 1, image, [0, 0, 30, 40], 5, segmentation=code, **(more | {"iscrowd": 1})))
    if more:
        rows = [{k: v for k, v in row.items() if k != "segmentation"} for row in rows]
    return coco_records(folder, rows, [(40, 60)] * 5)


def pasting(*overrides: object) -> ConfigNode:
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.COPY_PASTE_PROB", 1.0, "SOLVER.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (40,), *overrides])
    return cfg


def test_crowds_are_never_pasted(tmp_path: Path):
    loader = build_train_loader(pasting(), small_set(tmp_path))
    labels = [target["labels"].tolist() for _ in range(5) for target in next(loader)[1]]
    assert [1, 1] in labels and {label for row in labels for label in row} == {1}


def test_a_data_set_without_masks_is_an_error_before_training(tmp_path: Path):
    with pytest.raises(ValueError, match=r"COPY_PASTE_PROB is 1\.0.* mine has no masks"):
        build_train_loader(pasting(), small_set(tmp_path, iscrowd=0))


def test_two_ranks_read_the_batches_of_one(tmp_path: Path):
    records, cfg = small_set(tmp_path), pasting("INPUT.LSJ.ON", True, "INPUT.LSJ.SIZE", 64)
    whole, halves = build_train_loader(cfg, records), [build_train_loader(cfg, records, 1, i, 2) for i in range(2)]
    next(whole)
    for _ in range(3):
        parts = [next(half) for half in halves]
        images, targets = ([*a, *b] for a, b in zip(*parts, strict=True))
        for image, target, same, its in zip(*next(whole), images, targets, strict=True):
            assert torch.equal(image, same) and torch.equal(target["boxes"], its["boxes"])
            assert torch.equal(target["masks"].decode(), its["masks"].decode())


def test_an_unreadable_image_to_paste_from(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """With "skip" the image stays as it is, and the file that is broken is named once."""
    records = small_set(tmp_path)
    Path(records[2]["file_name"]).write_bytes(b"no image")
    loader = build_train_loader(pasting("DATALOADER.ON_ERROR", "skip"), records)
    seen = [target for _ in range(8) for target in next(loader)[1]]
    assert {target["image_id"] for target in seen} == {1, 2, 4, 5} and loader.skipped > 8
    assert len([r for r in caplog.records if "3.png" in r.getMessage()]) == len(caplog.records) == 1
    with pytest.raises(ImageReadError, match=r"3\.png"):
        for start in range(20):
            next(build_train_loader(pasting(), records, start))


def loader_of(shapes: Path, tmp_path: Path, workers: int):  # noqa: F811
    entry = {
        "format": "coco",
        "images": str(shapes / "train"),
        "annotations": str(shapes / "annotations" / "train.json"),
    }
    catalog = write_catalog(tmp_path, {"s": entry})
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.CATALOG", str(catalog), "INPUT.COPY_PASTE_PROB", 0.7, "SOLVER.IMS_PER_BATCH", 4])
    cfg.merge_from_list(["INPUT.LSJ.ON", True, "INPUT.LSJ.SIZE", 96, "DATALOADER.NUM_WORKERS", workers, "SEED", 3])
    return build_train_loader(cfg, load_records(["s"], str(catalog)))


def test_a_batch_is_the_same_however_many_workers_read_it(shapes: Path, tmp_path: Path):  # noqa: F811
    alone, helped = loader_of(shapes, tmp_path, 0), loader_of(shapes, tmp_path, 2)
    pasted = 0
    for _ in range(4):
        (images, targets), (others, same) = next(alone), next(helped)
        for a, b, t, u in zip(images, others, targets, same, strict=True):
            assert torch.equal(a, b) and torch.equal(t["boxes"], u["boxes"]) and t["seed"] == u["seed"]
            assert len(t["masks"]) == len(t["boxes"]) == len(t["keypoints"])
            decoded = t["masks"].decode()
            assert decoded.shape[1:] == a.shape[1:]
            pasted += sum(isinstance(s, dict) for s in t["masks"].segmentations)
    helped.close()
    assert pasted > 0  # some object was covered in part
