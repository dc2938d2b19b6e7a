"""Small stand-ins for records, so that these tests need no files."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from detframe.structures import Prediction


class FakeRecords:
    """What an evaluator needs of `detframe.data.Records`."""

    def __init__(self, rows, class_names, category_ids=None):
        self.rows = rows
        ids = tuple(category_ids or range(1, len(class_names) + 1))
        self.metadata = SimpleNamespace(name="fake", class_names=tuple(class_names), category_ids=ids)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def class_counts(self):
        labels = np.concatenate([np.zeros(0, np.int64), *(r["labels"][~r["iscrowd"]].numpy() for r in self.rows)])
        return np.bincount(labels, minlength=len(self.metadata.class_names) + 1)[1:]


def record(image_id, boxes, labels, size_hw=(200, 300), iscrowd=None, **more):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    out = {
        "file_name": f"/data/{image_id}.jpg",
        "image_id": image_id,
        "size_hw": size_hw,
        "boxes": boxes,
        "labels": torch.as_tensor(labels, dtype=torch.int64).reshape(-1),
        "iscrowd": torch.as_tensor(iscrowd if iscrowd is not None else [False] * count, dtype=torch.bool),
        "area": area,
        "ann_ids": torch.arange(count),
        "segmentations": None,
        "keypoints": None,
    }
    return {**out, **more}


def prediction(boxes, labels, scores, **more) -> Prediction:
    return {
        "boxes": torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.as_tensor(labels, dtype=torch.int64).reshape(-1),
        "scores": torch.as_tensor(scores, dtype=torch.float32).reshape(-1),
        **more,
    }


def random_records(num_images=12, num_classes=3, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(num_images):
        count = int(rng.integers(0, 8)) if index else 0
        sides = np.exp(rng.uniform(np.log(8), np.log(150), (count, 2)))
        corner = rng.uniform(0, 1, (count, 2)) * (np.array([300, 200]) - sides)
        boxes = np.concatenate([corner, corner + sides], 1).round(1)
        rows.append(
            record(100 + index, boxes, rng.integers(1, num_classes + 1, count), iscrowd=rng.random(count) < 0.1)
        )
    return FakeRecords(rows, [f"class{i}" for i in range(1, num_classes + 1)], **kwargs)


def noisy_predictions(records, seed=0, extra=3, noise=4.0):
    """Ground truth moved a little, some with a wrong label, some left out, plus random boxes."""
    rng = np.random.default_rng(seed)
    num_classes = len(records.metadata.class_names)
    out = []
    for row in records:
        boxes, labels = row["boxes"].numpy().copy(), row["labels"].numpy().copy()
        keep = rng.random(len(boxes)) < 0.85
        boxes, labels = boxes[keep] + rng.normal(0, noise, (keep.sum(), 4)).astype(np.float32), labels[keep]
        wrong = rng.random(len(labels)) < 0.15
        labels[wrong] = rng.integers(1, num_classes + 1, wrong.sum())
        corner = rng.uniform(0, 100, (extra, 2))
        boxes = np.concatenate([boxes, np.concatenate([corner, corner + rng.uniform(5, 90, (extra, 2))], 1)])
        labels = np.concatenate([labels, rng.integers(1, num_classes + 1, extra)])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        scores = np.sort(rng.random(len(boxes)))[::-1].copy()
        out.append(prediction(boxes, labels, scores))
    return out


def targets_of(records):
    return [{"image_id": r["image_id"], "orig_size_hw": tuple(r["size_hw"])} for r in records]
