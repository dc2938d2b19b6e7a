"""docs/api.md: the modules that can be relied on; all that is public in them is described, with types."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
griffe = pytest.importorskip("griffe", reason="the extra `docs` is not installed")

from tests.docs.site_tool import SITE  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MODULES = SITE.modules()


@pytest.fixture(scope="module")
def package() -> Any:
    """detframe as the reference reads it: without importing it."""
    loader = griffe.GriffeLoader(search_paths=[ROOT])
    package = loader.load("detframe")
    loader.resolve_aliases(external=False)
    return package


def test_every_package_with_public_names_is_a_page():
    def chosen(path: Path) -> bool:
        return any(
            isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )

    packages = [path for path in (ROOT / "detframe").rglob("__init__.py") if chosen(path)]
    names = {path.relative_to(ROOT).as_posix() for path in packages}
    inner = ("detframe/torch_files/", "detframe/storage/", "detframe/data/screen/", "detframe/evaluation/analysis/")
    assert {name for name in names if not name.startswith(inner)} <= set(MODULES)


@pytest.mark.parametrize("path", MODULES)
def test_all_that_is_public_exists_and_is_described(path: str, package: Any):
    bare = []
    for name, place in SITE.public_names(path).items():
        if (name, place) == ("__version__", "detframe.__version__"):
            continue
        described = package[place.removeprefix("detframe.")]
        bare += [] if described.docstring and described.docstring.value.strip() else [place]
    assert not bare


@pytest.mark.parametrize("path", [path for path in MODULES if "integrations" not in path])
def test_the_reference_says_what_python_has(path: str):
    """What is read without importing is what an import gives; a package's `__all__` has all its pages."""
    module = importlib.import_module(SITE.dotted(path))
    read = SITE.public_names(path)
    for name, place in read.items():
        where, _, last = place.rpartition(".")
        assert getattr(module, name) is getattr(importlib.import_module(where), last)
    offered = [name for name in getattr(module, "__all__", read) if not inspect.ismodule(getattr(module, name))]
    assert sorted(set(offered) - {"__version__"}) == sorted(read)


@pytest.mark.parametrize("path", MODULES)
def test_signatures_have_types(path: str, package: Any):
    untyped = []
    for place in SITE.public_names(path).values():
        thing = package[place.removeprefix("detframe.")]
        thing = thing.final_target if thing.is_alias else thing
        if thing.is_function:
            untyped += [place] if thing.returns is None else []
            untyped += [f"{place}({p.name})" for p in thing.parameters if p.annotation is None and p.name != "self"]
    assert not untyped


def described(path: str, package: Any) -> list[Any]:
    """What a page of the reference describes: public names of a module, and the public members of its classes."""
    found = []
    for name, place in SITE.public_names(path).items():
        if name == "__version__":
            continue
        thing = package[place.removeprefix("detframe.")]
        thing = thing.final_target if thing.is_alias else thing
        members = thing.members.values() if thing.is_class else ()
        found += [thing, *(member for member in members if not member.name.startswith("_") and not member.is_alias)]
    return [thing for thing in found if thing.docstring]


def misread(thing: Any) -> list[str]:
    """What of a docstring the reference would show as it is not meant."""
    text = re.sub(r"`[^`]*`", "", thing.docstring.value)
    found = (
        ["`"] if "`" in text else re.findall(r"<\w+>|\*[^\s*](?:[^*]*[^\s*])?\*", text)
    )  # tags and emphasis, which vanish
    known = set()
    if thing.is_function or thing.is_class:
        known = {parameter.name for parameter in thing.parameters}
    if thing.is_class:
        known |= set(thing.all_members)
    for section in thing.docstring.parse("google", warnings=False, returns_multiple_items=False):
        if section.kind.value == "parameters":
            found += [parameter.name for parameter in section.value if parameter.name.lstrip("*") not in known]
        elif section.kind.value == "raises":
            rows = "\n".join(row.description for row in section.value)
            found += re.findall(r"\b[A-Z]\w+Error: ", rows)  # a row of its own for each
        elif section.kind.value in ("returns", "yields"):
            found += [row.name for row in section.value if row.name]  # the first words of a sentence
    return found


@pytest.mark.parametrize("path", MODULES)
def test_descriptions_are_shown_as_they_are_meant(path: str, package: Any):
    wrong = {thing.path: found for thing in described(path, package) if (found := misread(thing))}
    assert not wrong


def test_what_is_misread_is_seen(tmp_path: Path):
    (tmp_path / "wrong.py").write_text(
        'def thing(a: int, b: int) -> None:\n    """Of MODEL.<section>, "a/*.jpg" and "b/*.jpg".\n\n'
        "    Args:\n        a, b: two.\n        c: none.\n\n"
        "    Returns:\n        float32 (R, 2): something.\n\n"
        '    Raises:\n        KeyError: one. ValueError: two.\n    """\n'
    )
    module = griffe.GriffeLoader(search_paths=[tmp_path]).load("wrong")
    tag, emphasis, *rows = misread(module["thing"])
    assert tag == "<section>" and emphasis.startswith("*.jpg")
    assert rows == ["a, b", "c", "float32", "ValueError: "]


def test_names_of_a_module_without_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "__init__.py").write_text("VALUE = 1\n\ndef thing():\n    pass\n\ndef _own():\n    pass\n")
    monkeypatch.setattr(SITE, "ROOT", tmp_path)
    assert SITE.public_names("bare/__init__.py") == {"VALUE": "bare.VALUE", "thing": "bare.thing"}
