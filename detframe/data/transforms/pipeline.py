"""Transforms one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor

from detframe.arrays.pixels import PixelForm
from detframe.data.scaled import SizeHW, Wanted
from detframe.data.transforms.geometry import LargeScaleJitter, Resize
from detframe.data.transforms.targets import Transform, clip_and_drop
from detframe.errors import InvalidValueError
from detframe.structures import Target

# Draws a further sample: an image as it was read, its target, and its size in the file; None where it cannot be read
Others = Callable[[Generator], "tuple[Tensor, Target, SizeHW] | None"]


@dataclass
class Stage:
    """An image on its way through transforms, after the one of that name."""

    name: str
    image: Tensor
    target: Target


@dataclass(frozen=True)
class Given:
    """A sample that transforms are to be done with.

    Args:
        generator: what all that is random comes from.
        size_hw: the size of the image in the file, of which `image` may show fewer pixels, as `Pipeline.wanted` allows.
        others: for transforms that mix images; without it they are left out.
        position: of the sample in the stream of training images.
    """

    image: Tensor
    target: Target
    generator: Generator
    size_hw: SizeHW | None = None
    others: Others | None = None
    position: int = 0


class Pipeline:
    """Transforms one after another."""

    min_visible = 0.0

    @property
    def wanted(self) -> Wanted | None:
        """How large an image has to be at least, by its size in the file; None: as it is there."""
        first = self.first()
        return None if first is None else first.largest

    @property
    def mixes(self) -> bool:
        """Whether further samples are needed."""
        return False

    @property
    def closes(self) -> bool:
        """Whether some transform is left out from INPUT.CLOSE_AT on."""
        return False

    def after_close(self) -> Pipeline:
        """What is left of it from INPUT.CLOSE_AT on."""
        return self

    @property
    def needs_masks(self) -> str:
        """The transform that cuts along masks, as a message names it; "" where none does."""
        return ""

    @property
    def unsized(self) -> str:
        """The first transform that does not say how large images can be after it; "" where all do."""
        return ""

    @property
    def resizes_at_random(self) -> bool:
        """Whether images of one size come in several."""
        raise NotImplementedError

    def first(self) -> Resize | LargeScaleJitter | None:
        """The first transform, where it resizes every image."""
        raise NotImplementedError

    def resizing(self) -> list[Resize | LargeScaleJitter]:
        """The transforms that are for resizing."""
        raise NotImplementedError

    def size_after(self, size_hw: SizeHW, generator: Generator) -> SizeHW:
        """The size of an image of `size_hw` afterwards, from a generator in the state that a call gets it in."""
        raise NotImplementedError

    def largest_after(self, size_hw: SizeHW) -> SizeHW:
        """The largest size in which an image of `size_hw` comes out."""
        raise NotImplementedError

    def lines(self) -> list[str]:
        """What the log says of each transform."""
        raise NotImplementedError

    def stages(self, given: Given) -> Iterator[Stage]:
        """What comes in, with no name, and image and target after each transform that happens."""
        raise NotImplementedError

    def __call__(
        self,
        image: Tensor,
        target: Target,
        generator: Generator,
        size_hw: SizeHW | None = None,
        others: Others | None = None,
        position: int = 0,
    ) -> tuple[Tensor, Target]:
        """Image and target, transformed; the arguments are those of `Given`, and are not changed."""
        *_, last = self.stages(Given(image, target, generator, size_hw, others, position))
        return last.image, last.target


class Compose(Pipeline):
    """Transforms one after another; afterwards boxes are clipped to the image, and objects without area are removed."""

    def __init__(self, transforms: Sequence[Transform], min_visible: float = 0.0) -> None:
        self.transforms, self.min_visible = tuple(transforms), min_visible

    def stages(self, given: Given) -> Iterator[Stage]:
        """See `Pipeline`; boxes are clipped after the last one."""
        first, image, target = self.first(), given.image, given.target
        yield Stage("", image, target)
        for transform in self.transforms:
            more = (given.size_hw,) if transform is first else ()
            before = image, target
            image, target = transform(image, target, given.generator, *more)
            if image is not before[0] or target is not before[1]:  # what does not happen gives back what it got
                yield Stage(type(transform).__name__, image, target)
        yield Stage("clip_and_drop", image, clip_and_drop(target, (image.shape[-2], image.shape[-1]), self.min_visible))

    def lines(self) -> list[str]:
        """What the log says of each transform."""
        return [written(type(transform).__name__, vars(transform)) for transform in self.transforms]

    @property
    def resizes_at_random(self) -> bool:
        """Whether images of one size come in several."""
        return any(transform.is_random for transform in self.resizing())

    def size_after(self, size_hw: SizeHW, generator: Generator) -> SizeHW:
        """The size of an image of `size_hw` afterwards, from a generator in the state that `__call__` gets it in."""
        for transform in self.resizing():
            size_hw = transform.size_after(size_hw, generator)
        return size_hw

    def largest_after(self, size_hw: SizeHW) -> SizeHW:
        """The largest size in which an image of `size_hw` comes out."""
        for transform in self.resizing():
            size_hw = transform.largest_after(size_hw)
        return size_hw

    def resizing(self) -> list[Resize | LargeScaleJitter]:
        """Those that change sizes, which stand before all others: no other has drawn random numbers by then."""
        return [transform for transform in self.transforms if isinstance(transform, Resize | LargeScaleJitter)]

    def first(self) -> Resize | LargeScaleJitter | None:
        """The first transform, where it resizes."""
        first = self.transforms[0] if self.transforms else None
        return first if isinstance(first, Resize | LargeScaleJitter) else None


def check_channels(cfg: Any, name: str, transform: Any) -> None:
    """Raises ValueError: a transform of colours (`of_colours`), as `name` calls it, of images that have none."""
    form = PixelForm.of(cfg)
    if form.as_stored and getattr(transform, "of_colours", False):
        raise InvalidValueError(
            f"{name} changes the colours of 8-bit RGB alone, and with INPUT.CHANNELS {form.channels} and INPUT.DEPTH "
            f"{cfg.INPUT.DEPTH} images are the channels of their files; leave it out"
        )


def check_fill(cfg: Any, name: str, transform: Any) -> None:
    """Raises ValueError: a transform, as `name` calls it, fills 8-bit images with a value that they cannot hold."""
    fill = getattr(transform, "fill", None)
    if isinstance(fill, (int, float)) and not PixelForm.of(cfg).as_stored and not 0 <= fill <= 255:
        raise InvalidValueError(f"{name}: fill must lie between 0 and 255, as images have 8 bits, not {fill:g}")


def written(name: str, arguments: Mapping[str, Any]) -> str:
    """A transform as a log shows it: `Resize(min_sizes=[800], max_size=1333)`."""
    return f"{name}({', '.join(f'{key}={_shown(value)}' for key, value in arguments.items())})"


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
