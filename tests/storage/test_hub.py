"""hf:// against a small server that answers as the Hugging Face Hub: what is refused, and how little is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.data import load_records
from detframe.errors import InvalidValueError, MissingFileError, NoPermissionError, UserError
from detframe.storage import names_in, opened, stores
from detframe.storage.faults import explained
from detframe.storage.stores import facts_of, fetch_part
from tests.bucket_server import Store
from tests.hub_server import TOKEN, Hub
from tests.storage.conftest import EVERY_STORE
from tests.storage.test_unwritable import ANNOTATIONS

ON_THE_HUB = pytest.mark.parametrize("bucket", ["hf"], indirect=True)


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who shows no token."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(pytest.importorskip("huggingface_hub.constants"), "HF_TOKEN_PATH", str(tmp_path / "none"))


def said(address: str, kind: type[UserError]) -> str:
    with pytest.raises(kind) as error:
        opened(address)
    return str(error.value)


@ON_THE_HUB
def test_a_private_repository_without_and_with_a_token(
    bucket: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.make("datasets/tests/secret", private=True).put("1.jpg", b"one")
    address = "hf://datasets/tests/secret/1.jpg"
    text = said(address, MissingFileError)
    assert text.startswith(f"{address}: the repository hf://datasets/tests/secret does not exist, or is private; ")
    assert "HF_TOKEN, or `hf auth login`, of an account that may read it" in text
    stores._clients.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "access was refused (HTTP 401). Credentials are taken from HF_TOKEN" in said(address, NoPermissionError)
    stores._clients.clear()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with opened(address) as file:
        assert file.read() == b"one"


@ON_THE_HUB
def test_what_there_is_none_of(bucket: Store) -> None:
    bucket.put("1.jpg", b"one")
    text = said(f"{bucket.address}@v9/1.jpg", MissingFileError)
    assert text.endswith("the repository has no such revision; it is what follows the @, else main")
    assert said("hf://tests/nothing/w.pth", MissingFileError).startswith(
        "hf://tests/nothing/w.pth: the repository hf://tests/nothing does not exist"
    )
    for address in ("hf://datasets/tests", "hf://tests"):
        assert said(address, InvalidValueError).startswith(
            f"{address} names no repository of the Hugging Face Hub; an "
        )


def test_a_repository_that_is_gated() -> None:
    errors = pytest.importorskip("huggingface_hub.errors")
    gated = errors.GatedRepoError.__new__(errors.GatedRepoError)
    known = explained(gated, "hf://datasets/big/set/1.jpg")
    assert isinstance(known, NoPermissionError)
    assert "the page of hf://datasets/big/set says how to ask for access" in str(known)


@ON_THE_HUB
def test_of_a_part_nothing_beyond_its_end_is_asked_for(bucket: Store, hub: Hub) -> None:
    bucket.put("0.tar", bytes(range(100)) * 1000)
    hub.asked.clear()
    assert fetch_part(f"{bucket.address}/0.tar", 10, 5) == bytes(range(10, 15))
    assert [ranged for _, _, ranged in hub.asked if ranged] == ["bytes=10-14"]


@ON_THE_HUB
def test_a_folder_is_listed_once_for_all_of_its_images(bucket: Store, hub: Hub) -> None:
    for number in range(9):
        bucket.put(f"images/{number}.jpg", bytes([number]))
    assert names_in(f"{bucket.address}/images") == [f"{number}.jpg" for number in range(9)]
    hub.asked.clear()
    for number in range(9):
        with opened(f"{bucket.address}/images/{number}.jpg") as file:
            assert file.read() == bytes([number])
    assert [(method, path.rpartition("/")[2]) for method, path, _ in hub.asked] == [
        ("GET", f"{number}.jpg") for number in range(9)
    ]


@EVERY_STORE
def test_what_changes_in_a_running_process_is_seen(bucket: Store) -> None:
    bucket.put("a/1.txt", b"one")
    before = facts_of(f"{bucket.address}/a/1.txt")
    assert names_in(f"{bucket.address}/a") == ["1.txt"]
    bucket.put("a/1.txt", b"other")
    bucket.put("a/2.txt", b"two")
    after = facts_of(f"{bucket.address}/a/1.txt")
    assert (before.size, after.size) == (3, 5) and before.version != after.version
    for name, content in (("1", b"other"), ("2", b"two")):
        with opened(f"{bucket.address}/a/{name}.txt") as file:
            assert file.read() == content


@ON_THE_HUB
def test_annotations_are_fetched_once(bucket: Store, hub: Hub, tmp_path: Path) -> None:
    bucket.put("train.json", ANNOTATIONS.encode())
    (tmp_path / "1.jpg").touch()
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(f"cats: {{format: coco, images: {tmp_path}, annotations: {bucket.address}/train.json}}")
    for _ in range(2):
        assert len(load_records(["cats"], str(catalog), keep_empty=True)) == 1
        stores._clients.clear()  # as of another process
    assert len([path for _, path, _ in hub.asked if path.endswith("resolve/main/train.json")]) == 1
