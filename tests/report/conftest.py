"""A run to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.runs import FOUND, TRUTH, make_run


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """The folder of a finished run with two classes, four images and one of each kind of error."""
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    return make_run(tmp_path / "toy_run", TRUTH, FOUND)
