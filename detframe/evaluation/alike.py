"""Images of one shape through a model together, so that none sees padding because of another."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from detframe.structures import Prediction, Target

# How many batches of images may wait for company of their shape
_WINDOW = 8
SizeHW = tuple[int, int]
Predicted = tuple[list[Tensor], list[Target], list[Prediction]]


class _Item(NamedTuple):
    place: int  # in the order
    image: Tensor
    target: Target


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
    waiting: dict[Hashable, list[_Item]] = defaultdict(list)
    done: dict[int, tuple[Tensor, Target, Prediction]] = {}
    place = following = full = 0

    def run(shape: Hashable) -> None:
        items = waiting.pop(shape)
        found = predict([item.image for item in items])
        for item, one in zip(items, found, strict=True):
            done[item.place] = item.image, item.target, one

    for images, targets in batches:
        full = max(full, len(images))
        for image, target in zip(images, targets, strict=True):
            shape = canvas((image.shape[-2], image.shape[-1]))
            waiting[shape].append(_Item(place, image, target))
            place += 1
            if len(waiting[shape]) >= full:
                run(shape)
            elif place - following > _WINDOW * full:
                run(min(waiting, key=lambda shape: waiting[shape][0].place))
            ready = [done.pop(at) for at in _from(following, done)]
            following += len(ready)
            if ready:
                yield _columns(ready)
    while waiting:
        run(min(waiting, key=lambda shape: waiting[shape][0].place))
    if done:
        yield _columns([done[at] for at in sorted(done)])


def _from(first: int, done: dict[int, Any]) -> list[int]:
    """The places that are done, one after the other."""
    last = first
    while last in done:
        last += 1
    return list(range(first, last))


def _columns(rows: list[tuple[Tensor, Target, Prediction]]) -> Predicted:
    images, targets, predictions = zip(*rows, strict=True)
    return list(images), list(targets), list(predictions)
