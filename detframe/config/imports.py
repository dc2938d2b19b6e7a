"""CUSTOM_IMPORTS: bring in the modules and files in which users register their own classes.

A config that the caller wrote or named is the caller's own: what it names is imported. One that came inside a
checkpoint or a bundle is somebody else's, and importing runs code: `import_carried_modules` does it only where the
caller says so.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from detframe.config.paths import expanded
from detframe.errors import InvalidValueError, MissingFileError, MissingModuleError
from detframe.registry import report_imported

_PACKAGE = Path(__file__).resolve().parents[1]
_MODULE_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_imported: dict[Path, str] = {}  # files that were imported here, and the digests of what they held


def import_custom_modules(names: Sequence[str], beside: str | Path | None = None) -> None:
    """Import modules ("my_pkg.my_backbone") and files ("path/to/file.py") for the sake of what they register.

    A file is looked for in the working folder, then in the folder `beside` (where the config file or the checkpoint
    lies), and then by its bare name in both, so that a checkpoint and its module can move together. What this process
    has imported before, in whatever way, does not run again; a file of detframe is imported as the module that it is.

    Raises:
        FileNotFoundError: a file does not exist.
        ImportError: a module cannot be found; the message says where Python looked.
        ValueError: something that is neither a file nor the name of a module.
    """
    for name in names:
        report_imported(_import_file(name, beside) if _is_file(name) else _import_module(name))


def import_carried_modules(names: Sequence[str], source: str | Path, allow: bool = False) -> None:
    """The same for the config inside a checkpoint or bundle, whose author is not the caller.

    What has been imported already, by the caller's own config, command or script, needs no consent, as nothing of it
    runs again: a module by its name, a file by its path or its content.

    Args:
        source: the checkpoint.
        allow: the caller trusts its author.

    Raises:
        ValueError: something would have to be imported, and `allow` is False. Otherwise as `import_custom_modules`.
    """
    beside = Path(source).parent
    new = [name for name in names if not _is_imported(name, beside)]
    if new and not allow:
        listed = "\n".join(f"  {name!r}: {_what_would_run(name, beside)}" for name in new)
        raise InvalidValueError(
            f"the config in {source} names Python code of its author in CUSTOM_IMPORTS:\n{listed}\nNothing of it was "
            "imported. If you trust where the file comes from, allow it with --allow-custom-imports (in Python "
            "allow_custom_imports=True), or import that code yourself before"
        )
    import_custom_modules(new, beside)


def imported_files() -> list[str]:
    """The files that this process has imported by their paths: another one cannot unpickle what they define before
    `import_custom_modules` has been given them there.
    """
    return [str(path) for path in _imported]


def is_module_name(name: str) -> bool:
    """Whether a name has the form of a module's, as package.module, and not that of a file."""
    return not _is_file(name) and _MODULE_NAME.fullmatch(name) is not None


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _is_imported(name: str, beside: Path) -> bool:
    """Whether the code that a name stands for is in this process already."""
    if not _is_file(name):
        return name in sys.modules
    path = _find_file(name, beside)
    if path is None:
        return False
    return path in _imported or path in _files_of_modules() or _digest(path) in _imported.values()


def _files_of_modules() -> set[Path]:
    """The Python files that this process has imported in any way, and the script that it runs."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return {Path(file).resolve() for file in files if isinstance(file, str) and _is_file(file)}


def _what_would_run(name: str, beside: Path) -> str:
    if not _is_file(name):
        return "a module, wherever Python finds it (the working folder included)"
    path = _find_file(name, beside)
    return "a file that is not here" if path is None else f"the file {path}"


def _import_module(name: str) -> str:
    """The file of the module, or its name where it has none."""
    if not is_module_name(name):
        raise InvalidValueError(
            f"CUSTOM_IMPORTS names {name!r}, which is neither a file (*.py) nor a module (package.module)"
        )
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return getattr(importlib.import_module(name), "__file__", None) or name
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise MissingModuleError(f"CUSTOM_IMPORTS names {name!r}; no such module in {sys.path}") from None
        raise


def _candidates(name: str, beside: str | Path | None) -> list[Path]:
    given = expanded(name)
    folders = [Path.cwd(), *([Path(beside)] if beside is not None else [])]
    return list(dict.fromkeys(folder / tail for tail in (given, Path(given.name)) for folder in folders))


def _find_file(name: str, beside: str | Path | None) -> Path | None:
    return next((path.resolve() for path in _candidates(name, beside) if os.path.isfile(path)), None)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _import_file(name: str, beside: str | Path | None) -> str:
    """The file itself."""
    path = _find_file(name, beside)
    if path is None:
        looked = " or ".join(str(candidate) for candidate in _candidates(name, beside))
        raise MissingFileError(f"CUSTOM_IMPORTS names {name!r}; there is no such file at {looked}")
    if path.is_relative_to(_PACKAGE):
        importlib.import_module(".".join(path.relative_to(_PACKAGE.parent).with_suffix("").parts))
        return str(path)
    module_name = f"detframe_custom_{path.stem}_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules or path in _files_of_modules():
        return str(path)
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise MissingModuleError(f"CUSTOM_IMPORTS names {name!r}, which Python cannot import")
    digest = _digest(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    _imported[path] = digest
    return str(path)
