"""Addresses where files of this machine are asked for: the address is named, and what can be done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detframe.data.folder import read_folder
from detframe.engine.report_run import run_config
from detframe.errors import InvalidValueError
from detframe.inference.inputs import list_images, list_media
from detframe.storage import place_of, refuse_address

ASKERS: list[Callable[[str], Any]] = [read_folder, list_images, list_media, lambda text: run_config(Path(text))]


@pytest.mark.parametrize("ask", ASKERS)
@pytest.mark.parametrize("address", ["s3://bucket/cells", "gs://bucket/cells", "hf://datasets/me/cells"])
def test_what_reads_this_machine_alone_says_so(ask: Callable[[str], Any], address: str):
    with pytest.raises(InvalidValueError, match=rf"^{address} is an address, and .*download"):
        ask(address)


@pytest.mark.parametrize("address", ["s4://bucket/cells", "ftp://host/cells", "s3:/bucket/cells"])
def test_schemes_of_any_kind_and_addresses_that_were_paths(address: str):
    with pytest.raises(InvalidValueError, match=rf"^{address.partition(':')[0]}://\w+/cells is an address"):
        refuse_address(Path(address), "download it")


@pytest.mark.parametrize("address", ["s3://", "gs:///", "https://"])
def test_an_address_that_ends_where_it_begins(address: str):
    with pytest.raises(
        InvalidValueError, match=rf"^{address.partition('/')[0]}// names no (bucket|host): an address is "
    ):
        place_of(address)


@pytest.mark.parametrize("path", ["cells", "/data/cells", "C:/cells", "C:\\cells", "a:b", ""])
def test_paths_pass(path: str):
    assert refuse_address(path, "download it") is None
