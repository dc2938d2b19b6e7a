"""Expressions over numbers, as detectron2's config files hold them; nothing is called or looked up."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from detframe.errors import InvalidValueError

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
# Of any number on the way and of the steps to the end, so that no power of powers and no loop of loops keeps the
# machine busy
_LARGEST, _MOST_STEPS = 1e9, 10_000


def compute(text: str) -> Any:
    """The value of an expression of numbers, + - * / **, lists, tuples and comprehensions over lists, as in
    "[[x, x * 2**(1/3)] for x in [32, 64]]".

    Raises:
        ValueError: anything else; nothing is called or looked up.
    """
    try:
        return _Evaluation().value(ast.parse(text, mode="eval").body, {})
    except (SyntaxError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise InvalidValueError(f"{text[:200]!r} is no expression of numbers and lists ({error})") from None


class _Evaluation:
    """One expression on its way to a value."""

    def __init__(self) -> None:
        self.steps = 0

    def value(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        """The value of a part of the expression."""
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise InvalidValueError(f"the expression takes more than {_MOST_STEPS} steps")
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        if isinstance(node, ast.Name) and node.id in names:
            return names[node.id]
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self.value(item, names) for item in node.elts]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._number(node.operand, names)
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            left, right = self._number(node.left, names), self._number(node.right, names)
            return _bounded(_OPERATORS[type(node.op)](left, right))
        if isinstance(node, ast.ListComp) and len(node.generators) == 1:
            loop = node.generators[0]
            if isinstance(loop.target, ast.Name) and not loop.ifs and not loop.is_async:
                items = self.value(loop.iter, names)
                if isinstance(items, list):
                    return [self.value(node.elt, {**names, loop.target.id: item}) for item in items]
        raise InvalidValueError(f"{ast.unparse(node)!r} is no expression of numbers and lists")

    def _number(self, node: ast.expr, names: Mapping[str, Any]) -> float:
        value = self.value(node, names)
        if not isinstance(value, (int, float)):
            raise InvalidValueError(f"{ast.unparse(node)!r} is no number")
        return float(_bounded(value))


def _bounded(value: Any) -> float:
    if isinstance(value, complex) or not abs(value) <= _LARGEST:
        raise InvalidValueError(f"{value} is beyond {_LARGEST:g}")
    return value
