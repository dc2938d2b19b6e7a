"""Feature texture transfer and the extended levels of EFPN (arXiv:2003.07021; IEEE TMM, DOI 10.1109/TMM.2021.3074273).

Legend: N images, C channels of the pyramid, D inner width, C2 channels of C2'; (h, w) the size of level p3.
The paper calls the level of stride 2 P2' and the one of stride 4 P3': what P2 and P3 are for an image twice as large.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.1  # of the leaky ReLUs, as in the authors' release
Extractor = Callable[[int], nn.Module]


class ResidualBlock(nn.Module):
    """conv, ReLU, conv, shortcut, ReLU; without norm. (N, D, H, W) keeps its shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


class TextureTransfer(nn.Module):
    """P3' from the content of P3 and the texture of P2 (the paper's section 3.2; layers as in the authors' release).

    `forward(p3, p2)` takes the pyramid's merged maps before their output convolutions, (N, C, h, w) and about
    (N, C, 2h, 2w), and returns P3' in the size of p2.

    Args:
        channels: C.
        width: D.
        block: makes one block of the extractors, a module that keeps (N, D, H, W).
        content_blocks: blocks of the content extractor.
        texture_blocks: blocks of the texture extractor.
        skip: add p3, enlarged, to the result (in the release, but not in the paper's formula).
    """

    def __init__(
        self, channels: int, width: int, block: Extractor, content_blocks: int, texture_blocks: int, skip: bool
    ) -> None:
        super().__init__()
        self.skip = skip
        self.content_head = nn.Conv2d(channels, width, 3, padding=1)
        self.content_body = nn.Sequential(*(block(width) for _ in range(content_blocks)))
        self.sub_pixel = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.texture_head = nn.Conv2d(width + channels, width, 3, padding=1)
        self.texture_body = nn.Sequential(*(block(width) for _ in range(texture_blocks)))
        self.tail1 = nn.Conv2d(width, width, 3, padding=1)
        self.tail2 = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, p3: Tensor, p2: Tensor) -> Tensor:
        height, width = p2.shape[-2:]
        head = _leaky(self.content_head(p3))
        content = _leaky(F.pixel_shuffle(self.sub_pixel(self.content_body(head) + head), 2))
        content = content[..., :height, :width]  # a level that rounded up has one cell less than twice the next
        texture = self.texture_body(_leaky(self.texture_head(torch.cat([content, p2], 1))))
        out = self.tail2(_leaky(self.tail1(texture + content)))
        return out + F.interpolate(p3, size=(height, width), mode="nearest") if self.skip else out


class Extension(nn.Module):
    """The two extended levels on top of a pyramid.

    `forward(p3, p2, c2)` takes the merged maps as TextureTransfer does and C2', the first stage over the stem that was
    not pooled, (N, C2, 4h, 4w); it returns P3' (N, C, 2h, 2w) and P2' (N, C, 4h, 4w).
    """

    def __init__(self, transfer: TextureTransfer, c2_channels: int, channels: int) -> None:
        super().__init__()
        self.transfer = transfer
        self.lateral = nn.Conv2d(c2_channels, channels, 1, bias=False)
        self.output = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        for conv in _own_convolutions(self):
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, p3: Tensor, p2: Tensor, c2: Tensor) -> tuple[Tensor, Tensor]:
        p3_prime = self.transfer(p3, p2)
        enlarged = F.interpolate(p3_prime, size=c2.shape[-2:], mode="nearest")
        return p3_prime, self.output(self.lateral(c2) + enlarged)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE, inplace=True)


def _own_convolutions(extension: Extension) -> list[nn.Conv2d]:
    """All but those of blocks that initialise themselves (attention)."""
    transfer = extension.transfer
    convs = [extension.lateral, extension.output, transfer.content_head, transfer.sub_pixel, transfer.texture_head]
    convs += [transfer.tail1, transfer.tail2]
    blocks = [b for b in (*transfer.content_body, *transfer.texture_body) if isinstance(b, ResidualBlock)]
    return convs + [conv for block in blocks for conv in (block.conv1, block.conv2)]
