"""The page "adding a format" is run as it stands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detframe.cli import check
from detframe.config import import_custom_modules
from detframe.config.reading import read_config
from detframe.data import load_records
from detframe.data.folder import read_folder
from detframe.errors import InvalidValueError
from detframe.registry import DATASET_FORMATS
from tests.docs.blocks import BLOCK

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_format.md"
HEADER = "image species x y width height"


@pytest.fixture
def birds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of the page and a data set beside them, as working folder."""
    for name, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "birds").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(tmp_path / "birds" / name)
    train = [HEADER, "a.jpg heron 10 10 20 30", "a.jpg gull 5 5 4 4", "b.jpg gull 1 2 30 40", "gone.jpg gull 1 2 3 4"]
    (tmp_path / "birds" / "train.birds").write_text("\n".join(train) + "\n")
    (tmp_path / "birds" / "val.birds").write_text(f"{HEADER}\nc.jpg gull 0 0 9 9\nc.jpg heron 20 20 9 9\n")
    monkeypatch.setattr(DATASET_FORMATS, "_members", dict(iter(DATASET_FORMATS)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DETFRAME_DATASETS", raising=False)
    return tmp_path


def test_the_format_is_recognised_and_read(birds: Path, run_python):
    done = run_python("look.py", cwd=birds, DETFRAME_CACHE=str(birds / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"2 .birds files that begin with '{HEADER}'",
        "{'train': 2, 'val': 1} ('gull', 'heron')",
    ]


def test_the_format_is_read_through_custom_imports_and_a_catalog(birds: Path):
    cfg = read_config("my_config.yaml", custom_imports=True)
    records = load_records(cfg.DATASETS.TRAIN, cfg.DATASETS.CATALOG, on_missing="skip")
    assert [(Path(r["file_name"]).name, r["boxes"].tolist()) for r in records] == [
        ("a.jpg", [[10, 10, 30, 40]]),  # the other bird is smaller than 8 pixels
        ("b.jpg", [[1, 2, 31, 42]]),
    ]
    assert records.metadata.class_names == ("gull", "heron")


def test_check_finds_the_format_through_custom_imports(birds: Path, capsys: pytest.CaptureFixture[str]):
    """With the command of the page."""
    command = next(line for line in PAGE.read_text().splitlines() if line.startswith("detframe check"))
    _, name, *words = shlex.split(command)
    assert name == "check" and check.main([*words, "--quick", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "bird_tables" in json.dumps(found)


def test_what_the_format_looks_for_and_what_is_wrong_is_said(birds: Path):
    import_custom_modules(["bird_tables.py"])
    (birds / "birds" / "val.birds").write_text(f"{HEADER}\nc.jpg gull 0 0 9\n")
    with pytest.raises(
        InvalidValueError, match=r"val\.birds: line 2 must be image species .*, not 'c\.jpg gull 0 0 9'"
    ):
        read_folder("birds")
    for table in (birds / "birds").glob("*.birds"):
        table.write_text("nothing")
    with pytest.raises(InvalidValueError, match=f"bird_tables: a .birds file whose first line is '{HEADER}'"):
        read_folder("birds")
