"""What the tests of tutorials share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import BLOCK


@pytest.fixture
def tutorial(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with the files of the page that the test module calls PAGE."""
    for name, text in BLOCK.findall(request.module.PAGE.read_text(encoding="utf-8")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path
