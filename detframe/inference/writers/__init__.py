"""Detections in the forms that annotation programs import, to be corrected there: `detframe predict --format`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from detframe.errors import UnknownNameError
from detframe.inference.writers.base import Classes, Writer, distinct, image_name
from detframe.registry import nearest

__all__ = ["FORMATS", "Writer", "check_names", "image_name", "open_writer"]

_CLASSES = {
    "coco": ("coco", "CocoWriter"),
    "yolo": ("yolo", "YoloWriter"),
    "voc": ("voc", "VocWriter"),
    "csv": ("table", "TableWriter"),
    "labelme": ("labelme", "LabelmeWriter"),
    "labelstudio": ("label_studio", "LabelStudioWriter"),
}
FORMATS = tuple(_CLASSES)
"""Names of the formats."""


def open_writer(
    format: str, folder: str | Path, class_names: Sequence[str], category_ids: Sequence[int] = (), **options: Any
) -> Writer:
    """The writer of a format, one of FORMATS; to be used in a `with`.

    Images go in one by one, `writer.write(file_name, size_hw, prediction, frame)`, and memory stays flat. What the
    names of files and images are, says `image_name`::

        with open_writer("coco", "found", detector.class_names, detector.category_ids, root="photos") as writer:
            for prediction in detector.predict_iter("photos"):
                writer.write(prediction.file_name, prediction.size_hw, prediction.above(0.3))

    Args:
        folder: for the files of this format; is made.
        class_names: of the detector, in the order of the labels.
        category_ids: of the detector, one for each class.
        options: root, frames, keypoint_names, confidence, version; see `Writer`.

    Raises:
        KeyError: no such format.
        OSError: the folder cannot be written.
    """
    names = distinct(class_names)
    ids = tuple(int(number) for number in category_ids) or tuple(range(1, len(names) + 1))
    options |= {key: Path(options[key]) for key in ("root", "frames") if options.get(key) is not None}
    return _writer(format)(Path(folder), Classes(names, ids), **options)


def check_names(format: str, names: Iterable[str]) -> None:
    """Refuse images, by their names as `image_name` gives them, that a format could not tell apart; writes nothing.

    Raises:
        ValueError: two would share one file.
        KeyError: no such format.
    """
    _writer(format).check_names(names)


def _writer(format: str) -> type[Writer]:
    if format not in _CLASSES:
        raise UnknownNameError(f"no format {format!r}; {nearest(str(format), list(FORMATS))}")
    module, name = _CLASSES[format]
    found: type[Writer] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return found
