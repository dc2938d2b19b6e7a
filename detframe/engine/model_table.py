"""The table of a model's parts in the log of a training: size, what trains, norms, learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

# The stages of a body are worth a row each; of other parts, their parts are
DEEPER = ("backbone.body",)


def model_table(model: nn.Module, groups: list[dict[str, Any]]) -> str:
    """One line for every part: parameters, how many train, norms with their mode, learning rate over the schedule's.

    Args:
        model: a detector, in the mode in which it will train.
        groups: of the optimizer, as `parameter_groups` gives them.
    """
    factors = {id(parameter): group["lr_factor"] for group in groups for parameter in group["params"]}
    rows = [("module", "params M", "trained M", "norm", "lr x")]
    for name, module in _parts(model, ""):
        parameters = list(module.parameters())
        trained = [p for p in parameters if p.requires_grad]
        if parameters or _norms(module):
            rows.append(
                (
                    name,
                    f"{sum(p.numel() for p in parameters) / 1e6:.3f}",
                    f"{sum(p.numel() for p in trained) / 1e6:.3f}",
                    ", ".join(f"{count} {kind}" for kind, count in _norms(module).items()) or "-",
                    _range(sorted({factors[id(p)] for p in trained if id(p) in factors})),
                )
            )
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d:<{widths[3]}}  {e}".rstrip()
        for a, b, c, d, e in rows
    )


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if path == "backbone" or path in DEEPER or (not prefix and len(list(child.named_children())) > 1):
            yield from _parts(child, f"{path}.")
        else:
            yield path, child


def _norms(module: nn.Module) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for member in module.modules():
        kind = _kind(member)
        if kind:
            counts[kind] = counts.get(kind, 0) + 1
    return counts


def _kind(module: nn.Module) -> str:
    if isinstance(module, FrozenBatchNorm2d):
        return "FrozenBN"
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        name = "SyncBN" if isinstance(module, nn.SyncBatchNorm) else "BN"
        return f"{name} ({'batch statistics' if module.training else 'running statistics'})"
    return {nn.GroupNorm: "GN", nn.LayerNorm: "LN"}.get(type(module), "")


def _range(factors: list[float]) -> str:
    if not factors:
        return "-"
    return f"{factors[0]:g}" if len(factors) == 1 else f"{factors[0]:g} to {factors[-1]:g}"
