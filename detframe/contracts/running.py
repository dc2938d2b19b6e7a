"""Runs the tests of a contract on what a file registers."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from detframe import registry
from detframe.config import import_custom_modules
from detframe.config.imports import is_module_name
from detframe.contracts import data_members, logger_members, models, solver_members
from detframe.contracts.inputs import MODEL_REGISTRIES, Place
from detframe.contracts.results import OK, Result, Test, described, result_of
from detframe.errors import InvalidValueError, MissingFileError, MissingModuleError, UserError
from detframe.registry import Registry

Progress = Callable[[Result], None]
REGISTRIES = tuple(value for value in vars(registry).values() if isinstance(value, Registry))
BUILT = "it is built"  # the first test of what the others build
_TESTS: dict[str, Callable[[Place], list[Test]]] = {
    **{members.name: models.tests_of for members in MODEL_REGISTRIES},
    registry.TRANSFORMS.name: data_members.tests_of,
    registry.EVALUATORS.name: data_members.tests_of,
    registry.DATASET_FORMATS.name: data_members.tests_of,
    registry.OPTIMIZERS.name: solver_members.tests_of,
    registry.LR_SCHEDULES.name: solver_members.tests_of,
    registry.LOGGERS.name: logger_members.tests_of,
}


def test_file(
    file: str | Path, config: str | Path = "", overrides: tuple[Any, ...] = (), progress: Progress | None = None
) -> list[Result]:
    """Import a file and test all that it registers.

    Args:
        file: its path, or the name of an installed module, as "my_package.heads".
        config: a YAML file in which the members have a place; "": a small detector of detframe's.
        overrides: of its keys, `("SOLVER.BASE_LR", 0.001, ...)`.
        progress: called with each result as soon as it is there.

    Raises:
        FileNotFoundError: there is no such file, nor such a module.
        ValueError: it registers nothing.
    """
    path = Path(file).resolve()
    module = "" if path.is_file() else str(file)
    if module and not is_module_name(module):
        raise MissingFileError(f"{file} is not there: name the Python file of your module")
    before = {(r.name, name) for r in REGISTRIES for name, _ in r}
    try:
        import_custom_modules([module or str(path)])
        path = Path(sys.modules[module].__file__ or path) if module else path
    except MissingModuleError as error:
        raise MissingFileError(
            f"{file} is neither a file that is there nor a module that Python finds: name the Python file of your "
            "module, or an installed one, as my_package.heads"
        ) from error
    except Exception as error:  # the file's own code
        if isinstance(error, UserError) and type(error).__module__ != "detframe.errors":
            raise
        return _told([Result(path.name, "it can be imported", "FAILED", described(error, path))], progress)
    found = [
        (r, name) for r in REGISTRIES for name, member in r if _is_of(path, member) or (r.name, name) not in before
    ]
    if not found:
        raise InvalidValueError(
            f"{file} registers nothing: put a decorator such as @registry.BACKBONES.register('my-name') above the "
            "class (from detframe import registry)"
        )
    out: list[Result] = []
    for members, name in found:
        for result in _results(Place(members.name, name, path, str(config), overrides, module)):
            out += _told([result], progress)
    return out


test_file.__test__ = False  # type: ignore[attr-defined]  # pytest takes its name for that of a test


def _told(results: list[Result], progress: Progress | None) -> list[Result]:
    for result in results if progress else ():
        progress(result)  # type: ignore[misc]
    return results


def _is_of(path: Path, member: Any) -> bool:
    """Whether a member is defined in a file."""
    try:
        source = inspect.getsourcefile(member)
    except TypeError:  # an object: only what it is new by is known
        return False
    return source is not None and Path(source).resolve() == path


def tests_of(place: Place) -> list[Test]:
    """The tests of a member by their titles, in the order in which they are made."""
    return _TESTS[place.registry](place)


def _results(place: Place) -> Iterator[Result]:
    """The results of a member's tests; what cannot be built is not tested further."""
    for title, body in tests_of(place):
        result = result_of(f"{place.registry} {place.name}", title, body, place.file)
        yield result
        if title == BUILT and result.state != OK:
            return
