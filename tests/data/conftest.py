"""Every test of the data package has a cache and a data folder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("DETFRAME_DATASETS", raising=False)


@pytest.fixture
def shared_data(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real data, with the catalog pointing there."""
    monkeypatch.setenv("DETFRAME_DATASETS", str(shared / "data"))
    return shared / "data"
