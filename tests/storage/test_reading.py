"""Files in buckets: opened by their addresses, kept, compared, and fetched in spite of lost connections."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from detframe import storage
from detframe.errors import (
    CacheError,
    FileAccessError,
    MissingFileError,
    MissingModuleError,
    NoPermissionError,
    UnreachableError,
)
from detframe.storage import Settings, opened, reading
from detframe.storage.stores import facts_of, fetch, fetch_part
from tests.bucket_server import Cable, Store
from tests.storage.conftest import EVERY_BUCKET, EVERY_STORE, NOBODYS, new_connections


def content(path: str) -> bytes:
    with opened(path) as file:
        return file.read()


@EVERY_STORE
def test_a_file_is_fetched_once(bucket: Store) -> None:
    bucket.put("a/1.jpg", b"one")
    assert content(f"{bucket.address}/a/1.jpg") == b"one"
    bucket.remove("a/1.jpg")
    assert content(f"{bucket.address}/a/1.jpg") == b"one"
    assert content(str(Path(f"{bucket.address}/a/1.jpg"))) == b"one"  # as a path, with one slash


@EVERY_STORE
def test_a_copy_is_compared_after_a_day(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("1.jpg", b"one")
    bucket.put("2.jpg", b"same")
    assert (content(f"{bucket.address}/1.jpg"), content(f"{bucket.address}/2.jpg")) == (b"one", b"same")
    bucket.put("1.jpg", b"two")  # of the same size
    monkeypatch.setattr(reading, "TRUSTED_SECONDS", -1.0)
    fetched: list[str] = []
    monkeypatch.setattr(reading, "fetch", lambda *args: fetched.append(args[0]) or fetch(*args))
    assert (content(f"{bucket.address}/1.jpg"), content(f"{bucket.address}/2.jpg")) == (b"two", b"same")
    assert fetched == [f"{bucket.address}/1.jpg"]
    bucket.remove("2.jpg")
    with pytest.raises(MissingFileError, match=r"2\.jpg does not exist"):
        content(f"{bucket.address}/2.jpg")


def test_copies_do_without_a_store_that_is_away(
    bucket: Store, cable: Cable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "123":
        bucket.put(f"{name}.jpg", name.encode())
        content(f"{bucket.address}/{name}.jpg")
    monkeypatch.setattr(reading, "TRUSTED_SECONDS", -1.0)
    cable.cut()
    begun = time.monotonic()
    assert [content(f"{bucket.address}/{name}.jpg") for name in "123"] == [b"1", b"2", b"3"]
    assert time.monotonic() - begun < 6  # it is asked once, not for each
    assert caplog.text.count("used as they are") == 1


@EVERY_STORE
def test_a_store_that_comes_back_costs_nothing(bucket: Store, cable: Cable) -> None:
    bucket.put("1.jpg", b"1" * 10_000)
    bucket.put("2.jpg", b"2" * 10_000)
    content(f"{bucket.address}/1.jpg")
    cable.cut()
    threading.Timer(2.0, cable.mend).start()
    begun = time.monotonic()
    assert content(f"{bucket.address}/2.jpg") == b"2" * 10_000
    assert 1.5 < time.monotonic() - begun < 15


def test_a_large_file_of_the_hub_is_known_by_its_content() -> None:
    hub = pytest.importorskip("huggingface_hub.hf_api")
    digest = hashlib.sha256(b"one").hexdigest()
    lfs = {"size": 3, "oid": digest, "pointerSize": 99}
    file = hub.RepoFile(path="1.jpg", size=3, oid="0" * 40, lfs=lfs)
    facts = storage.stores._facts({"size": 3, "type": "file", "blob_id": file.blob_id, "lfs": file.lfs})
    assert facts.version == digest


@EVERY_STORE
def test_connections_that_break_within_the_answer(bucket: Store, cable: Cable) -> None:
    cable.drop_every = 2
    for number in range(5):
        bucket.put(f"{number}.jpg", bytes([number]) * 50_000)
    for number in range(5):
        new_connections()
        assert content(f"{bucket.address}/{number}.jpg") == bytes([number]) * 50_000
    assert cable.connections >= 7


def test_a_call_that_never_ends_is_given_up_and_tried_again(
    bucket: Store, cable: Cable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "1234":
        bucket.put(f"{name}.tar", b"0123456789")
    content(f"{bucket.address}/1.tar")  # the store has answered
    monkeypatch.setattr(storage.stores, "CALL_SECONDS", 1.0)
    begun = time.monotonic()
    for name, read in (
        ("2", lambda address: content(address)),
        ("3", lambda address: fetch_part(address, 2, 3)),
        ("4", lambda address: facts_of(address).size),
    ):
        storage.stores._clients.clear()  # the next connection is a new one
        cable.delay = 600.0  # what is asked over it arrives after the test
        threading.Timer(0.7, setattr, (cable, "delay", 0.0)).start()
        assert read(f"{bucket.address}/{name}.tar") == {"2": b"0123456789", "3": b"234", "4": 10}[name]
    assert time.monotonic() - begun < 20


@EVERY_STORE
def test_a_store_that_stays_away(bucket: Store, cable: Cable) -> None:
    bucket.put("1.jpg", b"1")
    content(f"{bucket.address}/1.jpg")
    cable.cut()
    begun = time.monotonic()
    with storage.using(Settings(retry_seconds=1.5)), pytest.raises(UnreachableError) as error:
        content(f"{bucket.address}/2.jpg")
    assert time.monotonic() - begun < 5
    assert f"{bucket.address}/2.jpg cannot be reached: " in str(error.value)
    assert "tries in" in str(error.value) and "--resume" in str(error.value)


def test_a_store_that_never_answered_is_not_waited_for(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(UnreachableError, match="Is this machine on the network, and is the address right"):
        content("s3://anything/1.jpg")
    assert time.monotonic() - begun < 12


@EVERY_STORE
def test_what_does_not_exist(bucket: Store) -> None:
    bucket.put("1.jpg", b"1")
    with pytest.raises(MissingFileError, match=rf"^{bucket.address}/no\.jpg does not exist; is its name right"):
        content(f"{bucket.address}/no.jpg")
    nobodys = NOBODYS[bucket.scheme]
    with pytest.raises(MissingFileError, match=rf"^{nobodys}/no\.jpg: the \w+ {nobodys} does not exist"):
        content(f"{nobodys}/no.jpg")
    assert storage.names_in(Path(f"{nobodys}/a")) == []
    with pytest.raises(MissingFileError, match=rf"^{nobodys}/a: the \w+ {nobodys} does not exist"):
        storage.files_in(f"{nobodys}/a")


def test_credentials(bucket: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    begun = time.monotonic()
    with pytest.raises(NoPermissionError, match=r"no credentials were found\. Credentials are taken from AWS_ACCESS"):
        content(f"{bucket.address}/1.jpg")
    assert time.monotonic() - begun < 5


def test_an_endpoint_that_is_no_address(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio.local")
    with pytest.raises(FileAccessError, match=r"the endpoint is no address \(AWS_ENDPOINT_URL.* http://host:port"):
        content(f"{bucket.address}/1.jpg")


def test_access_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": "InvalidAccessKeyId"}, "ResponseMetadata": {"HTTPStatusCode": 403}}

    def refuse(*args: object) -> None:
        raise PermissionError("The key AKIASECRET…") from ClientError(answer, "GetObject")

    monkeypatch.setattr(storage.stores, "client_of", refuse)
    with pytest.raises(NoPermissionError) as error:
        content("s3://private/1.jpg")
    assert str(error.value).startswith("s3://private/1.jpg may not be used: access was refused (HTTP 403, InvalidAcc")
    assert "AKIASECRET" not in str(error.value)


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gcsfs", "gcsfs.core"):
        monkeypatch.setitem(sys.modules, name, None)
    new_connections()
    with pytest.raises(MissingModuleError, match=r'gs:// is read with gcsfs, .*: pip install "detframe\[remote\]"'):
        content("gs://bucket/1.jpg")


def read_in_child(address: str, known: storage.Knowledge | None, out: multiprocessing.Queue) -> None:
    if known is not None:
        storage.take(known)
    out.put(content(address))


@EVERY_BUCKET
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_have_clients_of_their_own(bucket: Store, method: str) -> None:
    for name in "12":
        bucket.put(f"{name}.jpg", name.encode())
    content(f"{bucket.address}/1.jpg")  # this process has a client with threads and connections
    context = multiprocessing.get_context(method)
    out = context.Queue()
    known = storage.knowledge() if method == "spawn" else None
    process = context.Process(target=read_in_child, args=(f"{bucket.address}/2.jpg", known, out))
    process.start()
    assert out.get(timeout=60) == b"2"
    process.join()


@EVERY_STORE
def test_many_are_fetched_at_once(cable: Cable, bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{bucket.address}/{number}.jpg" for number in range(40)]
    for number in range(40):
        bucket.put(f"{number}.jpg", bytes([number]))
    at_once: set[str] = set()
    monkeypatch.setattr(reading, "fetch", lambda *args: at_once.add(threading.current_thread().name) or fetch(*args))
    assert [content(name) for name in storage.each_fetched(names, str)] == [bytes([number]) for number in range(40)]
    assert len(at_once) > 4 and "MainThread" not in at_once
    storage.fetch_ahead([*names, f"{bucket.address}/none.jpg", "/local.jpg"])  # nobody asked for it yet
    cable.cut()
    begun = time.monotonic()
    storage.fetch_ahead([f"{bucket.address}/{name}.jpg" for name in "abc"])
    assert time.monotonic() - begun < 3


@EVERY_STORE
def test_parts(bucket: Store) -> None:
    bucket.put("a.tar", bytes(range(100)))
    assert fetch_part(f"{bucket.address}/a.tar", 10, 5) == bytes(range(10, 15))
    with pytest.raises(ValueError, match=r"a\.tar ends 3 bytes before what its index says, or the list"):
        fetch_part(f"{bucket.address}/a.tar", 98, 5)


def test_a_full_disk_is_this_machines(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("1.jpg", b"1")

    def full(*args: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("detframe.storage.cache.os.fsync", full)
    with pytest.raises(CacheError, match=r"No space left on device; make room, or set .* DETFRAME_CACHE"):
        content(f"{bucket.address}/1.jpg")
