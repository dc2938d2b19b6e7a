"""From what a detector is given to predictions in its order: read by threads, predicted in batches of one shape."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from detframe.arrays.gathering import Gathering
from detframe.inference.backend import SizeHW, Way
from detframe.inference.inputs import ImageLike, expand, name_of

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Threads that decode and resize while the model computes, and the batches that may wait for company of their shape
_THREADS = 4
_WINDOW = 4


class Item(NamedTuple):
    """An image, or a tile of one, on its way; `image` is None where it could not be read."""

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
    jobs = (partial(_load_or_skip, way, skip, source) for source in expand(inputs, keep_missing=skip, form=way.form))
    for item, found in in_batches(way, ahead(jobs, 2 * batch_size), batch_size):
        yield Result(found, item.size_hw, item.file_name)


def _load_or_skip(way: Way, skip: bool, source: ImageLike) -> Item:
    try:
        image, size_hw = way.load(source)
    except image_faults() as error:
        if not skip:
            raise
        logger.warning("left out: %s", error)
        return Item(None)
    return Item(image, size_hw, name_of(source))


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
    gathering = Gathering(partial(_run, way), _WINDOW)
    for item in items:
        if item.image is None:
            yield from gathering.pass_by((item, None), batch_size)
        else:
            yield from gathering.take(item, way.shape(item.image, item.size_hw), batch_size)
    yield from gathering.rest()


def _run(way: Way, items: list[Item]) -> list[tuple[Item, Mapping[str, Any] | None]]:
    found = way.run([item.image for item in items], [item.size_hw for item in items])
    # without its pixels, which nobody needs any more
    return [(item._replace(image=True), one) for item, one in zip(items, found, strict=True)]
