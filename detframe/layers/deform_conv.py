"""Deformable convolution, plain (arXiv:1703.06211) and modulated (arXiv:1811.11168)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from detframe.errors import InvalidValueError
from detframe.ops.exportable import is_traced


class DeformConv(nn.Conv2d):
    """A convolution whose sampling points are moved, and if modulated also weighted, by a second convolution.

    It stands wherever a Conv2d does: `weight` and `bias` are those of the convolution that it replaces, so a checkpoint
    of that one fills them. The second convolution is `offset` (weight and bias): detectron2's `conv2_offset.weight` is
    `conv2.offset.weight` here; the FCOS repository's `conv2.offset.weight` keeps its name, and its `conv2.conv.weight`
    is `conv2.weight`. Its channels have the order of both: 2 * K * G displacements (y, x of each of the K points of the
    kernel, for each of the G = `deformable_groups`), then K * G weights before their sigmoid.

    The second convolution starts at zero (arXiv:1703.06211, section 2.1). Then all displacements are 0 and, if
    modulated, all weights sigmoid(0) = 0.5: the layer starts as the plain convolution, or as half of it (before the
    bias), which is what the published DCNv2 detectors were trained with.

    The sampling runs in float32 also under autocast, since its kernels know no bfloat16 on the CPU; the result has
    autocast's dtype, as that of a Conv2d has.

    Args:
        groups: of the convolution (ResNeXt).
        deformable_groups: parts of the input channels that have displacements of their own.
        modulated: also weight the sampling points.

    Raises:
        ValueError: `in_channels` is not a multiple of `deformable_groups`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        modulated: bool = True,
        bias: bool = True,
        dilation: int = 1,
    ) -> None:
        if deformable_groups < 1 or in_channels % deformable_groups:
            raise InvalidValueError(
                f"a deformable convolution of {in_channels} input channels cannot have {deformable_groups} deformable "
                "groups (MODEL.RESNETS.DEFORMABLE_GROUPS in a ResNet): the channels must be a multiple of them"
            )
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.modulated = modulated
        self.deformable_groups = deformable_groups
        self.padding_hw = (padding, padding)
        per_point = 3 if modulated else 2
        self.offset = nn.Conv2d(
            in_channels, per_point * kernel_size**2 * deformable_groups, kernel_size, stride, padding, dilation
        )
        self.reset_offset()

    def reset_offset(self) -> None:
        """Set the convolution that moves the sampling points to zero; to be called after a general initialisation."""
        nn.init.zeros_(self.offset.weight)
        if self.offset.bias is not None:
            nn.init.zeros_(self.offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H', W'), the size of the plain convolution's output."""
        return self.convolve(x, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`forward` with another weight and bias, for a norm that is folded into them."""
        return deformed(
            x,
            self.offset(x),
            weight,
            bias,
            self.modulated,
            stride=(self.stride[0], self.stride[1]),
            padding=self.padding_hw,
            dilation=(self.dilation[0], self.dilation[1]),
        )


def deformed(
    x: Tensor,
    moves: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    modulated: bool = True,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """A deformable convolution of (N, C, H, W) in float32, in the dtype of `moves`.

    Args:
        moves: displacements and, if modulated, weights of the sampling points, in the order of DeformConv.
    """
    if is_traced():  # whose symbols cannot tell that parts of maps in channels_last lie as they do
        moves = moves.contiguous()
    points = moves.shape[1] * 2 // 3 if modulated else moves.shape[1]
    wide = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        y = deform_conv2d(
            x.to(wide),
            moves[:, :points].to(wide),
            weight.to(wide),
            None if bias is None else bias.to(wide),
            stride=stride,
            padding=padding,
            dilation=dilation,
            mask=moves[:, points:].to(wide).sigmoid() if modulated else None,
        )
    return y.to(moves.dtype)
