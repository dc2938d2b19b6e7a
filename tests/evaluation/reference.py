"""The metrics as pycocotools itself computes them from JSON-like lists, through its own loadRes and summarize."""

from __future__ import annotations

import contextlib
import io

import numpy as np


def pycocotools_stats(dataset, results, iou_type="bbox", image_ids=None, use_limit=None):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), iou_type)
        if image_ids is not None:
            evaluation.params.imgIds = list(image_ids)
        if use_limit is not None:
            evaluation.params.maxDets = use_limit
        evaluation.evaluate()
        evaluation.accumulate()
        if use_limit is None:
            evaluation.summarize()
            return evaluation.stats * 100
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return np.array([precision[precision > -1].mean() * 100])


def dataset_of(records):
    """The records as a COCO dataset with the file's own category ids."""
    ids = records.metadata.category_ids
    annotations = []
    for row in records:
        for i, box in enumerate(row["boxes"].tolist()):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": row["image_id"],
                    "category_id": ids[int(row["labels"][i]) - 1],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": float(row["area"][i]),
                    "iscrowd": int(row["iscrowd"][i]),
                }
            )
    names = records.metadata.class_names
    return {
        "info": {},
        "images": [{"id": r["image_id"], "height": r["size_hw"][0], "width": r["size_hw"][1]} for r in records],
        "categories": [{"id": i, "name": n} for i, n in zip(ids, names, strict=True)],
        "annotations": annotations,
    }
