"""The effective config of a run, from files and overrides, and that of a checkpoint, from its text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detframe.config.check import validate
from detframe.config.imports import import_carried_modules, import_custom_modules
from detframe.config.paths import expanded, find_config
from detframe.config.plugins import declared, import_carried_plugins, import_plugins
from detframe.config.tree import ConfigNode, get_cfg
from detframe.errors import InvalidTypeError, InvalidValueError, shown


def read_config(file: str | Path = "", overrides: Sequence[Any] = (), custom_imports: bool = True) -> ConfigNode:
    """The config that a file and overrides make: merged, checked and frozen.

    Args:
        file: YAML; shipped ones are found by name. "" takes the defaults.
        overrides: `["SOLVER.BASE_LR", 0.001, ...]`.
        custom_imports: also import what CUSTOM_IMPORTS names, so that its classes and keys are known.

    Raises:
        FileNotFoundError, KeyError, ValueError: as `ConfigNode.merge_from_file` and `validate`.
    """
    cfg = get_cfg()
    folder = Path.cwd()
    if str(file):
        cfg.merge_from_file(file)
        folder = find_config(file).parent
    cfg.merge_from_list(overrides)
    validate(cfg)
    cfg.CUSTOM_IMPORTS = tuple(_absolute(name, folder) for name in cfg.CUSTOM_IMPORTS)
    catalog = expanded(cfg.DATASETS.CATALOG)
    if not os.path.exists(catalog) and os.path.isfile(folder / catalog):  # the file was named from another folder
        cfg.DATASETS.CATALOG = str((folder / catalog).resolve())
    if custom_imports:
        import_modules(cfg, folder)
    cfg.freeze()
    return cfg


def import_modules(cfg: ConfigNode, beside: str | Path | None = None) -> None:
    """Import plugins and CUSTOM_IMPORTS, and take in the keys that they add; the config is checked with them.

    Raises FileNotFoundError, ImportError, KeyError and ValueError as `import_plugins`, `import_custom_modules`,
    `ConfigNode.complete` and `validate`.
    """
    import_plugins(cfg.PLUGINS, cfg.source("PLUGINS"))
    import_custom_modules(cfg.CUSTOM_IMPORTS, beside)
    cfg.complete()
    if cfg.CUSTOM_IMPORTS or declared():
        validate(cfg)


def import_carried(cfg: ConfigNode, source: str | Path, allow: bool = False) -> None:
    """The same for a config that came in a checkpoint or bundle; see `import_carried_modules`.

    Of plugins, those alone that it names.
    """
    import_carried_plugins(cfg.PLUGINS)
    import_carried_modules(cfg.CUSTOM_IMPORTS, source, allow)
    cfg.complete()
    validate(cfg)


def carried_config(text: Any, source: str | Path, version: Any = "?") -> ConfigNode:
    """The config of a checkpoint, over the defaults of this version. Nothing that it names is imported.

    Args:
        source: the checkpoint.
        version: of the detframe that wrote it, as it says.

    Raises:
        ValueError: it is no config, not one of this version, or has values that no key may have; says why.
    """
    if not isinstance(text, str):
        raise InvalidValueError(f"the config in {source} is a {type(text).__name__}, not text")
    cfg = get_cfg()
    try:
        cfg.merge_from_text(text, f"the config in {source}")
        validate(cfg)
    except (KeyError, ValueError) as error:
        raise InvalidValueError(
            f"{source} was written by detframe {version}, and this version cannot read the config in it: {error}"
        ) from None
    return cfg


def as_config(cfg: ConfigNode | str | Path) -> ConfigNode:
    """A config as it is, checked; of the name of a file, the config in it. Other errors are those of `read_config`.

    Raises:
        TypeError: neither of them.
    """
    if isinstance(cfg, (str, Path)):
        return read_config(cfg)
    if not isinstance(cfg, ConfigNode):
        raise InvalidTypeError(
            f"a config is what get_cfg() or read_config() give, or the path of a YAML file, not {shown(cfg)}"
        )
    validate(cfg)
    return cfg


def _absolute(name: str, folder: Path) -> str:
    """The full path of a file in CUSTOM_IMPORTS, so that the run's own config.yaml works from any folder."""
    if not name.endswith(".py"):
        return name
    candidates = [expanded(name), folder / name]
    return next((str(path.resolve()) for path in candidates if os.path.isfile(path)), name)
