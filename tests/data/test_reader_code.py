"""The record cache follows the code of the reader, and can be switched off."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detframe import registry
from detframe.compat.download import cache_folder as weights_folder
from detframe.config import import_custom_modules
from detframe.data import load_records
from detframe.data.cache import cache_folder
from detframe.data.formats import read_coco, read_voc
from detframe.data.reader_code import code_stamp
from tests.data.sets import annotation, write_catalog, write_coco

READER = """
from detframe.data import Metadata, RecordBuilder
from detframe.registry import DATASET_FORMATS
{more}

@DATASET_FORMATS.register("mine")
def read_mine(entry):
    builder = RecordBuilder(Metadata(entry.name, ("a",), (1,)))
    builder.add_image(entry.images / "1.png", 1, (40, 60))
    builder.add_object({box}, 1)
    return builder.build()
"""


@pytest.fixture(autouse=True)
def _formats(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry.DATASET_FORMATS, "_members", dict(registry.DATASET_FORMATS))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Write a reader and what it imports, import it as a new process would, and give the box that it reads."""
    write_coco(tmp_path, [])
    entry = {"format": "mine", "images": "images", "annotations": "data.json"}
    catalog = str(write_catalog(tmp_path, {"x": entry}))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def read(box: str, more: str = "", **files: str) -> list[float]:
        for name, text in {"my_reader": READER.format(box=box, more=more), **files}.items():
            path = tmp_path / f"{name}.py"
            path.write_text(text)
            os.utime(path, (1, 1))  # the content counts, not the time
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        registry.DATASET_FORMATS._members.pop("mine", None)
        importlib.import_module("my_reader")
        box_read: list[float] = load_records(["x"], catalog)[0]["boxes"][0].tolist()
        return box_read

    return read


def folders() -> int:
    return sum(path.is_dir() for path in cache_folder().iterdir())


def test_an_edited_reader_gives_no_old_records(load: Callable[..., list[float]]) -> None:
    assert load("(1, 1, 5, 5)") == [1, 1, 5, 5]
    assert load("(1, 1, 5, 5)") == [1, 1, 5, 5]
    assert folders() == 1
    assert load("(2, 1, 5, 5)") == [2, 1, 5, 5]
    assert folders() == 2


def test_nor_does_one_whose_helpers_were_edited(load: Callable[..., list[float]]) -> None:
    more = "import my_boxes"
    helper = "from my_numbers import X\ndef box(): return (X, 1, 5, 5)\n"
    assert load("my_boxes.box()", more, my_numbers="X = 1", my_boxes=helper) == [1, 1, 5, 5]
    assert load("my_boxes.box()", more, my_numbers="X = 1", my_boxes=helper.replace("5, 5", "6, 6")) == [1, 1, 6, 6]


def test_functions_of_helpers_count_with_the_modules_behind_them(load: Callable[..., list[float]]) -> None:
    more, helper = "from my_boxes import box", "import my_numbers\ndef box(): return (my_numbers.X, 1, 5, 5)\n"
    assert load("box()", more, my_numbers="X = 1", my_boxes=helper) == [1, 1, 5, 5]
    assert load("box()", more, my_numbers="X = 3", my_boxes=helper) == [3, 1, 5, 5]


def test_modules_that_a_config_imports_by_path_count_too(tmp_path: Path) -> None:
    stamps = []
    for box in ("(1, 1, 5, 5)", "(2, 1, 5, 5)"):
        path = tmp_path / box[1] / "reader.py"
        path.parent.mkdir()
        path.write_text(READER.format(box=box, more=""))
        registry.DATASET_FORMATS._members.pop("mine", None)
        import_custom_modules([str(path)])
        stamps.append(code_stamp(registry.DATASET_FORMATS.get("mine")))
    assert stamps[0] != stamps[1]


def test_readers_without_a_file_count_by_what_they_were_compiled_to() -> None:
    def typed(text: str) -> Any:
        space: dict[str, Any] = {"__name__": "nowhere"}
        exec(compile(f"def read(entry): return {text}", "<stdin>", "exec"), space)
        return space["read"]

    assert code_stamp(typed("1")) == code_stamp(typed("1")) != code_stamp(typed("2"))
    assert code_stamp(functools.partial(typed("1"), 5)) != code_stamp(functools.partial(typed("1"), 6))


def test_the_shipped_readers_go_by_the_code_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from detframe.data import reader_code

    assert code_stamp(read_coco) == code_stamp(read_coco) == code_stamp(read_voc)
    before = code_stamp(read_coco)
    monkeypatch.setattr(reader_code, "_own_code", lambda: b"another version")
    assert code_stamp(read_coco) != before


@pytest.mark.parametrize("word", ["off", "OFF", " off "])
def test_the_cache_can_be_switched_off(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETFRAME_CACHE", word)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    catalog = str(write_coco(tmp_path, [annotation(1, 1, [1, 1, 9, 9])]))
    before = set(tmp_path.rglob("*"))
    records = load_records(["mine"], catalog)
    assert records._parts[0].folder is None
    assert records[0]["boxes"].tolist() == [[1, 1, 10, 10]]
    assert set(tmp_path.rglob("*")) == before
    assert cache_folder() == tmp_path / "home" / ".cache" / "detframe" / "records"  # archives have to lie somewhere
    assert word.strip() not in weights_folder().parts
