"""A command reads and checks its config once, and hands it to the processes that work by it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from detframe.cli import evaluate as evaluate_command
from detframe.cli import train as train_command
from detframe.cli.common import trained_weights
from detframe.config import ConfigNode, as_config, check, get_cfg, read_config
from detframe.engine import run
from detframe.errors import InvalidValueError

CONFIG = "MODEL: {DEVICE: cpu, NUM_CLASSES: 2}\nDATASETS: {TRAIN: [mine]}\nSOLVER: {MAX_ITER: 3}\n"
FOREIGN = "VERSION: 2\nMODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n  RESNETS: {DEPTH: 50}\nSOLVER: {BASE_LR: 0.004}\n"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """How often a file was read and a config checked, and the config that would be trained."""
    found: dict[str, Any] = {"read": 0, "checked": 0}
    merge, agree = ConfigNode.merge_from_file, check._solver

    def read(self: ConfigNode, path: str | Path) -> None:
        found["read"] += 1
        merge(self, path)

    def checked(cfg: ConfigNode) -> Any:
        found["checked"] += 1
        return agree(cfg)

    def start(cfg: ConfigNode, *_: Any) -> Any:
        run.import_modules(cfg)
        found["cfg"] = cfg
        raise InvalidValueError("far enough")

    monkeypatch.setattr(ConfigNode, "merge_from_file", read)
    monkeypatch.setattr(check, "_solver", checked)
    monkeypatch.setattr(run, "_start", start)
    return found


def test_a_training_reads_and_checks_its_config_once(
    tmp_path: Path, seen: dict[str, Any], capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "my.yaml"
    file.write_text(CONFIG)
    code = train_command.main(["--config-file", str(file), "SOLVER.BASE_LR", "0.5", "OUTPUT_DIR", str(tmp_path / "o")])
    assert (code, seen["read"], seen["checked"]) == (2, 1, 1), capsys.readouterr().err
    assert (seen["cfg"].SOLVER.BASE_LR, seen["cfg"].SOLVER.MAX_ITER) == (0.5, 3)


def test_in_python_a_config_is_checked(tmp_path: Path, seen: dict[str, Any]):
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 3, "SOLVER.ACCUMULATE_STEPS", 2])
    with pytest.raises(ValueError, match=r"SOLVER\.ACCUMULATE_STEPS"):
        run.train(cfg)
    with pytest.raises(ValueError, match=r"SOLVER\.ACCUMULATE_STEPS"):
        as_config(cfg)
    assert "cfg" not in seen


def test_an_evaluation_reads_its_config_once(tmp_path: Path, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    given: list[Any] = []
    monkeypatch.setattr(run, "evaluate", lambda cfg, consent: given.append((cfg, consent)))
    file = tmp_path / "my.yaml"
    file.write_text(CONFIG)
    assert evaluate_command.main(["--config-file", str(file), "--weights", "w.pth", "--allow-custom-imports"]) == 0
    assert train_command.main(["--config-file", str(file), "--eval-only", "MODEL.WEIGHTS", "w.pth"]) == 0
    assert [(cfg.MODEL.WEIGHTS, consent) for cfg, consent in given] == [("w.pth", True), ("w.pth", False)]
    assert seen["read"] == 2


@pytest.mark.parametrize("text", [CONFIG, FOREIGN])
def test_another_process_gets_the_same_config(tmp_path: Path, text: str):
    cfg = get_cfg()
    (tmp_path / "my.yaml").write_text(text)
    cfg.merge_from_file(tmp_path / "my.yaml")
    cfg.freeze()
    there = pickle.loads(pickle.dumps(cfg))
    assert there.dump() == cfg.dump() and there.is_frozen() and there.translation == cfg.translation
    assert bool(cfg.translation) == (text == FOREIGN)
    assert all(there.source(key) == cfg.source(key) for key, _ in cfg.leaves())


def test_weights_are_found_beside_the_config_of_a_run(tmp_path, monkeypatch):
    """Its OUTPUT_DIR may be relative to the folder in which the run began."""
    monkeypatch.chdir(tmp_path)
    run_folder = tmp_path / "moved"
    run_folder.mkdir()
    (run_folder / "model_final.pth").write_bytes(b"")
    for name in ("config.yaml", "mine.yaml"):
        (run_folder / name).write_text("OUTPUT_DIR: out\n")
    assert trained_weights(read_config("moved/config.yaml")) == str(Path("moved") / "model_final.pth")
    with pytest.raises(FileNotFoundError, match="OUTPUT_DIR out holds no checkpoint"):
        trained_weights(read_config("moved/mine.yaml"))
