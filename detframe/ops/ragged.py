"""Rows of unequal length, their members one behind another.

Legend: N rows, M members of all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def starts(counts: Tensor) -> Tensor:
    """Where each of rows of `counts` (N,) members begins: int64 (N,); 2, 0, 1 gives 0, 2, 2."""
    return counts.cumsum(0) - counts


def places(row: Tensor, num_rows: int) -> Tensor:
    """The position of every member in its row `row` (M,), which rises: int64 (M,); 0, 0, 2 gives 0, 1, 0."""
    first = torch.searchsorted(row, torch.arange(num_rows, device=row.device))
    return torch.arange(len(row), device=row.device) - first[row]


def members(counts: Tensor) -> tuple[Tensor, Tensor]:
    """The row and the position of every member of rows of `counts` (N,) members, int64 (M,) each."""
    row = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    return row, torch.arange(len(row), device=counts.device) - starts(counts)[row]
