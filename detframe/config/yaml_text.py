"""YAML and words of the command line as detframe reads them: plain values, limits, and words as they were written.

A text is refused before it can do harm: one that is too long, nests too deeply, or is made of aliases that stand for
millions of values. No tag makes a Python object. What YAML takes for a number, a date or a truth (2024_01, 007, 1e5,
no) is kept together with its text, so that whoever reads it may take it for a name.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from detframe.config.expressions import compute
from detframe.errors import InvalidValueError

MAX_LENGTH = 2**20  # characters
MAX_DEPTH = 40  # lists and mappings within one another
MAX_VALUES = 100_000  # with aliases counted as what they stand for
MAX_WORD = 10_000  # characters of a word that is read as anything but text
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"


@dataclass(frozen=True)
class Written:
    """A word as it was written, and what it reads as if it is no name: `Written("007", 7)`."""

    text: str
    value: Any

    def __repr__(self) -> str:
        return self.text or "nothing"


def values(tree: Any) -> Any:
    """A tree with what its words are read as: 7 for 007."""
    return _leaves(tree, lambda word: word.value)


def names(tree: Any) -> Any:
    """A tree with its words as they were written: "007" for 007, "no" for no."""
    return _leaves(tree, lambda word: word.text)


def _leaves(tree: Any, take: Callable[[Written], Any]) -> Any:
    if isinstance(tree, Written):
        return take(tree)
    if isinstance(tree, dict):
        return {key: _leaves(value, take) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_leaves(value, take) for value in tree)
    return tree


def literal(value: Any) -> Any:
    """A word of the command line as a Python value; what is no literal stays a string."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if len(value) > MAX_WORD:
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return value


@dataclass
class Document:
    """A YAML text as nodes."""

    root: yaml.Node | None
    shared: set[int] = field(default_factory=set)  # ids of the nodes that an alias stands for


def compose(text: str, heading: str) -> Document:
    """The nodes of a YAML text.

    Args:
        heading: what to say of a text that cannot be read, as "a.yaml is not valid YAML".

    Raises:
        ValueError: malformed YAML, more than one document, or one beyond the limits; says where.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidValueError(f"{heading}: it has {len(text)} characters; more than {MAX_LENGTH} are not read")
    try:
        composer = _Composer(text)
        return Document(composer.get_single_node(), composer.shared)
    except yaml.YAMLError as error:
        raise InvalidValueError(f"{heading}: {describe(error)}") from None


def safe_yaml(text: str, source: str) -> Any:
    """The plain values of a YAML text: dicts with the words as keys, lists, strings, numbers, True, False and None.

    Of what is read as anything but text, `read_tree` also keeps the words.

    Args:
        source: what the text is, for messages, as "the catalog /data/catalog.yaml".

    Raises:
        ValueError: malformed YAML, a key given twice, tags of Python objects, or a text beyond the limits.
    """
    return values(read_tree(text, source))


def read_tree(text: str, source: str) -> Any:
    """As `safe_yaml`, with `Written` for each word that is read as anything but text; see `values` and `names`."""
    root = compose(text, f"malformed YAML in {source}").root
    return None if root is None else construct(root, source)


def construct(node: yaml.Node, source: str, key: str = "") -> Any:
    """The values below a node, with `Written` for each word that is read as anything but text.

    Args:
        key: what the value belongs to, for messages.

    Raises:
        ValueError: a key given twice, or a tag that makes no plain value.
    """
    if isinstance(node, yaml.MappingNode):
        out: dict[str, Any] = {}
        for name, value in pairs(node, source):
            full = f"{key}.{name.value}" if key else str(name.value)
            if name.value in out:
                raise InvalidValueError(f"{full} is given twice ({place(name, source)})")
            out[str(name.value)] = construct(value, source, full)
        return out
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return [construct(item, source, key) for item in node.value]
    return _word(node, source, key)


def _word(node: yaml.Node, source: str, key: str) -> Any:
    """The value of a scalar: text where it is read as text, else `Written`. Tags as `!!str` are heeded.

    Raises:
        ValueError: a value that its tag does not fit, or a tag that makes no plain value.
    """
    plain = isinstance(node, yaml.ScalarNode) and node.style is None
    try:
        value = _Constructor().construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if plain and _implicit(node) == node.tag:  # as a date of month 13, a number of 5000 digits
            return Written(str(node.value), str(node.value))
        raise InvalidValueError(
            f"{key or 'a value'} cannot be read ({place(node, source)}): {describe(error)}"
        ) from None
    if isinstance(value, (bytes, set, dict)):
        raise InvalidValueError(f"{key or 'a value'} cannot be read ({place(node, source)}): its tag {_shown(node)}")
    if not plain or isinstance(value, str):
        return value
    return Written(str(node.value), value)


def pairs(node: yaml.MappingNode, source: str) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    """The keys and values of a mapping; behind its own come those of `<<: *other` that it does not have itself.

    Raises:
        ValueError: a key that is no word, a merge of what is no mapping, or a tag that makes no plain mapping.
    """
    if node.tag != f"{_TAG}map":
        raise InvalidValueError(f"the tag {_shown(node)} makes no plain value ({place(node, source)})")
    own = [pair for pair in node.value if pair[0].tag != _MERGE]
    for key, _ in own:
        if not isinstance(key, yaml.ScalarNode):
            raise InvalidValueError(f"a key must be a word, not a {key.id} ({place(key, source)})")
    seen = {key.value for key, _ in own}
    for other in _merged(node, source):
        fresh = [(key, value) for key, value in pairs(other, source) if key.value not in seen]
        seen |= {key.value for key, _ in fresh}
        own += fresh
    return own


def _merged(node: yaml.MappingNode, source: str) -> Iterator[yaml.MappingNode]:
    """The mappings that `<<` names, the first of which counts most."""
    for key, value in node.value:
        if key.tag == _MERGE:
            for other in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                if not isinstance(other, yaml.MappingNode):
                    raise InvalidValueError(
                        f"<< takes over the keys of a mapping or of several, as <<: *name, not a {other.id} "
                        f"({place(key, source)})"
                    )
                yield other


def place(node: yaml.Node, source: str) -> str:
    """Where a node stands, as "a.yaml:3"."""
    return f"{source}:{node.start_mark.line + 1}"


def describe(error: Exception) -> str:
    """An error of the YAML reader on one line, with the place where it knows one."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    problem = ", ".join(part for part in (error.context, error.problem) if part)
    hint = "; indent with spaces, not with tabs" if "\\t" in problem else ""
    return f"{where}{problem}{hint}"


def _shown(node: yaml.Node) -> str:
    return "!!" + node.tag.removeprefix(_TAG) if node.tag.startswith(_TAG) else str(node.tag)


def _implicit(node: yaml.Node) -> str:
    return str(yaml.resolver.Resolver().resolve(yaml.ScalarNode, node.value, (True, False)))


class _Composer(yaml.SafeLoader):
    """Makes nodes, and counts them as they would be without aliases."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.shared: set[int] = set()
        self._depth = 0
        self._extents: dict[int, tuple[int, int]] = {}  # id of a finished node -> values in it, depth of it

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node, its limits checked."""
        alias = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark
        self._depth += 1
        self._limit(self._depth, MAX_DEPTH, "lists and mappings nest more than {} deep", mark)
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if alias and id(node) not in self._extents:
            raise yaml.composer.ComposerError(None, None, "an alias stands inside of what it stands for", mark)
        if alias:
            self.shared.add(id(node))
        else:
            self._extents[id(node)] = self._extent(node)
        size, depth = self._extents[id(node)]
        self._limit(size, MAX_VALUES, "it stands for more than {} values", mark)
        self._limit(self._depth - 1 + depth, MAX_DEPTH, "lists and mappings nest more than {} deep", mark)
        self._depth -= 1
        return node

    def _extent(self, node: yaml.Node) -> tuple[int, int]:
        below = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            below = [part for pair in node.value for part in pair]
        extents = [self._extents[id(part)] for part in below]
        return 1 + sum(size for size, _ in extents), 1 + max((depth for _, depth in extents), default=0)

    def _limit(self, found: int, limit: int, problem: str, mark: Any) -> None:
        if found > limit:
            raise yaml.composer.ComposerError(None, None, problem.format(limit), mark)


class _Constructor(yaml.constructor.SafeConstructor):
    """Makes plain values and, for detectron2's files, tuples and sums over numbers."""


def _expression(constructor: yaml.constructor.SafeConstructor, node: yaml.Node) -> Any:
    words = constructor.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    if len(words) != 1 or not isinstance(words[0], str):
        raise InvalidValueError("an expression must be a list of one string")
    return compute(words[0])


def _sequence(constructor: yaml.constructor.SafeConstructor, node: yaml.Node) -> tuple[Any, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise InvalidValueError("a tuple must be written as a list")
    return tuple(constructor.construct_sequence(node, deep=True))


_Constructor.add_constructor(f"{_TAG}python/object/apply:eval", _expression)
_Constructor.add_constructor(f"{_TAG}python/tuple", _sequence)


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
