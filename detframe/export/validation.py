"""The images that an exported file is proved on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detframe.config import ConfigNode
from detframe.config.paths import expanded, where_there
from detframe.data import Records, check_same_names, load_records, read_catalogs
from detframe.data.catalog import records_of
from detframe.data.folder import read_folder
from detframe.errors import InvalidValueError, UserError


def validation_data(cfg: ConfigNode, class_names: Sequence[str] | None, data: str = "") -> tuple[Records | None, str]:
    """Validation images of a model, or None and the reason why there are none.

    Args:
        cfg: that of the training; its DATASETS.TEST is taken where `data` is "".
        class_names: of the model; None: it does not tell classes apart.
        data: a name of the catalog, or a path: a folder, a data.yaml, a file of annotations or an archive.

    Raises:
        FileNotFoundError, ValueError, KeyError: `data` cannot be read, or has other classes than the model.
    """
    if data:
        return _checked(_named(cfg, class_names, data), class_names), ""
    names = list(cfg.DATASETS.TEST)
    if not names:
        return None, "DATASETS.TEST of the checkpoint is empty"
    try:
        records = load_records(names, cfg.DATASETS.CATALOG, on_missing=cfg.DATALOADER.ON_ERROR)
        return _checked(records, class_names), ""
    except (UserError, OSError) as error:
        return None, f"DATASETS.TEST of the checkpoint, {', '.join(names)}, cannot be read here: {error}"


def spread(records: Records, count: int) -> Records:
    """So many images of a data set, evenly over it; all where it has no more.

    Raises:
        ValueError: not even one is asked for.
    """
    if count < 1:
        raise InvalidValueError(f"the number of validation images must be 1 or more, not {count}")
    if count >= len(records):
        return records
    return records.select(np.linspace(0, len(records) - 1, count).round().astype(np.int64))


def _named(cfg: ConfigNode, class_names: Sequence[str] | None, data: str) -> Records:
    catalog = where_there(cfg.DATASETS.CATALOG)
    if not Path(expanded(data)).exists() and (data in read_catalogs(catalog) or not _is_path(data)):
        return load_records([data], catalog, on_missing=cfg.DATALOADER.ON_ERROR)
    folder = read_folder(data, classes=class_names)
    if len(folder.recognised.parts) > 1:
        return folder.records("val")
    # one that knows no parts: all of it is for validation
    return records_of(list(folder.entries.values()), on_missing="skip")


def _is_path(data: str) -> bool:
    """Whether it is meant as one, though nothing is there."""
    return any(mark in data for mark in ("/", "\\", "."))


def _checked(records: Records, class_names: Sequence[str] | None) -> Records:
    """Raises ValueError where the data have other classes than the model."""
    if class_names is not None:
        check_same_names("class", ("the model", class_names), (records.metadata.name, records.metadata.class_names))
    return records
