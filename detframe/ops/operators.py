"""Operators of detframe: what computes with values inside, and whose result has a shape that is known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# name -> what each consists of
BODIES: dict[str, Callable[..., Any]] = {}


def define(name: str, schema: str, body: Callable[..., Any], shapes: Callable[..., Any]) -> Any:
    """An operator of PyTorch, which eager mode, fake tensors and compiled graphs know as one.

    Of the low level: what torch.library.custom_op makes imports the compiler, for seconds, when it is first called.

    Args:
        name: with its namespace.
        schema: arguments and results, as "(Tensor x) -> Tensor".
        body: computes the results; without gradient.
        shapes: makes tensors like the results of tensors without values.
    """
    torch.library.define(name, schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(name, "CompositeExplicitAutograd", body)
    torch.library.register_fake(name, shapes)
    BODIES[name] = body
    namespace, own = name.split("::")
    return getattr(getattr(torch.ops, namespace), own)
