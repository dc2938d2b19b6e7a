"""Projects of VIA: every place of one with every kind of value, and the file's bytes; and tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from detframe.data import CatalogEntry
from tests.data.sets import pixels
from tests.malformed.contract import Case, check_apart
from tests.malformed.mutations import Path_, byte_changes, lines_changed, text_changes
from tests.malformed.records import Meant, facts, json_cases, judge_records, name, number, read_entry

POLYGON = {"name": "polygon", "all_points_x": [5, 20, 20], "all_points_y": [6, 6, 21]}
TREE: dict[str, Any] = {
    "_via_settings": {"core": {"buffer_size": 18}},
    "_via_img_metadata": {
        "a.png1": {
            "filename": "a.png",
            "size": 1,
            "regions": [
                {"shape_attributes": POLYGON, "region_attributes": {"kind": "cat", "pose": {"left": True}}},
                {
                    "shape_attributes": {"name": "rect", "x": 30, "y": 5, "width": 9, "height": 12},
                    "region_attributes": {"kind": "dog"},
                },
                {
                    "shape_attributes": {"name": "ellipse", "cx": 30, "cy": 20, "rx": 9, "ry": 4, "theta": 0.5},
                    "region_attributes": {"kind": "dog"},
                },
            ],
            "file_attributes": {},
        },
    },
    "_via_attributes": {"region": {"kind": {"type": "dropdown", "options": {"cat": "", "dog": "Dog"}}}, "file": {}},
}
IMAGE = "_via_img_metadata.a.png1"
LARGE_AT: tuple[Path_, ...] = (
    (),
    ("_via_img_metadata", "a.png1", "filename"),
    ("_via_img_metadata", "a.png1", "regions"),
    ("_via_img_metadata", "a.png1", "regions", 0, "shape_attributes", "all_points_x"),
    ("_via_attributes", "region", "kind", "options"),
)
MEANT: Meant = {
    "": lambda v: v in ([], {}),
    "_via_img_metadata": lambda v: v in ([], {}),
    f"{IMAGE}.filename": name,
    f"{IMAGE}.regions": lambda v: v in ([], {}),
    f"{IMAGE}.regions[] twice": lambda v: True,
    f"{IMAGE}.regions[].region_attributes": lambda v: isinstance(v, dict) or v is None,
    f"{IMAGE}.regions[].region_attributes.kind": lambda v: True,  # the most frequent attribute is another then
    f"{IMAGE}.regions[].region_attributes.pose": lambda v: True,
    f"{IMAGE}.regions[].region_attributes.pose.left": lambda v: True,
    **{f"{IMAGE}.regions[].shape_attributes.{key}": number for key in ("x", "y", "width", "height")},
    **{f"{IMAGE}.regions[].shape_attributes.{key}": number for key in ("cx", "cy", "rx", "ry", "theta")},
    **{f"{IMAGE}.regions[].shape_attributes.all_points_{axis}[]": number for axis in "xy"},
    "_via_attributes": lambda v: True,
    "_via_attributes.region": lambda v: True,
    "_via_attributes.region.kind": lambda v: True,
    "_via_attributes.region.kind.options": lambda v: True,
    "_via_attributes.region.kind.options.cat": lambda v: True,
    "_via_attributes.region.kind.options.dog": lambda v: True,
}
TABLE = """filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes
a.png,1,"{}",2,0,"{""name"":""rect"",""x"":1,""y"":2,""width"":9,""height"":5}","{""kind"":""cat""}"
a.png,1,"{}",2,1,"{""name"":""circle"",""cx"":20,""cy"":20,""r"":5}","{""kind"":""dog""}"
"""


def cases(folder: Path) -> Iterator[Case]:
    path = folder / "via.json"
    cv2.imwrite(str(folder / "a.png"), pixels(40, 60))
    entry = CatalogEntry("mine", "via", folder, path, {}, folder / "catalog.yaml")
    optional = (
        *("_via_settings", "_via_attributes", "_via_img_metadata", "a.png1", "size", "file_attributes", "theta"),
        *("kind", "pose", "left", "region", "file", "type", "options", "cat", "dog", "region_attributes", "core"),
    )
    words = ("image", "region", "_via", "line ", "malformed JSON", "attribute")
    yield from json_cases(entry, TREE, MEANT, optional, LARGE_AT, ("via.json", "a.png"), words)
    table = CatalogEntry("mine", "via", folder, folder / "via.csv", {}, folder / "catalog.yaml")
    table.annotations.write_text(TABLE)
    usual = facts(read_entry(table)[0])

    def read(content: bytes) -> str:
        table.annotations.write_bytes(content)
        return judge_records(table, usual, True)

    for what, content in [*byte_changes(TABLE.encode()), *text_changes(TABLE), *lines_changed(TABLE)]:
        yield Case(f"table {what}", lambda c=content: read(c), ("via.csv",))


def test_every_case_is_read_repaired_or_refused(tmp_path: Path):
    check_apart("via", tmp_path, at_least=900)
