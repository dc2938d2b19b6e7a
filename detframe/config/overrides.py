"""Words of the command line with their text: numbers that may be names, and lists."""

from __future__ import annotations

import ast
from typing import Any

from detframe.config.words import MAX_WORD, Written, literal
from detframe.config.yaml_text import read_tree
from detframe.errors import InvalidValueError


def read_word(word: Any) -> Any:
    """A word of the command line: a string where it is read as one, else `Written`. What is no string stays as it is.

    A list gives one of these for each of its words, which may be quoted as in Python or bare: `('a', 1e-5)`,
    `[a, 007]`. What only begins as a list is a string.
    """
    if not isinstance(word, str):
        return word
    text = word.strip()
    if text.startswith(("[", "(")) and len(text) <= MAX_WORD:
        found = _python_list(text)
        found = _bare_list(text) if found is None else found
        if found is not None:
            return found
    value = literal(word)
    return value if isinstance(value, str) else Written(word, value)


def _python_list(text: str) -> list[Any] | None:
    try:
        tree = ast.parse(text, mode="eval").body
        return _parts(tree, text) if isinstance(tree, (ast.List, ast.Tuple)) else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _parts(node: ast.List | ast.Tuple, text: str) -> list[Any]:
    out: list[Any] = []
    for item in node.elts:
        if isinstance(item, (ast.List, ast.Tuple)):
            out.append(_parts(item, text))
        elif isinstance(item, ast.Constant) and isinstance(item.value, str):
            out.append(item.value)
        else:
            segment = ast.get_source_segment(text, item) or ""
            value = literal(segment)
            out.append(segment if isinstance(value, str) else Written(segment, value))
    return out


def _bare_list(text: str) -> list[Any] | None:
    """A list with words that Python cannot read, as 007 or my/data."""
    brackets = f"[{text[1:-1]}]" if text[0] == "(" and text[-1] == ")" else text
    try:
        found = read_tree(brackets, "the list")
    except InvalidValueError:
        return None
    return found if isinstance(found, list) else None
