"""From what a detector is given to predictions in its order: read by threads, predicted in batches of one shape."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from detframe.inference.backend import SizeHW, Way
from detframe.inference.inputs import ImageLike, expand, name_of

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Threads that decode and resize while the model computes, and the batches that may wait for company of their shape
_THREADS = 4
_WINDOW = 4


class Item(NamedTuple):
    """An image, or a tile of one, on its way; `image` is None where it could not be read."""

    place: int  # in the order
    image: Any  # resized
    size_hw: SizeHW = (0, 0)  # before
    file_name: str | None = None  # where it came as a path
    owner: Any = None  # what it is a tile of


class Result(NamedTuple):
    """What was found in an image; `found` is None where it could not be read."""

    found: Mapping[str, Any] | None
    size_hw: SizeHW
    file_name: str | None


def predicted(way: Way, inputs: ImageLike | Iterable[ImageLike], batch_size: int, skip: bool) -> Iterator[Result]:
    """What is found in each image.

    Args:
        skip: leave out what cannot be read, with a warning.
    """
    sources = enumerate(expand(inputs, keep_missing=skip))
    jobs = (partial(_load_or_skip, way, skip, *source) for source in sources)
    for item, found in in_batches(way, ahead(jobs, 2 * batch_size), batch_size):
        yield Result(found, item.size_hw, item.file_name)


def _load_or_skip(way: Way, skip: bool, index: int, source: ImageLike) -> Item:
    try:
        image, size_hw = way.load(source)
    except image_faults() as error:
        if not skip:
            raise
        logger.warning("left out: %s", error)
        return Item(index, None)
    return Item(index, image, size_hw, name_of(source))


def image_faults() -> tuple[type[Exception], ...]:
    """What reading one image raises, so that the others can be predicted."""
    from detframe.data import IMAGE_FAULTS

    return IMAGE_FAULTS


def ahead(jobs: Iterable[Callable[[], T]], count: int, threads: int = _THREADS) -> Iterator[T]:
    """What jobs give, in their order; threads do them, at most `count` before they are needed."""
    waiting = iter(jobs)
    with ThreadPoolExecutor(threads, thread_name_prefix="detframe-decode") as pool:
        queue: deque[Future[T]] = deque()
        try:
            queue.extend(pool.submit(job) for job in islice(waiting, count))
            while queue:
                done = queue.popleft().result()
                queue.extend(pool.submit(job) for job in islice(waiting, 1))
                yield done
        finally:
            for future in queue:
                future.cancel()


def in_batches(way: Way, items: Iterable[Item], batch_size: int) -> Iterator[tuple[Item, Mapping[str, Any] | None]]:
    """Each item with what was found in it, in their order."""
    waiting: dict[Hashable, list[Item]] = defaultdict(list)
    done: dict[int, tuple[Item, Mapping[str, Any] | None]] = {}
    following = 0
    for item in items:
        shape = None
        if item.image is None:
            done[item.place] = item, None
        else:
            shape = way.shape(item.image, item.size_hw)
            waiting[shape].append(item)
        if shape is not None and len(waiting[shape]) == batch_size:
            done.update(_run(way, waiting.pop(shape)))
        elif item.place - following >= _WINDOW * batch_size:
            done.update(_run(way, waiting.pop(_oldest(waiting))))
        while following in done:
            yield done.pop(following)
            following += 1
    while waiting:
        done.update(_run(way, waiting.pop(_oldest(waiting))))
    yield from (done.pop(place) for place in sorted(done))


def _run(way: Way, items: list[Item]) -> dict[int, tuple[Item, Mapping[str, Any] | None]]:
    found = way.run([item.image for item in items], [item.size_hw for item in items])
    # without its pixels, which nobody needs any more
    return {item.place: (item._replace(image=True), one) for item, one in zip(items, found, strict=True)}


def _oldest(waiting: dict[Hashable, list[Item]]) -> Hashable:
    """The shape of the image that has waited longest."""
    return min(waiting, key=lambda shape: waiting[shape][0].place)
