"""What the adapters to other libraries share.

Legend: M detections, S side of a mask on its box, (H, W) size of the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from detframe.errors import InvalidTypeError, MissingModuleError
from detframe.inference import Detector


def missing_library(module: str, library: str, error: ImportError) -> MissingModuleError:
    """The error of an adapter whose library cannot be imported.

    Args:
        module: of detframe, as "detframe.integrations.sahi".
        library: as pip names it.
    """
    return MissingModuleError(f"{module} needs {library}, which cannot be imported ({error}): pip install {library}")


def as_detector(model: Any, device: str | None = None) -> Detector:
    """A Detector, or the one that a file holds: a checkpoint, or anything else that `Detector.load` reads.

    Args:
        device: where a file's model is to work; None is `Detector.load`'s choice.

    Raises:
        TypeError: neither a detector nor a path. FileNotFoundError, ValueError: as `Detector.load`.
    """
    if isinstance(model, Detector):
        return model
    if not isinstance(model, str) and not hasattr(model, "__fspath__"):
        raise InvalidTypeError(
            f"expected a detframe Detector or the path of a checkpoint or an exported file, not a "
            f"{type(model).__module__}.{type(model).__name__}"
        )
    return Detector.load(model) if device is None else Detector.load(model, device=device)


def mask_pixels(masks: Any, row: int, threshold: float) -> np.ndarray:
    """Which pixels of the image belong to one detection: bool (H, W).

    One at a time, as those of all detections of a large photograph would take gigabytes.

    Args:
        masks: of a prediction, probabilities (M, 1, H, W) or on their boxes; tensors or arrays.
        row: of the detection, from 0.
        threshold: the probability from which on a pixel belongs to it.
    """
    one = masks[row : row + 1]
    pixels = np.asarray(one.paste() if hasattr(one, "paste") else one)
    return np.asarray(pixels.reshape(pixels.shape[-2:]) >= threshold)
