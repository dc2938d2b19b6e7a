"""Addresses into which runs write, and texts that look like some."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.cli import shard_data
from detframe.engine.output_place import output_place, weights_in
from detframe.errors import InvalidValueError
from detframe.export.describing import provenance, sha256
from detframe.storage.folders import StoreFolder, copy_of, local_file, store_of
from tests.bucket_server import Store
from tests.storage.conftest import EVERY_BUCKET


@pytest.mark.parametrize("address", ["https://host/runs", "s4://bucket/run", "S33://b"])
def test_an_address_into_which_no_run_writes_is_no_folder_of_that_name(address: str) -> None:
    for ask in (store_of, output_place, weights_in):
        with pytest.raises(
            InvalidValueError, match=rf"^OUTPUT_DIR {address} is an address .*, and at s3://, s3a://, gs://"
        ):
            ask(address)


def test_what_is_secret_in_an_address_is_not_shown() -> None:
    with pytest.raises(InvalidValueError) as error:
        store_of("https://me:secret@host/runs?sig=secret")
    assert "secret" not in str(error.value)


def test_an_address_without_a_bucket() -> None:
    for address in ("s3://", Path("s3://")):
        with pytest.raises(InvalidValueError, match=r"^s3:/?/? names no bucket; an address is s3://bucket/folder"):
            store_of(address) if isinstance(address, str) else StoreFolder(address)


def test_folders_and_stores() -> None:
    assert store_of("output/cells") is None and store_of(Path("C:/runs")) is None
    found = store_of("S3://bucket/run/")
    assert isinstance(found, StoreFolder) and str(found) == "s3://bucket/run"
    assert str(store_of("file:///tmp/run")) == "file:///tmp/run"


@pytest.mark.parametrize("words", [["--datasets", "bccd_val", "--output", "s3://b/c"], ["--index", "s3://b/c"]])
def test_shards_are_made_here(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert shard_data.main(words) == 2
    said = capsys.readouterr().err
    assert "error: s3://b/c is an address" in said and "make shards in a folder here" in said
    assert not Path("s3:").exists()


@EVERY_BUCKET
def test_a_folder_in_place_of_a_file_is_not_fetched(bucket: Store) -> None:
    for name in ("run/log.txt", "run/model_best.pth", "run/images/a.png"):
        bucket.put(name, b"x")
    with pytest.raises(InvalidValueError) as folder:
        local_file(f"{bucket.address}/run", ("config.json",))
    where = f"{bucket.address}/run is a folder, and a file is wanted; in it are "
    assert str(folder.value) == f"{where}model_best.pth, log.txt"
    assert local_file(f"{bucket.address}/run/log.txt").read_bytes() == b"x"
    copy = Path(local_file(f"{bucket.address}/run", ("log.txt", "*.png")))
    assert [path.name for path in copy.iterdir() if not path.name.startswith(".")] == ["log.txt"]


def test_a_bucket_in_place_of_a_file_is_not_fetched(bucket: Store) -> None:
    bucket.put("run/model_best.pth", b"x")
    with pytest.raises(InvalidValueError, match=r"is a folder, and a file is wanted; in it are folders alone$"):
        local_file(bucket.address)


@EVERY_BUCKET
def test_an_empty_object_is_a_file_and_its_errors_name_its_address(bucket: Store) -> None:
    bucket.put("run/model.pth", b"")
    address = f"{bucket.address}/run/model.pth"
    assert Path(local_file(address)).read_bytes() == b""
    with pytest.raises(InvalidValueError, match=f"^{address} \\(copied to .*model.pth\\) is empty; mend"):
        with copy_of(address) as path:
            raise InvalidValueError(f"{path} is empty; mend {path}")


def test_an_exported_file_says_from_which_store_it_is(bucket: Store) -> None:
    bucket.put("run/model.pth", b"weights")
    address = f"{bucket.address}/run/model.pth"
    for weights in (address, Path(address)):
        found = provenance(weights, {}, ())["weights"]
        assert found == {"file": address, "sha256": sha256(Path(local_file(address)))}
