"""OUTPUT_DIR: not writable, already in use."""

import os
from pathlib import Path

import pytest

from detframe.engine.output_dir import check_place, holds_run, moved_path, prepare, set_aside


def test_creates_folders(tmp_path):
    prepare(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "x").write_text("")
    for path in (tmp_path / "x", tmp_path / "x" / "y"):
        with pytest.raises(NotADirectoryError, match="name a folder"):
            prepare(path)


def test_a_name_that_no_folder_can_have(tmp_path):
    for path in (tmp_path / ("x" * 300), tmp_path / ("x" * 300) / "y"):
        with pytest.raises(PermissionError, match=r"OUTPUT_DIR .*x cannot be written \(File name too long\)|/y cannot"):
            check_place(path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot be written"):
        prepare(tmp_path / "x")


def test_system_folder_that_takes_no_files():
    with pytest.raises(PermissionError, match="OUTPUT_DIR /proc/detframe cannot be written"):
        prepare(Path("/proc/detframe"))


def test_an_older_run_is_moved_and_nothing_else(tmp_path):
    for name in ("log.txt", "metrics.jsonl", "model_0000004.pth", "last_checkpoint", "evaluation.json", "notes.md"):
        (tmp_path / name).write_text(name)
    (tmp_path / "images").mkdir()
    assert holds_run(tmp_path)
    target = set_aside(tmp_path)
    assert target.name.startswith("previous_")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.md", target.name]
    assert (target / "metrics.jsonl").read_text() == "metrics.jsonl"
    assert not holds_run(tmp_path)
    weights = str(tmp_path / "model_0000004.pth")
    assert moved_path(weights, tmp_path, target) == str(target / "model_0000004.pth")
    assert moved_path("elsewhere.pth", tmp_path, target) == "elsewhere.pth"
    assert moved_path("", tmp_path, target) == ""


def test_two_in_one_second(tmp_path):
    for _ in range(2):
        (tmp_path / "metrics.jsonl").write_text("")
        set_aside(tmp_path)
    assert len(list(tmp_path.glob("previous_*"))) == 2


def test_a_log_alone_is_no_run(tmp_path):
    (tmp_path / "log.txt").write_text("")
    assert not holds_run(tmp_path)
