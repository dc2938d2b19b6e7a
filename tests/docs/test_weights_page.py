"""The program of the page on weights is read as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from detframe.compat import PROGRAMS, load_weights
from detframe.config import import_custom_modules
from tests.compat.models import random_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "weights.md"
BLOCK = re.compile(r"^<!-- file: (\S+) -->\n```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory):
    """The page's module, imported; what it adds is gone afterwards."""
    ((name, text),) = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    path = tmp_path_factory.mktemp("acme") / name
    path.write_text(text, encoding="utf-8")
    before = list(PROGRAMS)
    import_custom_modules([str(path)])
    yield
    PROGRAMS[:] = before


def in_names_of_acme(name: str) -> str:
    name = re.sub(r"^backbone\.body\.layer(\d)\.(\d)\.", lambda m: f"trunk.stage{m[1]}.unit{int(m[2]) + 1}.", name)
    name = name.replace("backbone.body.", "trunk.stem.")
    name = re.sub(r"^backbone\.fpn\.inner_blocks\.(\d)\.0\.", lambda m: f"neck.reduce{int(m[1]) + 2}.", name)
    return re.sub(r"^backbone\.fpn\.layer_blocks\.(\d)\.0\.", lambda m: f"neck.smooth{int(m[1]) + 2}.", name)


def test_a_program_from_outside(acme):
    source, model = random_model(), random_model()
    theirs = {in_names_of_acme(name): value for name, value in source.state_dict().items()}
    assert not any(name.startswith("backbone.") for name in theirs)
    report = load_weights(model, {**theirs, "trunk.other": torch.ones(1)})
    assert report.kind == "acme detector" and report.unused == ["trunk.other"]
    assert not (report.missing or report.reinitialised)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in source.state_dict().items())


def test_others_stay_what_they_are(acme):
    assert load_weights(random_model(), random_model().state_dict()).kind == "detframe"
