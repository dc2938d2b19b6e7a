"""The bounded folder of copies: what is in it is whole, what was used the longest ago goes, many processes share it."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from detframe.storage.cache import FileCache, Note


def put(cache: FileCache, key: str, data: bytes) -> bytes:
    def write(path: Path) -> Note:
        path.write_bytes(data)
        return Note(key, len(data), "", time.time())

    with cache.put(key, write) as file:
        return file.read()


def read(cache: FileCache, key: str) -> bytes | None:
    copy = cache.find(key)
    return None if copy is None else copy.path.read_bytes()


def used(cache: FileCache, key: str, seconds_ago: float) -> None:
    path = cache._path(key)
    os.utime(path, (time.time() - seconds_ago, path.stat().st_mtime))


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "files").glob("??/*") if not path.suffix)


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1000)
    for number in range(9):
        assert put(cache, f"k{number}", bytes([number]) * 100) == bytes([number]) * 100
        used(cache, f"k{number}", 1000 - number)
    assert read(cache, "k0") is not None  # used now
    put(cache, "new", b"n" * 250)
    left = {f"k{number}" for number in range(9) if read(cache, f"k{number}") is not None}
    assert left == {"k0", *(f"k{number}" for number in range(3, 9))}
    assert read(cache, "new") == b"n" * 250
    assert total(tmp_path) <= 1000


def test_what_is_larger_than_all_together_may_be_is_read_and_not_kept(tmp_path: Path) -> None:
    for limit in (0, 99):
        cache = FileCache(tmp_path, limit)
        assert put(cache, "large", b"l" * 100) == b"l" * 100
        assert read(cache, "large") is None
    assert not [path for path in (tmp_path / "files").rglob("*") if path.is_file()]


def test_where_nothing_can_be_written_copies_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FileCache(tmp_path, 1000)
    put(cache, "k", b"one")
    used(cache, "k", 1000)

    def refuse(*args: object, **more: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("detframe.storage.cache.os.utime", refuse)
    monkeypatch.setattr("detframe.storage.cache.tempfile.mkstemp", refuse)
    copy = cache.find("k")
    assert copy is not None and copy.path.read_bytes() == b"one"
    cache.confirm(copy, "v2")  # is asked again the next time
    assert cache.find("k") is not None and cache.find("k").note.version == copy.note.version  # type: ignore[union-attr]


def test_a_copy_that_is_not_as_its_note_says_is_absent(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1000)
    put(cache, "key", b"whole")
    path = cache._path("key")
    path.write_bytes(b"who")
    assert cache.find("key") is None
    put(cache, "key", b"whole")
    Path(f"{path}.json").write_text("{")
    assert cache.find("key") is None
    Path(f"{path}.json").unlink()
    assert cache.find("key") is None


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1000)

    def write(path: Path) -> Note:
        path.write_bytes(b"half")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        cache.put("key", write)
    assert cache.find("key") is None
    assert not [path for path in (tmp_path / "files").rglob("*") if path.is_file()]


def test_what_a_killed_process_left_is_deleted(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 100)
    put(cache, "a", b"a" * 60)
    old, young = (cache._path("a").with_name(f"{name}.new") for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    put(cache, "b", b"b" * 60)
    assert (old.exists(), young.exists()) == (False, True)


def test_the_count_survives_its_file(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1000)
    for number in range(9):
        put(cache, f"k{number}", b"x" * 100)
    (tmp_path / "size").write_text("")
    put(cache, "new", b"n" * 150)
    assert total(tmp_path) <= 1000


class Slow(FileCache):
    """Has been counted, and has no place yet, when somebody else puts something in."""

    other: threading.Thread | None = None

    def _write_note(self, path: Path, note: Note) -> None:
        if self.other is None:
            self.other = threading.Thread(target=put, args=(FileCache(self.folder, self.limit), "b", b"b" * 60))
            self.other.start()
            self.other.join(0.5)
        super()._write_note(path, note)


def test_the_limit_holds_though_another_comes_between(tmp_path: Path) -> None:
    cache = Slow(tmp_path, 100)
    put(cache, "a", b"a" * 60)
    assert cache.other is not None
    cache.other.join()
    assert total(tmp_path) == 60 == int((tmp_path / "size").read_text())


def test_what_takes_the_place_of_another_is_counted_once(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1000)
    for size in (100, 300, 200):
        put(cache, "a", b"a" * size)
        assert total(tmp_path) == size == int((tmp_path / "size").read_text())


def work(folder: Path, seed: int) -> None:
    cache = FileCache(folder, 5000)
    for step in range(150):
        number = (step * (seed + 3)) % 40
        key, expected = f"k{number}", bytes([number]) * (100 + 10 * number)
        with cache.one_at_a_time(key):
            found = cache.find(key)
            file = cache.open(found) if found is not None else None
            if file is not None:
                with file:
                    assert file.read() == expected
            else:
                assert put(cache, key, expected) == expected


def test_processes_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(tmp_path, seed)) for seed in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert total(tmp_path) <= 5000
    assert int((tmp_path / "size").read_text()) == total(tmp_path)
