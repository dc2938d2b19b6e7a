"""Feature pyramid network (arXiv:1612.03144), its tops, and the backbone that is a bottom-up network under a pyramid.

Legend: N images, C = out_channels, level p<i> has stride 2^i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from detframe.errors import InvalidValueError
from detframe.layers import ConvNorm, init_uniform
from detframe.layers.upsampling import LEARNED, make_upsampler, reset_upsamplers


class FPN(nn.Module):
    """Lateral 1x1 convolutions, a top-down path of upsampling and sums, 3x3 output convolutions, and a top.

    `forward` takes the bottom-up maps, finest first, and gives maps of C channels: one for each, then those of the top.
    `inner_blocks` and `layer_blocks` are called after the position of the level they serve, and only those exist that
    reach an output.

    Args:
        in_channels: channels of the bottom-up maps.
        norm: after every lateral and output convolution, as in `make_norm`.
        top: what adds coarser levels; one by max pooling unless given, none with `finest_only`.
        fuse: "sum" of a lateral and what comes from above, or their average, "avg".
        upsample: what enlarges a level for the sum with the next finer one, as in `make_upsampler`.
        relu: ReLU after every lateral and output convolution.
        top_down: False leaves the path out (table 1d of the paper).
        lateral: False leaves out the lateral connections, all but the coarsest, which is upsampled all the way (1e).
        finest_only: True returns the finest level alone (1f).

    Raises:
        ValueError: a combination in which part of the backbone would reach no output, or a top without its level.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        norm: str = "",
        top: nn.Module | None = None,
        *,
        fuse: str = "sum",
        upsample: str = "nearest",
        relu: bool = False,
        top_down: bool = True,
        lateral: bool = True,
        finest_only: bool = False,
    ) -> None:
        super().__init__()
        if not top_down and (finest_only or not lateral):
            raise InvalidValueError("without its top-down path an FPN needs its laterals and all its levels")
        if not top_down and upsample in LEARNED:
            raise InvalidValueError(
                f"an FPN without its top-down path enlarges nothing, so that {upsample!r} cannot learn"
            )
        if finest_only and not isinstance(top, NoTop | None):
            raise InvalidValueError(
                f"an FPN that gives its finest level only has none for its top {type(top).__name__}"
            )
        self.out_channels, self.top_down = out_channels, top_down
        self.averages = fuse == "avg"
        levels = range(len(in_channels))
        inner = levels if lateral else levels[-1:]
        outer = levels[:1] if finest_only else levels
        self.inner_blocks = nn.ModuleDict(
            {str(i): ConvNorm(in_channels[i], out_channels, 1, norm=norm, relu=relu) for i in inner}
        )
        self.layer_blocks = nn.ModuleDict(
            {str(i): ConvNorm(out_channels, out_channels, 3, norm=norm, relu=relu) for i in outer}
        )
        if top is None:
            top = NoTop() if finest_only else MaxPoolTop()
        self.extra_blocks = top
        # called after the level that they lead to
        self.upsamplers = nn.ModuleDict(
            {str(i): make_upsampler(upsample, out_channels) for i in levels[:-1] if top_down}
        )
        self.num_levels = len(outer) + int(top.num_levels)  # type: ignore[arg-type]
        init_uniform(self)
        reset_upsamplers(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return self.outputs(self.merge(features), features[-1])

    def merge(self, features: list[Tensor]) -> list[Tensor]:
        """The bottom-up maps to what the output convolutions read: C channels, laterals and top-down path fused."""
        laterals = {int(i): block(features[int(i)]) for i, block in self.inner_blocks.items()}
        if not self.top_down:
            return list(laterals.values())
        last = len(features) - 1
        merged = [laterals[last]]
        for i in reversed(range(last)):
            above = self.upsamplers[str(i)](merged[0], features[i])
            merged.insert(0, self._fuse(laterals[i], above) if i in laterals else above)
        return merged

    def outputs(self, merged: list[Tensor], body: Tensor) -> list[Tensor]:
        """All levels, from what `merge` gives and the coarsest bottom-up map."""
        levels = self.levels(merged)
        return levels + self.extra_blocks(body, levels[-1])

    def levels(self, merged: list[Tensor]) -> list[Tensor]:
        """The levels below the top."""
        return [block(merged[int(i)]) for i, block in self.layer_blocks.items()]

    def _fuse(self, lateral: Tensor, above: Tensor) -> Tensor:
        return (lateral + above) / 2 if self.averages else lateral + above


def resize(x: Tensor, like: Tensor) -> Tensor:
    """`x` with the height and width of `like`, by the nearest cells."""
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


class NoTop(nn.Module):
    """No coarser level."""

    num_levels = 0

    def forward(self, body: Tensor, pyramid: Tensor) -> list[Tensor]:
        """`body` and `pyramid` are the coarsest maps of each."""
        return []


class MaxPoolTop(nn.Module):
    """One coarser level by skipping every other cell of the last one (FPN, section 4.1)."""

    num_levels = 1

    def forward(self, body: Tensor, pyramid: Tensor) -> list[Tensor]:
        """`body` and `pyramid` are the coarsest maps of each."""
        return [F.max_pool2d(pyramid, 1, 2)]


class P6P7Top(nn.Module):
    """Two coarser levels by 3x3 convolutions of stride 2 (RetinaNet, arXiv:1708.02002, section 4).

    P6 reads the last bottom-up map ("C5", the paper) or the pyramid's ("P5", FCOS, arXiv:1904.01355, section 3.2).
    """

    num_levels = 2

    def __init__(self, body_channels: int, out_channels: int, p6_from: str) -> None:
        super().__init__()
        self.reads_body = p6_from == "C5"
        self.p6 = nn.Conv2d(body_channels if self.reads_body else out_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)

    def forward(self, body: Tensor, pyramid: Tensor) -> list[Tensor]:
        """`body` and `pyramid` are the coarsest maps of each."""
        p6 = self.p6(self._two_columns(body if self.reads_body else pyramid))
        return [p6, self.p7(self._two_columns(F.relu(p6)))]

    def _two_columns(self, x: Tensor) -> Tensor:
        """`x` with a column of zeros beside its only one, as the padding has it: the result is the same.

        In bf16, PyTorch's CPU kernel for the weights' gradient reads memory that nothing has written where a
        convolution of stride 2 has one column (seen with 2.6 and 2.14).
        """
        return F.pad(x, (0, 1)) if self.training and x.shape[-1] == 1 else x


class PyramidBackbone(nn.Module):
    """A bottom-up network under a pyramid: a complete backbone.

    `forward` takes (N, 3, H, W), H and W multiples of `size_divisibility`, and returns {"p2": (N, C, H/4, W/4), ...}.

    Args:
        body: returns a dict of maps.
        body_channels: channels of the maps that the pyramid reads, finest first; others are left alone.
        body_strides: their strides, each twice the one before.
        fpn: the pyramid, with `out_channels` and `num_levels`; takes a list of maps and returns one.
    """

    def __init__(
        self, body: nn.Module, body_channels: Mapping[str, int], body_strides: Mapping[str, int], fpn: nn.Module
    ) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.in_features = list(body_channels)
        # images are padded to whole cells of the bottom-up maps; the levels above it round up
        self.size_divisibility = max(body_strides.values())
        self.out_channels = int(fpn.out_channels)  # type: ignore[arg-type]
        finest = round(math.log2(body_strides[self.in_features[0]]))
        levels = range(finest, finest + int(fpn.num_levels))  # type: ignore[arg-type]
        self.strides = {f"p{level}": 2**level for level in levels}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        pyramid = self.fpn([features[name] for name in self.in_features])
        return dict(zip(self.strides, pyramid, strict=True))

    def targets(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What an extended pyramid is to learn of an image twice as large: the second level before its output
        convolution, and the finest one. Only of an FPN."""
        features = self.body(x)
        fpn: Any = self.fpn
        merged = fpn.merge([features[name] for name in self.in_features])
        return merged[1], fpn.levels(merged)[0]

    def bottom_up(self, x: Tensor) -> dict[str, Tensor]:
        """The bottom-up maps by the names of the levels that stand on them."""
        features = self.body(x)
        return {level: features[name] for level, name in zip(self.strides, self.in_features, strict=False)}
