"""Archives: what is unpacked, once, and what is refused."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from detframe.data import archives
from detframe.data.archives import archive_suffix, unpacked
from detframe.errors import FileAccessError, InvalidValueError


def make_zip(path: Path, files: dict[str, bytes], **how) -> Path:
    with zipfile.ZipFile(path, "w", **how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


FILES = {"set/images/a.jpg": b"picture", "set/labels/a.txt": b"0 0.5 0.5 0.1 0.1", "__MACOSX/set/._a.jpg": b"junk"}


@pytest.mark.parametrize(
    ("name", "mode"),
    [("s.tar", "w"), ("s.tar.gz", "w:gz"), ("s.TGZ", "w:gz"), ("s.tar.bz2", "w:bz2"), ("s.tar.xz", "w:xz")],
)
def test_tar_archives(tmp_path: Path, name: str, mode: str):
    folder, findings = unpacked(make_tar(tmp_path / name, FILES, mode))
    assert names_in(folder) == ["set/images/a.jpg", "set/labels/a.txt"]
    assert (folder / "set/labels/a.txt").read_bytes() == FILES["set/labels/a.txt"]
    assert [finding.code for finding in findings] == ["archive"] and folder.name.startswith("s-")


def test_a_zip_and_windows_separators(tmp_path: Path):
    folder, _ = unpacked(make_zip(tmp_path / "s.zip", {"set\\images\\a.jpg": b"x", "set/": b""}))
    assert names_in(folder) == ["set/images/a.jpg"]


def test_names_in_utf8_without_the_flag(tmp_path: Path):
    path = make_zip(tmp_path / "s.zip", {"straße.jpg": b"x"})
    path.write_bytes(_without_utf8_flag(path.read_bytes()))
    assert names_in(unpacked(path)[0]) == ["straße.jpg"]


def _without_utf8_flag(data: bytes) -> bytes:
    out = bytearray(data)
    for signature, at in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        out[data.index(signature) + at] &= ~0x08
    return bytes(out)


def test_the_same_archive_is_unpacked_once_a_changed_one_again(tmp_path: Path):
    path = make_zip(tmp_path / "s.zip", {"a.txt": b"1"})
    first, _ = unpacked(path)
    before = (first / "a.txt").stat().st_mtime_ns
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    (copy / "s.zip").write_bytes(path.read_bytes())
    assert unpacked(copy / "s.zip")[0] == first == unpacked(path)[0]
    assert (first / "a.txt").stat().st_mtime_ns == before
    make_zip(path, {"a.txt": b"2"})
    second, _ = unpacked(path)
    assert second != first and (second / "a.txt").read_bytes() == b"2"


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/etc/evil", "C:\\evil.txt", "..\\evil.txt"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str):
    for path in (make_zip(tmp_path / "s.zip", {"a": b"", name: b"x"}), make_tar(tmp_path / "s.tar", {name: b"x"})):
        with pytest.raises(InvalidValueError, match="leads out of the archive"):
            unpacked(path)
    root = archives.cache_folder().parent / "archives"
    assert not [p for p in root.iterdir() if p.is_dir()]
    assert not list(root.parent.rglob("evil*"))


def test_links_are_left_out_and_said_each_time(tmp_path: Path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("out", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        member = tarfile.TarInfo("out/inside.txt")  # would be written through the link
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    for _ in range(2):
        folder, findings = unpacked(path)
        assert [f.code for f in findings] == ["archive", "archive-links"] and findings[1].count == 3
        assert names_in(folder) == ["out/inside.txt"] and not (folder / "out").is_symlink()


def test_links_in_a_zip_are_left_out(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a.txt", "x")
    folder, findings = unpacked(tmp_path / "s.zip")
    assert names_in(folder) == ["a.txt"] and findings[1].count == 1


def test_a_bomb_stops_early_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "_ALWAYS", 2**20)
    path = make_zip(tmp_path / "s.zip", {"a.bmp": bytes(2**24)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InvalidValueError, match="made to fill the disk"):
        unpacked(path)
    assert not [p for p in (archives.cache_folder().parent / "archives").iterdir() if p.is_dir()]


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "MOST_FILES", 3)
    with pytest.raises(InvalidValueError, match="more than 4 files"):
        unpacked(make_zip(tmp_path / "s.zip", {f"{i}.txt": b"x" for i in range(9)}))


@pytest.mark.parametrize("name", ["s.zip", "s.tar", "s.tar.gz", "s.tar.bz2", "s.tar.xz"])
def test_damaged_archives_are_named(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(b"this is no archive")
    with pytest.raises(InvalidValueError, match=r"s\.\w+.* is damaged"):
        unpacked(path)


@pytest.mark.parametrize(("name", "mode"), [("s.tar.gz", "w:gz"), ("s.tar.bz2", "w:bz2"), ("s.tar.xz", "w:xz")])
def test_truncated_archives_are_named(tmp_path: Path, name: str, mode: str):
    path = make_tar(tmp_path / name, {"a.jpg": os.urandom(50_000)}, mode)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(InvalidValueError, match="damaged"):
        unpacked(path)


def test_an_encrypted_zip(tmp_path: Path):
    path = make_zip(tmp_path / "s.zip", {"a.jpg": b"x"})
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InvalidValueError, match="is encrypted"):
        unpacked(path)


def test_a_file_that_is_also_a_folder(tmp_path: Path):
    with pytest.raises(FileAccessError, match="cannot be unpacked"):
        unpacked(make_tar(tmp_path / "s.tar", {"a": b"x", "a/b": b"x"}))


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "file"))
    with pytest.raises(FileAccessError, match="DETFRAME_CACHE names another folder"):
        unpacked(make_zip(tmp_path / "s.zip", {"a": b"x"}))


def test_suffixes():
    found = [archive_suffix(Path(name)) for name in ("a.ZIP", "a.tar.gz", "a.tgz", "a.gz", "a.jpg", "zip")]
    assert found == [".zip", ".tar.gz", ".tgz", "", "", ""]


def test_what_is_done_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archives, "_SAY_EVERY", 0.0)
    with caplog.at_level("INFO", logger="detframe"):
        unpacked(make_zip(tmp_path / "s.zip", FILES))
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"unpacking {tmp_path / 's.zip'} (") and said[-1].startswith("unpacked s.zip: 2 files")
    assert any("unpacking s.zip: 1 files" in line for line in said)
