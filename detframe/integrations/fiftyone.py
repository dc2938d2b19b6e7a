"""FiftyOne's `Model` with a detector of detframe: its detections as labels of a dataset.

import fiftyone as fo
from detframe.integrations.fiftyone import DetframeModel

dataset = fo.Dataset.from_images_dir("photos")
dataset.apply_model(DetframeModel("model_best.pth"), label_field="detframe", batch_size=8)
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from detframe.errors import InvalidValueError
from detframe.inference import Detector
from detframe.inference.tiling import Tiles
from detframe.integrations.common import as_detector, mask_pixels, missing_library

try:
    import fiftyone.core.labels as labels
    from fiftyone.core.models import Model, ModelConfig
except ImportError as error:
    raise missing_library(__name__, "fiftyone", error) from error

_XYXY = tuple[float, float, float, float]


class DetframeConfig(ModelConfig):
    """What FiftyOne may change while it applies a model.

    Args:
        confidence_thresh: what scores below is left out; `apply_model(..., confidence_thresh=...)` sets it for a call.
    """

    def __init__(self, confidence_thresh: float | None = None) -> None:
        self.confidence_thresh = confidence_thresh


class DetframeModel(Model):
    """A detector of detframe as FiftyOne wants one; all images of a batch are predicted together.

    `Detections` with boxes, scores, names, and instance masks where the detector predicts them. A detector of keypoints
    gives two labels, which FiftyOne stores as LABEL_FIELD_detections and LABEL_FIELD_keypoints.

    Args:
        model: a Detector, or the path of a checkpoint or of any other file that `Detector.load` reads.
        confidence_thresh: what scores below is left out; None: as the model was trained to.
        mask_thresh: the probability from which on a pixel belongs to an object.
        device: where the model of a path works, as `Detector.load` takes it.
        tiles: how large images are cut, as `Detector.predict` takes it; None: as the detector was trained.
    """

    def __init__(
        self,
        model: Detector | str | Path,
        confidence_thresh: float | None = None,
        mask_thresh: float = 0.5,
        device: str | None = None,
        tiles: Tiles = None,
    ) -> None:
        if isinstance(model, Detector) and device is not None:
            raise InvalidValueError("device is for a path; a Detector has its device already")
        self.detector = as_detector(model, device)
        self.config = DetframeConfig(confidence_thresh)
        self.detector.check(tiles=tiles)
        self.mask_thresh, self.tiles = mask_thresh, tiles
        self._preprocess = True

    @property
    def media_type(self) -> str:
        """Images, and so the frames of videos too."""
        return "image"

    @property
    def ragged_batches(self) -> bool:
        """False: `predict_all` takes images of different sizes."""
        return False

    @property
    def transforms(self) -> None:
        """None: the detector itself resizes and normalises."""
        return None

    @property
    def preprocess(self) -> bool:
        """Means nothing, as there are no transforms."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        self._preprocess = value

    def predict(self, arg: Any) -> labels.Detections | dict[str, labels.Label]:
        """The detections of one RGB image (H, W, 3) of uint8, or of whatever else `Detector.predict` takes as one."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Iterable[Any]) -> list[labels.Detections | dict[str, labels.Label]]:
        """Those of several images, which may differ in size."""
        images = list(args)
        predictions = self.detector.predict(
            images,
            batch_size=max(1, len(images)),
            score_threshold=self.config.confidence_thresh or 0.0,
            paste_masks=False,
            tiles=self.tiles,
        )
        return [self._labels(prediction) for prediction in predictions]

    def _labels(self, prediction: Any) -> labels.Detections | dict[str, labels.Label]:
        detections = labels.Detections(detections=[self._detection(prediction, i) for i in range(_count(prediction))])
        if "keypoints" not in prediction:
            return detections
        keypoints = [_keypoint(prediction, row) for row in range(_count(prediction))]
        return {"detections": detections, "keypoints": labels.Keypoints(keypoints=keypoints)}

    def _detection(self, prediction: Any, row: int) -> labels.Detection:
        height, width = prediction.size_hw
        x1, y1, x2, y2 = box = tuple(np.asarray(prediction["boxes"][row]).tolist())
        mask = mask_pixels(prediction["masks"], row, self.mask_thresh) if "masks" in prediction else None
        return labels.Detection(
            label=prediction["names"][row],
            bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
            confidence=float(prediction["scores"][row]),
            mask=None if mask is None else _on_box(mask, box),
        )


def _count(prediction: Any) -> int:
    return len(prediction["names"])


def _on_box(mask: np.ndarray, box: _XYXY) -> np.ndarray:
    """What of a mask (H, W) lies in a box: at least one pixel, by the rounding with which FiftyOne draws it."""
    (top, bottom), (left, right) = (
        (min(int(start), size - 1), max(int(end), int(start) + 1))
        for start, end, size in zip((box[1], box[0]), (box[3], box[2]), mask.shape, strict=True)
    )
    return np.ascontiguousarray(mask[top:bottom, left:right])


def _keypoint(prediction: Any, row: int) -> labels.Keypoint:
    height, width = prediction.size_hw
    points = np.asarray(prediction["keypoints"][row], dtype=np.float64)
    relative = points[:, :2] / (width, height)
    relative[points[:, 2] == 0] = np.nan  # FiftyOne's mark of a point that is not there
    return labels.Keypoint(label=prediction["names"][row], points=[tuple(point) for point in relative.tolist()])
