"""The box branch of an R-CNN: pool, two fully connected layers, class scores and box deltas.

Legend: R regions over all images, K classes, C channels, S side of the pooled map.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.ops import extend_boxes, roi_align_pyramid
from detframe.ops.roi_align import assign_levels


class ROIPooler(nn.Module):
    """Pools regions from the level that fits their size. (R, 4) boxes give (R, C, S, S).

    Args:
        pixel: 1 if boxes run from pixel to pixel, which counts in their size, but not in where ROIAlign looks.
    """

    def __init__(
        self,
        strides: Mapping[str, int],
        output_size: int,
        sampling_ratio: int,
        aligned: bool,
        canonical_size: int,
        canonical_level: int,
        pixel: float,
    ) -> None:
        super().__init__()
        self.strides = dict(strides)
        self.output_size, self.sampling_ratio, self.aligned = output_size, sampling_ratio, aligned
        self.canonical_size, self.canonical_level = canonical_size, canonical_level
        self.pixel = pixel
        levels = [stride.bit_length() - 1 for stride in self.strides.values()]
        self.min_level, self.max_level = levels[0], levels[-1]

    @classmethod
    def from_config(cls, cfg: ConfigNode, strides: Mapping[str, int], keys: ConfigNode | None = None) -> ROIPooler:
        """Read MODEL.ROI_BOX_HEAD; regions are pooled up to stride 32, the levels above only propose.

        Args:
            keys: the section of another head, which has a resolution and a sampling ratio of its own.
        """
        box = cfg.MODEL.ROI_BOX_HEAD
        keys = box if keys is None else keys
        return cls(
            {name: stride for name, stride in strides.items() if stride <= max(32, min(strides.values()))},
            keys.POOLER_RESOLUTION,
            keys.POOLER_SAMPLING_RATIO,
            box.POOLER_ALIGNED,
            box.POOLER_CANONICAL_SIZE,
            box.POOLER_CANONICAL_LEVEL,
            float(cfg.MODEL.LEGACY_BOXES),
        )

    def levels(self, boxes: Tensor) -> Tensor:
        """The level of each (R, 4) box, the logarithm of its stride to base 2: int64 (R,)."""
        boxes = extend_boxes(boxes, self.pixel)
        return assign_levels(boxes, self.min_level, self.max_level, self.canonical_size, self.canonical_level)

    def forward(
        self, features: Mapping[str, Tensor], boxes: Tensor, image_index: Tensor, level: Tensor | None = None
    ) -> Tensor:
        """`level` (R,) overrules `levels(boxes)`."""
        level = self.levels(boxes) if level is None else level
        return roi_align_pyramid(
            [features[name] for name in self.strides],
            list(self.strides.values()),
            boxes,
            image_index,
            level - self.min_level,
            self.output_size,
            self.sampling_ratio,
            self.aligned,
        )


class BoxHead(nn.Module):
    """Fully connected layers over a pooled region: (R, C, S, S) -> (R, D). The layers are called fc6, fc7, ..."""

    def __init__(self, in_channels: int, resolution: int, num_fc: int, dim: int) -> None:
        super().__init__()
        size = in_channels * resolution**2
        self.names = [f"fc{6 + i}" for i in range(num_fc)]
        for name in self.names:
            layer = nn.Linear(size, dim)
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
            self.add_module(name, layer)
            size = dim
        self.out_dim = size

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            x = F.relu(_fully_connected(x, getattr(self, name)))
        return x.flatten(1)


def _fully_connected(x: Tensor, layer: nn.Linear) -> Tensor:
    """A linear layer over maps (R, C, S, S) or vectors.

    Over channels_last float32 maps on a CPU it runs as the convolution of the map's size that it equals: that reads the
    maps as they lie, and its kernel is the faster one.
    """
    if x.ndim == 4 and x.dtype == torch.float32 and x.device.type == "cpu":
        weight = layer.weight.reshape(-1, *x.shape[1:])
        return F.conv2d(x, weight, layer.bias).flatten(1)
    return layer(x.flatten(1))


class BoxPredictor(nn.Module):
    """Class logits (R, 1 + K), background first, and box deltas (R, K, 4), or (R, 1, 4) if class-agnostic; float32."""

    def __init__(self, in_dim: int, num_classes: int, class_agnostic: bool) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_dim, 1 + num_classes)
        self.bbox_pred = nn.Linear(in_dim, 4 * (1 if class_agnostic else num_classes))
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        for layer in (self.cls_score, self.bbox_pred):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x).float(), self.bbox_pred(x).float().reshape(len(x), self.bbox_pred.out_features // 4, 4)


def class_rows(values: Tensor, labels: Tensor) -> Tensor:
    """Of (R, K, ...) the row of each region's label 1..K; of (R, 1, ...), class-agnostic, the only one."""
    column = torch.zeros_like(labels) if values.shape[1] == 1 else labels - 1
    return values[torch.arange(len(values), device=values.device), column]
