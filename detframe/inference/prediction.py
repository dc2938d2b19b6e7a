"""What a Detector finds in an image, and the forms in which other libraries want it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from detframe.arrays.results import INSTANCE_KEYS, as_numpy, coco_rows, mask_pixels, pack, rows_of
from detframe.errors import InvalidValueError, MissingModuleError, UnknownNameError
from detframe.inference.inputs import ImageLike, as_array, is_tensor
from detframe.registry import nearest

if TYPE_CHECKING:
    import pandas
    import supervision


class ImagePrediction(dict[str, Any]):
    """The detections of one image, sorted by falling score: a dict, with what its numbers mean.

    Entries, with M detections of P keypoints in an image (H, W): `boxes` float32 (M, 4), xyxy in pixels; `scores`
    float32 (M,); `labels` int64 (M,) from 1; `names`, list of M class names; where the model has them, `masks` float32
    (M, 1, H, W), probabilities, or on their boxes (BoxMasks), and `keypoints` float32 (M, P, 3): x, y, 1. They are
    tensors, or NumPy arrays where no torch was at work.

    Args:
        values: the entries; `names` may be left out.
        size_hw: height and width of the image.
        class_names: label i is class_names[i - 1].
        category_ids: label i is category_ids[i - 1] in the annotation file of the training; 1, 2, ... without.
        file_name: of the image, as the path was given; None for what came as an array.
        keypoint_names: of the P keypoints, where the model has them and knows them.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        size_hw: tuple[int, int],
        class_names: Sequence[str],
        category_ids: Sequence[int] = (),
        file_name: str | None = None,
        keypoint_names: Sequence[str] = (),
    ) -> None:
        super().__init__(values)
        self.size_hw = (int(size_hw[0]), int(size_hw[1]))
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids) or tuple(range(1, len(self.class_names) + 1))
        self.file_name = file_name
        self.keypoint_names = tuple(keypoint_names)
        self["names"] = [self.class_names[label - 1] for label in self["labels"].tolist()]

    def copy(self) -> ImagePrediction:
        """Another dict with the same entries."""
        return self._with(self)

    def _with(self, values: Mapping[str, Any]) -> ImagePrediction:
        """Other entries of the same image."""
        return type(self)(
            values,
            size_hw=self.size_hw,
            class_names=self.class_names,
            category_ids=self.category_ids,
            file_name=self.file_name,
            keypoint_names=self.keypoint_names,
        )

    # ------------------------------------------------------------------ some of the detections
    def rows(self, keep: Any) -> ImagePrediction:
        """Some detections, in their order: bool (M,), or the numbers of the rows."""
        chosen = np.asarray(as_numpy(keep))
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(np.int64)
        return self._with({k: rows_of(v, chosen) if k in INSTANCE_KEYS else v for k, v in self.items()})

    def above(self, score: float) -> ImagePrediction:
        """The detections with this score or more."""
        return self.rows(as_numpy(self["scores"]) >= np.float32(score))

    def of(self, classes: str | Iterable[str]) -> ImagePrediction:
        """The detections of one class, or of several.

        Raises:
            KeyError: the detector has no class of that name; the nearest are named.
        """
        wanted = [classes] if isinstance(classes, str) else list(classes)
        for name in wanted:
            if name not in self.class_names:
                raise UnknownNameError(f"the detector has no class {name!r}; {nearest(str(name), [*self.class_names])}")
        labels = [label for label, name in enumerate(self.class_names, 1) if name in wanted]
        return self.rows(np.isin(as_numpy(self["labels"]), labels))

    # ------------------------------------------------------------------ other forms
    def draw(self, image: ImageLike | None = None, labels: bool = True) -> PIL.Image.Image:
        """A picture of the image with the detections, as `detframe.visualization.draw_instances` draws them; in a
        notebook, the last line of a cell shows it.

        Args:
            image: the image, where it did not come as a file, or holds other channels than colours (then its pixels).
            labels: write names and scores.

        Raises:
            ValueError: neither `image` nor a file name; an image of another size.
            FileNotFoundError, TypeError: as `Detector.predict`.
        """
        from detframe.visualization import draw_instances

        source = self.file_name if image is None else image
        if source is None:
            raise InvalidValueError("this image came as pixels and is not kept: give it, as draw(image)")
        pixels: Any = source if isinstance(source, np.ndarray) or is_tensor(source) else as_array(source)
        size_hw = tuple(pixels.shape[:2] if isinstance(pixels, np.ndarray) else pixels.shape[-2:])
        if size_hw != self.size_hw:
            raise InvalidValueError(
                f"these are detections of an image of height and width {self.size_hw}, not of one of {size_hw}"
            )
        return PIL.Image.fromarray(draw_instances(pixels, self, self.class_names, labels=labels))

    def to_numpy(self) -> ImagePrediction:
        """The same as NumPy arrays on the CPU; masks on their boxes become float32 (M, 1, H, W)."""
        return self._with({key: as_numpy(_pasted(v)) if _is_array(v) else v for key, v in self.items()})

    def to_torch(self) -> ImagePrediction:
        """The same as tensors; masks on their boxes become float32 (M, 1, H, W)."""
        import torch

        def tensor(value: Any) -> Any:
            value = _pasted(value)
            return value if isinstance(value, torch.Tensor) else torch.from_numpy(np.require(value, requirements="W"))

        return self._with({key: tensor(v) if _is_array(v) else v for key, v in self.items()})

    def to_coco(self, image_id: Any = 0) -> list[dict[str, Any]]:
        """The list of dicts of COCO's results format, as the evaluation writes them.

        Each has image_id, category_id, bbox (x, y, width, height), score, and, where the model has them, segmentation
        (RLE) and keypoints. What is not a number is left out.
        """
        return coco_rows(image_id, pack(self), self.category_ids)

    def to_pandas(self) -> pandas.DataFrame:
        """A table with a row for each detection: class_name, label, category_id, score, x1, y1, x2, y2, file_name.

        Raises:
            ImportError: pandas is not installed.
        """
        labels = as_numpy(self["labels"]).astype(np.int64)
        boxes = as_numpy(self["boxes"]).reshape(-1, 4)
        columns = {
            "class_name": np.array(self["names"], dtype=object),
            "label": labels,
            "category_id": np.array(self.category_ids, dtype=np.int64)[labels - 1],
            "score": as_numpy(self["scores"]),
            **{name: boxes[:, index] for index, name in enumerate(("x1", "y1", "x2", "y2"))},
            "file_name": np.array([self.file_name] * len(labels), dtype=object),
        }
        return _needed("pandas", "to_pandas").DataFrame(columns)

    def to_supervision(self) -> supervision.Detections:
        """supervision's `Detections`: xyxy, mask (bool) if there are masks, confidence, class_id, which counts from 0
        (label i is class_id i - 1), and `data["class_name"]`.

        Raises:
            ImportError: supervision is not installed.
        """
        return _needed("supervision", "to_supervision").Detections(
            xyxy=as_numpy(self["boxes"]).reshape(-1, 4),
            mask=mask_pixels(self["masks"]) if "masks" in self else None,
            confidence=as_numpy(self["scores"]),
            class_id=as_numpy(self["labels"]).astype(np.int64) - 1,
            data={"class_name": np.array(self["names"], dtype=str)},
        )

    def to_supervision_keypoints(self) -> supervision.KeyPoints:
        """supervision's `KeyPoints`: xy, class_id from 0, detection_confidence, and `data["class_name"]`.

        Raises:
            KeyError: the model has no keypoints.
            ImportError: supervision is not installed.
        """
        if "keypoints" not in self:
            raise UnknownNameError("this prediction has no keypoints: the model was built without MODEL.KEYPOINT_ON")
        return _needed("supervision", "to_supervision_keypoints").KeyPoints(
            xy=as_numpy(self["keypoints"])[..., :2],
            class_id=as_numpy(self["labels"]).astype(np.int64) - 1,
            detection_confidence=as_numpy(self["scores"]),
            data={"class_name": np.array(self["names"], dtype=str)},
        )


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape")


def _pasted(masks: Any) -> Any:
    return masks.paste() if hasattr(masks, "paste") else masks


def _needed(package: str, method: str) -> Any:
    """A library that is not part of detframe's installation."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingModuleError(
            f"{method}() needs {package}, which cannot be imported ({error}); pip install {package}"
        ) from error
