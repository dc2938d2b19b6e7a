"""Readers of annotation files: members of DATASET_FORMATS.

A reader is a function `(entry: CatalogEntry, *, field=default, ...) -> PackedDataset`; its keyword arguments are the
fields that an entry of this format may have besides `format`, `images` and `annotations`. `RecordBuilder` packs.
"""

from detframe.data.formats.coco import read_coco
from detframe.data.formats.csv_format import read_csv
from detframe.data.formats.cvat import read_cvat
from detframe.data.formats.label_studio import read_label_studio
from detframe.data.formats.labelme import read_labelme
from detframe.data.formats.tt100k import read_tt100k
from detframe.data.formats.via import read_via
from detframe.data.formats.voc import read_voc
from detframe.data.formats.yolo import read_yolo

__all__ = [
    "read_coco",
    "read_csv",
    "read_cvat",
    "read_label_studio",
    "read_labelme",
    "read_tt100k",
    "read_via",
    "read_voc",
    "read_yolo",
]
