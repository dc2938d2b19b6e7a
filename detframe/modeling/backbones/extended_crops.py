"""P2' of an extended pyramid where RoIs need it, and nowhere else.

Legend: N images, C channels, (h, w) the size of level p2; a block is T x T cells of p2, a crop the K x K cells of a
block and its margin; B blocks of all images, R RoIs of all images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detframe.ops.touching import touched_cells
from detframe.structures.transfer import move_together

STRIDE = 4  # of p2


@dataclass(frozen=True)
class Crops:
    """Where the blocks of a map lie; both in cells of p2, and even."""

    size: int  # T
    margin: int  # computed around a block and thrown away

    def side(self, length: int) -> int:
        """K along an axis of so many cells."""
        return min(self.size + 2 * self.margin, length)


class CroppedLevel:
    """A map (N, C, 2h, 2w) that `around` computes in blocks.

    Inside of a block it is what `compute` gives on whole maps, but for what reaches in from beyond the margin; a crop
    ends where the image does, so that there is no difference at its border. Where crops would be more work than the
    map, it is computed whole.

    Args:
        compute: crops of p3 (B, C, K/2, K/2), of p2 (B, C, K, K) and of the map of stride 2 (B, C2, 2K, 2K) to those of
            this level, (B, C, 2K, 2K).
        channels: C.
        p3, p2, finest: the whole maps.
    """

    def __init__(
        self, compute: Callable[..., Tensor], crops: Crops, channels: int, p3: Tensor, p2: Tensor, finest: Tensor
    ) -> None:
        self.compute, self.crops = compute, crops
        self.p3, self.p2, self.finest = p3, p2, finest
        self.shape = torch.Size((len(p2), channels, *finest.shape[-2:]))

    def around(self, boxes: Tensor, image: Tensor, valid: Tensor | None = None) -> Tensor:
        """The map (N, C, 2h, 2w) where RoIs (R, 4), in pixels, of the images `image` (R,) are pooled, of which `valid`,
        bool (R,), count (None: all); elsewhere 0, or what it is."""
        number, channels, height, width = self.shape
        valid = torch.ones_like(image, dtype=torch.bool) if valid is None else valid
        block, origin = self._blocks(boxes, image, valid)
        side_y, side_x = (self.crops.side(side) for side in self.p2.shape[-2:])
        if 4 * len(block) * side_y * side_x >= number * height * width:
            return self.compute(self.p3, self.p2, self.finest)
        out = self.compute(
            self._cut(self.p3, block, origin, 1),
            self._cut(self.p2, block, origin, 2),
            self._cut(self.finest, block, origin, 4),
        )
        rows, place = self._owned(block, origin)
        cells = out.permute(0, 2, 3, 1).reshape(-1, channels)[rows]
        # a row more than there are cells, for what of the last blocks lies outside
        table = cells.new_zeros((number * height * width + 1, channels)).index_put((place,), cells)
        return table[:-1].reshape(number, height, width, channels).permute(0, 3, 1, 2)

    def _blocks(self, boxes: Tensor, image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Image, row and column of each block that RoIs touch, one at least so that everything always learns, (B, 3);
        and the first row and column of its crop in cells of p2, (B, 2)."""
        size_hw = [-(-side // self.crops.size) for side in self.p2.shape[-2:]]
        # RoIAlign reads between cells and, with the shift of an aligned one, two cells of this level beyond its box
        around = torch.cat([boxes[:, :2] - STRIDE, boxes[:, 2:] + STRIDE], 1).float()
        touched = touched_cells(around, image, valid, STRIDE * self.crops.size, len(self.p2), size_hw)
        # as much is computed as there are blocks: one wait for an accelerator
        needed = touched.numpy(force=True)
        needed[0, 0, 0] = True
        block = np.argwhere(needed)
        last = [side - self.crops.side(side) for side in self.p2.shape[-2:]]
        origin = np.minimum(np.maximum(block[:, 1:] * self.crops.size - self.crops.margin, 0), last)
        on_device = move_together([torch.from_numpy(block), torch.from_numpy(origin)], boxes.device)
        return on_device[0], on_device[1]

    def _cut(self, maps: Tensor, block: Tensor, origin: Tensor, scale: int) -> Tensor:
        """Crops of a map that has `scale` / 2 cells for one of p2."""
        y, x = (
            (origin[:, i, None] * scale // 2) + torch.arange(self.crops.side(side) * scale // 2, device=maps.device)
            for i, side in enumerate(self.p2.shape[-2:])
        )
        rows = maps.permute(0, 2, 3, 1)[block[:, 0, None, None], y[:, :, None], x[:, None, :]]
        return rows.permute(0, 3, 1, 2)

    def _owned(self, block: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
        """Of the cells of this level that blocks own, where they are in the crops and in the map: int64 (B * 4 T²,)."""
        _, _, height, width = self.shape
        step = torch.arange(2 * self.crops.size, device=block.device)
        y, x = (2 * self.crops.size * block[:, i, None] + step for i in (1, 2))
        inner_y, inner_x = y - 2 * origin[:, :1], x - 2 * origin[:, 1:]
        side_y, side_x = (2 * self.crops.side(side) for side in self.p2.shape[-2:])
        number = torch.arange(len(block), device=block.device)[:, None, None]
        row = (number * side_y + inner_y.clamp(max=side_y - 1)[:, :, None]) * side_x
        row = row + inner_x.clamp(max=side_x - 1)[:, None, :]
        place = (block[:, 0, None, None] * height + y[:, :, None]) * width + x[:, None, :]
        inside = (y < height)[:, :, None] & (x < width)[:, None, :]
        nowhere = len(self.p2) * height * width
        return row.flatten(), torch.where(inside, place, nowhere).flatten()
