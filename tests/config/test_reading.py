"""read_config: the effective config of a file and overrides; and the entries that take a file in place of a config."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from detframe import evaluate, train
from detframe.config import as_config, get_cfg, read_config
from detframe.errors import InvalidValueError, MissingFileError, UnknownNameError


def test_a_file_and_overrides_make_a_frozen_config(tmp_path: Path):
    (tmp_path / "x.yaml").write_text("SOLVER:\n  BASE_LR: 0.5\n  MAX_ITER: 7\n", encoding="utf-8")
    cfg = read_config(tmp_path / "x.yaml", ["SOLVER.MAX_ITER", 8])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.is_frozen()) == (0.5, 8, True)
    assert cfg.source("SOLVER.BASE_LR") == f"{tmp_path / 'x.yaml'}:2"
    assert read_config() == get_cfg()


def test_a_config_stays_itself_and_a_name_is_read():
    cfg = get_cfg()
    assert as_config(cfg) is cfg
    assert as_config("quick/fcos_R_18_FPN_bccd.yaml").DATASETS.TRAIN == ("bccd_trainval",)
    for other in (None, {"SOLVER": {}}, 3):
        with pytest.raises(
            TypeError, match=r"a config is what get_cfg\(\) or read_config\(\) give, or the path of a YAML"
        ):
            as_config(other)


def test_modules_beside_the_file_are_imported(tmp_path: Path):
    (tmp_path / "mine_of_reading.py").write_text("", encoding="utf-8")
    (tmp_path / "x.yaml").write_text("CUSTOM_IMPORTS: [mine_of_reading.py]\n", encoding="utf-8")
    cfg = read_config(tmp_path / "x.yaml")
    assert cfg.CUSTOM_IMPORTS == (str((tmp_path / "mine_of_reading.py").resolve()),)
    assert any("mine_of_reading" in name for name in sys.modules)


def test_a_catalog_is_taken_from_the_working_folder_else_from_beside_the_file(tmp_path: Path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "x.yaml").write_text("DATASETS: {CATALOG: mine.yaml}\n", encoding="utf-8")
    assert read_config(tmp_path / "x.yaml").DATASETS.CATALOG == "mine.yaml"  # the reader of catalogs refuses it
    (tmp_path / "mine.yaml").write_text("{}\n", encoding="utf-8")
    assert read_config("../x.yaml").DATASETS.CATALOG == str((tmp_path / "mine.yaml").resolve())
    (tmp_path / "here" / "mine.yaml").write_text("{}\n", encoding="utf-8")
    assert read_config("../x.yaml").DATASETS.CATALOG == "mine.yaml"
    assert read_config(tmp_path / "x.yaml", ["DATASETS.CATALOG", ""]).DATASETS.CATALOG == ""


@pytest.mark.parametrize("program", [train, evaluate])
def test_training_and_evaluation_take_the_name_of_a_file(program, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text("DATASETS:\n  TRAIN: [bccd_trianval]\n  TEST: [bccd_trianval]\n", encoding="utf-8")
    with pytest.raises((UnknownNameError, InvalidValueError), match=r"bccd_trianval|MODEL\.WEIGHTS is empty"):
        program("x.yaml")
    with pytest.raises(MissingFileError, match=r"config file y\.yaml does not exist"):
        program("y.yaml")
    with pytest.raises(MissingFileError, match=r"z\.yaml"):
        program(Path("z.yaml"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]
