"""Files are written whole or not at all, never through a link; texts say their encoding."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from detframe.files import TEMPORARY, atomic_write, open_lock, read_text, replacing, safe_name, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"cannot write .*a.txt: No space left on device; .* MB are free .*Make room"):
        atomic_write(path, fail, remedy="Make room")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_is_what_pythons_own_writes_and_whole(tmp_path: Path):
    path, value = tmp_path / "new" / "a.json", {"names": ["Straße", 1, 2.5, None], "empty": [], "of": {"deep": True}}
    assert write_json(path, value) == path
    assert path.read_text() == json.dumps(value) + "\n"
    write_json(path, value, indent=1)
    assert path.read_text() == json.dumps(value, indent=1) + "\n"
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, [1.0, float("nan")], allow_nan=False)
    with pytest.raises(TypeError):
        write_json(path, [1, object()])
    assert json.loads(path.read_text()) == value and list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_closing_hides_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On a full disk what waits in the buffer fails once more when the file is closed."""
    full = os.open("/dev/full", os.O_WRONLY)
    (tmp_path / "temporary").touch()
    monkeypatch.setattr("tempfile.mkstemp", lambda **_: (full, str(tmp_path / "temporary")))
    with pytest.raises(KeyError, match="the reason"), replacing(tmp_path / "a.txt") as file:
        file.write(b"waits in the buffer")
        raise KeyError("the reason")
    assert not list(tmp_path.iterdir())


def test_temporary_names_cannot_be_foreseen_and_follow_no_link(tmp_path: Path):
    names = set()
    for _ in range(3):
        with replacing(tmp_path / "a.txt") as file:
            file.write(b"new")
            names |= {path.name for path in tmp_path.glob(TEMPORARY)}
    assert len(names) == 3 and not list(tmp_path.glob(TEMPORARY))


def test_a_link_is_replaced_not_followed(tmp_path: Path):
    victim, link = tmp_path / "victim", tmp_path / "a.txt"
    victim.write_text("mine")
    link.symlink_to(victim)
    write_text(link, "new")
    assert victim.read_text() == "mine" and link.read_text() == "new" and not link.is_symlink()


def test_permissions_are_those_of_the_old_file_or_of_a_new_one(tmp_path: Path):
    write_text(tmp_path / "new.txt", "x")
    (tmp_path / "plain.txt").write_text("x")
    mode = stat.S_IMODE(os.stat(tmp_path / "plain.txt").st_mode)
    assert stat.S_IMODE(os.stat(tmp_path / "new.txt").st_mode) == mode
    (tmp_path / "new.txt").chmod(0o640)
    write_text(tmp_path / "new.txt", "y")
    assert stat.S_IMODE(os.stat(tmp_path / "new.txt").st_mode) == 0o640


def test_texts(tmp_path: Path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfZelle\n")
    assert read_text(path) == "Zelle\n"
    path.write_bytes(b"a\nZelle \xe4\n")
    with pytest.raises(ValueError, match=r"the list .*names.txt is not UTF-8 text: line 2 holds the byte 0xe4"):
        read_text(path, "the list")


HOSTILE = [
    "",
    ".",
    "..",
    "../x",
    "/etc/x",
    "a/b",
    "a\\b",
    "C:x",
    "a\0b",
    "a\nb",
    " a",
    "a.",
    "x" * 5000,
    "\ud800",
    "nul.txt",
    ".a",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leads_out_of_its_folder(name: str, tmp_path: Path):
    safe = safe_name(name)
    (tmp_path / safe).write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [safe]
    assert safe != name and len(safe) < 80


def test_usual_names_stay_and_different_ones_stay_apart():
    for name in ("shapes_train", "2024.10 Zählung", "a-b", "名前", "model_0000016.pth"):
        assert safe_name(name) == name
    assert len({safe_name(name) for name in [*HOSTILE, "a_b", "x", "x" * 5001, "a"]}) == len(HOSTILE) + 4


def test_a_lock_follows_no_link_and_keeps_what_is_there(tmp_path: Path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "a.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=r"a\.lock"):
        open_lock(tmp_path / "a.lock")
    os.close(open_lock(tmp_path / "victim"))
    assert (tmp_path / "victim").read_text() == "mine"
