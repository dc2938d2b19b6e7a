"""Rows of a batch that do not count: masked where the host would have to wait for their number, else left out.

An accelerator computes what it was asked for while the host goes on asking; the number of rows that count is known only
when it has come so far. So there, and in a graph that is compiled, what does not count stays as a padded row. A CPU has
nothing to wait for, and each row costs time; a graph that is exported has an operator for it.

Legend: N images, P rows of an image, R rows that go on, over all images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from detframe.ops.ambient import Ambient
from detframe.ops.exportable import is_traced

_fixed = Ambient("fixed", False)


@contextmanager
def fixed_shapes() -> Iterator[None]:
    """While it lasts, a CPU computes what an accelerator would, padded rows included: to count and to compare."""
    with _fixed.being(True):
        yield


def computes_as_cpu(device: torch.device) -> bool:
    """Whether what is computed on this device is what suits a CPU, and not an accelerator (or fixed_shapes)."""
    return device.type == "cpu" and not _fixed.get()


def drops_padding(device: torch.device) -> bool:
    """Whether rows that do not count are left out, and do not stay with a mask."""
    return is_traced() or (computes_as_cpu(device) and not torch.compiler.is_compiling())


@dataclass(frozen=True)
class Rows:
    """The rows of a padded batch (N, P, ...) that go on, in the order of the images."""

    shape: tuple[int, int]  # N, P
    image: Tensor  # int64 (R,), of each
    valid: Tensor | None  # bool (R,), which count; None: all of them
    column: Tensor | None  # int64 (R,), where each stands in its image; None: all rows go on

    def of(self, padded: Tensor) -> Tensor:
        """(R, ...), of (N, P, ...)."""
        return padded.flatten(0, 1) if self.column is None else padded[self.image, self.column]

    def back(self, values: Tensor) -> Tensor:
        """(N, P, ...), of (R, ...); zeros where nothing counts."""
        if self.column is not None:
            return values.new_zeros((*self.shape, *values.shape[1:])).index_put((self.image, self.column), values)
        return self.masked(values).reshape(*self.shape, *values.shape[1:])

    def masked(self, values: Tensor) -> Tensor:
        """(R, ...), with zeros where nothing counts."""
        if self.valid is None:
            return values
        return torch.where(self.valid.reshape(-1, *[1] * (values.ndim - 1)), values, 0)


def keep_rows(mask: Tensor) -> Rows:
    """The rows that count, bool (N, P), or all of them with a mask, as suits the device."""
    number, length = mask.shape
    if drops_padding(mask.device):
        image, column = mask.nonzero(as_tuple=True)
        return Rows((number, length), image, None, column)
    image = torch.arange(number, device=mask.device)[:, None].expand(-1, length).flatten()
    return Rows((number, length), image, mask.flatten(), None)


def rows_of(values: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (N, S) of each image: (N, S, C) of (N, P, C)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def above(scores: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The probabilities (R, K) above a threshold, of which those of a row have a sum of at most 1.

    Returns:
        Row, column and value of each, (M,), and which of them there are, bool (M,), None: all. Where no value may
        decide about M, it is what could be above at most.
    """
    if drops_padding(scores.device):
        row, column = (scores > threshold).nonzero(as_tuple=True)
        return row, column, scores[row, column], None
    length = scores.shape[1]
    most = min(length, int(1.001 / threshold)) if threshold > 0 else length  # sums are rounded
    if most == length:
        column = torch.arange(length, device=scores.device).expand(scores.shape)
        best = scores
    else:
        best, column = scores.topk(most, 1)
    row = torch.arange(len(scores), device=scores.device)[:, None].expand(-1, most)
    value = best.flatten()
    return row.flatten(), column.flatten(), value, value > threshold
