"""Small tensors of the host on their way to a device: as many as there are, in one copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def move_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors on a device, in order; those of the host go over in one copy, from pinned memory where there is CUDA.

    The device has not to be waited for. Tensors that are there already, or on any other device, are moved one by one.
    """
    if device.type == "cpu" or not tensors or any(tensor.device.type != "cpu" for tensor in tensors):
        return [tensor.to(device, non_blocking=True) for tensor in tensors]
    # the widest types first, so that each begins at a multiple of its width
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    parts = [_as_bytes(tensors[i]) for i in order]
    pinned = device.type == "cuda" and torch.cuda.is_available()
    flat = torch.empty(sum(part.numel() for part in parts), dtype=torch.uint8, pin_memory=pinned)
    torch.cat(parts, out=flat)
    moved = torch.split(flat.to(device, non_blocking=True), [part.numel() for part in parts])
    out = list(tensors)
    for i, part in zip(order, moved, strict=True):
        out[i] = part.view(tensors[i].dtype).view(tensors[i].shape)
    return out


def _as_bytes(tensor: Tensor) -> Tensor:
    """uint8 (B,). Steps within a tensor of one number or none may be 0, as NumPy's are, which no view takes."""
    whole = tensor.contiguous()
    return whole.as_strided((whole.numel(),), (1,)).view(torch.uint8)


def numbers_like(tensor: Tensor, numbers: Sequence[float]) -> Tensor:
    """A few numbers as a tensor of the type and on the device of another, for which the device has not to be waited."""
    return move_together([torch.tensor(numbers, dtype=tensor.dtype)], tensor.device)[0]
