"""Which code reads a format, as a word that changes with it: what an older reader has packed is never used.

It covers detframe's own modules of data, the module that the reader is defined in, and the modules of its author that
this one uses, one through another. Installed packages are not looked into.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import marshal
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from detframe.config.paths import PACKAGE

_OWN = ("data", "structures")  # folders of the package whose code makes records


def code_stamp(reader: Callable[..., Any]) -> str:
    """A word for the code that a reader goes through."""
    digest = hashlib.sha256(_own_code())
    while isinstance(reader, functools.partial):
        digest.update(repr((reader.args, sorted(reader.keywords.items()))).encode())
        reader = reader.func
    module = sys.modules.get(getattr(reader, "__module__", None) or "")
    source = _source(module) if module is not None else None
    if source is not None and source.is_relative_to(PACKAGE):
        return digest.hexdigest()[:16]
    files = _files_of(module) if module is not None else []
    for path in files:
        digest.update(path.read_bytes())
    if not files:  # typed into an interpreter or a notebook: what it was compiled to is all that there is
        digest.update(_compiled(reader))
    return digest.hexdigest()[:16]


@functools.cache
def _own_code() -> bytes:
    """The modules of detframe that readers may use; they do not change while a process runs."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in _OWN for path in (PACKAGE / folder).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


def _files_of(module: ModuleType) -> list[Path]:
    """The source files of a module and of those of the same author that it uses, sorted."""
    found: dict[str, Path] = {}
    todo = [module]
    seen: set[int] = set()
    while todo:
        current = todo.pop()
        path = _source(current)
        if id(current) in seen or path is None or (_is_installed(path) and current is not module):
            continue
        seen.add(id(current))
        found[str(path)] = path
        todo += _used_by(current)
    return [found[name] for name in sorted(found)]


def _used_by(module: ModuleType) -> Iterator[ModuleType]:
    """Modules whose names, or whose functions and classes, a module has."""
    for value in list(vars(module).values()):
        other = value if isinstance(value, ModuleType) else sys.modules.get(_home(value))
        if other is not None and other is not module:
            yield other


def _home(value: Any) -> str:
    name = getattr(value, "__module__", None)
    return name if isinstance(name, str) else ""


def _source(module: ModuleType) -> Path | None:
    name = getattr(module, "__file__", None)
    path = Path(name) if isinstance(name, str) else None
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


def _is_installed(path: Path) -> bool:
    """Whether a file belongs to Python, to an installed package, or to detframe, whose code is counted as a whole."""
    places = {*(sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")), str(PACKAGE)}
    return any(path.is_relative_to(place) for place in places)


def _compiled(reader: Callable[..., Any]) -> bytes:
    code = getattr(inspect.unwrap(reader), "__code__", None)
    return marshal.dumps(code.replace(co_filename="")) if isinstance(code, CodeType) else repr(type(reader)).encode()
