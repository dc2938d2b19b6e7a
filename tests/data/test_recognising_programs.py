"""The recognisers of labelme, VIA, Label Studio and CVAT on files of any kind, and on very large ones."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.data.format_sets import recognised
from tests.data.test_cvat import box, image, xml
from tests.data.test_label_studio import CAT, task
from tests.data.test_labelme import shape, write_labelme
from tests.data.test_via import TWO, via, write_json
from tests.malformed.mutations import byte_changes, text_changes

FORMATS = ("labelme", "via", "label_studio", "cvat")


@pytest.fixture
def sound(tmp_path: Path) -> dict[str, Path]:
    """A file of each format in a folder of its own."""
    annotations = tmp_path / "cvat" / "a.xml"
    annotations.parent.mkdir()
    annotations.write_text(xml(image("a.png", box("cat", 1, 2, 5, 8), more='subset="Train"')))
    return {
        "labelme": write_labelme(tmp_path / "labelme/a.json", [shape("cat", [[1, 2], [5, 8]], "rectangle")]),
        "via": write_json(tmp_path / "via/a.json", via(TWO)),
        "label_studio": write_json(tmp_path / "label_studio/a.json", [task(1, "a.png", [CAT])]),
        "cvat": annotations,
    }


def test_each_file_is_of_one_format(sound: dict[str, Path]) -> None:
    for name, path in sound.items():
        for place in (path, path.parent):
            assert [found for found in FORMATS if recognised(found, place)] == [name]


def test_damaged_files_are_recognised_or_not(sound: dict[str, Path]) -> None:
    for name, path in sound.items():
        data = path.read_bytes()
        for _, content in [*byte_changes(data), *text_changes(data.decode())]:
            path.write_bytes(content)
            for found in FORMATS:
                assert recognised(found, path.parent) is None or found == name


def test_things_that_are_no_files(tmp_path: Path) -> None:
    for suffix in ("json", "xml", "csv"):
        (tmp_path / f"folder.{suffix}").mkdir()
        (tmp_path / f"link.{suffix}").symlink_to(tmp_path / "nowhere")
        (tmp_path / f"empty.{suffix}").touch()
    assert not any(recognised(name, tmp_path) for name in FORMATS)


@pytest.mark.parametrize("start", ['{"images": [', '[{"image_id": 1,', '{"a": {', "<annotations><page/>"])
def test_very_large_files_of_others_are_not_read(tmp_path: Path, start: str) -> None:
    path = tmp_path / ("a.json" if start[0] != "<" else "a.xml")
    path.write_text(start)
    with path.open("r+b") as file:
        file.truncate(2**33)  # of nothing, which takes no space
    begun = time.process_time()
    assert not any(recognised(name, tmp_path) for name in FORMATS)
    assert time.process_time() - begun < 1
