"""docs/contracts.md has every registry; the tutorials have what `detframe new` writes, and their files train."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from detframe import registry
from detframe.contracts import train_steps
from detframe.contracts.skeletons import KINDS, write_skeleton
from detframe.registry import Registry

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "contracts.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
REGISTRIES = {name: value for name, value in vars(registry).items() if isinstance(value, Registry)}
TUTORIALS = {
    "adding_a_head.md": (("rpn-head", "my_head"), ("roi-head", "my_roi_head")),
    "adding_a_detector.md": (("detector", "my_detector"),),
    "adding_an_evaluator.md": (("evaluator", "my_evaluator"),),
}


def section(name: str) -> str:
    return PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("name", REGISTRIES)
def test_every_registry_has_its_contract(name: str):
    text = section(name)
    assert all(f"- **{word}" in text for word in ("Called with", "Returns", "May not")) or name == "META_ARCHITECTURES"
    assert "**Returns**" in text and "**May not**" in text
    keys = re.findall(r"\b(?:[A-Z_]+\.)+[A-Z_]+\b", REGISTRIES[name].chosen_by)
    assert all(f"`{key}`" in text for key in keys)


def test_no_contract_of_a_registry_that_is_gone():
    assert set(re.findall(r"^## ([A-Z_]+)$", PAGE, flags=re.MULTILINE)) == set(REGISTRIES)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_names_every_kind(kind: str):
    assert f"`{kind}`" in PAGE


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_has_what_the_command_writes(page: str, tmp_path: Path):
    shown = dict(BLOCK.findall((DOCS / page).read_text(encoding="utf-8")))
    written = {}
    for kind, name in TUTORIALS[page]:
        paths = write_skeleton(kind, name, tmp_path)
        written |= {path.name: path.read_text(encoding="utf-8") for path in paths if not path.name.startswith("test_")}
    assert shown == written


@pytest.mark.parametrize("page", TUTORIALS)
def test_the_files_of_a_tutorial_train(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for members in REGISTRIES.values():
        monkeypatch.setattr(members, "_members", dict(iter(members)))
    for file, text in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        (tmp_path / file).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for config in sorted(tmp_path.glob("*.yaml")):
        assert all(math.isfinite(loss) for loss in train_steps(config, steps=2))
