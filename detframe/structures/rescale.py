"""Predictions carried from the coordinates of a tensor to those of the original image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detframe.errors import InvalidValueError
from detframe.ops.boxes import BoxCoder
from detframe.structures.box_masks import BoxMasks
from detframe.structures.instances import Prediction
from detframe.structures.transfer import numbers_like

# Bounds the memory of resizing the masks of one image: rows at a time
_MASK_CHUNK = 32


def rescale_prediction(
    prediction: Prediction, from_hw: tuple[int, int], to_hw: tuple[int, int], pixel: float = 0.0
) -> Prediction:
    """The prediction in an image of size `to_hw`, made on the same image at size `from_hw`.

    Boxes (M, 4) are scaled and clipped to the image, keypoints (M, P, 3) scaled, masks (M, 1, H, W) resized bilinearly;
    masks on their boxes move with them.
    The other entries, and the prediction handed in, stay as they are.

    Args:
        pixel: 1 for a model whose boxes run from pixel to pixel (`GeneralizedRCNN.pixel`): what is scaled is then the
            last pixel that a box covers, and the box ends one pixel of the other size behind it.

    Raises:
        ValueError: one of the sizes is not positive.
    """
    if min(*from_hw, *to_hw) <= 0:
        raise InvalidValueError(f"cannot rescale a prediction from size {from_hw} to {to_hw} (height, width)")
    scale_y, scale_x = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    out = prediction.copy()
    out["boxes"] = _rescale_boxes(prediction["boxes"], scale_x, scale_y, to_hw, pixel)
    if "keypoints" in prediction:
        keypoints = prediction["keypoints"]
        out["keypoints"] = keypoints * numbers_like(keypoints, [scale_x, scale_y, 1.0])
    if "masks" in prediction:
        masks = prediction["masks"]
        if isinstance(masks, BoxMasks):
            out["masks"] = masks.rescale(from_hw, to_hw)
        else:
            out["masks"] = _resize_masks(masks, to_hw)
    return out


def to_cpu(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The predictions of a batch on the CPU: all copies are queued first, then waited for once."""
    devices = {value.device for p in predictions for value in p.values() if isinstance(value, (Tensor, BoxMasks))}
    out = [
        {k: v.to("cpu", non_blocking=True) if isinstance(v, (Tensor, BoxMasks)) else v for k, v in prediction.items()}
        for prediction in predictions
    ]
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return out  # type: ignore[return-value]  # the keys are those of the predictions


def _rescale_boxes(boxes: Tensor, scale_x: float, scale_y: float, to_hw: tuple[int, int], pixel: float) -> Tensor:
    scale = numbers_like(boxes, [scale_x, scale_y, scale_x, scale_y])
    coder = BoxCoder(pixel=pixel)
    boxes = coder.extend(coder.shrink(boxes) * scale)
    height, width = to_hw
    limit = numbers_like(boxes, [width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def _resize_masks(masks: Tensor, to_hw: tuple[int, int]) -> Tensor:
    if tuple(masks.shape[-2:]) == tuple(to_hw):
        return masks
    if len(masks) == 0:
        return masks.new_zeros((0, masks.shape[1], *to_hw))
    parts = [
        F.interpolate(part.float(), size=tuple(to_hw), mode="bilinear", align_corners=False)
        for part in torch.split(masks, _MASK_CHUNK)
    ]
    return torch.cat(parts)
