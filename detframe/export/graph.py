"""The graph of a detector: from a batch of uint8 images to a fixed number of detections, everything inside.

Legend: N images, H and W sides of their plane, D detections of an image, S side of a mask, P keypoints.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from detframe.modeling import GeneralizedRCNN
from detframe.ops import BoxCoder
from detframe.ops.exportable import exporting
from detframe.structures import ImageList

INPUTS = ("images", "sizes")
OUTPUTS = ("boxes", "scores", "labels", "count")
# Sides of the traced plane, in cells of the coarsest map: odd and unequal, so that no size is taken for another
_TRACED_CELLS = (5, 7)


class ExportableDetector(nn.Module):
    """A detector whose forward pass takes and gives tensors of fixed meaning, whatever the family.

    `forward(images, sizes)` takes uint8 (N, 3, H, W), RGB, and int64 (N, 2): height and width of each image, which
    stands at the top left of its plane. It gives, in this order, boxes float32 (N, D, 4), scores float32 (N, D),
    labels int64 (N, D) and count int64 (N,), then what else the model finds: masks float32 (N, D, S, S),
    probabilities on the boxes; keypoints float32 (N, D, P, 3). Rows from `count` on are zeros.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        with exporting():
            found = self.model.detect(ImageList(self._plane(images, sizes), [], sizes))
        boxes = BoxCoder(pixel=self.model.pixel).extend(found.boxes) * found.valid[..., None]
        out = [boxes, found.scores, found.labels, found.valid.sum(1)]
        for values in found.extras.values():
            rows = values.new_zeros((*found.valid.shape, *values.shape[1:]))
            out.append(rows.index_put(found.places, values))
        return tuple(out)

    def _plane(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Normalised pixels, zero beyond each image, on a plane of multiples of the divisor."""
        preprocessor = self.model.preprocessor
        height, width = images.shape[-2:]
        pixels = images.float()
        if preprocessor.bgr:
            pixels = pixels.flip(1)
        pixels = (pixels - preprocessor.mean) / preprocessor.std
        below = torch.arange(height, device=images.device) < sizes[:, 0, None]
        right = torch.arange(width, device=images.device) < sizes[:, 1, None]
        inside = below[:, None, :, None] & right[:, None, None, :]
        return F.pad(torch.where(inside, pixels, 0.0), (0, self._missing(width), 0, self._missing(height)))

    def _missing(self, side: int) -> int:
        """What a side lacks to a multiple of the divisor; of positive numbers, since ONNX divides towards zero."""
        divisor = self.model.preprocessor.divisor
        return (side + divisor - 1) // divisor * divisor - side


def trace(
    model: GeneralizedRCNN, size: tuple[int, int] | None = None, batch: int | None = None
) -> tuple[ExportedProgram, tuple[Tensor, Tensor]]:
    """The graph of a model in evaluation mode, as torch.export makes it, and the inputs that it was traced with.

    Args:
        size: (H, W) of all images; None: any.
        batch: N; None: any.
    """
    strides: Any = model.backbone.strides
    coarsest = max(strides.values())
    height, width = (cells * coarsest - 1 for cells in _TRACED_CELLS) if size is None else size
    number = 2 if batch is None else batch
    images = torch.zeros((number, 3, height, width), dtype=torch.uint8)
    inputs = (images, torch.tensor([[height, width]] * number))
    n = Dim("batch", min=1, max=2**16) if batch is None else None
    sides = {} if size else {2: Dim("height", min=2 * coarsest + 1), 3: Dim("width", min=2 * coarsest + 1)}
    first = {} if n is None else {0: n}
    shapes: dict[str, Any] = {"images": {**first, **sides}, "sizes": first}
    with torch.no_grad():
        return torch.export.export(ExportableDetector(model), inputs, dynamic_shapes=shapes, strict=False), inputs
