"""detframe's weights for torchvision and detectron2: names, order and layout of theirs.

An exported state dict is read back before it is handed out, so that what the other program has no place for is an error
and never a silent loss.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from detframe.compat.programs import detectron2, torchvision, translate
from detframe.compat.renaming import State, res5_where_it_stands
from detframe.compat.report import training_only
from detframe.errors import InvalidValueError, listed


def to_torchvision(state: Mapping[str, Tensor], like: Mapping[str, Tensor] | None = None) -> State:
    """The state dict of torchvision's Faster, Mask or Keypoint R-CNN, RetinaNet or FCOS with these weights.

    torchvision keeps outputs for the background that it never uses, and we do not have. They become zero (for a dense
    detector: a score that is never reached), or what they are in `like`.

    Args:
        state: that of a detframe model.
        like: the torchvision state dict that the weights once came from.

    Raises:
        ValueError: torchvision has no place for some of it.
    """
    exported = torchvision.written(state, like)
    _check("torchvision", torchvision.without_unused_class(translate(exported)[1], state), state)
    return exported


def to_detectron2(model: nn.Module) -> State:
    """The state dict of detectron2's Faster, Mask, Keypoint or Cascade R-CNN or RetinaNet with a model's weights.

    Raises:
        ValueError: detectron2 has no place for some of it.
    """
    exported = detectron2.write(model)
    _check("detectron2", translate(exported, model)[1], model.state_dict())
    return exported


def _check(program: str, back: State, state: Mapping[str, Tensor]) -> None:
    """Whether what was exported, and read `back`, is `state`; errors as of the exports."""
    back = res5_where_it_stands(back, state)
    kept = [name for name in state if not name.endswith("num_batches_tracked") and not training_only(name)]
    changed = [name for name in kept if name not in back or not torch.equal(back[name], state[name])]
    wrong = [*changed, *(name for name in back if name not in state)]
    if wrong:
        raise InvalidValueError(f"{program} has no place for these weights: {listed(wrong, 5)}")
