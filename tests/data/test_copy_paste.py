"""Copy-paste: what is laid over an image, and what is left of what lay there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detframe.config import get_cfg
from detframe.data import build_train_loader, load_records
from detframe.data.copy_paste import paste_objects
from detframe.structures import LazyMasks
from tests.data.sets import write_catalog
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
