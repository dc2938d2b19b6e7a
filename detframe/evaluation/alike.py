"""Images of one shape through a model together, so that none sees padding because of another."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from detframe.arrays.gathering import Gathering
from detframe.structures import Prediction, Target

# How many batches of images may wait for company of their shape
_WINDOW = 8
SizeHW = tuple[int, int]
Predicted = tuple[list[Tensor], list[Target], list[Prediction]]


def canvas_of(model: nn.Module) -> Callable[[SizeHW], Hashable]:
    """To what a model pads an image of a size (height, width) when it is alone: what `canvas_hw` of it says, else its
    preprocessor. Of a model that says nothing, batches stay as they come."""
    own: Any = getattr(model, "canvas_hw", None)
    preprocessor: Any = getattr(model, "preprocessor", None)
    if own is None and preprocessor is not None:
        own = preprocessor.canvases.canvas
    return own if own is not None else lambda size_hw: None


def predicted_alike(
    predict: Callable[[Sequence[Tensor]], list[Prediction]],
    batches: Iterable[tuple[Sequence[Tensor], Sequence[Target]]],
    canvas: Callable[[SizeHW], Hashable],
) -> Iterator[Predicted]:
    """Images, targets and predictions in the order of the batches, several at a time.

    What convolutions see at the border of an image depends on its padding. In a batch that is padded to its largest
    image, AP would depend on which images come together, and so on the size of batches and the number of processes.

    Args:
        predict: one prediction an image.
        batches: of any images; as many as the largest of them go through the model together.
        canvas: what images must have in common for that, by their size (height, width).
    """

    def run(items: list[tuple[Tensor, Target]]) -> list[tuple[Tensor, Target, Prediction]]:
        found = predict([image for image, _ in items])
        return [(*item, one) for item, one in zip(items, found, strict=True)]

    gathering, full = Gathering(run, _WINDOW), 0
    for images, targets in batches:
        full = max(full, len(images))
        for image, target in zip(images, targets, strict=True):
            ready = list(gathering.take((image, target), canvas((image.shape[-2], image.shape[-1])), full))
            if ready:
                yield _columns(ready)
    ready = list(gathering.rest())
    if ready:
        yield _columns(ready)


def _columns(rows: list[tuple[Tensor, Target, Prediction]]) -> Predicted:
    images, targets, predictions = zip(*rows, strict=True)
    return list(images), list(targets), list(predictions)
