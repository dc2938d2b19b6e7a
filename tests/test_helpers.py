"""What several test files need is in one place: a conftest.py or a module beside them."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

from tests.conftest import ROOT

LINES = 5  # of a copy that is worth an import


def helpers(source: str) -> Iterator[tuple[str, str]]:
    """Name and code, without names, docstrings and types, of each function and class that is no test."""
    for node in ast.parse(source).body:
        kinds = (ast.FunctionDef, ast.ClassDef)
        if isinstance(node, kinds) and not node.name.startswith(("test_", "Test")) and length(node) >= LINES:
            yield node.name, ast.dump(bare(node))


def length(node: ast.FunctionDef | ast.ClassDef) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def bare(node: ast.FunctionDef | ast.ClassDef) -> ast.AST:
    for part in ast.walk(node):
        if isinstance(part, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(part) is not None:
            part.body = part.body[1:]
        if isinstance(part, ast.FunctionDef):
            part.returns = None
        if isinstance(part, ast.arg):
            part.annotation = None
    node.name = ""
    return node


def copies(sources: dict[str, str]) -> list[list[str]]:
    places = defaultdict(list)
    for file, source in sources.items():
        for name, code in helpers(source):
            places[code].append(f"{file}::{name}")
    return [found for found in places.values() if len({place.split("::")[0] for place in found}) > 1]


def test_no_helper_is_in_two_files() -> None:
    files = sorted((ROOT / "tests").rglob("*.py"))
    found = copies({str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in files})
    assert found == [], "move them to a conftest.py or to a module beside the tests"


def test_a_copy_with_other_names_and_types_is_found() -> None:
    one = 'def rows(folder: str) -> list:\n    """Rows."""\n    a = folder\n    b = a\n    return [a, b]\n'
    other = "def lines(folder):\n    a = folder\n    b = a\n\n    return [a, b]\n"
    assert copies({"a.py": one, "b.py": other, "c.py": other.replace("[a, b]", "[b, a]")}) == [
        ["a.py::rows", "b.py::lines"]
    ]
    assert copies({"a.py": one + one.replace("rows", "again")}) == []
