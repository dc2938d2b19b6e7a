"""The data set "shapes" in miniature, and a Faster R-CNN that takes milliseconds a step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detframe.engine import remote_lock
from detframe.storage import mirror, stores
from tests.engine.ranks import tiny_config
from tests.engine.remote import SHORT
from tests.storage.conftest import bucket, cable, endpoint, google_endpoint, hub  # noqa: F401  (fixtures)


@pytest.fixture(autouse=True)
def one_thread():
    """Sums are then the same in every process; and tiny tensors gain nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def datasets(tmp_path_factory, root) -> Path:
    """A folder for DETFRAME_DATASETS with 24 + 8 images of 64 pixels."""
    folder = tmp_path_factory.mktemp("datasets")
    command = [sys.executable, root / "datasets" / "make_shapes.py", "--output", folder / "shapes"]
    subprocess.run([*map(str, command), "--train", "24", "--val", "8", "--size", "64"], check=True, capture_output=True)
    return folder


@pytest.fixture
def tiny(datasets, tmp_path, monkeypatch):
    """Make a config of a tiny detector: tiny("SOLVER.MAX_ITER", 8)."""
    monkeypatch.setenv("DETFRAME_DATASETS", str(datasets))
    monkeypatch.setenv("DETFRAME_CACHE", str(datasets / "cache"))

    def make(*overrides):
        return tiny_config(("OUTPUT_DIR", str(tmp_path / "out"), *overrides))

    return make


@pytest.fixture
def server(bucket, cable, monkeypatch):  # noqa: F811
    """A bucket behind a cable, with looks and beats that tests need not wait for."""
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(remote_lock, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(stores, "CALL_SECONDS", 5.0)
    monkeypatch.setattr(remote_lock, "_SETTLE_SECONDS", 0.0)
    return bucket


@pytest.fixture
def remote(tiny, server, tmp_path, monkeypatch):
    """A config of a short run into a folder of the bucket: remote("run", "SOLVER.MAX_ITER", 8)."""
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))

    def make(name, *words):
        return tiny(*SHORT, *words, "OUTPUT_DIR", f"{server.address}/{name}")

    return make
