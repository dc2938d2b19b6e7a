"""Classifiers of timm, as starts of its backbones, whose modules it renames where they return maps."""

from __future__ import annotations

from torch import nn

from detframe.compat.renaming import State

BODY = "backbone.body.model."


def recognise(state: State) -> str:
    """Anything but a detector: timm has hundreds of architectures, with names of their own."""
    return "" if any("backbone." in name for name in state) else "timm classifier"


def read(state: State, model: nn.Module | None) -> State:
    """In the names of the model's backbone; values that it lacks, as those of the classifier itself, keep theirs.

    A backbone calls "layers.0.blocks" of the classifier "layers_0.blocks", or stands around the whole classifier as its
    "model", so names are compared without that difference.
    """
    target = () if model is None else model.state_dict()
    ours = {_alike(name.removeprefix(BODY)): name for name in target if name.startswith(BODY)}
    return {ours.get(_alike(name), name): value for name, value in state.items()}


def _alike(name: str) -> str:
    return name.removeprefix("model.").replace(".", "_")
