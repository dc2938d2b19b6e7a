"""The config inside a checkpoint or a bundle: somebody's text, read as a config file is, without leaving it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from detframe.config.config import ConfigNode
from detframe.config.defaults import get_cfg
from detframe.config.yaml_files import BASE_KEY
from detframe.errors import InvalidValueError

_BASES = re.compile(rf"""^[\s{{,]*["']?{BASE_KEY}["']?\s*:""", re.MULTILINE)


def carried_config(text: Any, source: str | Path, version: Any = "?") -> ConfigNode:
    """The config of a checkpoint, over the defaults of this version. Nothing that it names is imported.

    Args:
        source: the checkpoint.
        version: of the detframe that wrote it, as it says.

    Raises:
        ValueError: it is no config, or not one of this version; says why.
    """
    if not isinstance(text, str):
        raise InvalidValueError(f"the config in {source} is a {type(text).__name__}, not text")
    if _BASES.search(text):  # what a run writes is complete; a base would be a file of this machine
        raise InvalidValueError(
            f"the config in {source} names other files ({BASE_KEY}), which no run of detframe writes"
        )
    cfg = get_cfg()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            cfg.merge_from_file(file)
        except (KeyError, ValueError) as error:
            raise InvalidValueError(
                f"{source} was written by detframe {version}, and this version cannot read the config in it: {error}"
            ) from None
    return cfg
