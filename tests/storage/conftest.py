"""Servers of buckets for all tests of a process, and a cache and clients of its own for each test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

import pytest

from detframe.storage import addresses, forget, reading, settings, stores
from tests.bucket_server import Cable, Store, cable_to, google_server, make_bucket, make_google_bucket, s3_server
from tests.hub_server import hub_server

T = TypeVar("T")

EVERY_BUCKET = pytest.mark.parametrize("bucket", ["s3", "gs"], indirect=True)
"""Runs a test with a bucket of each kind; without it, `bucket` is one of S3's."""
EVERY_STORE = pytest.mark.parametrize("bucket", ["s3", "gs", "hf"], indirect=True)
"""As above, for tests that only read: with a repository of the Hugging Face Hub too."""

NOBODYS = {"s3": "s3://nobodys", "gs": "gs://nobodys", "hf": "hf://datasets/nobodys/images"}
"""What there is none of, by the scheme of a store."""


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(addresses, "_secrets", {})
    _nobody_answered(monkeypatch)
    monkeypatch.setattr(reading, "_silent", {})
    forget()
    yield
    stores._clients.clear()


def _of_session(serve: Callable[[], AbstractContextManager[T]], *libraries: str) -> Callable[[], Iterator[T]]:
    """A fixture of what a server gives, which runs while the tests do; without a library, its tests are skipped."""

    @pytest.fixture(scope="session")
    def running() -> Iterator[T]:
        for library in libraries:
            pytest.importorskip(library)
        with serve() as found:
            yield found

    return running


endpoint = _of_session(s3_server, "moto", "s3fs")
google_endpoint = _of_session(google_server, "gcp_storage_emulator", "gcsfs")
hub = _of_session(hub_server, "huggingface_hub")


@pytest.fixture
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty bucket, with the environment that reads it and no client from before."""
    kind, name = getattr(request, "param", "s3"), f"b{abs(hash(request.node.nodeid)):x}"
    if kind == "hf":
        made: Store = request.getfixturevalue("hub").make(f"datasets/tests/{name}")
    elif kind == "gs":
        made = make_google_bucket(request.getfixturevalue("google_endpoint"), name)
    else:
        made = make_bucket(request.getfixturevalue("endpoint"), name)
    lead_to(made, made.endpoint, monkeypatch)
    _nobody_answered(monkeypatch)
    yield made
    new_connections()


@pytest.fixture
def cable(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cable]:
    """A cable to the bucket's server, which the environment leads through."""
    with cable_to(bucket.endpoint) as found:
        lead_to(bucket, found.endpoint, monkeypatch)
        yield found


def new_connections() -> None:
    """Have no client, and no connection, from before."""
    stores._clients.clear()
    if "huggingface_hub" in sys.modules:  # whose connections are those of all its clients
        sys.modules["huggingface_hub"].close_session()


def _nobody_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "answered", set())
    monkeypatch.setattr("detframe.storage.retrying.answered", settings.answered)
    monkeypatch.setattr("detframe.storage.stores.answered", settings.answered)


def lead_to(store: Store, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the libraries ask a server for a store."""
    new_connections()
    for key, value in {**store.environment, store.variable: endpoint}.items():
        monkeypatch.setenv(key, value)
    if store.scheme == "gs":  # which fsspec reads when it is imported
        monkeypatch.setitem(pytest.importorskip("fsspec.config").conf, "gs", {"token": "anon"})
    if store.scheme == "hf":  # which the library reads when it is imported
        url = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url)
