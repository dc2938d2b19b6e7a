"""Addresses into which runs write, and texts that look like some."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.cli import shard_data
from detframe.engine.output_place import output_place, weights_in
from detframe.errors import InvalidValueError
from detframe.storage.folders import StoreFolder, store_of


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
