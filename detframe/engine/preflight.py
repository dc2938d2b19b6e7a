"""What can be said of a config before any data is read or any model built: that all names in it lead somewhere."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from detframe import registry
from detframe.config import ConfigNode, check
from detframe.errors import InvalidValueError

# What fills the registries with detframe's own members
_MEMBERS = ("detframe.modeling", "detframe.data.formats", "detframe.evaluation", "detframe.solver")


def check_names(cfg: ConfigNode) -> None:
    """Every name that a key chooses from a registry must be there; CUSTOM_IMPORTS are imported by now.

    Raises:
        KeyError: all names that are not, each with the nearest ones and where it was set.
        ValueError: the device is one on which nothing can be computed.
    """
    for module in _MEMBERS:
        importlib.import_module(module)
    if cfg.MODEL.DEVICE.startswith("meta"):
        raise InvalidValueError("MODEL.DEVICE meta holds shapes and no numbers: models are built on it, and never run")
    check.check_names(cfg)


def check_data_sets(cfg: ConfigNode, names: Sequence[str]) -> None:
    """Every data set must be in the catalog, its format known, and its files there.

    Raises:
        KeyError, FileNotFoundError, ValueError: one is not; see `detframe.data.catalog`.
    """
    from detframe.data.catalog import find_entry, read_catalogs

    entries = read_catalogs(cfg.DATASETS.CATALOG) if names else {}
    for name in dict.fromkeys(names):
        entry = find_entry(name, entries, cfg.DATASETS.CATALOG)
        registry.DATASET_FORMATS.get(entry.format)
        entry.check_exists()
