"""Folders as runs leave them, without a training: pictures, annotations, config, metrics, log and detections."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from detframe.config import get_cfg

LOG = """\
2026-11-26 09:00:00 training started with detframe 0.1.0, torch 2.6.0, Python 3.11.7; command: detframe train --data x
2026-11-26 09:00:01 training data toy_train: 20 images, 0 of them without objects
2026-11-26 09:00:02 model: 2.90 M parameters, 2.90 M of them trained
2026-11-26 09:01:40 best bbox/AP so far: 50.00 at iteration 20
2026-11-26 09:01:41 saved model_final.pth after 40 iterations
"""


def train_row(iteration: int, loss: float = 1.0) -> dict:
    return {"iteration": iteration, "loss": loss, "loss_cls": loss / 2, "lr": 0.01, "memory_mb": 3.0}


ROWS = [train_row(20), {"iteration": 20, "bbox/AP": 40.0}, train_row(40, 0.5), {"iteration": 40, "bbox/AP": 50.0}]


def make_run(
    folder: Path,
    truth: dict[int, list[tuple[int, list[float]]]],
    found: dict[int, list[tuple[int, list[float], float]]] | None,
    *,
    classes: tuple[str, ...] = ("ball", "box"),
    rows: list[dict] | None = None,
    log: str = LOG,
    size_hw: tuple[int, int] = (120, 160),
    overrides: tuple = (),
    data: Path | None = None,
) -> Path:
    """A run on a data set "toy" whose boxes are x, y, width, height.

    Args:
        truth: (label, box) of the objects by image id; annotation ids are 1000 and on.
        found: (label, box, score) by image id; None leaves no file of detections.
        data: where the data set lies, made where it is not there yet.
    """
    folder.mkdir(parents=True)
    data = data or folder / "data"
    if not data.exists():
        make_data(data, truth, classes, size_hw)
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.TRAIN", ("toy",), "DATASETS.TEST", ("toy",), "SOLVER.MAX_ITER", 40])
    cfg.merge_from_list(["OUTPUT_DIR", str(folder), "DATASETS.CATALOG", str(data / "catalog.yaml"), *overrides])
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows)))
    (folder / "log.txt").write_text(log)
    if found is not None:
        entries = [
            {"image_id": i, "category_id": label, "bbox": box, "score": score}
            for i, boxes in found.items()
            for label, box, score in boxes
        ]
        (folder / "predictions_toy.json").write_text(json.dumps(entries))
    return folder


def make_data(
    folder: Path, truth: dict[int, list[tuple[int, list[float]]]], classes: tuple[str, ...], size_hw: tuple[int, int]
) -> None:
    """Pictures with a dark rectangle for each object, and their annotations in COCO's format."""
    (folder / "images").mkdir(parents=True)
    height, width = size_hw
    annotations = []
    for image_id, objects in truth.items():
        picture = np.full((height, width, 3), 220, np.uint8)
        for label, (x, y, w, h) in objects:
            cv2.rectangle(picture, (int(x), int(y)), (int(x + w), int(y + h)), (40, 90 * label % 255, 120), -1)
            annotations.append(
                {
                    "id": 1000 + len(annotations),
                    "image_id": image_id,
                    "category_id": label,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
        cv2.imwrite(str(folder / "images" / f"{image_id:03d}.jpg"), picture)
    images = [{"id": i, "file_name": f"{i:03d}.jpg", "height": height, "width": width} for i in truth]
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, 1)]
    (folder / "toy.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    (folder / "catalog.yaml").write_text(
        f"toy: {{format: coco, images: '{folder / 'images'}', annotations: '{folder / 'toy.json'}'}}\n"
    )


BALL, BOX = 1, 2
# image 1: both found; 2: a ball found as a box, and a box where nothing is; 3: nothing found; 4: nothing there
TRUTH = {
    1: [(BALL, [10, 10, 30, 30]), (BOX, [80, 40, 50, 60])],
    2: [(BALL, [20, 20, 40, 40])],
    3: [(BOX, [30, 30, 60, 60]), (BOX, [100, 70, 40, 40])],
    4: [],
}
FOUND = {
    1: [(BALL, [11, 10, 30, 30], 0.9), (BOX, [80, 42, 50, 58], 0.8), (BALL, [12, 12, 28, 28], 0.6)],
    2: [(BOX, [20, 21, 40, 40], 0.7), (BOX, [100, 60, 30, 30], 0.85)],
    4: [],
}
