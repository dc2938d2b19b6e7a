"""A server of buckets for all tests of a process, and a cache and clients of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from detframe.storage import addresses, forget, reading, settings, stores
from tests.bucket_server import KEYS, Bucket, Cable, cable_to, make_bucket, s3_server


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(addresses, "_secrets", {})
    monkeypatch.setattr(settings, "answered", set())
    monkeypatch.setattr("detframe.storage.retrying.answered", settings.answered)
    monkeypatch.setattr(reading, "_silent", {})
    forget()
    yield
    stores._clients.clear()


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    with s3_server() as found:
        yield found


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, with the environment that reads it and no client from before."""
    stores._clients.clear()
    for key, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(key, value)
    return make_bucket(endpoint, f"b{abs(hash(request.node.nodeid)):x}")


@pytest.fixture
def cable(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cable]:
    """A cable to the bucket's server, which the environment leads through."""
    with cable_to(bucket.endpoint) as found:
        stores._clients.clear()
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.endpoint)
        yield found
