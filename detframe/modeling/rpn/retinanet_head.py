"""The head of RetinaNet: two towers of convolutions, class scores and box deltas of every anchor.

Legend: N images, C channels, K classes, T anchors of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from detframe.layers import ConvNorm, init_normal
from detframe.modeling.rpn.dense import class_prior_bias


class RetinaNetHead(nn.Module):
    """Classification and regression towers, shared by the levels but not with each other (arXiv:1708.02002, section 4).

    `forward` returns, a level each, class logits (N, H * W * T, K) and deltas (N, H * W * T, 4) in the precision of the
    convolutions. With norm "BN" the levels share one set of running statistics, as they share the weights.
    """

    def __init__(
        self, channels: int, num_anchors: int, num_classes: int, num_convs: int, norm: str, prior: float
    ) -> None:
        super().__init__()
        bias = class_prior_bias(prior)
        self.classification_head = _Branch(channels, num_convs, norm, "cls_logits", num_anchors * num_classes, bias)
        self.regression_head = _Branch(channels, num_convs, norm, "bbox_reg", num_anchors * 4, 0.0)
        self.num_classes = num_classes

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits = [_rows(self.classification_head(feature), self.num_classes) for feature in features]
        deltas = [_rows(self.regression_head(feature), 4) for feature in features]
        return logits, deltas


class _Branch(nn.Module):
    """A tower and its output convolution, under torchvision's parameter names."""

    def __init__(
        self, channels: int, num_convs: int, norm: str, output_name: str, out_channels: int, bias: float
    ) -> None:
        super().__init__()
        self.conv = nn.Sequential(*(ConvNorm(channels, channels, 3, norm=norm, relu=True) for _ in range(num_convs)))
        self.output_name = output_name
        output = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.add_module(output_name, output)
        init_normal(self)
        nn.init.constant_(output.bias, bias)  # type: ignore[arg-type]

    def forward(self, feature: Tensor) -> Tensor:
        out: Tensor = self.get_submodule(self.output_name)(self.conv(feature))
        return out


def _rows(out: Tensor, width: int) -> Tensor:
    """(N, T * width, H, W) as (N, H * W * T, width); no copy where the memory is channels_last."""
    return out.permute(0, 2, 3, 1).reshape(len(out), -1, width)
