"""The order of the anchors of a cell, in which the rows of an RPN's and of RetinaNet's outputs lie.

Ours run over the sizes fastest, as those of torchvision and maskrcnn-benchmark. detectron2's run over the aspect ratios
fastest, and so do those of Detectron's RetinaNet. A checkpoint does not say how many are sizes; the model that it goes
into knows.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from detframe.modeling.rpn.anchors import AnchorGenerator

Grid = tuple[int, int]  # sizes and aspect ratios of a cell's anchors
RPN_OUTPUTS = ("rpn.head.cls_logits.", "rpn.head.bbox_pred.")
DENSE_OUTPUTS = ("rpn.head.classification_head.cls_logits.", "rpn.head.regression_head.bbox_reg.")
_BOXES = ("rpn.head.bbox_pred.bias", "rpn.head.regression_head.bbox_reg.bias")


def anchor_grid(model: nn.Module) -> Grid | None:
    """How many sizes and aspect ratios the anchors of a cell have; None of a model without anchors."""
    for module in model.modules():
        if isinstance(module, AnchorGenerator):
            return module.num_sizes, module.num_ratios
    return None


def sizes_fastest(state: Mapping[str, Tensor], grid: Grid | None, outputs: tuple[str, ...]) -> dict[str, Tensor]:
    """The outputs whose names begin as `outputs`, from an order over the ratios fastest into ours.

    Outputs for another number of anchors stay as they are: they have no place in the model.
    """
    return _exchanged(state, grid, outputs)


def ratios_fastest(state: Mapping[str, Tensor], grid: Grid | None, outputs: tuple[str, ...]) -> dict[str, Tensor]:
    """The way back."""
    return _exchanged(state, None if grid is None else (grid[1], grid[0]), outputs)


def _exchanged(state: Mapping[str, Tensor], grid: Grid | None, outputs: tuple[str, ...]) -> dict[str, Tensor]:
    """From (slow, fast) of the grid to (fast, slow), a group of rows each."""
    out = dict(state)
    rows = [len(state[name]) for name in _BOXES if name in state]
    if grid is None or rows != [4 * grid[0] * grid[1]]:
        return out
    for name, value in state.items():
        if name.startswith(outputs):
            out[name] = value.unflatten(0, (*grid, -1)).transpose(0, 1).flatten(0, 2)
    return out
