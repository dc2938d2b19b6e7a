"""Names of timm's classifiers in detframe's: those of a body that returns maps, whose modules timm renames."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

PREFIX = "backbone.body.model."


def timm_body(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A timm classifier's state dict in the names of the timm body in `target`; None where there is no such body.

    A body calls "layers.0.blocks" of the classifier "layers_0.blocks", so names are compared without that difference.
    Values that the body lacks, as those of the classifier itself, keep their names and are reported as unused.
    """
    ours = {name.removeprefix(PREFIX).replace(".", "_"): name for name in target if name.startswith(PREFIX)}
    if not ours or any("backbone." in name for name in state):
        return None
    return {ours.get(name.replace(".", "_"), name): value for name, value in state.items()}
