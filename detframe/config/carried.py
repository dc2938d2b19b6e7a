"""The config inside a checkpoint or a bundle: somebody's text, read as a config file is, without leaving it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detframe.config.check import validate
from detframe.config.tree import ConfigNode, get_cfg
from detframe.errors import InvalidValueError


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
