"""Optimizers and the groups of parameters that share a learning rate and a weight decay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError, shown
from detframe.registry import OPTIMIZERS
from detframe.solver.lr_factors import name_factors

NORM_LAYERS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
FUSED_DEVICES = ("cpu", "cuda")
_LIKE_PARAMETERS = ("momentum_buffer", "exp_avg", "exp_avg_sq")  # entries of the state that have a parameter's shape


def parameter_groups(cfg: ConfigNode, model: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters in as few groups as their settings allow.

    Norm layers (scale and shift) take WEIGHT_DECAY_NORM; other biases BIAS_LR_FACTOR and WEIGHT_DECAY_BIAS; everything
    below `model.backbone` also BACKBONE_LR_FACTOR; names that LR_FACTORS match their factor; the layers of the backbone
    their power of LAYER_DECAY. A one-dimensional `weight` counts as the scale of a norm layer, whatever the class of
    its module.

    Returns:
        Groups with "params", "weight_decay" and "lr_factor": the learning rate over that of the schedule.

    Raises:
        ValueError: the model has no trainable parameter; and as `name_factors`.
    """
    factors = name_factors(cfg, model)
    merged: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, owner, parameter in _trainable(model):
        lr_factor, decay = _settings(cfg, name, owner, parameter)
        merged.setdefault((lr_factor * factors[name], decay), []).append(parameter)
    if not merged:
        raise InvalidValueError("the model has no trainable parameter; see MODEL.BACKBONE.FREEZE_CONV_BODY_AT")
    return [
        {"params": params, "lr_factor": lr_factor, "weight_decay": decay}
        for (lr_factor, decay), params in sorted(merged.items(), key=lambda item: item[0])
    ]


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    seen: set[nn.Parameter] = set()
    for prefix, owner in model.named_modules():
        for name, parameter in owner.named_parameters(prefix=prefix, recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield name, owner, parameter


def _settings(cfg: ConfigNode, name: str, owner: nn.Module, parameter: Tensor) -> tuple[float, float]:
    solver, last = cfg.SOLVER, name.rsplit(".", 1)[-1]
    lr_factor = solver.BACKBONE_LR_FACTOR if name.startswith("backbone.") else 1.0
    decay = solver.WEIGHT_DECAY
    if isinstance(owner, NORM_LAYERS) or (last == "weight" and parameter.ndim == 1) or _shifts_a_norm(owner, last):
        decay = solver.WEIGHT_DECAY_NORM if solver.WEIGHT_DECAY_NORM >= 0 else decay
    elif last == "bias":
        lr_factor *= solver.BIAS_LR_FACTOR
        decay = solver.WEIGHT_DECAY_BIAS if solver.WEIGHT_DECAY_BIAS >= 0 else decay
    return lr_factor, decay


def _shifts_a_norm(owner: nn.Module, last: str) -> bool:
    weight = getattr(owner, "weight", None)
    return last == "bias" and isinstance(weight, Tensor) and weight.ndim == 1


@OPTIMIZERS.register("SGD")
def build_sgd(cfg: ConfigNode, groups: list[dict[str, Any]], fused: bool) -> Optimizer:
    """Stochastic gradient descent with momentum, Nesterov's if SOLVER.NESTEROV."""
    return torch.optim.SGD(
        groups, lr=cfg.SOLVER.BASE_LR, momentum=cfg.SOLVER.MOMENTUM, nesterov=cfg.SOLVER.NESTEROV, fused=fused or None
    )


@OPTIMIZERS.register("AdamW")
def build_adamw(cfg: ConfigNode, groups: list[dict[str, Any]], fused: bool) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""
    return torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, betas=tuple(cfg.SOLVER.BETAS), fused=fused or None)


def build_optimizer(cfg: ConfigNode, model: nn.Module) -> Optimizer:
    """The optimizer that SOLVER.OPTIMIZER names, over `parameter_groups(cfg, model)`.

    A member of OPTIMIZERS is called as `member(cfg, groups, fused)`; `fused` says that every parameter lies on a device
    with fused kernels, which update a group in one pass over memory.
    """
    groups = parameter_groups(cfg, model)
    params = [p for group in groups for p in group["params"]]
    fused = all(p.device.type in FUSED_DEVICES and p.is_floating_point() for p in params)
    optimizer: Optimizer = OPTIMIZERS.get(cfg.SOLVER.OPTIMIZER)(cfg, groups, fused)
    # Fused kernels walk through memory and take it for granted that a gradient is laid out as its parameter is
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: _align_gradients(params))
    return optimizer


def _align_gradients(params: Iterable[nn.Parameter]) -> None:
    for parameter in params:
        if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
            parameter.grad = _like(parameter, parameter.grad)


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def parameter_names(optimizer: Optimizer, model: nn.Module) -> list[str]:
    """The names of an optimizer's parameters, in the order in which its state dict numbers them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def load_optimizer_state(
    optimizer: Optimizer,
    state: dict[str, Any],
    saved_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Load a state dict.

    What the groups say (weight decay, momentum) stays as the optimizer was built, and buffers take the memory layout of
    their parameters, as both may have changed since. With the names of the parameters then and now, the groups may be
    others: each parameter gets its own state, and one that was not trained then has none yet.

    Raises:
        ValueError: without names, the groups are not those of the saved optimizer.
    """
    missing = [key for key in ("state", "param_groups") if key not in state]
    if missing:
        raise InvalidValueError(f"the saved optimizer lacks {' and '.join(map(repr, missing))}")
    if saved_names is not None and names is not None:
        state = _numbered_as_now(optimizer, state, saved_names, names)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise InvalidValueError(
            f"the saved optimizer has other parameter groups ({error}); were SOLVER's factors for biases, norms or the "
            "backbone, or what is frozen, other ones then?"
        ) from None
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    _complete_momentum(optimizer)
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            if key in _LIKE_PARAMETERS and not isinstance(value, Tensor | None):
                raise InvalidValueError(f"the saved optimizer has {shown(value)} for a {key}, which is no tensor")
            if key in _LIKE_PARAMETERS and isinstance(value, Tensor) and value.shape != parameter.shape:
                raise InvalidValueError(
                    f"the saved optimizer has other parameter groups: a {key} of shape {tuple(value.shape)} met a "
                    f"parameter of shape {tuple(parameter.shape)}"
                )
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                entries[key] = _like(parameter, value)


def _complete_momentum(optimizer: Optimizer) -> None:
    """Fused SGD wants a momentum of all parameters or of none; that of one not trained before begins at 0."""
    if isinstance(optimizer, torch.optim.SGD) and any(s.get("momentum_buffer") is not None for s in _states(optimizer)):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)


def _states(optimizer: Optimizer) -> Iterable[dict[str, Any]]:
    return list(optimizer.state.values())


def _numbered_as_now(
    optimizer: Optimizer, state: dict[str, Any], saved_names: Sequence[str], names: Sequence[str]
) -> dict[str, Any]:
    """A state dict whose entries belong to the parameters of the same names, in the groups of now."""
    number = {name: index for index, name in enumerate(saved_names)}
    entries = {
        index: state["state"][number[name]]
        for index, name in enumerate(names)
        if name in number and number[name] in state["state"]
    }
    return {"state": entries, "param_groups": optimizer.state_dict()["param_groups"]}
