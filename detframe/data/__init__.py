"""From annotation files to batches: catalog, formats, records, transforms, samplers, loaders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from detframe.arrays.resize import resize_shape
from detframe.lazy import lazily

if TYPE_CHECKING:
    from detframe.data.bucketing import build_sampler
    from detframe.data.catalog import load_records, read_catalogs
    from detframe.data.entries import CatalogEntry
    from detframe.data.images import IMAGE_FAULTS, ImageReadError, from_pillow, load_image
    from detframe.data.loader import TestLoader, TrainLoader, build_test_loader, build_train_loader
    from detframe.data.metadata import Metadata, check_same_names, resolve_num_classes, resolve_num_keypoints
    from detframe.data.missing import MissingImagesError
    from detframe.data.packing import PackedDataset, RecordBuilder
    from detframe.data.records import Record, Records, join
    from detframe.data.repeats import image_repeats, images_per_epoch, repeat_factors
    from detframe.data.tiles import TiledRecords, tiled
else:
    __getattr__ = lazily(
        __name__,
        {
            "catalog": "load_records read_catalogs",
            "entries": "CatalogEntry",
            "bucketing": "build_sampler",
            "images": "IMAGE_FAULTS ImageReadError from_pillow load_image",
            "loader": "TestLoader TrainLoader build_test_loader build_train_loader",
            "metadata": "Metadata check_same_names resolve_num_classes resolve_num_keypoints",
            "missing": "MissingImagesError",
            "packing": "PackedDataset RecordBuilder",
            "records": "Record Records join",
            "repeats": "image_repeats images_per_epoch repeat_factors",
            "tiles": "TiledRecords tiled",
        },
    )

__all__ = [
    "IMAGE_FAULTS",
    "CatalogEntry",
    "ImageReadError",
    "Metadata",
    "MissingImagesError",
    "PackedDataset",
    "Record",
    "RecordBuilder",
    "Records",
    "TestLoader",
    "TiledRecords",
    "TrainLoader",
    "build_sampler",
    "build_test_loader",
    "build_train_loader",
    "check_same_names",
    "from_pillow",
    "image_repeats",
    "images_per_epoch",
    "join",
    "load_image",
    "load_records",
    "read_catalogs",
    "repeat_factors",
    "resize_shape",
    "resolve_num_classes",
    "resolve_num_keypoints",
    "tiled",
]
