"""Every config key: one tree of sections, detframe's own here and those that outside code adds."""

from __future__ import annotations

from functools import cache

from detframe.config.bounds import shown
from detframe.config.key import Key, Section, section
from detframe.config.keys.data import DATALOADER, DATASETS
from detframe.config.keys.input import INPUT
from detframe.config.keys.model import MODEL
from detframe.config.keys.run import RUN
from detframe.config.keys.solver import SOLVER
from detframe.config.keys.test import TEST
from detframe.errors import InvalidTypeError, InvalidValueError

SCHEMA = Section(
    {**RUN, "MODEL": MODEL, "INPUT": INPUT, "DATASETS": DATASETS, "DATALOADER": DATALOADER, "SOLVER": SOLVER}
    | {"TEST": TEST}
)


@cache
def all_keys() -> dict[str, Key]:
    """Every key by its dotted path, in order."""
    return dict(SCHEMA.leaves())


def add_section(path: str, added: Section) -> None:
    """Add keys of your own to every config, as a module that CUSTOM_IMPORTS names does when it is imported.

        add_section("MODEL.MY_HEAD", section(DIM=Key(64, "Channels of my head", at_least=1)))

    They are checked, dumped, carried in checkpoints and explained by `--print-config` like detframe's own. The same
    section may be added again.

    Raises:
        ValueError: there are other keys of that name, or no section to add it to.
        TypeError: it is no section.
    """
    if not isinstance(added, Section):
        raise InvalidTypeError(f"the section {path} must be made with section(...), not {shown(added)}")
    parents, _, name = path.rpartition(".")
    parent: Key | Section | None = SCHEMA
    for step in parents.split(".") if parents else ():
        parent = parent.get(step) if isinstance(parent, Section) else None
    if not isinstance(parent, Section):
        raise InvalidValueError(f"the section {path} cannot be added: the config has no section {parents}")
    fresh = section(None, **{name: added})
    if name in parent and parent[name] != fresh[name]:
        raise InvalidValueError(f"the section {path} cannot be added: the config has other keys of that name")
    parent.update(fresh)
    all_keys.cache_clear()
