"""Parts of a model that do not train."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from detframe.errors import InvalidValueError
from detframe.registry import nearest


def freeze(module: nn.Module) -> nn.Module:
    """Stop training a module: no gradients, and its batch norms become affine maps with the same state.

    Returns the module, changed in place; a batch norm itself comes back as a FrozenBatchNorm2d.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, freeze(child))
    return module


def no_match(key: str, pattern: str, names: Sequence[str]) -> InvalidValueError:
    """The error for a pattern of a config key that matches no parameter; names what is near, else the modules.

    What is near to the name of a module, or to a pattern that ends in "*", are whole modules.
    """
    near = _near_modules(pattern, names) or ("" if pattern.endswith("*") else nearest(pattern, list(names)))
    if not near.endswith("?"):
        near = f"they begin with {', '.join(sorted({'.'.join(name.split('.')[:2]) for name in names}))}"
    return InvalidValueError(
        f"{key} has the pattern {pattern!r}, which matches none of the {len(names)} parameters; {near}"
    )


def _near_modules(pattern: str, names: Sequence[str]) -> str:
    """As `nearest`, of the patterns `module.*` of all modules with parameters of these names; "" where none is near.

    Modules of exactly this name come first, or whose names end with it; others where the pattern ends in "*".
    """
    parts = [name.split(".") for name in names]
    modules = list(dict.fromkeys(".".join(part[:depth]) for part in parts for depth in range(1, len(part))))
    meant = pattern.rstrip(".*")
    near = [name for name in modules if f".{name}".endswith(f".{meant}")]
    if not near and pattern.endswith("*"):
        near = get_close_matches(meant, modules, cutoff=0.5)
    return f"did you mean {' or '.join(repr(f'{name}.*') for name in near[:3])}?" if near else ""


def names_to_match(model: nn.Module) -> list[str]:
    """Names of parameters, those of frozen batch norms included, which are none any more."""
    frozen = [name for name, module in model.named_modules() if isinstance(module, FrozenBatchNorm2d)]
    own = [f"{prefix}.{name}" if prefix else name for prefix in frozen for name in ("weight", "bias")]
    return [*(name for name, _ in model.named_parameters()), *own]


def freeze_matching(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters whose names match one of the shell patterns, and the batch norms that lose all of theirs.

    Raises:
        ValueError: a pattern that matches no parameter (those of frozen batch norms are matched by their names too).
    """
    names = names_to_match(model)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise no_match("MODEL.FREEZE", pattern, names)
    for name, parameter in model.named_parameters():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
    if patterns:
        _freeze_idle_norms(model)


def _freeze_idle_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        norm = isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm))
        if norm and not any(parameter.requires_grad for parameter in child.parameters()):
            setattr(module, name, freeze(child))
        else:
            _freeze_idle_norms(child)
