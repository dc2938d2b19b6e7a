"""Every config key: one tree of sections, detframe's own here and those that outside code adds."""

from __future__ import annotations

from functools import cache

from detframe.config.key import Key, Section
from detframe.config.keys.data import DATALOADER, DATASETS
from detframe.config.keys.input import INPUT
from detframe.config.keys.model import MODEL
from detframe.config.keys.run import RUN
from detframe.config.keys.solver import SOLVER
from detframe.config.keys.test import TEST

SCHEMA = Section(
    {**RUN, "MODEL": MODEL, "INPUT": INPUT, "DATASETS": DATASETS, "DATALOADER": DATALOADER, "SOLVER": SOLVER}
    | {"TEST": TEST}
)


@cache
def all_keys() -> dict[str, Key]:
    """Every key by its dotted path, in order."""
    return dict(SCHEMA.leaves())
