"""YOLO: labels/NAME.txt for each image, data.yaml and classes.txt."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import yaml

from detframe.arrays.outlines import outline
from detframe.arrays.results import ImageResult
from detframe.inference.writers.base import Found, Picture, Writer, save, stem_of

_VISIBLE = 2


class YoloWriter(Writer):
    """Rows are class, centre and size as fractions of the image; polygons where there are masks; keypoints behind the
    box where there are keypoints and no masks. Class ids are those of the names, from 0 on.
    """

    @staticmethod
    def key(name: str) -> str:
        """The label file of an image."""
        return f"labels/{stem_of(name)}.txt"

    def _begin(self) -> None:
        self._poses = False

    def _add(self, picture: Picture, result: ImageResult) -> None:
        rows = [self._row(one, picture.size_hw) for one in self._found(result)]
        self._poses |= result.keypoints is not None and result.rles is None
        save(self.folder / self.key(picture.name), "".join(f"{row}\n" for row in rows))

    def _row(self, found: Found, size_hw: tuple[int, int]) -> str:
        height, width = size_hw
        x1, y1, x2, y2 = found.box
        mask = found.mask()
        if mask is not None:
            corners = outline(mask)
            if corners is None:  # no pixel is in it; a row of a box among polygons would not be understood
                corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
            words = _fractions((corners / [width, height]).reshape(-1))
        else:
            centre = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            words = [*_fractions(centre), *_points(found.keypoints, size_hw)]
        score = [f"{found.score:.6f}"] if self.confidence else []
        return " ".join([str(found.label - 1), *words, *score])

    def _finish(self) -> None:
        data = {"train": "images", "val": "images", "nc": len(self.classes.names)}
        if self._poses:
            data |= {"kpt_shape": [len(self.keypoint_names), 3]}
        data |= {"names": dict(enumerate(self.classes.names))}
        save(self.folder / "data.yaml", yaml.safe_dump(data, allow_unicode=True, sort_keys=False))
        save(self.folder / "classes.txt", "".join(f"{name}\n" for name in self.classes.names))


def _points(keypoints: np.ndarray | None, size_hw: tuple[int, int]) -> list[str]:
    """x, y and visibility of each keypoint."""
    if keypoints is None:
        return []
    places = keypoints[:, :2] / [size_hw[1], size_hw[0]]
    return [word for x, y in places.tolist() for word in (*_fractions((x, y)), str(_VISIBLE))]


def _fractions(values: Iterable[float]) -> list[str]:
    return [f"{min(max(value, 0.0), 1.0):.6f}" for value in values]
