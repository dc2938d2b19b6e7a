"""Learning rates of single parts of a model: by patterns (SOLVER.LR_FACTORS) and by depth (SOLVER.LAYER_DECAY)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from detframe.config import ConfigNode
from detframe.errors import InvalidValueError
from detframe.layers import names_to_match, no_match


def name_factors(cfg: ConfigNode, model: nn.Module) -> dict[str, float]:
    """What the two keys make of the learning rate of each parameter, by its name.

    Where several patterns match, their factors are multiplied, also with that of the layer.

    Raises:
        ValueError: a pattern that matches no parameter, or a backbone whose layers have no known order.
    """
    factors = dict.fromkeys((name for name, _ in model.named_parameters()), 1.0)
    for pattern, factor in cfg.SOLVER.LR_FACTORS:
        matched = _matched(pattern, model)
        if not matched:
            raise no_match("SOLVER.LR_FACTORS", pattern, names_to_match(model))
        for name in matched:
            if name in factors:
                factors[name] *= factor
    if cfg.SOLVER.LAYER_DECAY < 1:
        for name, factor in layer_factors(cfg, model).items():
            factors[name] *= factor
    return factors


def idle_patterns(cfg: ConfigNode, model: nn.Module) -> Iterator[str]:
    """A sentence for each pattern of SOLVER.LR_FACTORS that matches only what does not train."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for pattern, _ in cfg.SOLVER.LR_FACTORS:
        if trained.isdisjoint(_matched(pattern, model)):
            yield f"SOLVER.LR_FACTORS: all that the pattern {pattern!r} matches is frozen, so its factor does nothing"


def _matched(pattern: str, model: nn.Module) -> list[str]:
    return [name for name in names_to_match(model) if fnmatchcase(name, pattern)]


def layer_factors(cfg: ConfigNode, model: nn.Module) -> dict[str, float]:
    """By name, decay ** (L - i) for the parameters of the backbone's layer i of 0 to L - 1, from the images upwards.

    Layer-wise decay as of ELECTRA (Clark et al., arXiv:2003.10555, section 3.1) and BEiT (arXiv:2106.08254): the last
    layer has the decay once, each one below it once more; pyramid and heads have none.

    Raises:
        ValueError: the backbone does not say the order of its layers.
    """
    prefix, layers = _layers(cfg, model)
    out = {}
    for name, _ in model.named_parameters():
        if not name.startswith(prefix):
            continue
        index = _layer_of(name.removeprefix(prefix), layers)
        if index is not None:
            out[name] = cfg.SOLVER.LAYER_DECAY ** (len(layers) - index)
    return out


def _layers(cfg: ConfigNode, model: nn.Module) -> tuple[str, Sequence[Sequence[str]]]:
    """What the names of the body's parameters begin with, and what `depth_order` says of it."""
    backbone: Any = getattr(model, "backbone", None)
    for prefix, body in (("backbone.body.", getattr(backbone, "body", None)), ("backbone.", backbone)):
        order = getattr(body, "depth_order", None)
        if order is not None:
            return prefix, order()
    raise InvalidValueError(
        f"SOLVER.LAYER_DECAY is {cfg.SOLVER.LAYER_DECAY:g}, but the backbone {cfg.MODEL.BACKBONE.CONV_BODY!r} does not "
        "say in which order its layers come: its class has no method `depth_order` (docs/adding_a_module.md). Set "
        "SOLVER.LAYER_DECAY 1, and learning rates of single parts with SOLVER.LR_FACTORS"
    )


def _layer_of(name: str, layers: Sequence[Sequence[str]]) -> int | None:
    for index, members in enumerate(layers):
        if any(name == member or name.startswith(f"{member}.") for member in members):
            return index
    return None
