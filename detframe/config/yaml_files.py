"""Config files: YAML with bases, every value with the line that it stands on.

Nothing in a file is executed. The one expression that detectron2's files hold, anchor sizes as a list comprehension
under the tag `!!python/object/apply:eval`, is computed by a reader of numbers, lists and comprehensions.
"""

from __future__ import annotations

import ast
import operator
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from detframe.config.paths import find_config, find_shipped, nearest_shipped
from detframe.errors import InvalidValueError, MissingFileError

BASE_KEY = "_BASE_"


def read_yaml(path: Path, _open: tuple[Path, ...] = ()) -> list[tuple[str, Any, str]]:
    """(dotted key, value, "file:line") of every leaf of a config file, those of its bases first.

    Raises:
        FileNotFoundError: the file, or one of its bases, does not exist.
        ValueError: malformed YAML, a key given twice, bases in a circle, or Python objects.
    """
    path = path if _open else find_config(path)
    if path.resolve() in _open:
        raise InvalidValueError(f"_BASE_ runs in a circle: {' -> '.join(str(p) for p in (*_open, path))}")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise InvalidValueError(f"{path} is not valid YAML: {error}") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise InvalidValueError(f"{path} must hold KEY: VALUE pairs at the top, not a {root.id}")
    rows = list(_flatten(root, "", path))
    bases = [value for key, value, _ in rows if key == BASE_KEY]
    out: list[tuple[str, Any, str]] = []
    for base in [b for group in bases for b in ([group] if isinstance(group, str) else group)]:
        out += read_yaml(_find_base(base, path), (*_open, path.resolve()))
    return out + [row for row in rows if row[0] != BASE_KEY]


def _find_base(base: str, owner: Path) -> Path:
    """The file that a `_BASE_` names: relative to its owner, else a shipped config."""
    beside = Path(os.path.normpath(owner.parent / Path(base).expanduser()))
    found = beside if beside.is_file() else find_shipped(base)
    if found is None:
        raise MissingFileError(f"config file {beside} does not exist (_BASE_ of {owner}){nearest_shipped(beside)}")
    return found


def _flatten(
    node: yaml.MappingNode, prefix: str, path: Path, seen: set[str] | None = None
) -> Iterator[tuple[str, Any, str]]:
    """A section that stands twice, as in some published files, is the two together; a key that does is an error."""
    seen = set() if seen is None else seen
    for key_node, value_node in node.value:
        name, where = str(key_node.value), f"{path}:{key_node.start_mark.line + 1}"
        if isinstance(value_node, yaml.MappingNode):
            yield from _flatten(value_node, f"{prefix}{name}.", path, seen)
        else:
            if prefix + name in seen:
                raise InvalidValueError(f"{prefix}{name} is given twice ({where})")
            seen.add(prefix + name)
            try:
                yield prefix + name, _Loader("").construct_object(value_node, deep=True), where
            except (yaml.YAMLError, ValueError) as error:
                raise InvalidValueError(f"{prefix}{name} cannot be read ({where}): {error}") from None


def literal(value: Any) -> Any:
    """A word of the command line as a Python value; what is no literal stays a string."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def write_yaml(tree: Mapping[str, Any], **kwargs: Any) -> str:
    """A tree of sections and values as YAML: a line for each key, lists on one line."""
    return yaml.dump(_lists(tree), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=120, **kwargs)


class _Dumper(yaml.SafeDumper):
    """Sections in block style, lists on one line."""


_Dumper.add_representer(
    list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def _lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _lists(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_lists(v) for v in value]
    return value


class _Loader(yaml.SafeLoader):
    """Plain values, tuples, and sums over numbers."""


def _expression(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    words = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    if len(words) != 1 or not isinstance(words[0], str):
        raise InvalidValueError("an expression must be a list of one string")
    return compute(words[0])


def _sequence(loader: yaml.SafeLoader, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise InvalidValueError("a tuple must be written as a list")
    return tuple(loader.construct_sequence(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _expression)
_Loader.add_constructor("tag:yaml.org,2002:python/tuple", _sequence)

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_LARGEST = 1e9  # of any number on the way, so that no power of powers keeps the machine busy


def compute(text: str) -> Any:
    """The value of an expression of numbers, + - * / **, lists, tuples and comprehensions over lists, as in
    "[[x, x * 2**(1/3)] for x in [32, 64]]".

    Raises:
        ValueError: anything else; nothing is called or looked up.
    """
    try:
        return _value(ast.parse(text, mode="eval").body, {})
    except (SyntaxError, TypeError, ArithmeticError, RecursionError) as error:
        raise InvalidValueError(f"{text!r} is no expression of numbers and lists ({error})") from None


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item, names) for item in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand, names)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        result = _OPERATORS[type(node.op)](_number(node.left, names), _number(node.right, names))
        return _bounded(result)
    if isinstance(node, ast.ListComp) and len(node.generators) == 1:
        loop = node.generators[0]
        if isinstance(loop.target, ast.Name) and not loop.ifs and not loop.is_async:
            items = _value(loop.iter, names)
            if isinstance(items, list):
                return [_value(node.elt, {**names, loop.target.id: item}) for item in items]
    raise InvalidValueError(f"{ast.unparse(node)!r} is no expression of numbers and lists")


def _number(node: ast.expr, names: Mapping[str, Any]) -> float:
    value = _value(node, names)
    if not isinstance(value, (int, float)):
        raise InvalidValueError(f"{ast.unparse(node)!r} is no number")
    return float(_bounded(value))


def _bounded(value: Any) -> float:
    if isinstance(value, complex) or not abs(value) <= _LARGEST:
        raise InvalidValueError(f"{value} is beyond {_LARGEST:g}")
    return value
