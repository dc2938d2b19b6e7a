"""INPUT.TRANSFORMS: the entries of a config's list as transforms, one after another.

An entry draws from random numbers of its own, which follow from the sample's seed and its place in the list, so that
leaving out one of them changes nothing of the others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from detframe.config.entries import name_and_arguments
from detframe.data.samplers import mix
from detframe.data.scaled import SizeHW
from detframe.data.transforms.arguments import check_arguments, fitted, parameters
from detframe.data.transforms.finding import ALBUMENTATIONS, TORCHVISION, find_foreign, same_elsewhere
from detframe.data.transforms.geometry import LargeScaleJitter, Resize
from detframe.data.transforms.mixing import Mixing
from detframe.data.transforms.pipeline import Given, Others, Pipeline, Stage, check_channels, check_fill, written
from detframe.data.transforms.targets import clip_and_drop, happens
from detframe.errors import InvalidValueError, UnknownNameError
from detframe.registry import TRANSFORMS, nearest_sentence
from detframe.structures import Target

_HIDDEN = ("self", "cfg", "pairs")


@dataclass(frozen=True)
class Step:
    """An entry of the list, made.

    Args:
        p: the probability that it happens.
        close: it is left out from CLOSE_AT on.
        arguments: all of them, for the log.
    """

    name: str
    transform: Any
    arguments: Mapping[str, Any]
    p: float
    close: bool

    def __str__(self) -> str:
        return written(self.name, {**self.arguments, "p": self.p, "close": self.close})

    def partners(self) -> int:
        """How many further samples it mixes."""
        return self.transform.partners if isinstance(self.transform, Mixing) else 0


class TransformList(Pipeline):
    """The steps of INPUT.TRANSFORMS.

    After each, boxes are clipped to the image, and objects of which too little is left are removed.

    Args:
        min_visible: INPUT.MIN_VISIBLE.
        closes_at: the position of the stream from which on steps with `close` are left out; None: never.
    """

    def __init__(self, steps: Sequence[Step], min_visible: float = 0.0, closes_at: int | None = None) -> None:
        self.steps, self.min_visible, self.closes_at = tuple(steps), min_visible, closes_at

    def lines(self) -> list[str]:
        """What the log says of each step."""
        return [str(step) for step in self.steps]

    @property
    def mixes(self) -> bool:
        """Whether further samples are needed."""
        return any(step.partners() for step in self.steps)

    @property
    def closes(self) -> bool:
        """See `Pipeline`."""
        return any(step.close for step in self.steps)

    def after_close(self) -> TransformList:
        """See `Pipeline`."""
        return TransformList([step for step in self.steps if not step.close], self.min_visible)

    @property
    def needs_masks(self) -> str:
        """See `Pipeline`."""
        names = [step.name for step in self.steps if getattr(step.transform, "needs_masks", False)]
        return f"INPUT.TRANSFORMS has {names[0]}" if names else ""

    def stages(self, given: Given) -> Iterator[Stage]:
        """See `Pipeline`."""
        shown_hw = (given.image.shape[-2], given.image.shape[-1])
        begin = Stage("", given.image, clip_and_drop(given.target, given.size_hw or shown_hw, tighten=True))
        yield begin
        seed = given.generator.initial_seed()
        yield from self._stages(self._open(given.position), begin, seed, given.size_hw, given.others)

    def _open(self, position: int) -> list[tuple[int, Step]]:
        """The steps at a position of the stream, with their places in the list."""
        closed = self.closes_at is not None and position >= self.closes_at
        return [(number, step) for number, step in enumerate(self.steps) if not (closed and step.close)]

    def _stages(
        self,
        steps: Sequence[tuple[int, Step]],
        stage: Stage,
        seed: int,
        size_hw: SizeHW | None,
        others: Others | None,
    ) -> Iterator[Stage]:
        for place, (number, step) in enumerate(steps):
            own = _own(seed, number)
            if not happens(step.p, own):
                continue
            before = [(i, earlier) for i, earlier in steps[:place] if not earlier.partners()]
            done = self._apply(step, stage, own, size_hw if number == 0 else None, before, others)
            if done is None:
                continue
            tighten = bool(getattr(step.transform, "cuts", False))
            after = (done[0].shape[-2], done[0].shape[-1])
            stage = Stage(step.name, done[0], clip_and_drop(done[1], after, self.min_visible, tighten))
            yield stage

    def _apply(
        self,
        step: Step,
        stage: Stage,
        own: Generator,
        size_hw: SizeHW | None,
        before: Sequence[tuple[int, Step]],
        others: Others | None,
    ) -> tuple[Tensor, Target] | None:
        """Image and target after a step; None where a partner cannot be read, or nothing gives any."""
        transform = step.transform
        if not step.partners():
            given = (size_hw,) if isinstance(transform, Resize | LargeScaleJitter) else ()
            return transform(stage.image, stage.target, own, *given)
        partners = []
        for _ in range(step.partners()):
            drawn = others(own) if others is not None else None
            if drawn is None:
                return None
            image, target, file_hw = drawn
            seed = int(torch.randint(2**62, (), generator=own))
            begin = Stage("", image, clip_and_drop(target, file_hw, tighten=True))
            *_, last = begin, *self._stages(before, begin, seed, file_hw, None)
            partners.append((last.image, last.target))
        return transform.mix(stage.image, stage.target, partners, own)

    # ------------------------------------------------------------------ sizes
    def first(self) -> Resize | LargeScaleJitter | None:
        """The first transform, where it resizes every image."""
        step = self.steps[0] if self.steps else None
        always = step is not None and step.p == 1 and not step.close
        if always and isinstance(step.transform, Resize | LargeScaleJitter):  # type: ignore[union-attr]
            return step.transform  # type: ignore[union-attr]
        return None

    def resizing(self) -> list[Resize | LargeScaleJitter]:
        """See `Pipeline`."""
        return [step.transform for step in self.steps if isinstance(step.transform, Resize | LargeScaleJitter)]

    @property
    def resizes_at_random(self) -> bool:
        """See `Pipeline`."""
        sized = [step for step in self.steps if hasattr(step.transform, "size_after")]
        return any(step.p < 1 or getattr(step.transform, "is_random", False) for step in sized)

    @property
    def unsized(self) -> str:
        """See `Pipeline`."""
        known = ("largest_after", "keeps_size")
        names = [step.name for step in self.steps if not any(getattr(step.transform, name, False) for name in known)]
        return names[0] if names else ""

    def size_after(self, size_hw: SizeHW, generator: Generator) -> SizeHW:
        """The size of an image of `size_hw` afterwards, before CLOSE_AT; where it is cut as its objects lie, and with
        transforms of other libraries, the size before that."""
        for number, step in enumerate(self.steps):
            own = _own(generator.initial_seed(), number)
            if happens(step.p, own) and hasattr(step.transform, "size_after"):
                size_hw = step.transform.size_after(size_hw, own)
        return size_hw

    def largest_after(self, size_hw: SizeHW) -> SizeHW:
        """A size that holds every one in which an image of `size_hw` comes out.

        Raises:
            ValueError: a transform of another library changes sizes.
        """
        if self.unsized:
            raise InvalidValueError(
                f"INPUT.BUCKETS needs to know the largest size of images, and what becomes of it in {self.unsized} of "
                "INPUT.TRANSFORMS is not known; let Resize stand for it, give a transform of your own "
                "`keeps_size = True` or `largest_after`, or set INPUT.BUCKETS []"
            )
        for step in self.steps:
            transform = step.transform
            if hasattr(transform, "largest_after"):
                after = transform.largest_after(size_hw)
                sure = step.p == 1 and not step.close
                size_hw = after if sure else (max(size_hw[0], after[0]), max(size_hw[1], after[1]))
        return size_hw


def _own(seed: int, number: int) -> Generator:
    """The random numbers of a step: those of the sample with this seed and of its place in the list."""
    return Generator().manual_seed(mix(seed, number))


# ------------------------------------------------------------------ from the config
def build_list(cfg: Any, pairs: Sequence[tuple[int, int]], closes_at: int | None = None) -> TransformList:
    """The transforms of INPUT.TRANSFORMS; `Resize` comes first where no entry resizes.

    Args:
        pairs: left and right keypoints.
        closes_at: as of `TransformList`.

    Raises:
        KeyError: a name that nobody has registered.
        ValueError: arguments that do not fit. Both name the nearest.
    """
    entries = [name_and_arguments(entry) for entry in cfg.INPUT.TRANSFORMS]
    steps = [build_step(cfg, pairs, number, *entry) for number, entry in enumerate(entries, 1)]
    for step in steps:
        check_channels(cfg, f"INPUT.TRANSFORMS: {step.name}", step.transform)
        check_fill(cfg, f"INPUT.TRANSFORMS: {step.name}", step.transform)
        if cfg.MODEL.MASK_ON and getattr(step.transform, "no_masks", False):
            raise InvalidValueError(
                f"INPUT.TRANSFORMS: {step.name} blends two images, so that a pixel belongs to objects of both, and "
                "MODEL.MASK_ON learns to which one; take Mosaic or CopyPaste instead, or set MODEL.MASK_ON False"
            )
    if tuple(cfg.INPUT.MIN_SIZE_TRAIN) != (0,) and not any(map(_resizes, steps)):
        steps.insert(0, build_step(cfg, pairs, 0, "Resize", {}))
    return TransformList(steps, cfg.INPUT.MIN_VISIBLE, closes_at)


def _resizes(step: Step) -> bool:
    """Whether a step resizes images: one that is for that, or one of another library that is named so."""
    named = ("Resize", "ShortestSize", "ScaleJitter", "LongestMaxSize", "SmallestMaxSize")
    return isinstance(step.transform, Resize | LargeScaleJitter) or any(word in step.name for word in named)


def build_step(cfg: Any, pairs: Sequence[tuple[int, int]], number: int, name: str, given: dict[str, Any]) -> Step:
    """One entry, made; its `number` is for messages. Errors as of `build_list`."""
    where = f"INPUT.TRANSFORMS, entry {number}: {name}"
    own = dict(given)
    p, close = own.pop("p", None), own.pop("close", None)
    if p is not None and not (isinstance(p, (int, float)) and not isinstance(p, bool) and 0 <= p <= 1):
        raise InvalidValueError(f"{where}: p must be a probability between 0 and 1, not {p!r}")
    if close is not None and not isinstance(close, bool):
        raise InvalidValueError(f"{where}: close must be True or False, not {close!r}")
    if name.startswith((TORCHVISION, ALBUMENTATIONS)):
        found = find_foreign(where, name, own, pairs)
        transform: Any = found.transform
        transform.min_visible = cfg.INPUT.MIN_VISIBLE
        arguments, default_p = found.arguments, found.default_p
    else:
        transform, arguments = _own_transform(where, name, own, cfg, pairs)
        default_p = getattr(transform, "default_p", 1.0)
    closes = getattr(transform, "default_close", False) if close is None else close
    return Step(name, transform, arguments, default_p if p is None else float(p), closes)


def _own_transform(
    where: str, name: str, given: dict[str, Any], cfg: Any, pairs: Sequence[tuple[int, int]]
) -> tuple[Any, dict[str, Any]]:
    """A registered transform, and all of its arguments."""
    if name not in TRANSFORMS:
        known = [known for known, _ in TRANSFORMS]
        own = name.lower() in map(str.lower, known)  # but for capitals
        meant = [] if own else same_elsewhere(name)
        hint = f"did you mean {' or '.join(map(repr, meant))}?" if meant else nearest_sentence(name, known)
        raise UnknownNameError(
            f"{where} is not there; {hint} Those of torchvision are v2.Name, those of "
            "Albumentations albumentations.Name; a module of your own must be named in CUSTOM_IMPORTS to be found."
        )
    member = TRANSFORMS.get(name)
    factory: Callable[..., Any] = getattr(member, "from_config", member)
    known_arguments = {} if inspect.isfunction(member) else parameters(factory, _HIDDEN)
    check_arguments(where, known_arguments, given)
    if inspect.isfunction(member):
        return member, {}
    arguments = fitted(where, factory, given)
    try:
        made = factory(cfg, pairs, **arguments) if factory is not member else factory(**arguments)
    except ValueError as error:
        raise InvalidValueError(f"{where}: {error}") from None
    if not callable(made) and not isinstance(made, Mixing):
        raise InvalidValueError(
            f"{where}: {type(made).__name__} must have __call__(image, target, generator), or partners and "
            "mix(image, target, others, generator)"
        )
    return made, {key: getattr(made, key, arguments.get(key, one.default)) for key, one in known_arguments.items()}
