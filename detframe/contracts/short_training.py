"""A training of a few steps on pictures that are made for it, as the test of a module runs it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detframe.config import read_config
from detframe.engine import train

SIZE_HW = (96, 128)
COUNT = 4  # pictures; the last one shows nothing
CLASSES = ("dark", "light")
_FEW: dict[str, Any] = {  # what makes any config small
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.LOG_PERIOD": 1,
    "SOLVER.EMA_DECAY": 0.0,
    "INPUT.MIN_SIZE_TRAIN": [0],
    "INPUT.MIN_SIZE_TEST": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.IMS_PER_BATCH": 2,
    "TEST.EVAL_PERIOD": 0,
    "TEST.VISUALIZE": 0,
    "TEST.REPORT": False,
}


def train_steps(
    config: str | Path, steps: int = 3, own_data: bool = False, overrides: Sequence[Any] = ()
) -> list[float]:
    """Train a config for some steps on the CPU, evaluate it, and forget what it left.

    Args:
        config: the YAML file.
        own_data: train on the data that it names; else on four small pictures with two classes, one of them empty.
        overrides: `["SOLVER.BASE_LR", 0.001, ...]`.

    Returns:
        The whole loss of each step.

    Raises:
        Whatever `detframe.train` raises.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = [word for pair in _FEW.items() for word in pair] + ["SOLVER.MAX_ITER", steps]
        words += ["OUTPUT_DIR", f"{folder}/run", *([] if own_data else _pictures(Path(folder))), *overrides]
        train(read_config(config, words))
        lines = Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


def pictures() -> list[tuple[np.ndarray, list[list[float]], list[int]]]:
    """Images uint8 (H, W, 3), with the boxes x1, y1, x2, y2 and labels 1..2 of what they show; always the same."""
    rng = np.random.default_rng(0)
    out = []
    for i in range(COUNT):
        image = rng.integers(110, 140, (*SIZE_HW, 3), dtype=np.uint8)
        boxes, labels = [], []
        for label in (1, 2) if i < COUNT - 1 else ():
            x, y = (int(v) for v in rng.integers(0, 40, 2))
            x, width, height = x + 64 * (label - 1) // 2, *(int(v) for v in rng.integers(20, 50, 2))
            image[y : y + height, x : x + width] = 30 if label == 1 else 220
            boxes.append([float(x), float(y), float(x + width), float(y + height)])
            labels.append(label)
        out.append((image, boxes, labels))
    return out


def _pictures(folder: Path) -> list[Any]:
    """Write the pictures as a data set of COCO's format; returns the overrides that name it."""
    data: dict[str, Any] = {"images": [], "annotations": []}
    data["categories"] = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    for i, (image, boxes, labels) in enumerate(pictures(), 1):
        Image.fromarray(image).save(folder / f"{i}.png")
        data["images"].append({"id": i, "file_name": f"{i}.png", "height": SIZE_HW[0], "width": SIZE_HW[1]})
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            box, number = [x1, y1, x2 - x1, y2 - y1], len(data["annotations"]) + 1
            row = {"id": number, "image_id": i, "category_id": label, "bbox": box, "area": box[2] * box[3]}
            data["annotations"].append({**row, "iscrowd": 0})
    (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
    catalog = folder / "catalog.yaml"
    entry = f"{{format: coco, images: {json.dumps(str(folder))}, annotations: {json.dumps(str(folder / 'data.json'))}}}"
    catalog.write_text(f"contract_pictures: {entry}\n", encoding="utf-8")
    names = ["contract_pictures"]
    return ["DATASETS.CATALOG", str(catalog), "DATASETS.TRAIN", names, "DATASETS.TEST", names]
