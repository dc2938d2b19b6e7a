"""The head of a region proposal network: dense over the pyramid, or at chosen anchors only.

Legend: N images, C channels, T anchors of a cell, S chosen anchors of each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.layers import ConvNorm, init_normal, joined_weights
from detframe.ops.exportable import is_traced

Outputs = tuple[Tensor, Tensor]


class RPNHead(nn.Module):
    """3x3 convolutions shared by the levels, then objectness and box deltas of each anchor."""

    def __init__(self, channels: int, num_anchors: int, depth: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(*(ConvNorm(channels, channels, 3, relu=True) for _ in range(depth)))
        self.cls_logits = nn.Conv2d(channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * num_anchors, 1)
        init_normal(self)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness logits (N, H * W * T) and deltas (N, H * W * T, 4) of each level, float32."""
        if is_traced():  # whose runtimes want their weights as constants
            maps = [self.conv(feature) for feature in features]
            return [_rows(self.cls_logits(x), 1)[..., 0] for x in maps], [_rows(self.bbox_pred(x), 4) for x in maps]
        weight, bias = self._outputs()
        logits, deltas = [], []
        for feature in features:
            out = F.conv2d(self.conv(feature), weight, bias).permute(0, 2, 3, 1).float()
            logits.append(out[..., : self.num_anchors].reshape(out.shape[0], -1))
            deltas.append(out[..., self.num_anchors :].reshape(out.shape[0], -1, 4))
        return logits, deltas

    @property
    def num_anchors(self) -> int:
        """T."""
        return self.cls_logits.out_channels

    def _outputs(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of one convolution for both outputs, which reads the widest maps once instead of twice."""
        return joined_weights([self.cls_logits, self.bbox_pred])

    def pays_off_at(self, features: Sequence[Tensor], per_image: int) -> bool:
        """Whether `at` costs less than the backward pass of `forward`, for so many anchors per image.

        Only a single 3x3 convolution can be computed from patches: a second one would see zeros beyond the border.
        """
        locations = sum(f.shape[-2] * f.shape[-1] for f in features)
        return len(self.conv) == 1 and 8 * per_image <= locations

    def at(self, features: Sequence[Tensor], anchor: Tensor) -> Outputs:
        """What `forward` gives for chosen anchors, image by image: logits (N * S,) and deltas (N * S, 4).

        The loss looks at a few hundred anchors of a hundred thousand. Computing just those again, with gradient, spares
        the dense backward pass, most of which would multiply zeros.

        Args:
            features: as for `forward`.
            anchor: int64 (N, S), row among all anchors of its image, over the levels.
        """
        template = anchor.flatten() % self.num_anchors
        patches = _patches(features, anchor // self.num_anchors)
        conv: nn.Conv2d = self.conv[0].conv  # type: ignore[assignment]
        hidden = F.relu(F.linear(patches, conv.weight.permute(0, 2, 3, 1).flatten(1), conv.bias))
        weight, bias = self._outputs()
        out = F.linear(hidden, weight.flatten(1), bias).float()
        row = torch.arange(len(out), device=out.device)
        deltas = out[:, self.num_anchors :].reshape(len(out), self.num_anchors, 4)
        return out[row, template], deltas[row, template]


def _rows(out: Tensor, width: int) -> Tensor:
    """(N, T * width, H, W) as (N, H * W * T, width), float32."""
    return out.permute(0, 2, 3, 1).float().reshape(out.shape[0], -1, width)


def _patches(features: Sequence[Tensor], location: Tensor) -> Tensor:
    """The 3x3 neighbourhoods of locations (N, S), zeros beyond the border: (N * S, 9 * C), row by row.

    All levels are one table of cells, so that no value decides how many rows one has.
    """
    device, channels = location.device, features[0].shape[1]
    table = torch.cat([feature.permute(0, 2, 3, 1).flatten(1, 2) for feature in features], 1)
    sizes = [(feature.shape[-2], feature.shape[-1]) for feature in features]
    ends = list(accumulate(height * width for height, width in sizes))
    starts = [end - height * width for end, (height, width) in zip(ends, sizes, strict=True)]
    grids = torch.tensor([(start, *size) for start, size in zip(starts, sizes, strict=True)])
    grids = grids.to(device, non_blocking=True)
    level = (location[..., None] >= grids[1:, 0]).sum(-1)
    start, height, width = grids[level].unbind(-1)
    cell = location - start
    around = torch.arange(-1, 2, device=device)
    y = torch.div(cell, width, rounding_mode="floor")[..., None] + around
    x = (cell % width)[..., None] + around
    inside = ((y >= 0) & (y < height[..., None]))[..., :, None] & ((x >= 0) & (x < width[..., None]))[..., None, :]
    rows = (start[..., None] + y * width[..., None])[..., :, None] + x[..., None, :]
    image = torch.arange(len(location), device=device)[:, None] * ends[-1]
    rows = torch.where(inside, rows, 0).flatten(1) + image
    cells = table.flatten(0, 1)[rows.flatten()] * inside.reshape(-1, 1)
    return cells.reshape(-1, 9 * channels)
