"""How the code is written (docs/architecture.md), as far as a machine can check it: each rule is one test."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "detframe"
NESTING = (ast.For, ast.While, ast.If, ast.With, ast.Try)


@dataclass(frozen=True)
class File:
    """A file of the library: where it is below detframe/, its text, its tree."""

    name: str
    source: str
    tree: ast.Module

    @classmethod
    def of(cls, name: str, source: str) -> File:
        return cls(name, source, ast.parse(source))


Rule = Callable[[File], Iterator[str]]


@cache
def library() -> tuple[File, ...]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return tuple(File.of(path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")) for path in paths)


def broken(rule: Rule) -> list[str]:
    return [f"{file.name}: {text}" for file in library() for text in rule(file)]


# ---------------------------------------------------------------------------------------------- the rules
def depth(node: ast.AST) -> int:
    """How many blocks lie inside one another; an elif lies beside its if, not inside."""
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        children.remove(node.orelse[0])
        return max(1 + max(map(depth, children), default=0), depth(node.orelse[0]))
    return max(map(depth, children), default=0) + isinstance(node, NESTING)


def size_and_shape(file: File) -> Iterator[str]:
    if file.source.count("\n") > 400:
        yield f"{file.source.count(chr(10))} lines, at most 400"
    if file.tree.body and not ast.get_docstring(file.tree):
        yield "no module docstring"
    for node in ast.walk(file.tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > 60:
            yield f"{node.name}: {length} lines, at most 60"
        if max((depth(child) for child in node.body), default=0) > 4:
            yield f"{node.name}: nested more than four deep"


def swallows(handler: ast.ExceptHandler) -> bool:
    kind = handler.type
    broad = kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))
    return broad and all(isinstance(statement, (ast.Pass, ast.Continue)) for statement in handler.body)


def what_the_library_does_not_do(file: File) -> Iterator[str]:
    for node in ast.walk(file.tree):
        match node:
            case ast.Assert():
                yield f"line {node.lineno}: assert"
            case ast.ImportFrom() if any(alias.name == "*" for alias in node.names):
                yield f"line {node.lineno}: star import"
            case ast.ExceptHandler() if swallows(node):
                yield f"line {node.lineno}: swallows every exception"
            case ast.Call():
                yield from _calls(node)


def _calls(call: ast.Call) -> Iterator[str]:
    text = ast.unparse(call.func)
    if text in ("print", "pickle.load", "pickle.loads", "yaml.load", "eval", "exec", "sys.exit"):
        if ast.unparse(call) != "sys.exit(main())":
            yield f"line {call.lineno}: {text}"
    if text == "torch.load" and "weights_only=True" not in ast.unparse(call):
        yield f"line {call.lineno}: torch.load without weights_only=True"


def public_things_have_a_docstring(file: File) -> Iterator[str]:
    for node in file.tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            long = (node.end_lineno or 0) - node.lineno >= 5 or isinstance(node, ast.ClassDef)
            if long and not ast.get_docstring(node):
                yield f"{node.name} has no docstring"


def ops_know_neither_config_nor_registry(file: File) -> Iterator[str]:
    if file.name.startswith("ops/"):
        yield from (word for word in ("detframe.config", "detframe.registry", "cfg") if word in file.source)


RULES = (
    size_and_shape,
    what_the_library_does_not_do,
    public_things_have_a_docstring,
    ops_know_neither_config_nor_registry,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps(rule: Rule) -> None:
    assert len(library()) > 300 and not broken(rule)


# ---------------------------------------------------------------------------------------------- that they see something
DEEP = '"""Doc."""\ndef f():\n for a in b:\n  if a:\n   while a:\n    with a:\n     if a: pass\n'


@pytest.mark.parametrize(
    ("rule", "source", "said"),
    [
        (size_and_shape, '"""Doc."""\n' + "x = 1\n" * 400, "401 lines, at most 400"),
        (size_and_shape, "x = 1\n", "no module docstring"),
        (size_and_shape, '"""Doc."""\ndef f():\n' + " x = 1\n" * 60, "f: 61 lines, at most 60"),
        (size_and_shape, DEEP, "f: nested more than four deep"),
        (what_the_library_does_not_do, "assert True", "line 1: assert"),
        (what_the_library_does_not_do, "from os import *", "line 1: star import"),
        (what_the_library_does_not_do, "try: f()\nexcept Exception: pass", "line 2: swallows every exception"),
        (what_the_library_does_not_do, "print(1)", "line 1: print"),
        (what_the_library_does_not_do, "torch.load(x)", "line 1: torch.load without weights_only=True"),
        (public_things_have_a_docstring, "class A: pass", "A has no docstring"),
        (ops_know_neither_config_nor_registry, "import detframe.config", "detframe.config"),
    ],
)
def test_what_breaks_a_rule_is_seen(rule: Rule, source: str, said: str) -> None:
    assert list(rule(File.of("ops/new.py", source))) == [said]


@pytest.mark.parametrize(
    "source",
    [
        "sys.exit(main())",
        "torch.load(x, weights_only=True)",
        "try: f()\nexcept ValueError: pass",
        "if a: pass\nelif b: pass\nelif c: pass\nelif d: pass\nelif e: pass\nelif f: pass",
    ],
)
def test_what_is_allowed(source: str) -> None:
    assert not [text for rule in RULES for text in rule(File.of("ops/new.py", f'"""Doc."""\n{source}'))]
