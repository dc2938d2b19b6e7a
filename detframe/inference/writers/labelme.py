"""labelme: NAME.json for each image, which names its image relative to itself."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePath
from typing import Any

from detframe.arrays.outlines import outlines
from detframe.arrays.results import ImageResult
from detframe.inference.writers.base import Found, Picture, Writer, save, stem_of

_VERSION = "5.5.0"  # of labelme, whose form this is; 6 reads it as well


class LabelmeWriter(Writer):
    """Rectangles, or polygons where there are masks; keypoints are points. What belongs together has one group_id.

    labelme opens an image and the file of its name in the folder that `--output` of labelme says; of a file that is
    opened itself, the image is found by its path.
    """

    @staticmethod
    def key(name: str) -> str:
        """The file of an image."""
        return f"{stem_of(name)}.json"

    def _add(self, picture: Picture, result: ImageResult) -> None:
        path = self.folder / self.key(picture.name)
        height, width = picture.size_hw
        objects = enumerate(self._found(result), 1)
        data: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": [shape for number, one in objects for shape in self._shapes(number, one)],
            "imagePath": picture.name if self._is_remote(picture) else _way(path.parent, self._path(picture)),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        save(path, json.dumps(data, ensure_ascii=False, indent=2) + "\n")

    def _shapes(self, number: int, found: Found) -> list[dict[str, Any]]:
        mask = found.mask()
        parts = [] if mask is None else outlines(mask)
        x1, y1, x2, y2 = found.box
        areas = [("polygon", part.tolist()) for part in parts] or [("rectangle", [[x1, y1], [x2, y2]])]
        points = [] if found.keypoints is None else found.keypoints[:, :2].tolist()
        group = number if len(areas) + len(points) > 1 else None
        shapes = [_shape(found.name, kind, corners, group, found.score) for kind, corners in areas]
        names = zip(self.keypoint_names, points, strict=True) if points else ()
        return shapes + [_shape(name, "point", [point], group, found.score) for name, point in names]


def _shape(label: str, kind: str, points: list[list[float]], group: int | None, score: float) -> dict[str, Any]:
    """A shape; labelme keeps the score, as all that it does not know."""
    return {
        "label": label,
        "points": points,
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
        "score": round(score, 6),
    }


def _way(folder: Path, image: Path) -> str:
    """The path from a folder to an image."""
    try:
        return PurePath(os.path.relpath(image, folder)).as_posix()
    except ValueError:  # on another drive
        return PurePath(os.path.abspath(image)).as_posix()
