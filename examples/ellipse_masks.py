"""Masks for a data set of boxes whose objects are round, so that copy-paste can cut them out: the ellipse in each box.

    python examples/ellipse_masks.py bccd_train --output bccd_ellipses.json
    detframe train --config-file quick/faster_rcnn_MNV2_FPN_bccd.yaml DATASETS.CATALOG my_catalog.yaml \
        DATASETS.TRAIN bccd_ellipses INPUT.COPY_PASTE_PROB 0.5

The last line that is printed is for the catalog. Blood cells, coins and pills fill such an ellipse; of fish and cars it
takes some of the ground along.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detframe.data import Records, load_records

CORNERS = 24  # of the polygon that stands for an ellipse: it has 99 % of its area


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the COCO file, and print the entry of the catalog."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", metavar="NAME", help="name in the catalog")
    parser.add_argument("--catalog", default="", help="your own catalog, read before the shipped one")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the COCO file to write")
    args = parser.parse_args(arguments)
    records = load_records([args.dataset], args.catalog)
    args.output.write_text(json.dumps(coco_of(records)), encoding="utf-8")
    folder = Path(records[0]["file_name"]).parent.absolute()
    print(f"{args.output.stem}: {{format: coco, images: {folder}, annotations: {args.output.absolute()}}}")


def coco_of(records: Records) -> dict[str, list[dict]]:
    """The records as a COCO file whose `segmentation` is the ellipse in each box."""
    metadata = records.metadata
    categories = zip(metadata.category_ids, metadata.class_names, strict=True)
    coco: dict[str, list[dict]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    for record in records:
        height, width = record["size_hw"]
        image = {"id": record["image_id"], "file_name": Path(record["file_name"]).name}
        coco["images"].append({**image, "height": height, "width": width})
        for box, label, crowd in zip(record["boxes"], record["labels"], record["iscrowd"], strict=True):
            x1, y1, x2, y2 = (float(side) for side in box)
            row = {"id": len(coco["annotations"]) + 1, "image_id": record["image_id"], "iscrowd": int(crowd)}
            place = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            shape = {"category_id": metadata.category_ids[int(label) - 1], "segmentation": [ellipse(box)]}
            coco["annotations"].append({**row, **place, **shape})
    return coco


def ellipse(box: np.ndarray) -> list[float]:
    """The polygon [x, y, x, y, ...] of the ellipse in a box (x1, y1, x2, y2), in pixels."""
    angles = np.arange(CORNERS) * (2 * np.pi / CORNERS)
    (x1, y1, x2, y2), circle = box, np.stack([np.cos(angles), np.sin(angles)], 1)
    points = np.array([x1 + x2, y1 + y2]) / 2 + circle * np.array([x2 - x1, y2 - y1]) / 2
    return [round(float(value), 2) for value in points.ravel()]


if __name__ == "__main__":
    main()
