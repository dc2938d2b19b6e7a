"""Copies of a config with other values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from detframe.config import ConfigNode


def changed(cfg: ConfigNode, settings: Iterable[tuple[str, Any]]) -> ConfigNode:
    """A frozen copy with these values at these dotted keys."""
    out = cfg.clone()
    out.defrost()
    out.merge_from_list([word for pair in settings for word in pair])
    out.freeze()
    return out
