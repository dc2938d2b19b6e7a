"""Packages that import their modules when asked offer exactly what they say."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import detframe

PACKAGE = Path(detframe.__file__).parent
LAZY = [
    path.parent.name for path in sorted(PACKAGE.glob("*/__init__.py")) if "lazily(" in path.read_text(encoding="utf-8")
]


def test_some_are():
    assert {"data", "structures"} <= set(LAZY)


@pytest.mark.parametrize("name", LAZY)
def test_every_name_is_there_and_comes_from_where_type_checkers_are_told(name: str):
    package = importlib.import_module(f"detframe.{name}")
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in checked.body for alias in node.names}
    for public in package.__all__:
        value = getattr(package, public)
        if public in told:
            assert value is getattr(importlib.import_module(told[public]), public)
    assert set(told) <= set(package.__all__)
    modules = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
    assert not modules & set(told), "a module of that name would stand in its place"


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match=r"module 'detframe.data' has no attribute 'lod_image'"):
        _ = importlib.import_module("detframe.data").lod_image
