"""Images of awkward names with detections, written in a format and read back with detframe's reader of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from detframe.data import join
from detframe.data.packing import PackedDataset
from detframe.inference.prediction import ImagePrediction
from detframe.inference.writers import image_name, open_writer
from detframe.structures import LazyMasks
from tests.data.sets import pixels

SIZES = ((40, 60), (50, 80), (64, 48), (33, 47))
CLASSES, IDS = ("cell", "wbc & more", "a/b", "Zürich <x>"), (3, 7, 1, 20)
# two of one name in different folders, spaces, dots, letters beyond ASCII, and one without detections (the last)
NAMES = ("left/a.png", "right/a.png", "ein Bild.v2.final.png", "日本/éclair & tea.png", "empty.png")


def write_images(root: Path, names: Sequence[str] = NAMES) -> None:
    """Images whose sizes differ."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", pixels(*size_of(number), number))[1].tobytes())


def size_of(number: int) -> tuple[int, int]:
    """Height and width of an image."""
    return SIZES[number % len(SIZES)]


def prediction(number: int, count: int = 3, masks: bool = False, keypoints: bool = False) -> ImagePrediction:
    """Detections of an image, whose classes and boxes depend on its number; masks are discs with a hole."""
    height, width = size_of(number)
    rng = np.random.default_rng(number)
    corner = rng.uniform(1, 12, (count, 2)).astype(np.float32)
    boxes = np.concatenate([corner, corner + rng.uniform(14, 20, (count, 2)).astype(np.float32)], 1)
    values: dict[str, Any] = {
        "boxes": boxes,
        "scores": np.linspace(0.95, 0.4, count, dtype=np.float32),
        "labels": (np.arange(count) + number) % len(CLASSES) + 1,
    }
    if masks:
        values["masks"] = np.stack([_disc(box, (height, width)) for box in boxes])[:, None] if count else None
        values["masks"] = np.zeros((0, 1, height, width), np.float32) if not count else values["masks"]
    if keypoints:
        points = np.stack([boxes[:, :2] + 1, boxes[:, 2:] - 1], 1)
        values["keypoints"] = np.concatenate([points, np.ones((count, 2, 1), np.float32)], -1)
    return ImagePrediction(values, size_hw=(height, width), class_names=CLASSES, category_ids=IDS)


def _disc(box: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    y, x = np.mgrid[: size_hw[0], : size_hw[1]] + 0.5
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    far = ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2
    return ((far <= 1) & (far > 0.09)).astype(np.float32)


def scene(**how: Any) -> dict[str, ImagePrediction]:
    """The detections of all images by their names; the last has none."""
    return {name: prediction(i, 0 if i == len(NAMES) - 1 else 3, **how) for i, name in enumerate(NAMES)}


def write(format: str, folder: Path, root: Path, found: Mapping[str, ImagePrediction], **options: Any) -> None:
    """Write detections by the names of their images."""
    with open_writer(format, folder, CLASSES, IDS, root=root, **options) as writer:
        for name, one in found.items():
            writer.write(str(root / name), one.size_hw, one)


def read_back(packed: PackedDataset, root: Path) -> dict[str, dict[str, Any]]:
    """Of each image by its name: class names, boxes and masks (LazyMasks) of its objects."""
    names = packed.metadata.class_names
    out = {}
    for record in join([packed]):
        out[image_name(record["file_name"], root=root)] = {
            "names": [names[label - 1] for label in record["labels"].tolist()],
            "boxes": np.asarray(record["boxes"]),
            "masks": LazyMasks(record["segmentations"], record["size_hw"]).decode().numpy()
            if record.get("segmentations") is not None
            else None,
            "record": record,
        }
    return out


def assert_same(
    found: Mapping[str, ImagePrediction], back: Mapping[str, Mapping[str, Any]], tolerance: float, iou: float = 0.0
) -> None:
    """Images, classes in their order and boxes within pixels are the same; masks overlap by `iou`, where it is given.

    With masks, a box is the one around its mask.
    """
    assert set(back) == set(found)
    for name, one in found.items():
        assert back[name]["names"] == one["names"], name
        boxes = np.asarray(one["boxes"])
        if iou:
            true = np.asarray(one["masks"])[:, 0] >= 0.5
            assert (overlaps(true, back[name]["masks"]) >= iou).all()
            boxes = np.array([_around(mask) for mask in true]).reshape(-1, 4)
        np.testing.assert_allclose(back[name]["boxes"].reshape(-1, 4), boxes, rtol=0, atol=tolerance, err_msg=name)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of each pair of masks (N, H, W)."""
    return np.array([(x & y).sum() / max((x | y).sum(), 1) for x, y in zip(a, b, strict=True)])


def _around(mask: np.ndarray) -> list[float]:
    x, y, width, height = coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))).tolist()
    return [x, y, x + width, y + height]
