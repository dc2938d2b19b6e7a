"""SAHI's `DetectionModel` with a detector of detframe: sliced prediction for small objects in large pictures.

from sahi.predict import get_sliced_prediction
from detframe.integrations.sahi import DetframeDetectionModel

model = DetframeDetectionModel("model_best.pth", confidence_threshold=0.4)
result = get_sliced_prediction("field.png", model, slice_height=512, slice_width=512, batch_size=8)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detframe.errors import InvalidTypeError, InvalidValueError
from detframe.inference import Detector
from detframe.integrations.common import as_detector, mask_pixels, missing_library

try:
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction
    from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list
    from sahi.utils.cv import get_coco_segmentation_from_bool_mask
except ImportError as error:
    raise missing_library(__name__, "sahi", error) from error

# Per image: what SAHI adds to x and y of what was found in a slice, or the (height, width) of the whole image
_PerImage = list[list[int | float]]


class DetframeDetectionModel(DetectionModel):
    """A detector of detframe as SAHI wants one; all slices of a batch go through the network together.

    Objects carry the category ids of the training's annotation file, so results fit a COCO file of the same data.
    Where the detector predicts masks, SAHI takes the boxes from their outlines. `AutoDetectionModel` knows none but its
    own models: hand an instance to `get_sliced_prediction`, `get_prediction` or `predict(detection_model=...)`.

    Args:
        model_path: a checkpoint, as model_best.pth, or any other file that `Detector.load` reads.
        model: a Detector, instead of a path.
        device: where the model of `model_path` works, as `Detector.load` takes it; a Detector has its device already.
        mask_threshold: the probability from which on a pixel belongs to an object.
        confidence_threshold: what scores below is left out.
        category_mapping: other names of the categories, by their ids as strings: {"1": "tree"}.
        category_remapping: other ids of the categories, by their ids as strings: {"1": 7}.
        load_at_init: False: `load_model()` loads the file later.
        config_path: SAHI's; a detector needs none, so anything but None is refused.
        image_size: the same.

    Raises:
        ValueError: neither `model_path` nor `model`, or both; a setting that has no meaning here; a category without a
            name; what `Detector.load` raises.
        TypeError: `model` is no Detector.
    """

    category_mapping: dict[str, str]  # from the moment on that there is a detector

    def __init__(
        self,
        model_path: str | Path | None = None,
        model: Detector | None = None,
        config_path: str | None = None,
        device: str | None = None,
        mask_threshold: float = 0.5,
        confidence_threshold: float = 0.3,
        category_mapping: Mapping[str, str] | None = None,
        category_remapping: Mapping[str, int] | None = None,
        load_at_init: bool = True,
        image_size: int | None = None,
    ) -> None:
        _check_settings(model_path, model, config_path, device, image_size)
        self._asked_device, self._given_names = device, category_mapping
        super().__init__(
            model_path=None if model_path is None else str(model_path),
            model=model,
            device=device,
            mask_threshold=mask_threshold,
            confidence_threshold=confidence_threshold,
            category_remapping=None if category_remapping is None else dict(category_remapping),
            load_at_init=load_at_init,
        )

    def set_device(self, device: str | None = None) -> None:
        """Note where the model is to work. SAHI's own choosing would hide the GPUs from the whole process."""
        self.device = "auto" if device is None else device

    def load_model(self) -> None:
        """The detector of `model_path`."""
        if self.model_path is None:
            raise InvalidValueError("there is no model_path to load; hand in the detector by set_model(detector)")
        self.set_model(as_detector(self.model_path, self._asked_device))

    def set_model(self, model: Detector, **kwargs: Any) -> None:
        """Use this detector, with its names of the categories where none were given."""
        if not isinstance(model, Detector):
            raise InvalidTypeError(f"model must be a detframe Detector, not a {type(model).__name__}")
        names = dict(zip(map(str, model.category_ids), model.class_names, strict=True))
        given = names if self._given_names is None else dict(self._given_names)
        unnamed = [key for key in names if key not in given]
        if unnamed:
            raise InvalidValueError(
                f"category_mapping names {sorted(given)}, but the detector also has category {unnamed[0]} "
                f"({names[unnamed[0]]}); its categories are {names}"
            )
        self.model, self.device, self.category_mapping = model, model.device, given

    @property
    def num_categories(self) -> int:
        """How many categories the detector tells apart."""
        return len(self._detector().category_ids)

    @property
    def category_names(self) -> list[str]:
        """Of all categories, in the order of the detector's labels."""
        return [self._name(number) for number in self._detector().category_ids]

    def _name(self, category_id: int) -> str:
        return self.category_mapping[str(category_id)]

    def perform_inference(self, image: np.ndarray) -> None:
        """Detect in one RGB image (H, W, 3) of uint8."""
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: Sequence[np.ndarray]) -> None:
        """Detect in several RGB images (H, W, 3) of uint8, in one pass where they have one size."""
        images = list(images)
        self._original_predictions = self._detector().predict(
            images,
            batch_size=max(1, len(images)),
            score_threshold=self.confidence_threshold,
            paste_masks=False,
            tiles=False,  # SAHI has cut the image already
        )

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: _PerImage | None = None, full_shape_list: _PerImage | None = None
    ) -> None:
        shifts = fix_shift_amount_list(shift_amount_list)
        shapes = fix_full_shape_list(full_shape_list)
        predictions = self._original_predictions
        if len(shifts) == 1:  # SAHI's default stands for all images
            shifts = shifts * len(predictions)
        self._object_prediction_list_per_image = [
            self._objects(prediction, shift, shapes[index] if shapes else list(prediction.size_hw))
            for index, (prediction, shift) in enumerate(zip(predictions, shifts, strict=True))
        ]

    def _objects(
        self, prediction: Any, shift: list[int | float], full_shape: list[int | float]
    ) -> list[ObjectPrediction]:
        """The detections of one image, in its own pixels; SAHI moves them by `shift` into the image of `full_shape`."""
        boxes, scores, labels = (np.asarray(prediction[key]).tolist() for key in ("boxes", "scores", "labels"))
        objects = []
        for row, (box, score, label) in enumerate(zip(boxes, scores, labels, strict=True)):
            category = self._detector().category_ids[label - 1]
            objects.append(
                ObjectPrediction(
                    bbox=box,
                    score=score,
                    category_id=category,
                    category_name=self._name(category),
                    segmentation=self._outline(prediction, row),
                    shift_amount=shift,
                    full_shape=full_shape,
                )
            )
        return objects

    def _outline(self, prediction: Any, row: int) -> list[list[float]] | None:
        """The polygons of a detection's mask; None where there is no mask, or too little of it for a polygon."""
        if "masks" not in prediction:
            return None
        return get_coco_segmentation_from_bool_mask(mask_pixels(prediction["masks"], row, self.mask_threshold)) or None

    def _detector(self) -> Detector:
        if self.model is None:
            raise InvalidValueError("no detector is loaded: call load_model(), or set_model(detector)")
        return self.model


def _check_settings(
    model_path: str | Path | None,
    model: Detector | None,
    config_path: str | None,
    device: str | None,
    image_size: int | None,
) -> None:
    """Refuse what would be ignored."""
    if model_path is not None and model is not None:
        raise InvalidValueError("give model_path or model, not both")
    if config_path is not None:
        raise InvalidValueError(f"config_path={config_path!r}: a checkpoint carries its config; leave it out")
    if image_size is not None:
        raise InvalidValueError(
            f"image_size={image_size}: the detector resizes as INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST of its training "
            "say; leave it out, and choose slice_height and slice_width instead"
        )
    if model is not None and device is not None and str(getattr(model, "device", device)) != device:
        raise InvalidValueError(
            f"device={device!r}, but the detector works on {getattr(model, 'device', None)}; leave it out, or load the "
            f"detector with Detector.load(..., device={device!r})"
        )
