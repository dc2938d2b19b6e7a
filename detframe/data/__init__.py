"""From annotation files to batches: catalog, formats, records, transforms, samplers, loaders."""

from detframe.data.catalog import CatalogEntry, load_records, read_catalogs
from detframe.data.images import ImageReadError, load_image
from detframe.data.metadata import Metadata, resolve_num_classes
from detframe.data.packing import PackedDataset, RecordBuilder
from detframe.data.records import Record, Records, join

__all__ = [
    "CatalogEntry",
    "ImageReadError",
    "Metadata",
    "PackedDataset",
    "Record",
    "RecordBuilder",
    "Records",
    "join",
    "load_image",
    "load_records",
    "read_catalogs",
    "resolve_num_classes",
]
