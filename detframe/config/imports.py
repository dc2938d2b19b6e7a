"""CUSTOM_IMPORTS: bring in the modules and files in which users register their own classes."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from detframe.errors import MissingFileError, MissingModuleError


def import_custom_modules(names: Sequence[str], beside: str | Path | None = None) -> None:
    """Import modules ("my_pkg.my_backbone") and files ("path/to/file.py") for the sake of what they register.

    A file is looked for in the working folder, then in the folder `beside` (where the config file or the checkpoint
    lies), and then by its bare name in both, so that a checkpoint and its module can move together.

    Raises:
        FileNotFoundError: a file does not exist.
        ImportError: a module cannot be found; the message says where Python looked.
    """
    for name in names:
        if name.endswith(".py"):
            _import_file(name, beside)
        else:
            _import_module(name)


def _import_module(name: str) -> None:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise MissingModuleError(f"CUSTOM_IMPORTS names {name!r}; no such module in {sys.path}") from None
        raise


def _import_file(name: str, beside: str | Path | None) -> None:
    given = Path(name).expanduser()
    folders = [Path.cwd(), *([Path(beside)] if beside is not None else [])]
    candidates = list(dict.fromkeys(folder / tail for tail in (given, Path(given.name)) for folder in folders))
    path = next((c.resolve() for c in candidates if c.is_file()), None)
    if path is None:
        looked = " or ".join(str(candidate) for candidate in candidates)
        raise MissingFileError(f"CUSTOM_IMPORTS names {name!r}; there is no such file at {looked}")
    module_name = f"detframe_custom_{path.stem}_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}"
    if module_name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise MissingModuleError(f"CUSTOM_IMPORTS names {name!r}, which Python cannot import")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
