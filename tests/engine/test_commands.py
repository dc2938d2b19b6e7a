"""The commands that messages tell a user to type."""

import sys
from pathlib import Path

import pytest

from detframe.engine.commands import (
    after_failed_evaluation,
    after_signal,
    as_called,
    evaluate_command,
    full_disk_remedy,
    part_of_study,
    resume_command,
)

OUT = Path("my out")
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*TORCHRUN, "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "executable", "/usr/bin/python")  # one in the working folder is told by its path


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["/bin/detframe", "train", "--config-file", "c.yaml"], "detframe train --config-file c.yaml --resume"),
        (["/bin/detframe", "train", "--resume", "OUTPUT_DIR", "a b"], "detframe train --resume OUTPUT_DIR 'a b'"),
        (["/x/detframe/cli/main.py", "train-efpn", "--stages", "s"], "detframe train-efpn --stages s --resume"),
        (["tools/train_net.py", "SEED", "1"], "python tools/train_net.py SEED 1 --resume"),
        (["tools/quickstart.py"], "python tools/train_net.py --config-file 'my out/config.yaml' --resume"),
        (["/bin/detframe", "quickstart"], "detframe train --config-file 'my out/config.yaml' --resume"),
        (["mine.py", "train"], "detframe train --config-file 'my out/config.yaml' --resume"),
    ],
)
def test_going_on(words, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", words)
    assert resume_command(OUT) == command


def test_going_on_under_a_launcher(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/train_net.py"])
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert resume_command(OUT) == "torchrun --nproc-per-node=2 tools/train_net.py --resume"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert resume_command(OUT) == "torchrun ... tools/train_net.py --resume"
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert resume_command(OUT) == "srun ... python tools/train_net.py --resume"


def test_evaluating(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/train_net.py"])
    expected = "python tools/test_net.py --config-file 'my out/config.yaml' --weights 'my out/model_final.pth'"
    assert evaluate_command(OUT, OUT / "model_final.pth") == expected


def test_nothing_saved_is_said():
    assert "nothing to save" in after_signal(15, 0, 8, None)
    assert "failed" in after_failed_evaluation(3, 8, False, None)


TEXT = "python tools/train_net.py, tools/test_net.py or tools/shrink_data.py --datasets a"


@pytest.mark.parametrize(
    ("running", "shown"),
    [
        ("/usr/bin/detframe", "detframe train, detframe evaluate or detframe shrink-data --datasets a"),
        ("tools/train_net.py", TEXT),
    ],
)
def test_scripts_are_named_to_those_who_have_them(monkeypatch, running, shown):
    monkeypatch.setattr("sys.argv", [running])
    assert as_called(TEXT) == shown


def test_the_remedy_of_a_full_disk_names_what_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    here, store = full_disk_remedy(tmp_path / "run"), full_disk_remedy(tmp_path / "cache" / "runs" / "a1" / "run")
    assert "make room, or move the folder to another disk and set OUTPUT_DIR to it, then go on with --resume" in here
    assert "make room, or set the environment variable DETFRAME_CACHE" in store and store.endswith("with --resume")
    assert "OUTPUT_DIR" not in store
    with part_of_study():
        assert "make room, then run the same command again" in full_disk_remedy(tmp_path / "run")
    assert full_disk_remedy(tmp_path / "run") == here


def test_a_trial_goes_on_with_the_command_of_its_study(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/detframe", "tune", "--config-file", "a.yaml", "--space", "s.yaml"])
    assert resume_command(Path("out")) == "detframe train --config-file out/config.yaml --resume"
    with part_of_study():
        assert resume_command(Path("out")) == "detframe tune --config-file a.yaml --space s.yaml"
