"""Skeletons with one place changed, and what the contract tests say of them."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

from detframe.config import import_custom_modules
from detframe.contracts import running
from detframe.contracts.inputs import Place
from detframe.contracts.results import Result, result_of
from detframe.contracts.skeletons import KINDS, write_skeleton


def broken(kind: str, old: str, new: str, folder: Path) -> Path:
    """The skeleton of a kind with one place changed; its name, of its own for each test, is that of its file."""
    path = write_skeleton(kind, f"broken_{zlib.crc32((old + new).encode()):x}", folder)[0]
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the skeleton of a {kind}"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def found(kind: str, path: Path, test: str, config: str = "") -> Result:
    """The result of one test, by its title."""
    import_custom_modules([str(path)])
    members = KINDS[kind].members
    tests = dict(running.tests_of(Place(members.name, path.stem, path, config)))
    return result_of(f"{members.name} {path.stem}", test, tests[test], path)


def assert_named(kind: str, path: Path, test: str, says: str) -> None:
    """That test fails, for a reason that the pattern finds."""
    result = found(kind, path, test)
    assert result.failed and re.search(says, result.why), result
