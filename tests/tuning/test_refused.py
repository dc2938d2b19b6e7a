"""What a study refuses: another study's folder or store, what it cannot do without; and what it warns of."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import detframe
from detframe.errors import MissingModuleError, UserError
from detframe.tuning import running, tune
from detframe.tuning.place import StudyPlace, open_place
from detframe.tuning.space import read_space
from tests.tuning.pretended import SPACE, Pretended

pytest.importorskip("optuna", reason="Optuna (the extra tune) is not installed")


def test_another_study_in_the_folder_is_refused_by_what_differs(cfg, folder: Path, pretended: Pretended):
    tune(cfg, SPACE, trials=1)
    other = {**SPACE, "SOLVER.BASE_LR": {"low": 1e-3, "high": 1.0, "log": True}}
    with pytest.raises(ValueError, match=r"(?s)SOLVER\.BASE_LR of the space: then .*0\.0001.*now .*0\.001"):
        tune(cfg, other, trials=2)
    changed = cfg.clone()
    changed.SOLVER.MOMENTUM = 0.5
    with pytest.raises(ValueError, match=r"SOLVER\.MOMENTUM of the config: then 0\.9, now 0\.5"):
        tune(changed, SPACE, trials=2)
    with pytest.raises(ValueError, match=r"holds another study: the study of its trials is 'out', not 'b'"):
        tune(cfg, SPACE, trials=2, study="b")
    with pytest.raises(ValueError, match=r"the store of its trials is a file in its folder, not 'sqlite:///"):
        tune(cfg, SPACE, trials=2, storage=f"sqlite:///{folder}/b.db")
    changed = cfg.clone()
    changed.DATALOADER.NUM_WORKERS = 1  # changes nothing that is learned
    assert len(tune(changed, SPACE, trials=2).trials) == 2


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("trials", [0, -1, 1.5, "many", None, True]),
        ("processes", [0, -2, 1025, 1.5, "two", None]),
        ("minutes", [-1, float("nan"), float("inf"), "soon", None]),
        ("pruner", ["medain", None]),
    ],
)
def test_an_argument_out_of_range_leaves_no_study(cfg, folder: Path, argument: str, values: list):
    """They made a study of no trials, or ended in the middle of one."""
    for value in values:
        with pytest.raises(UserError, match=argument):
            tune(cfg, SPACE, **{argument: value})
        assert not folder.exists()


def test_a_folder_is_no_space(cfg, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="is no file; it is a YAML file"):
        tune(cfg, tmp_path)


def test_two_studies_with_one_store_and_one_name(cfg, tmp_path: Path, pretended: Pretended):
    storage = f"sqlite:///{tmp_path}/shared.db"
    tune(cfg, SPACE, trials=1, storage=storage)
    other = cfg.clone()
    other.OUTPUT_DIR = str(tmp_path / "elsewhere" / "out")
    with pytest.raises(ValueError, match=r"keeps its trials in .*/out, not in .*/elsewhere/out"):
        tune(other, SPACE, trials=1, storage=storage)
    other.OUTPUT_DIR = str(tmp_path / "second")
    assert len(tune(other, SPACE, trials=1, storage=storage).trials) == 1


def test_two_trials_with_one_folder(cfg, folder: Path, pretended: Pretended):
    tune(cfg, SPACE, trials=1)
    (folder / "study.db").unlink()
    with pytest.raises(ValueError, match=r"trial_0000 is there already, and it is not this study's"):
        tune(cfg, SPACE, trials=2)
    (folder / "study.json").unlink()
    with pytest.raises(ValueError, match=r"holds trial_0000 of a study whose study\.json is gone"):
        tune(cfg, SPACE, trials=2)


@pytest.mark.parametrize(
    ("storage", "told"),
    [
        ("study.db", "the store 'study.db' is not an address; give one as sqlite:////data/study.db"),
        ("nosuchdb://x", r"cannot be opened: .*is the address right, .* and Python's driver for it installed"),
        ("sqlite:////nowhere/at/all/x.db", "cannot be opened: .*unable to open database file"),
    ],
)
def test_stores_that_cannot_be_opened(cfg, pretended: Pretended, storage: str, told: str):
    with pytest.raises(ValueError, match=told):
        tune(cfg, SPACE, trials=1, storage=storage)


def test_a_start_that_fails_leaves_nothing_that_forbids_the_corrected_one(cfg, folder: Path, pretended: Pretended):
    with pytest.raises(UserError):
        tune(cfg, SPACE, trials=1, storage="nonsense")
    assert not (folder / "study.json").exists()
    assert len(tune(cfg, SPACE, trials=1).trials) == 1
    before = (folder / "study.json").read_bytes()
    with pytest.raises(UserError):
        tune(cfg, SPACE, trials=2, storage="nonsense")
    assert (folder / "study.json").read_bytes() == before


def test_a_password_is_written_nowhere(cfg, folder: Path):
    place = StudyPlace(folder, "postgresql://me:secret@host/db", "s")
    open_place(cfg, read_space(SPACE, cfg), folder, place.storage)
    assert "secret" not in (folder / "study.json").read_text()
    assert json.loads((folder / "study.json").read_text())["storage"] == "postgresql://me:***@host/db"


def test_what_a_study_needs(cfg, folder: Path, pretended: Pretended, monkeypatch):
    without = cfg.clone()
    without.DATASETS.TEST = ()
    with pytest.raises(ValueError, match=r"DATASETS\.TEST is empty: trials are judged"):
        tune(without, SPACE)
    with pytest.raises(KeyError, match="there is no pruner 'medain'; did you mean 'median'"):
        tune(cfg, SPACE, pruner="medain")
    with pytest.raises(KeyError, match=r"SOLVER\.OPTIMIZER .*no.*Adm.*did you mean"):
        tune(cfg, {"SOLVER.OPTIMIZER": ["SGD", "Adm"]})
    remote = cfg.clone()
    remote.OUTPUT_DIR = "s3://bucket/study"
    with pytest.raises(ValueError, match="must be a folder of this machine, not s3://bucket/study"):
        tune(remote, SPACE)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="a study is not started by torchrun"):
        tune(cfg, SPACE)
    assert not folder.exists() and not pretended.calls


def test_without_optuna_the_extra_is_named(cfg, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingModuleError, match=r"pip install 'detframe\[tune\]'"):
        detframe.tune(cfg, SPACE)


def test_a_test_set_and_evaluations_that_are_missing_are_warned_of(
    cfg, folder: Path, tmp_path: Path, pretended: Pretended, said, monkeypatch
):
    entry = "{format: coco, image_root: shapes/val, annotations: shapes/val.json}"
    (tmp_path / "catalog.yaml").write_text(f"my_test: {entry}\n", encoding="utf-8")
    named = cfg.changed(
        [("TEST.EVAL_PERIOD", 0), ("DATASETS.CATALOG", str(tmp_path / "catalog.yaml")), ("DATASETS.TEST", "my_test")]
    )
    monkeypatch.setattr(running, "check_data_sets", lambda cfg, names: None)
    tune(named, SPACE, trials=1)
    assert "DATASETS.TEST is my_test, by its name a test set" in said()
    assert "none can be ended early" in said()


def test_neither_is_said_of_a_validation_set_with_evaluations(cfg, pretended: Pretended, said):
    tune(cfg, SPACE, trials=1)
    assert "test set" not in said() and "ended early" not in said()
