"""The catalog: names of data sets, and reading the records behind them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from detframe.config.paths import expanded, shipped_folder
from detframe.config.yaml_text import Written, names, read_tree, values
from detframe.data import formats  # noqa: F401  (fills DATASET_FORMATS)
from detframe.data.cache import cache_key, cached, folder_stamp
from detframe.data.common_fields import Fields, parameters_of
from detframe.data.entries import CatalogEntry, root_of
from detframe.data.missing import absent_images, check_none_missing, with_missing
from detframe.data.packing import PackedDataset
from detframe.data.reader_code import code_stamp
from detframe.data.records import Records, join
from detframe.errors import InvalidValueError, MissingFileError, UnknownNameError, UserError
from detframe.files import read_text
from detframe.registry import DATASET_FORMATS, nearest
from detframe.storage import forget, is_remote, place_of, prepare, refuse_address, stamp, stamp_of

logger = logging.getLogger(__name__)
COMMON_FIELDS = ("format", "images", "annotations")
_TEXT = "str | None"  # as a reader's parameter is annotated whose words are names, and may be absent


def load_records(
    names: Sequence[str], catalog: str = "", keep_empty: bool = True, limit: int = 0, on_missing: str = ""
) -> Records:
    """The records of one or more data sets, joined in this order.

    Args:
        names: from the catalog.
        catalog: a catalog file of the user's own, whose entries come before the shipped ones (DATASETS.CATALOG).
        keep_empty: keep images without objects (crowds do not count as objects).
        limit: only the first so many images of each data set (DATASETS.LIMIT); 0 is all.
        on_missing: "raise" or "skip" annotated images that do not exist (DATALOADER.ON_ERROR). What is left out is
            counted in one warning, and in `missing` and `findings` of the records. "" does not look for the files, and
            raises only where a reader misses some.

    Raises:
        KeyError: a name that no catalog has, with the nearest names.
        FileNotFoundError: the catalog, an image folder, an annotation file or images do not exist; one error for all
            images. With "skip" only if none exists at all.
        ValueError: a malformed catalog or annotation file, class names that differ, or no image at all.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise InvalidValueError("no data set is named; DATASETS.TRAIN and DATASETS.TEST take names from the catalog")
    known = read_catalogs(catalog)
    entries = [find_entry(name, known, catalog) for name in names]
    records = records_of(entries, keep_empty, on_missing)
    for line in records.warnings:
        logger.warning("%s", line)
    if limit > 0:
        records = records.first_of_each(limit)
    if not len(records):
        wanted = "" if keep_empty else " with objects (DATALOADER.EMPTY is drop)"
        raise InvalidValueError(f"the data sets {', '.join(names)} have no image{wanted}")
    return records


def records_of(entries: Sequence[CatalogEntry], keep_empty: bool = True, on_missing: str = "") -> Records:
    """The records of catalog entries, joined in this order; what was found is not logged.

    Args, raises: as `load_records`.
    """
    loaded = [_load(entry, keep_empty, look=on_missing != "") for entry in entries]
    forget()  # what stores listed; the next to read asks anew
    parts = [packed for packed, _ in loaded]
    absent = np.concatenate([rows for _, rows in loaded])
    if on_missing != "skip" or absent.all():
        check_none_missing([(packed, entry.images) for packed, entry in zip(parts, entries, strict=True)])
    records = join(parts)
    kept = ~absent if keep_empty else ~absent & (records.num_objects > 0)
    return records if kept.all() else records.select(kept)


def _load(entry: CatalogEntry, keep_empty: bool, look: bool) -> tuple[PackedDataset, np.ndarray]:
    """The packed data set of an entry, and which of its images do not exist, bool (I,); none without `look`."""
    entry = entry.fetched()
    entry.check_exists()
    prepare(entry.images)
    packed = _read(entry)
    absent = absent_images(packed, entry.images) if look else np.zeros(len(packed), dtype=bool)
    if packed.missing or absent.any():  # they may be there by now, or elsewhere
        packed = _read(entry, images_stamp(entry) or folder_stamp(entry.images))
        absent = absent_images(packed, entry.images) if look else np.zeros(len(packed), dtype=bool)
    needed = absent if keep_empty else absent & (np.diff(packed.arrays["object_start"]) > 0)
    return with_missing(packed, needed, entry.images), absent


def load_entry(entry: CatalogEntry) -> PackedDataset:
    """What the catalog's entry says, from the cache or put there; its findings are not logged, its images not sought.

    Raises as `load_records` for one data set, but for missing images.
    """
    return _load(entry, keep_empty=True, look=False)[0]


def _read(entry: CatalogEntry, stamp: str = "") -> PackedDataset:
    """What an entry says, from the cache or put there; `stamp` is of what else it depends on."""
    chosen = Fields.of(entry, root_of(entry.catalog))
    if not chosen.narrows:
        return _read_whole(entry, chosen.options, stamp)
    fields = {**_key_fields(entry, entry.options, stamp), "name": entry.name}
    key = cache_key(fields, [*_sources(entry, chosen.options), *chosen.split.lists])

    def read() -> PackedDataset:
        whole = _read_whole(entry, chosen.options, stamp)
        return chosen.apply(whole, entry, lambda: _classes_elsewhere(entry))

    return cached(entry.name, key, read)


def _read_whole(entry: CatalogEntry, options: Mapping[str, Any], stamp: str) -> PackedDataset:
    """What the reader of the entry's format gives; entries that share it have it once in the cache."""
    key = cache_key(_key_fields(entry, options, stamp), _sources(entry, options))
    packed = cached(entry.annotations.stem, key, lambda: _called(entry, options))
    return packed.renamed(entry.name)


def read_anew(entry: CatalogEntry) -> PackedDataset:
    """What the reader of the entry's format gives, without the cache, and before `split` or `classes` narrow it."""
    return _called(entry, Fields.of(entry, root_of(entry.catalog)).options)


def _called(entry: CatalogEntry, options: Mapping[str, Any]) -> PackedDataset:
    packed: PackedDataset = DATASET_FORMATS.get(entry.format)(replace(entry, options=options), **options)
    return packed


def _key_fields(entry: CatalogEntry, options: Mapping[str, Any], stamp: str) -> dict[str, Any]:
    reader = DATASET_FORMATS.get(entry.format)
    return {
        "images": entry.images,
        "files": stamp_of(entry.images) or (images_stamp(entry) if entry.annotations.is_dir() else ""),
        "annotations": entry.annotations,
        "catalog": entry.catalog.parent if options else "",
        "format": (entry.format, getattr(reader, "__module__", ""), getattr(reader, "__qualname__", "")),
        "code": code_stamp(reader),
        "options": options,
        "stamp": stamp,
    }


def images_stamp(entry: CatalogEntry) -> str:
    """A word that changes with the images of an entry which lie on another machine; "" of those here."""
    return stamp(entry.images) if is_remote(entry.images) else ""


def _sources(entry: CatalogEntry, options: Mapping[str, Any]) -> list[Path]:
    """The files and folders that the reader of the entry's format looks at."""
    own = replace(entry, options=options)
    more = getattr(DATASET_FORMATS.get(entry.format), "sources", None)
    return [*own.source_files(), *(more(own) if more is not None else ())]


def _classes_elsewhere(entry: CatalogEntry) -> set[str] | None:
    """The classes of the entries beside this one that have the same field `classes`; None where there is no catalog."""
    try:
        entries = {name: _entry(name, fields, entry.catalog) for name, fields in _read_yaml(entry.catalog).items()}
    except (UserError, OSError):  # the entry was made by a program, from a path that is no catalog
        return None
    if entry.name not in entries:
        return None
    known: set[str] = set()
    for other in entries.values():
        if other.name == entry.name or other.options.get("classes") != entry.options["classes"]:
            continue
        try:
            other = other.fetched()
            other.check_exists()
            known.update(_read_whole(other, Fields.of(other, root_of(entry.catalog)).options, "").metadata.class_names)
        except (UserError, OSError):  # nobody asked for it: its faults are told when somebody does
            continue
    return known


def find_entry(name: str, entries: Mapping[str, CatalogEntry], catalog: str = "") -> CatalogEntry:
    """The entry called `name`. Raises KeyError that names the nearest ones and the catalogs read."""
    if name in entries:
        return entries[name]
    read = ", ".join(str(path) for path in _catalog_files(catalog))
    raise UnknownNameError(
        f"no data set is called {name!r}; {nearest(name, list(entries))} Catalogs read: {read}; "
        "an entry of your own goes into a YAML file that DATASETS.CATALOG names (docs/own_data.md)"
    )


def read_catalogs(catalog: str = "") -> dict[str, CatalogEntry]:
    """Every entry of the shipped catalog and of the user's own, which wins where both have a name.

    Raises:
        FileNotFoundError: the user's catalog does not exist.
        ValueError: malformed YAML, or a field that the format does not have.
    """
    entries: dict[str, CatalogEntry] = {}
    for path in reversed(_catalog_files(catalog)):
        for name, fields in _read_yaml(path).items():
            entries[name] = _entry(name, fields, path)
    return entries


def _catalog_files(catalog: str) -> list[Path]:
    shipped = shipped_folder("datasets") / "catalog.yaml"
    if not catalog:
        return [shipped]
    own = expanded(catalog).absolute()
    if not own.is_file():
        refuse_address(catalog, "download it, and name the copy in DATASETS.CATALOG")
        raise MissingFileError(f"DATASETS.CATALOG names {own}, which does not exist")
    return [own, shipped]


def _read_yaml(path: Path) -> dict[str, Any]:
    """The entries, with `Written` for each word that is read as anything but text."""
    tree = read_tree(read_text(path, "the catalog"), f"the catalog {path}")
    if not isinstance(tree, dict):
        raise InvalidValueError(f"the catalog {path} must map names to entries, not be {type(values(tree)).__name__}")
    return tree


def _entry(name: str, fields: Any, path: Path) -> CatalogEntry:
    where = f"entry {name!r} of {path}"
    if not isinstance(fields, dict):
        raise InvalidValueError(f"{where} must have fields ({', '.join(COMMON_FIELDS)}), not be {fields!r}")
    absent = [key for key in COMMON_FIELDS if key not in fields]
    if absent:
        raise InvalidValueError(f"{where} lacks {' and '.join(absent)}; it has {', '.join(map(str, fields))}")
    name_of_format, *paths = (_text(fields[key], f"{key} of {where}") for key in COMMON_FIELDS)
    options = {key: value for key, value in fields.items() if key not in COMMON_FIELDS}
    # The format of an entry that nobody asks for may be a module that is not imported in this run.
    if name_of_format in DATASET_FORMATS:
        known = {"classes": _TEXT, **parameters_of(name_of_format), "split": _TEXT, "others": _TEXT}
        for key in options:
            if key not in known:
                hint = nearest(key, [*known, *COMMON_FIELDS])
                raise InvalidValueError(f"{where} has an unknown field {key!r} (format {name_of_format}); {hint}")
        options = {key: _option(value, known[key]) for key, value in options.items()}
    root = root_of(path)
    images, annotations = (place_of(name) if is_remote(name) else root / expanded(name) for name in paths)
    return CatalogEntry(name, name_of_format, images, annotations, values(options), path)


def _text(value: Any, what: str) -> str:
    """A name or a path as it was written. Raises ValueError where there is none."""
    found = names(value)
    if not isinstance(found, str) or not found.strip() or "\0" in found:
        raise InvalidValueError(f"{what} must be a name or a path, not {value!r}")
    return found


def _option(value: Any, annotation: str) -> Any:
    """A field of a format: a text where its reader takes texts, so that a class may be called 007 or no."""
    absent = isinstance(value, Written) and value.value is None and "None" in annotation
    return names(value) if "str" in annotation and not absent else values(value)
