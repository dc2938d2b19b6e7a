"""Members of tar files read as files of their folder: by an index or the headers, here, from a bucket, from the web."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from detframe.errors import FileAccessError, InvalidValueError, MissingFileError, UnreachableError
from detframe.storage import INDEX, Settings, Shard, index_line, opened, read_headers, shards, stores, using
from tests.bucket_server import Cable, Store
from tests.storage.conftest import EVERY_STORE


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_known", {})
    monkeypatch.setattr(shards, "_without", set())


def make_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def make_shards(folder: Path, index: bool = True) -> dict[str, bytes]:
    """Two shards, one with a very long and one with a foreign name; returns all members."""
    first = {"a/1.jpg": b"one", "a/2.jpg": b"two" * 500, f"{'long' * 60}.jpg": b"long"}
    second = {"b/1.jpg": b"other one", "b/ß 3.jpg": b"three", "b/empty.jpg": b""}
    make_tar(folder / "00000.tar", first)
    make_tar(folder / "00001.tar", second)
    if index:
        paths = sorted(folder.glob("*.tar"))
        lines = [index_line(read_headers(str(path), path.name, path.stat().st_size)) for path in paths]
        (folder / INDEX).write_text("".join(lines), encoding="utf-8")
    return {**first, **second}


def content(path: str | Path) -> bytes:
    file = shards.read_here(path)
    assert file is not None
    return file.read()


def fetched(address: str) -> bytes:
    with opened(address) as file:
        return file.read()


@pytest.mark.parametrize("index", [True, False])
def test_members_are_as_tarfile_has_them(tmp_path: Path, index: bool) -> None:
    members = make_shards(tmp_path / "s", index)
    found = shards.prepare(tmp_path / "s")
    assert found is not None and found.members() == sorted(members) == shards.member_names(tmp_path / "s")
    for name, data in members.items():
        assert content(tmp_path / "s" / name) == data
        shard, start, size, *_ = shards.located(tmp_path / "s" / name)  # type: ignore[misc]
        assert Path(shard).read_bytes()[start : start + size] == data
    assert shards.read_here(tmp_path / "s" / "c.jpg") is None and shards.read_here(tmp_path / "t" / "c.jpg") is None


def test_another_process_finds_them(tmp_path: Path) -> None:
    make_shards(tmp_path / "s")
    shards.prepare(tmp_path / "s")
    shards._known.clear()
    assert content(tmp_path / "s/a/1.jpg") == b"one"
    assert isinstance(shards._known[str(tmp_path / "s")].table.base, object)
    assert not shards._known[str(tmp_path / "s")].table.flags.owndata  # mapped, so that processes share it


def test_other_shards_in_the_same_place(tmp_path: Path) -> None:
    make_shards(tmp_path / "s", index=False)
    before = shards.prepare(tmp_path / "s")
    make_tar(tmp_path / "s/00000.tar", {"a/1.jpg": b"changed", "a/9.jpg": b"nine"})
    os.utime(tmp_path / "s/00000.tar", (1, 1))
    after = shards.prepare(tmp_path / "s")
    assert before is not None and after is not None and before.stamp != after.stamp
    assert content(tmp_path / "s/a/1.jpg") == b"changed" and content(tmp_path / "s/a/9.jpg") == b"nine"
    (tmp_path / "s/more.txt").touch()
    assert shards.prepare(tmp_path / "s") is None and shards.read_here(tmp_path / "s/a/1.jpg") is None


def test_folders_without_shards(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").touch()
    (tmp_path / "empty").mkdir()
    assert [shards.prepare(tmp_path / name) for name in ("images", "empty", "none")] == [None, None, None]


def test_damage_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    make_shards(folder)
    whole = (folder / "00001.tar").read_bytes()
    (folder / "00001.tar").write_bytes(whole[:700])  # an upload that was cut off
    with pytest.raises(
        InvalidValueError, match=r"00001\.tar has 700 bytes, and the index .* says 10240: an upload that"
    ):
        shards.prepare(folder)
    (folder / "00001.tar").unlink()
    with pytest.raises(MissingFileError, match=r"00001\.tar does not exist, and the index .*index\.jsonl names it"):
        shards.prepare(folder)
    (folder / "00001.tar").write_bytes(whole)
    make_tar(folder / "00002.tar", {"c.jpg": b"c"})
    with pytest.raises(InvalidValueError, match=r"lacks 00002\.tar; `detframe shard-data --index` writes it anew"):
        shards.prepare(folder)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1 of the index .* is damaged"),
        (b"\x93\xff\x00\xfe{", "line 1 of the index .* is damaged"),
        ('{"shard": "00000.tar", "bytes": 10}', "line 1 of the index .* is damaged"),
        (
            '{"shard": "00000.tar", "bytes": 10, "members": {"a": [5, 6]}}',
            "'a' lies outside of 00000.tar, which has",
        ),
        ('{"shard": "00000.tar", "bytes": 10, "members": {"a": [-1, 6]}}', "'a' lies outside of 00000.tar"),
        ('{"shard": "../x.tar", "bytes": 10, "members": {}}', r"holds '\.\./x\.tar', a name that no image can have"),
        ('{"shard": "x.tar", "bytes": 10, "members": {"/etc/passwd": [0, 1]}}', "holds '/etc/passwd', a name that no"),
    ],
)
def test_a_damaged_index(tmp_path: Path, line: str | bytes, words: str) -> None:
    make_tar(tmp_path / "00000.tar", {"a.jpg": b"a"})
    (tmp_path / INDEX).write_bytes(line if isinstance(line, bytes) else line.encode())
    with pytest.raises(InvalidValueError, match=words):
        shards.prepare(tmp_path)


def test_tar_files_that_are_no_shards(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with tarfile.open(tmp_path / "a/0.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x.jpg"))
    with pytest.raises(InvalidValueError, match=r"0\.tar is no whole tar file .*; shards are tar files that are not"):
        shards.prepare(tmp_path / "a")
    make_tar(tmp_path / "b/0.tar", {"x.jpg": b"x" * 5000})
    (tmp_path / "b/0.tar").write_bytes((tmp_path / "b/0.tar").read_bytes()[:2000])
    with pytest.raises(InvalidValueError, match=r"0\.tar (ends within x\.jpg: it was cut off|is no whole tar file)"):
        shards.prepare(tmp_path / "b")
    make_tar(tmp_path / "c/0.tar", {"../../x.jpg": b"x"})
    with pytest.raises(InvalidValueError, match="a name that no image can have"):
        shards.prepare(tmp_path / "c")
    for number in "01":
        make_tar(tmp_path / f"d/{number}.tar", {"x.jpg": b"x"})
    with pytest.raises(InvalidValueError, match=r"x\.jpg is in 0\.tar and in 1\.tar; give each image a name"):
        shards.prepare(tmp_path / "d")


def test_a_shard_that_is_cut_off_later(tmp_path: Path) -> None:
    make_shards(tmp_path)
    shards.prepare(tmp_path)
    os.truncate(tmp_path / "00000.tar", 600)
    with pytest.raises(FileAccessError, match=r"00000\.tar ends before .*it was cut off after its index was made"):
        content(tmp_path / "a/2.jpg")


def test_an_index_of_another_tar_file_of_the_same_size_exchanges_no_images(tmp_path: Path) -> None:
    make_tar(tmp_path / "s/0.tar", {"./a.jpg": b"one", "b.jpg": b"two", "c.jpg": b"longer"})
    shard = read_headers(str(tmp_path / "s/0.tar"), "0.tar", 10240)
    make_tar(tmp_path / "s/0.tar", {"b.jpg": b"two", "a.jpg": b"one", "c.jpg": b"six"})
    (tmp_path / "s" / INDEX).write_text(index_line(shard))
    shards.prepare(tmp_path / "s")
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        with pytest.raises(FileAccessError, match=rf"0\.tar holds something else where {name} is to lie"):
            content(tmp_path / "s" / name)


@EVERY_STORE
@pytest.mark.parametrize("index", [True, False])
def test_from_a_bucket_only_the_members_are_fetched(
    bucket: Store, tmp_path: Path, index: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = make_shards(tmp_path / "s", index)
    bucket.put_folder(tmp_path / "s", "s")
    root = f"{bucket.address}/s"
    found = shards.prepare(Path(root))
    assert found is not None and found.members() == sorted(members)
    with monkeypatch.context() as patch:
        patch.setattr(stores, "fetch", None)  # no whole object is
        for name, data in members.items():
            assert fetched(f"{root}/{name}") == data
    with pytest.raises(MissingFileError):
        opened(f"{root}/c.jpg")


def test_headers_in_a_bucket_are_read_in_spite_of_lost_connections(
    bucket: Store, cable: Cable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {f"{number}.jpg": os.urandom(100_000) for number in range(6)}  # a request for each header
    make_tar(tmp_path / "s/0.tar", members)
    bucket.put_folder(tmp_path / "s", "s")
    root, ask = f"{bucket.address}/s", stores.ask
    asked: list[str] = []

    def cut_first(address: str, method: str, *args: object, **options: object) -> object:
        if method == "cat_file":
            asked.append(address)
            stores._clients.clear()
            cable.delay = 600.0 if len(asked) == 3 else 0.0  # this one is never answered
            cable.drop_every = cable.connections + 1 if len(asked) == 1 else 0
        return ask(address, method, *args, **options)

    monkeypatch.setattr(stores, "ask", cut_first)
    monkeypatch.setattr(stores, "CALL_SECONDS", 1.0)
    found = shards.prepare(root)
    assert found is not None and found.members() == sorted(members)
    assert len(asked) >= len(members) + 2  # two of them twice
    for name, data in members.items():
        assert fetched(f"{root}/{name}") == data


def test_headers_of_a_store_that_goes_away_are_no_traceback(bucket: Store, cable: Cable, tmp_path: Path) -> None:
    make_tar(tmp_path / "s/0.tar", {f"{number}.jpg": os.urandom(100_000) for number in range(3)})
    bucket.put_folder(tmp_path / "s", "s")
    address, size = f"{bucket.address}/s/0.tar", (tmp_path / "s/0.tar").stat().st_size
    stores.facts_of(address)
    cable.cut()
    with using(Settings(retry_seconds=0.5)), pytest.raises(UnreachableError, match=r"0\.tar cannot be reached"):
        read_headers(address, "0.tar", size)
    cable.mend()
    with pytest.raises(MissingFileError, match=r"1\.tar does not exist"):
        read_headers(f"{bucket.address}/s/1.tar", "1.tar", size)
    with pytest.raises(InvalidValueError, match="ends 1000 bytes before"):
        read_headers(address, "0.tar", size + 1000)


def test_changed_shards_in_a_bucket_are_other_members(bucket: Store, tmp_path: Path) -> None:
    make_shards(tmp_path / "s")
    bucket.put_folder(tmp_path / "s", "s")
    shards.prepare(f"{bucket.address}/s")
    assert fetched(f"{bucket.address}/s/a/1.jpg") == b"one"
    make_tar(tmp_path / "s/00000.tar", {"a/1.jpg": b"two"})
    lines = [index_line(read_headers(str(p), p.name, p.stat().st_size)) for p in sorted((tmp_path / "s").glob("*.tar"))]
    (tmp_path / "s" / INDEX).write_text("".join(lines))
    bucket.put_folder(tmp_path / "s", "s")
    shards.prepare(f"{bucket.address}/s")
    assert fetched(f"{bucket.address}/s/a/1.jpg") == b"two"
    bucket.put("s/00001.tar", b"half")
    bucket.put(f"s/{INDEX}", (tmp_path / "s" / INDEX).read_bytes() + b"\n")
    with pytest.raises(InvalidValueError):
        shards.prepare(f"{bucket.address}/s")


def test_a_line_of_the_index_is_json() -> None:
    line = index_line(Shard("0.tar", 99, {"ß.jpg": (1, 2)}))
    assert json.loads(line) == {"shard": "0.tar", "bytes": 99, "members": {"ß.jpg": [1, 2]}} and line.endswith("}\n")
