"""Feature texture transfer and the extended levels of EFPN (arXiv:2003.07021; IEEE TMM, DOI 10.1109/TMM.2021.3074273).

Legend: N images, C channels of the pyramid, D inner width, C2 channels of C2'; (h, w) the size of level p3.
The paper calls the level of stride 2 P2' and the one of stride 4 P3': what P2 and P3 are for an image twice as large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.layers import init_he
from detframe.layers.upsampling import Interpolate, cropped, make_upsampler, reset_upsamplers

SLOPE = 0.1  # of the leaky ReLUs, as in the authors' release
ROUNDS = 3  # of the pointwise extractors
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
        upsample: what doubles the size of the content, a name of `make_upsampler`; "sub_pixel" is the paper's.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        block: Extractor,
        content_blocks: int,
        texture_blocks: int,
        skip: bool,
        upsample: str = "sub_pixel",
    ) -> None:
        super().__init__()
        self.skip = Interpolate() if skip else None
        self.content_head = nn.Conv2d(channels, width, 3, padding=1)
        self.content_body = nn.Sequential(*(block(width) for _ in range(content_blocks)))
        self.sub_pixel = make_upsampler(upsample, width)
        self.texture_head = nn.Conv2d(width + channels, width, 3, padding=1)
        self.texture_body = nn.Sequential(*(block(width) for _ in range(texture_blocks)))
        self.tail1 = nn.Conv2d(width, width, 3, padding=1)
        self.tail2 = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, p3: Tensor, p2: Tensor) -> Tensor:
        head = _leaky(self.content_head(p3))
        content = cropped(_leaky(self.sub_pixel(self.content_body(head) + head)), p2)
        texture = self.texture_body(_leaky(self.texture_head(torch.cat([content, p2], 1))))
        out = self.tail2(_leaky(self.tail1(texture + content)))
        return out if self.skip is None else out + self.skip(p3, p2)

    def initialise(self) -> None:
        """Xavier for all but what initialises itself, blocks of attention."""
        parts = [self.content_head, self.sub_pixel, self.texture_head, self.tail1, self.tail2]
        blocks = [block for block in (*self.content_body, *self.texture_body) if isinstance(block, ResidualBlock)]
        _init_xavier([*parts, *blocks])
        reset_upsamplers(self.sub_pixel)


class PointwiseTransfer(nn.Module):
    """Texture transfer by 1x1 convolutions alone.

    Content: P3 to four times its channels, three rounds of two convolutions with ReLU, and a pixel shuffle. Texture:
    three such rounds over the content beside P2, and a convolution that halves the channels. P3' is their sum.

    Args and `forward` as those of TextureTransfer.
    """

    def __init__(self, channels: int, skip: bool) -> None:
        super().__init__()
        self.skip = Interpolate() if skip else None
        self.content_head = nn.Conv2d(channels, 4 * channels, 1)
        self.content_body = _rounds(4 * channels)
        self.texture_body = _rounds(2 * channels)
        self.texture_tail = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, p3: Tensor, p2: Tensor) -> Tensor:
        content = cropped(F.pixel_shuffle(self.content_body(self.content_head(p3)), 2), p2)
        out = content + self.texture_tail(self.texture_body(torch.cat([content, p2], 1)))
        return out if self.skip is None else out + self.skip(p3, p2)

    def initialise(self) -> None:
        """He: the chain of ReLUs keeps its scale."""
        init_he(self)


def _rounds(channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(2 * ROUNDS):
        layers += [nn.Conv2d(channels, channels, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Extension(nn.Module):
    """The two extended levels on top of a pyramid.

    `forward(p3, p2, c2)` takes the merged maps as TextureTransfer does and C2', (N, C2, 4h, 4w); it returns P3' (N, C,
    2h, 2w) and P2' (N, C, 4h, 4w).

    Args:
        transfer: makes P3' of p3 and p2; None: p2 stands in its place, so that P2' is one more level of an FPN.
        c2_channels: C2.
        channels: C.
        upsample: what enlarges P3', as in `make_upsampler`.
    """

    def __init__(
        self,
        transfer: TextureTransfer | PointwiseTransfer | None,
        c2_channels: int,
        channels: int,
        upsample: str = "nearest",
    ) -> None:
        super().__init__()
        self.transfer = transfer
        self.lateral = nn.Conv2d(c2_channels, channels, 1, bias=False)
        self.output = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.upsampler = make_upsampler(upsample, channels)
        _init_xavier([self.lateral, self.output])
        if transfer is not None:
            transfer.initialise()

    def forward(self, p3: Tensor, p2: Tensor, c2: Tensor) -> tuple[Tensor, Tensor]:
        p3_prime = p2 if self.transfer is None else self.transfer(p3, p2)
        return p3_prime, self.output(self.lateral(c2) + self.upsampler(p3_prime, c2))


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE, inplace=True)


def _init_xavier(parts: Iterable[nn.Module]) -> None:
    for part in parts:
        for conv in part.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.xavier_uniform_(conv.weight)
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
