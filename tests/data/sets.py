"""Small data sets that tests write."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from PIL import Image

from detframe.data import Records, load_records


def pixels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth picture, so that resampling it is well behaved; uint8 (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def annotation(number: int, image: int, bbox: Any, category: int = 1, **more: Any) -> dict[str, Any]:
    """One entry of a COCO file."""
    return {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0, "area": 1.0, **more}


def annotations_of(classes: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Entries for the classes of the objects of each image; a negative one is that of a crowd."""
    rows: list[dict[str, Any]] = []
    for image, labels in enumerate(classes, 1):
        for label in labels:
            crowd = {"iscrowd": 1, "segmentation": {"size": [60, 40], "counts": [0, 2400]}} if label < 0 else {}
            rows.append(annotation(len(rows) + 1, image, [2, 3, 12, 10], abs(label), **crowd))
    return rows


def write_coco(
    folder: Path,
    annotations: list[dict[str, Any]] | None,
    sizes_hw: list[tuple[int, int]] | None = None,
    name: str = "mine",
    **overrides: Any,
) -> Path:
    """Images 1, 2, ..., a COCO file and a catalog with one entry; returns the catalog."""
    sizes_hw = sizes_hw or [(40, 60)]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images = []
    for number, (height, width) in enumerate(sizes_hw, 1):
        cv2.imwrite(str(folder / "images" / f"{number}.png"), pixels(height, width, number))
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
    data = {"images": images, "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}]}
    if annotations is not None:
        data["annotations"] = annotations
    data.update(overrides)
    (folder / "data.json").write_text(json.dumps(data))
    return write_catalog(folder, {name: {"format": "coco", "images": "images", "annotations": "data.json"}})


def write_catalog(folder: Path, entries: dict[str, Any]) -> Path:
    """A catalog file of these entries."""
    path = folder / "catalog.yaml"
    path.write_text(yaml.safe_dump(entries))
    return path


def coco_records(folder: Path, annotations: list[dict[str, Any]] | None, *args: Any, **more: Any) -> Records:
    """The records of `write_coco`."""
    return load_records(["mine"], str(write_coco(folder, annotations, *args, **more)))


def write_voc(folder: Path, objects: dict[str, str], size: str = "<width>60</width><height>40</height>") -> Path:
    """VOC files: image name -> the XML of its objects; returns the catalog, whose entry is called "mine"."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for stem, xml in objects.items():
        cv2.imwrite(str(folder / "JPEGImages" / f"{stem}.jpg"), pixels(40, 60))
        text = f"<annotation>\n<filename>other.jpg</filename>\n<size>{size}</size>\n{xml}\n</annotation>"
        (folder / "Annotations" / f"{stem}.xml").write_text(text)
    (folder / "ImageSets" / "Main" / "all.txt").write_text("\n".join(objects))
    entry = {"format": "voc", "images": "JPEGImages", "annotations": "Annotations", "split": "all"}
    return write_catalog(folder, {"mine": entry})


def voc_object(name: str, corners: tuple[float, float, float, float], difficult: int = 0) -> str:
    """The XML of one object."""
    x1, y1, x2, y2 = corners
    box = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox>{part}</object>"


def save_image(path: Path, array: np.ndarray, orientation: int | None = None, **options: Any) -> Path:
    """Write an RGB array (H, W, 3) of uint8 as an image, with an orientation tag."""
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(array).save(path, exif=exif, **options)
    return path


def tiff(rows: bytes, width: int, height: int, bits: int, extra: Sequence[tuple[int, int, Any]] = ()) -> bytes:
    """An uncompressed grey TIFF."""
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    tags = sorted([*tags, (278, 3, height), (279, 4, len(rows)), *extra])
    forms = {2: "<HHI4s", 3: "<HHIHxx", 4: "<HHII"}
    entries = b"".join(struct.pack(forms[k], tag, k, 2 if k == 2 else 1, value) for tag, k, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + struct.pack("<H", len(tags)) + entries + bytes(4)
