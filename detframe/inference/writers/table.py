"""CSV: detections.csv, a table with a header and a row for each detection."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from detframe.arrays.results import ImageResult
from detframe.files import GrowingFile
from detframe.inference.writers.base import Picture, Writer

# Named as TensorFlow's and Roboflow's tables; an image without detections has a row without class and box
COLUMNS = (
    *("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax", "score", "category_id"),
    *("video", "frame"),
)


class TableWriter(Writer):
    """Boxes alone: corners in pixels, from 0 at the left and top side of the image."""

    def _begin(self) -> None:
        self._file = self._stack.enter_context(GrowingFile(self.folder / "detections.csv", _line(COLUMNS)))

    def _add(self, picture: Picture, result: ImageResult) -> None:
        height, width = picture.size_hw
        of_frame = ("", "") if picture.frame is None else (picture.source, picture.frame)
        for one in self._found(result):
            box = [f"{value:.2f}" for value in one.box]
            number = self.classes.ids[one.label - 1]
            score = f"{one.score:.6f}"
            self._file.write(_line([picture.name, width, height, one.name, *box, score, number, *of_frame]))
        if not len(result):
            self._file.write(_line([picture.name, width, height, *[""] * 7, *of_frame]))


def _line(cells: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
