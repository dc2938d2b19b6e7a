"""The mirror of a folder in a store, fsspec's memory: the order of what it sends, and what it does not."""

import errno
import threading
import time

import pytest

from detframe.errors import FileAccessError, UserError
from detframe.storage import mirror
from detframe.storage.folders import StoreFolder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.05)


@pytest.fixture
def in_memory(tmp_path):
    """A mirror of a folder into fsspec's memory."""
    import fsspec

    store = StoreFolder(f"memory://{tmp_path.name}")
    yield mirror.Mirror(tmp_path, store, ("last_checkpoint",))
    fsspec.filesystem("memory").store.clear()


def test_a_pointer_comes_after_what_it_names_and_goes_before_it(in_memory, tmp_path, monkeypatch):
    order = []
    for name in ("put", "write", "remove"):
        do = getattr(StoreFolder, name)
        monkeypatch.setattr(
            StoreFolder,
            name,
            lambda self, *a, do=do, name=name: (
                order.append((name, str(a[-1] if name == "put" else a[0]))),
                do(self, *a),
            ),
        )
    (tmp_path / "last_checkpoint").write_text("model_0000002.pth")
    (tmp_path / "model_0000002.pth").write_bytes(b"x" * 100)
    in_memory.finish(1)
    (tmp_path / "model_0000004.pth").write_bytes(b"x" * 100)
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    (tmp_path / "model_0000002.pth").unlink()
    in_memory.finish(1)
    assert order == [
        *(("put", "model_0000002.pth"), ("write", "last_checkpoint")),
        *(("put", "model_0000004.pth"), ("write", "last_checkpoint"), ("remove", "model_0000002.pth")),
    ]
    assert in_memory.store.names() == {"model_0000004.pth", "last_checkpoint"}


def test_an_empty_pointer_names_nothing_and_keeps_nobody_waiting(in_memory, tmp_path, monkeypatch):
    rounds = []
    monkeypatch.setattr(in_memory, "check", lambda: rounds.append(1) if len(rounds) < 5 else pytest.fail("for ever"))
    (tmp_path / "last_checkpoint").touch()
    (tmp_path / "model_0000002.pth").write_bytes(b"x")
    in_memory.finish(1)
    assert in_memory.store.names() == {"model_0000002.pth"}


def test_temporary_files_and_what_was_sent_already_are_left_out(in_memory, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"a")
    (tmp_path / ".model.tmp").write_bytes(b"half")
    in_memory.finish(1)
    assert in_memory.store.names() == {"images/a.png"}
    monkeypatch.setattr(StoreFolder, "put", lambda *a: (_ for _ in ()).throw(AssertionError("again")))
    mirror.Mirror(tmp_path, in_memory.store).finish(1)


def test_the_thread_sends_while_files_come(in_memory, tmp_path):
    in_memory.start()
    (tmp_path / "a.txt").write_text("a")
    deadline = time.monotonic() + 10
    while in_memory.store.names() != {"a.txt"} and time.monotonic() < deadline:
        time.sleep(0.02)
    in_memory.stop()
    assert in_memory.store.names() == {"a.txt"}
    assert not [thread for thread in threading.enumerate() if "mirror" in thread.name]


def test_a_refusal_at_the_end_is_told_in_words(in_memory, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr(StoreFolder, "put", lambda *a: (_ for _ in ()).throw(ConnectionError("reset")))
    with pytest.raises(UserError, match=r"1 files of the run could not be sent to memory://.*all of it is in "):
        in_memory.finish(0.1)


def test_a_full_disk_here_is_not_laid_on_the_store(in_memory, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise FileAccessError("cannot write") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(mirror, "write_text", full)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
        in_memory.finish(0.1)
    assert in_memory.store.names() == {"a.txt", "b.txt"}
    assert "takes nothing" not in caplog.text
    assert caplog.text.count(f"cannot be noted in {tmp_path} (No space left on device)") == 1
