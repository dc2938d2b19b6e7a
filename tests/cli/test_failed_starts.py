"""A command that fails before its work is done leaves nothing behind, and finds a wrong output before the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.cli import analyze, compare, export_weights, report, shard_data
from detframe.cli.main import main
from tests.data.test_elsewhere import catalog_of, make_set

SHAPES = "quick/faster_rcnn_R_18_FPN_shapes.yaml"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty, with a data set `coco` beside it in `catalog.yaml` of the folder `data`."""
    make_set(tmp_path / "data/set")
    catalog = catalog_of(tmp_path / "data", str(tmp_path / "data/set/images"), str(tmp_path / "data/set"))
    Path(catalog).rename(tmp_path / "data/catalog.yaml")
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    return folder


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("command", ["shard-data", "shrink-data"])
def test_a_wrong_name_after_a_right_one(command: str, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [command, "--catalog", "../data/catalog.yaml", "--output", "a/b", "--datasets", "coco", "nonsense"]
    assert main(words) == 2
    assert "no data set is called 'nonsense'" in capsys.readouterr().err
    assert left(work) == []


def test_shards_that_cannot_be_finished_are_taken_away(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--catalog", "../data/catalog.yaml", "--output", "shards", "--datasets", "coco"]
    image = work.parent / "data/set/images/a/4.png"  # the last one
    whole = image.read_bytes()
    image.unlink()
    image.mkdir()
    assert shard_data.main(words) == 2
    assert "4.png" in capsys.readouterr().err
    assert left(work) == []
    image.rmdir()
    image.write_bytes(whole)
    assert shard_data.main(words) == 0  # into the same folder
    assert left(work) == ["shards", "shards/00000.tar", "shards/index.jsonl"]


def test_pages_of_runs_that_are_not_there(work: Path) -> None:
    assert report.main(["nothing", "--output", "a/b/page.html"]) == 2
    assert compare.main(["nothing", "nothing2", "--output", "a/b/page.html"]) == 2
    assert export_weights.main(["--weights", "nothing.pth", "--to", "detectron2", "--output", "a/b.pth"]) == 2
    assert left(work) == []


def test_a_study_whose_store_is_wrong(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna", reason="Optuna (the extra tune) is not installed")
    (work / "space.yaml").write_text("SOLVER.BASE_LR: {low: 0.1, high: 1}\n")
    data = ["DATASETS.CATALOG", "../data/catalog.yaml", "DATASETS.TRAIN", "coco", "DATASETS.TEST", "coco"]
    words = ["tune", "--config-file", SHAPES, "--space", "space.yaml", "--storage", "nonsense", *data]
    for folder in ("study", "a/b/study"):
        assert main([*words, "OUTPUT_DIR", folder]) == 2
        assert "the store 'nonsense' is not an address" in capsys.readouterr().err
        assert left(work) == ["space.yaml"]
    (work / "a").mkdir()
    assert main([*words, "OUTPUT_DIR", "a/b/study"]) == 2
    assert left(work) == ["a", "space.yaml"]  # which was there before


@pytest.mark.parametrize(
    "words", ["analyze --json", "benchmark --what ops --json", "export-weights --weights x --to detectron2 --output"]
)
def test_a_file_that_cannot_be_written_is_found_first(
    words: str, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "file").write_text("")
    assert main([*words.split(), "file/out.json"]) == 2
    assert "file cannot be a folder: " in capsys.readouterr().err
    (work / "folder").mkdir()
    assert main([*words.split(), "folder"]) == 2
    assert "folder is a folder; name a file" in capsys.readouterr().err


def test_the_folder_of_a_file_is_made(work: Path) -> None:
    assert analyze.main(["--config-file", SHAPES, "--size", "64", "64", "--runs", "1", "--json", "a/b/rows.json"]) == 0
    assert left(work) == ["a", "a/b", "a/b/rows.json"]
