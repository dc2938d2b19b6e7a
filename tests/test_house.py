"""How the code is written (docs/architecture.md), as far as a machine can check it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "detframe"
FILES = sorted(PACKAGE.rglob("*.py"))
NESTING = (ast.For, ast.While, ast.If, ast.With, ast.Try)


def depth(node: ast.AST) -> int:
    """How many blocks lie inside one another; an elif lies beside its if, not inside."""
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        children.remove(node.orelse[0])
        return max(1 + max(map(depth, children), default=0), depth(node.orelse[0]))
    return max(map(depth, children), default=0) + isinstance(node, NESTING)


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def called(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def swallows(handler: ast.ExceptHandler) -> bool:
    kind = handler.type
    broad = kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))
    return broad and all(isinstance(statement, (ast.Pass, ast.Continue)) for statement in handler.body)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_size_and_shape(path: Path):
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    wrong = [] if source.count("\n") <= 400 else [f"{source.count(chr(10))} lines, at most 400"]
    if tree.body and not ast.get_docstring(tree):
        wrong.append("no module docstring")
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > 60:
            wrong.append(f"{node.name}: {length} lines, at most 60")
        if max((depth(child) for child in node.body), default=0) > 4:
            wrong.append(f"{node.name}: nested more than four deep")
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name)
def test_what_the_library_does_not_do(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            wrong.append(f"line {node.lineno}: assert")
        elif isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            wrong.append(f"line {node.lineno}: star import")
        elif isinstance(node, ast.ExceptHandler) and swallows(node):
            wrong.append(f"line {node.lineno}: swallows every exception")
    for call in called(tree):
        text = ast.unparse(call.func)
        if text in ("print", "pickle.load", "pickle.loads", "yaml.load", "eval", "exec", "sys.exit"):
            in_main_block = text == "sys.exit" and ast.unparse(call) == "sys.exit(main())"
            wrong += [] if in_main_block else [f"line {call.lineno}: {text}"]
        if text == "torch.load" and "weights_only=True" not in ast.unparse(call):
            wrong.append(f"line {call.lineno}: torch.load without weights_only=True")
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=name)
def test_public_things_have_a_docstring(path: Path):
    bare = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            long = (node.end_lineno or 0) - node.lineno >= 5 or isinstance(node, ast.ClassDef)
            bare += [node.name] if long and not ast.get_docstring(node) else []
    assert not bare


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "ops"], ids=name)
def test_ops_know_neither_config_nor_registry(path: Path):
    source = path.read_text(encoding="utf-8")
    assert "detframe.config" not in source and "detframe.registry" not in source and "cfg" not in source
