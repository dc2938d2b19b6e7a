"""Label Studio: tasks.json, tasks with predictions, and labeling_config.xml, the labelling interface for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from detframe.arrays.outlines import outline
from detframe.arrays.results import ImageResult
from detframe.files import JsonList
from detframe.inference.writers.base import Found, Picture, Writer, save

_IMAGE = "image"
_POINT_SIZE = 0.5  # percent of the image's width


class LabelStudioWriter(Writer):
    """Rectangles, or polygons where there are masks, and keypoints, in percent of the image.

    Images are those of the local storage: /data/local-files/?d=PATH, relative to the folder above `root` (for
    frames, `frames`), which LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT must name; addresses stay what they are.
    """

    def _begin(self) -> None:
        self._tasks = self._stack.enter_context(JsonList(self.folder / "tasks.json"))
        self._polygons = False

    def _add(self, picture: Picture, result: ImageResult) -> None:
        self._polygons |= result.rles is not None
        regions = [
            region
            for row, one in enumerate(self._found(result), 1)
            for region in self._regions(f"{picture.number}-{row}", one, picture.size_hw)
        ]
        scores = result.scores.tolist()
        prediction = {
            "model_version": self.version,
            "score": sum(scores) / len(scores) if scores else 0.0,
            "result": regions,
        }
        self._tasks.append({"data": {_IMAGE: self._address(picture)}, "predictions": [prediction]})

    def _address(self, picture: Picture) -> str:
        if self._is_remote(picture):
            return picture.source
        root = self.root if picture.frame is None else self.frames
        name = picture.name if root is None else f"{root.resolve().name}/{picture.name}"
        return f"/data/local-files/?d={quote(name, errors='replace')}"

    def _regions(self, key: str, found: Found, size_hw: tuple[int, int]) -> Iterator[dict[str, Any]]:
        """The region of a detection, and one for each of its keypoints."""
        mask = found.mask()
        corners = None if mask is None else outline(mask)
        facts = {"original_width": size_hw[1], "original_height": size_hw[0], "image_rotation": 0}
        if corners is None:
            yield {"id": key, **_rectangle(found, size_hw), **facts, "score": found.score}
        else:
            yield {"id": key, **_polygon(found, corners, size_hw), **facts, "score": found.score}
        points = [] if found.keypoints is None else _percent(found.keypoints[:, :2], size_hw)
        for number, (x, y) in enumerate(points):
            value = {"x": x, "y": y, "width": _POINT_SIZE, "keypointlabels": [self.keypoint_names[number]]}
            yield {"id": f"{key}-{number + 1}", "parentID": key, **_region("keypointlabels", value), **facts}

    def _finish(self) -> None:
        view = Element("View")
        SubElement(view, "Image", name=_IMAGE, value=f"${_IMAGE}", zoom="true", zoomControl="true")
        kinds = [("RectangleLabels", self.classes.names)]
        kinds += [("PolygonLabels", self.classes.names)] if self._polygons else []
        kinds += [("KeyPointLabels", self.keypoint_names)] if self.keypoint_names else []
        for kind, names in kinds:
            labels = SubElement(view, kind, name=_control(kind.lower()), toName=_IMAGE)
            for name in names:
                SubElement(labels, "Label", value=name)
        ElementTree.indent(view)
        save(self.folder / "labeling_config.xml", ElementTree.tostring(view, encoding="unicode") + "\n")


def _control(kind: str) -> str:
    """The name of the control that makes regions of a kind: "rectangle", "polygon", "keypoint"."""
    return kind.removesuffix("labels")


def _region(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": _control(kind), "to_name": _IMAGE, "type": kind, "value": value}


def _rectangle(found: Found, size_hw: tuple[int, int]) -> dict[str, Any]:
    (x1, y1), (x2, y2) = _percent(np.array(found.box).reshape(2, 2), size_hw)
    value = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0, "rectanglelabels": [found.name]}
    return _region("rectanglelabels", value)


def _polygon(found: Found, corners: np.ndarray, size_hw: tuple[int, int]) -> dict[str, Any]:
    value = {"points": _percent(corners, size_hw), "closed": True, "polygonlabels": [found.name]}
    return _region("polygonlabels", value)


def _percent(points: np.ndarray, size_hw: tuple[int, int]) -> list[list[float]]:
    """Positions (N, 2) in percent of the width and the height."""
    rows: list[list[float]] = (points / [size_hw[1], size_hw[0]] * 100).tolist()
    return rows
