"""Pictures: instances on images, ground truth beside prediction, curves of a run."""

from detframe.visualization.curves import draw_curves
from detframe.visualization.drawing import (
    class_colour,
    contact_sheet,
    draw_instances,
    side_by_side,
    training_image,
    with_caption,
)
from detframe.visualization.reducing import reduced, within

__all__ = [
    "class_colour",
    "contact_sheet",
    "draw_curves",
    "draw_instances",
    "reduced",
    "side_by_side",
    "training_image",
    "with_caption",
    "within",
]
