"""COCO: coco.json, a data set whose annotations have scores, and coco_results.json, as COCO's evaluation takes it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pycocotools import mask as coco_mask

from detframe.arrays.results import ImageResult, coco_rows
from detframe.files import JsonList
from detframe.inference.writers.base import Picture, Writer

_VISIBLE = 2


class CocoWriter(Writer):
    """Image ids are 1, 2, ... in the order of the images, category ids those of the training.

    Masks are run-length codes, which every program reads that reads COCO's, and which lose nothing.
    """

    def _begin(self) -> None:
        # images stand in the same file behind the annotations; until then they lie aside
        self._images = self._stack.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
        info = json.dumps({"description": f"predictions of {self.version}"})
        head = f'{{"info": {info}, "licenses": [],\n"annotations": ['
        self._annotations = self._stack.enter_context(JsonList(self.folder / "coco.json", head))
        self._results = self._stack.enter_context(JsonList(self.folder / "coco_results.json"))

    def _add(self, picture: Picture, result: ImageResult) -> None:
        height, width = picture.size_hw
        row: dict[str, Any] = {"id": picture.number, "file_name": picture.name, "width": width, "height": height}
        if picture.frame is not None:
            row |= {"video": picture.source, "frame": picture.frame}
        self._images.write(("," if picture.number > 1 else "") + "\n" + json.dumps(row))
        for detection in coco_rows(picture.number, result, self.classes.ids):
            self._results.append(detection)
            self._annotations.append({"id": self._annotations.length + 1, **_annotation(detection)})

    def _finish(self) -> None:
        self._annotations.tail = self._tail()

    def _tail(self) -> Iterator[str]:
        yield '\n],\n"images": ['
        self._images.seek(0)
        yield from self._images
        points = {"keypoints": list(self.keypoint_names), "skeleton": []} if self.keypoint_names else {}
        categories = [
            {"id": int(number), "name": name, "supercategory": "", **points}
            for number, name in zip(self.classes.ids, self.classes.names, strict=True)
        ]
        yield f'\n],\n"categories": {json.dumps(categories)}}}\n'


def _annotation(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of COCO's results format as an annotation."""
    mask = row.get("segmentation")
    area = row["bbox"][2] * row["bbox"][3] if mask is None else float(coco_mask.area(mask))
    points = row.get("keypoints", [])
    more = {"keypoints": _visible(points), "num_keypoints": len(points) // 3} if points else {}
    # programs that look for a segmentation take an empty one for a box alone
    return {"segmentation": [], **row, "area": area, "iscrowd": 0, **more}


def _visible(points: Sequence[float]) -> list[float]:
    return [_VISIBLE if index % 3 == 2 else value for index, value in enumerate(points)]
