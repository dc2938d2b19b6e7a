"""One split of a data set as the screen looks at it, and how it says what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from detframe.data.findings import Finding, Kind
from detframe.data.records import ObjectColumns, Records
from detframe.data.screen.pictures import Picture


@dataclass(frozen=True)
class Split:
    """The records of one split, with what is known of their files."""

    name: str  # "train", "val", "test", or a name from a catalog
    records: Records
    paths: Sequence[str]  # of the images, in the order of the records
    names: Mapping[str, str]  # of every path, a short form for messages
    pictures: Mapping[str, Picture]

    @cached_property
    def objects(self) -> ObjectColumns:
        """All objects as columns."""
        return self.records.objects()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of their labels."""
        return self.records.metadata.class_names

    @property
    def trains(self) -> bool:
        """Whether a model learns from it."""
        return self.name == "train"

    def image(self, index: int) -> str:
        """An image as messages name it."""
        return self.names[self.paths[index]]

    def object(self, row: int) -> str:
        """An object as messages name it: "cat of 12x3 pixels at 40, 7 in images/1.jpg"."""
        x1, y1, x2, y2 = (float(v) for v in self.objects.boxes[row])
        name = self.classes[int(self.objects.labels[row]) - 1]
        image = self.image(int(self.objects.image[row]))
        return f"{name!r} of {x2 - x1:.4g}x{y2 - y1:.4g} pixels at {x1:.0f}, {y1:.0f} in {image}"

    def found(self, kind: Kind, examples: Sequence[str], count: int | None = None, severity: str = "") -> list[Finding]:
        """The finding of a kind in this split; none where there is nothing of it."""
        return found(kind, self.name, examples, count, severity)

    def found_objects(self, kind: Kind, rows: np.ndarray, severity: str = "") -> list[Finding]:
        """The finding of these objects."""
        return self.found(kind, [self.object(int(row)) for row in rows[: kind.examples]], len(rows), severity)

    def found_images(self, kind: Kind, indices: Sequence[int], severity: str = "") -> list[Finding]:
        """The finding of these images."""
        return self.found(kind, [self.image(i) for i in indices[: kind.examples]], len(indices), severity)


def found(
    kind: Kind, where: str, examples: Sequence[str], count: int | None = None, severity: str = ""
) -> list[Finding]:
    """The finding of a kind, as a list, which is empty where the count is 0.

    Args:
        count: how many there are; None where the examples are all of them.
        severity: another one than the kind's.
    """
    count = len(examples) if count is None else count
    if not count:
        return []
    text = kind.one if count == 1 else kind.many
    shown = tuple(examples[: kind.examples])
    return [Finding(kind.code, severity or kind.severity, count, text, shown, kind.remedy, where=where)]
