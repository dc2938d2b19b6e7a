"""The box branch of an R-CNN: pool, convolutions and fully connected layers, class scores and box deltas.

Legend: R RoIs over all images, K classes, C channels, S side of the pooled map.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.config import ConfigNode
from detframe.layers import init_normal, init_uniform
from detframe.modeling.proposals import box_coder
from detframe.modeling.roi_heads.convs import LinearNorm, RegionConvs, fully_connected
from detframe.modeling.rpn.dense import class_prior_bias
from detframe.ops import BoxCoder, RoIs, roi_align_pyramid
from detframe.ops.compacting import drops_padding
from detframe.ops.exportable import is_traced, roi_align_in_graph
from detframe.ops.roi_align import assign_levels, roi_align_everywhere


class ROIPooler(nn.Module):
    """Pools RoIs from the level that fits their size. (R, 4) boxes give (R, C, S, S).

    Args:
        coder: says where boxes end, which counts in their size, but not in where ROIAlign looks.
    """

    def __init__(
        self,
        strides: Mapping[str, int],
        output_size: int,
        sampling_ratio: int,
        aligned: bool,
        canonical_size: int,
        canonical_level: int,
        coder: BoxCoder,
    ) -> None:
        super().__init__()
        self.strides = dict(strides)
        self.output_size, self.sampling_ratio, self.aligned = output_size, sampling_ratio, aligned
        self.canonical_size, self.canonical_level = canonical_size, canonical_level
        self.coder = coder
        levels = [stride.bit_length() - 1 for stride in self.strides.values()]
        self.min_level, self.max_level = levels[0], levels[-1]

    @classmethod
    def from_config(cls, cfg: ConfigNode, strides: Mapping[str, int], keys: ConfigNode | None = None) -> ROIPooler:
        """Read MODEL.ROI_BOX_HEAD; RoIs are pooled up to stride 32, the levels above only propose.

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
            box_coder(cfg),
        )

    def levels(self, boxes: Tensor) -> Tensor:
        """The level of each (R, 4) box, the logarithm of its stride to base 2: int64 (R,)."""
        boxes = self.coder.extend(boxes)
        return assign_levels(boxes, self.min_level, self.max_level, self.canonical_size, self.canonical_level)

    def forward(
        self, features: Mapping[str, Tensor], boxes: Tensor, image_index: Tensor, level: Tensor | None = None
    ) -> Tensor:
        """`level` (R,) overrules `levels(boxes)`."""
        level = self.levels(boxes) if level is None else level
        eager = roi_align_pyramid if drops_padding(boxes.device) else roi_align_everywhere
        pool = roi_align_in_graph if is_traced() else eager
        at = level - self.min_level
        rois = RoIs(boxes, image_index, at, self.output_size, self.sampling_ratio, self.aligned)
        return pool([features[name] for name in self.strides], list(self.strides.values()), rois)


class RegionVectors(nn.Module):
    """What turns pooled RoIs into vectors: (R, C, S, S) -> (R, D)."""

    out_dim: int  # D


class BoxHead(RegionVectors):
    """Convolutions, then fully connected layers over a pooled RoI: (R, C, S, S) -> (R, D).

    The layers are called convs.0, convs.1, ... and fc6, fc7, ...

    Args:
        num_conv, conv_dim, norm: 3x3 convolutions, their channels and their norm.
        fc_norm: norm of the fully connected layers, which then have no bias.
    """

    def __init__(
        self,
        in_channels: int,
        resolution: int,
        num_fc: int,
        dim: int,
        num_conv: int = 0,
        conv_dim: int = 256,
        norm: str = "",
        fc_norm: str = "",
    ) -> None:
        super().__init__()
        self.convs = RegionConvs(in_channels, num_conv, conv_dim, norm)
        size = self.convs.out_channels * resolution**2
        self.names = [f"fc{6 + i}" for i in range(num_fc)]
        for name in self.names:
            layer = LinearNorm(size, dim, fc_norm) if fc_norm else nn.Linear(size, dim)
            self.add_module(name, init_uniform(layer))
            size = dim
        self.out_dim = size

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x)
        for name in self.names:
            layer = getattr(self, name)
            x = layer(x) if isinstance(layer, LinearNorm) else F.relu(fully_connected(x, layer))
        return x.flatten(1)


class BoxPredictor(nn.Module):
    """Class logits (R, 1 + K), background first, and box deltas (R, K, 4), or (R, 1, 4) if class-agnostic; float32."""

    def __init__(self, in_dim: int, num_classes: int, class_agnostic: bool) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_dim, 1 + num_classes)
        self.bbox_pred = nn.Linear(in_dim, 4 * (1 if class_agnostic else num_classes))
        init_normal(self.cls_score)
        init_normal(self.bbox_pred, std=0.001)

    @torch.no_grad()
    def begin_at(self, prior: float | None) -> None:
        """Have the sigmoids of the logits begin at a probability; None: as they are."""
        if prior is not None:
            self.cls_score.bias.fill_(class_prior_bias(prior))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x).float(), self.bbox_pred(x).float().reshape(
            x.shape[0], self.bbox_pred.out_features // 4, 4
        )


def class_columns(labels: Tensor, number: int) -> Tensor:
    """Which of so many columns, of the labels 1..K or of all in one, is that of each label: int64 (R,).

    Where a label is none of these, the column means nothing. ONNX knows clamp of integers from opset 12 on alone.
    """
    nothing = torch.zeros_like(labels)
    return nothing if number == 1 else torch.where(labels > 0, labels - 1, nothing)


def class_rows(values: Tensor, labels: Tensor) -> Tensor:
    """Of (R, K, ...) the row of each RoI's label 1..K; of (R, 1, ...), class-agnostic, the only one.

    Where a label is none of these, the row means nothing.
    """
    return values[torch.arange(values.shape[0], device=values.device), class_columns(labels, values.shape[1])]
