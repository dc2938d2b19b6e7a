"""A data set of drawn squares and a perfect detector of them, for evaluations in tiles; other processes import it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import nn

from detframe.config import get_cfg
from detframe.engine.evaluating import TestSets
from detframe.engine.inputs import load_test_sets
from detframe.parallel.joining import process_group
from tests.inference.spots import drawn, spots_in

SIZES = [(150, 210), (90, 64), (200, 100), (64, 64), (130, 130)]


def write_squares(folder: Path, suffix: str = "png", longest: int = 30) -> Path:
    """Five pictures with 3 to 15 squares of two classes; returns the catalog, whose entry is called "squares"."""
    images, rows = [], []
    for number, size_hw in enumerate(SIZES):
        image = drawn(number, *size_hw, 3 + 3 * number, longest)
        PIL.Image.fromarray(image).save(folder / f"{number}.{suffix}")
        images.append({"id": number, "file_name": f"{number}.{suffix}", "height": size_hw[0], "width": size_hw[1]})
        for value, (x1, y1, x2, y2) in spots_in(image[..., 0]):
            box = [int(v) for v in (x1, y1, x2 - x1, y2 - y1)]
            rows.append({"id": len(rows) + 1, "image_id": number, "category_id": 1 + value % 2, "bbox": box})
            rows[-1] |= {"area": box[2] * box[3], "iscrowd": 0}
    categories = [{"id": 1, "name": "even"}, {"id": 2, "name": "odd"}]
    (folder / "squares.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    catalog = folder / "catalog.yaml"
    catalog.write_text(f"squares: {{format: coco, images: {folder}, annotations: {folder / 'squares.json'}}}\n")
    return catalog


class Spots(nn.Module):
    """Finds every value of an image but black, whatever its size; of resized images nothing that is right."""

    pixel = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []

    def forward(self, images: Any) -> list[Any]:
        out = []
        for image in images:
            self.sizes.append(tuple(image.shape[-2:]))
            found = spots_in(image[0].numpy())
            values = np.array([value for value, _ in found], dtype=np.int64)
            out.append(
                {
                    "boxes": torch.tensor([box for _, box in found], dtype=torch.float32).reshape(-1, 4),
                    "scores": torch.from_numpy(values / 255).float(),
                    "labels": torch.from_numpy(1 + values % 2),
                }
            )
        return out


def config(catalog: Path, *overrides: Any) -> Any:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("DATASETS.CATALOG", str(catalog), "DATASETS.TEST", ("squares",), "DATALOADER.NUM_WORKERS", 0),
            *("INPUT.TILES.SIZE", 64, "INPUT.TILES.OVERLAP", 0.5, "INPUT.MIN_SIZE_TEST", 0, "INPUT.MAX_SIZE_TEST", 0),
            *("TEST.IMS_PER_BATCH", 4, "MODEL.DEVICE", "cpu", "MODEL.NUM_CLASSES", 2, *overrides),
        ]
    )
    return cfg


def evaluated(catalog: Path, *overrides: Any, model: Any = None) -> tuple[dict[str, float], TestSets]:
    """Metrics of the evaluation and of the comparison, and what was evaluated."""
    cfg = config(catalog, *overrides)
    tests = TestSets(cfg, load_test_sets(cfg), None)
    model = Spots() if model is None else model
    return {**tests.evaluate(model, 0), **tests.compare(model)}, tests


def on_a_rank(catalog: str) -> list[tuple[str, str]]:
    """The metrics of this and the other rank, but for times."""
    with process_group("cpu"):
        metrics, _ = evaluated(Path(catalog))
    return stable(metrics)


def stable(metrics: dict[str, float]) -> list[tuple[str, str]]:
    """Metrics as text, without times."""
    return [(key, repr(value)) for key, value in sorted(metrics.items()) if not key.endswith("/seconds")]
