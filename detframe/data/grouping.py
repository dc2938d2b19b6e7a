"""Things that belong together: by what they share, and by groups that connect them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

Thing = TypeVar("Thing", bound=Hashable)


def alike(things: Iterable[Thing], key: Callable[[Thing], Hashable]) -> list[list[Thing]]:
    """Things with the same key, in groups of two or more; None is equal to nothing."""
    groups: dict[Hashable, list[Thing]] = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return [group for value, group in groups.items() if value is not None and len(group) > 1]


def joined(groups: Iterable[Sequence[Thing]]) -> list[list[Thing]]:
    """The things of all groups, none of them empty, those together that groups connect, also by way of others.

    Groups and their members stand in the order in which they come first.
    """
    parent: dict[Thing, Thing] = {}

    def root(thing: Thing) -> Thing:
        while parent.setdefault(thing, thing) != thing:
            parent[thing] = thing = parent[parent[thing]]
        return thing

    for first, *others in groups:
        start = root(first)
        for other in others:
            parent[root(other)] = start
    together: dict[Thing, list[Thing]] = defaultdict(list)
    for thing in list(parent):
        together[root(thing)].append(thing)
    return list(together.values())
