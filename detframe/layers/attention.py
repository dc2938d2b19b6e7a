"""Attention within windows: the blocks of Swin Transformer (arXiv:2103.14030) for maps of any size.

Legend: N images, (H, W) size of the map, C channels, A heads, M side of a window, T = M² cells in it, L windows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detframe.errors import InvalidValueError
from detframe.ops.exportable import is_traced, smaller


class WindowAttention(nn.Module):
    """Multi-head attention among the cells of each window, with a learned bias for every offset between two cells.

    `forward(x, shift)` takes (N, H, W, C) of any size and keeps it. The grid of windows starts `shift` cells to the
    right and below the corner, and windows that wrap around the border are divided as if it were not there. What pads
    the map to whole windows is never attended to.

    Raises:
        ValueError: heads that do not divide the channels.
    """

    index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        cells = _cells(window)
        offsets = cells[:, None] - cells[None, :] + window - 1
        self.register_buffer("index", offsets[..., 0] * (2 * window - 1) + offsets[..., 1], persistent=False)
        initialise_attention(self)

    def forward(self, x: Tensor, shift: int = 0) -> Tensor:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, missing(width, self.window), 0, missing(height, self.window)))
        x = _rolled(x, -shift)
        query, key, value = split_heads(self.qkv(to_windows(x, self.window)), 3, self.heads)
        bias = self.relative_position_bias_table[self.index].permute(2, 0, 1)
        same = self._same_region(x, height, width, shift)
        mask = bias if same is None else bias + same.to(bias.dtype).log()[:, None]
        out = self.proj(join_heads(attend(query, key, value, mask)))
        out = from_windows(out, self.window, x.shape[1], x.shape[2])
        return _rolled(out, shift)[:, :height, :width]

    def _same_region(self, x: Tensor, height: int, width: int, shift: int) -> Tensor | None:
        """Which cells of each window may attend to each other: bool (L, T, T); None: all of them."""
        rows, columns = (
            _regions(padded, real, self.window, shift, x.device)
            for padded, real in zip(x.shape[1:3], (height, width), strict=True)
        )
        if not is_traced() and not shift and x.shape[1:3] == (height, width):
            return None
        labels = to_windows((rows[:, None] * 6 + columns)[None, :, :, None], self.window)[0, :, :, 0]
        return labels[:, :, None] == labels[:, None, :]


class SwinBlock(nn.Module):
    """Norm, window attention, norm, MLP, each pair with its shortcut: (N, C, H, W) keeps its shape.

    Args:
        shift: cells by which the windows are moved; half a window in every other block. Maps that are not larger than
            a window are not shifted.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int, mlp_ratio: float) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, int(channels * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = x + self.attn(self.norm1(x), useful_shift(self.shift, x, self.attn.window))
        x = x + self.mlp(self.norm2(x))
        return x.permute(0, 3, 1, 2)


class MLP(nn.Module):
    """Two linear layers with a GELU between them; the last dimension keeps its size."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)
        initialise_attention(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def useful_shift(shift: int, x: Tensor, window: int) -> int:
    """`shift` for a map (N, H, W, C) that is larger than a window in both directions, else 0."""
    if is_traced():
        larger: Any = smaller(1, torch.sym_max(0, smaller(x.shape[1], x.shape[2]) - window))
        moved: int = shift * larger
        return moved
    return shift if min(x.shape[1:3]) > window else 0


def missing(side: int, window: int) -> int:
    """What a side lacks to whole windows; of positive numbers, since graphs divide towards zero."""
    return (side + window - 1) // window * window - side


def _rolled(x: Tensor, shift: int) -> Tensor:
    """(N, H, W, C) rolled along both sides."""
    if is_traced():  # by a number that the graph computes
        for dim in (1, 2):
            side = x.shape[dim]
            x = x.index_select(dim, _wrapped(torch.arange(side, device=x.device) - shift, side))
        return x
    return x.roll((shift, shift), (1, 2)) if shift else x


def _wrapped(places: Tensor, side: int) -> Tensor:
    """Places from -side to 2 * side - 1, brought to 0 to side - 1; exporters know no remainder by a computed number."""
    places = torch.where(places < 0, places + side, places)
    return torch.where(places < side, places, places - side)


def check_heads(channels: int, heads: int) -> None:
    """Raises ValueError where `heads` does not divide `channels`."""
    if heads < 1 or channels % heads:
        raise InvalidValueError(
            f"{channels} channels (MODEL.EFPN.WIDTH) cannot be divided among {heads} heads (MODEL.EFPN.ATTENTION.HEADS)"
        )


def initialise_attention(module: nn.Module) -> None:
    """Linear layers and bias tables from a truncated normal of deviation 0.02, biases 0 (Swin Transformer)."""
    for member in module.modules():
        if isinstance(member, nn.Linear):
            nn.init.trunc_normal_(member.weight, std=0.02)
            nn.init.zeros_(member.bias)
    table = getattr(module, "relative_position_bias_table", None)
    if table is not None:
        nn.init.trunc_normal_(table, std=0.02)


def to_windows(x: Tensor, window: int) -> Tensor:
    """(N, H, W, C), whole windows, to (N, L, T, C), window by window along the rows."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(n, -1, window * window, channels)


def from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """The reverse of `to_windows`."""
    if is_traced():  # whose symbols are not merged with the window's sides by reshaping for every size
        x = x.reshape(x.shape[0], height // window, width // window, *x.shape[2:]).permute(0, 4, 3, 1, 2)
        return F.pixel_shuffle(x.flatten(1, 2), window).permute(0, 2, 3, 1)
    x = x.reshape(x.shape[0], height // window, width // window, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(x.shape[0], height, width, x.shape[-1])


def split_heads(x: Tensor, parts: int, heads: int) -> Tensor:
    """(N, L, T, parts * C), heads within parts, to (parts, N, L, A, T, C / A)."""
    n, windows, cells, channels = x.shape
    return x.reshape(n, windows, cells, parts, heads, channels // parts // heads).permute(3, 0, 1, 4, 2, 5)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Attention within each window: query (N, L, A, T, C / A), key and value (N, L, A, S, C / A), as query.

    `bias` is added to the logits: (A, T, S) for all windows, or (L, A, T, S) with -inf where a cell must not look.
    """
    # images and windows are one dimension here, because the fused kernels take tensors of four dimensions only
    n, windows = query.shape[:2]
    bias = bias[None] if bias.dim() == 3 else bias.repeat(n, 1, 1, 1)
    query, key, value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
    return torch.unflatten(F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype)), 0, (n, windows))


def join_heads(x: Tensor) -> Tensor:
    """(N, L, A, T, C / A) to (N, L, T, C)."""
    if is_traced():  # the kernels that a graph runs may lay their results out otherwise than those it was traced with
        x = x.contiguous()
    return x.transpose(2, 3).flatten(3)


def _cells(side: int) -> Tensor:
    """Row and column of each cell of a window: int64 (side², 2)."""
    steps = torch.arange(side)
    return torch.cartesian_prod(steps, steps)


def _regions(padded: int, real: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Along one side of the shifted map, numbers 0 to 5 that differ where cells must not attend to each other.

    The last `shift` cells came from the other end, and the window that they lie in begins before them; cells beyond
    `real` are padding.
    """
    place = torch.arange(padded, device=device)
    source = _wrapped(place + shift, padded)
    wrapped = (place >= padded - shift).long()
    return wrapped + 3 * (source >= real)
