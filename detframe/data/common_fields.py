"""The fields that a catalog entry of every format may have: `split`, `classes` and `others`.

They are applied to what the reader of a format has packed, so that a reader need not know of them. One that has a
parameter of the same name gets what is meant for it: `split` where it is neither a share nor a list, and `classes`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detframe.data.class_field import ClassField, class_field
from detframe.data.entries import CatalogEntry
from detframe.data.packing import PackedDataset
from detframe.data.split_field import SplitField, split_field
from detframe.errors import InvalidValueError
from detframe.registry import DATASET_FORMATS

NARROWING = ("split", "classes", "others")


def parameters_of(format_name: str) -> dict[str, str]:
    """The fields that the reader of a format has itself, and their annotations."""
    parameters = inspect.signature(DATASET_FORMATS.get(format_name)).parameters
    return {name: str(parameter.annotation) for name, parameter in list(parameters.items())[1:]}


@dataclass(frozen=True)
class Fields:
    """The fields of an entry.

    Attributes:
        options: what the format's own reader gets.
        split, classes: what is applied to its data set, in this order.
    """

    options: Mapping[str, Any]
    split: SplitField
    classes: ClassField | None

    @classmethod
    def of(cls, entry: CatalogEntry, root: Path) -> Fields:
        """The fields of an entry; relative paths start at `root`.

        Raises:
            ValueError, FileNotFoundError: as `split_field` and `class_field`.
        """
        own = parameters_of(entry.format)
        options = {key: value for key, value in entry.options.items() if key in own or key not in NARROWING}
        split = split_field(entry.options.get("split"), entry, root, "split" in own)
        if "split" in options:
            options["split"] = split.own
            if not split.own:
                del options["split"]
        classes, others = entry.options.get("classes"), entry.options.get("others")
        if "classes" in own and not isinstance(classes, Mapping):
            classes = None
        chosen = class_field(classes, others, entry.name)
        if "classes" in own:
            _check_others(entry, others)
            if chosen is not None:
                options["classes"] = list(chosen.new_names)
        return cls(options, split, chosen)

    @property
    def narrows(self) -> bool:
        """Whether anything is to be done."""
        return bool(self.split.cuts) or self.classes is not None

    def apply(
        self, packed: PackedDataset, entry: CatalogEntry, known_elsewhere: Callable[[], Collection[str] | None]
    ) -> PackedDataset:
        """The data set with what the fields leave of it; `known_elsewhere` as of `ClassField.apply`."""
        packed = self.split.apply(packed, entry)
        return packed if self.classes is None else self.classes.apply(packed, known_elsewhere)


def _check_others(entry: CatalogEntry, others: Any) -> None:
    if others == "ignore":
        raise InvalidValueError(
            f"data set {entry.name!r}: others: ignore is not for the format {entry.format}, which leaves out the "
            f"objects of other classes itself"
        )
