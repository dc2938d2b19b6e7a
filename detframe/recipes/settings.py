"""Copies of a config with other values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from detframe.config import ConfigNode
from detframe.data.metadata import resolve_num_classes, resolve_num_keypoints
from detframe.data.records import Records


def changed(cfg: ConfigNode, settings: Iterable[tuple[str, Any]]) -> ConfigNode:
    """A frozen copy with these values at these dotted keys."""
    out = cfg.clone()
    out.defrost()
    out.merge_from_list([word for pair in settings for word in pair])
    out.freeze()
    return out


def with_classes(cfg: ConfigNode, records: Records) -> ConfigNode:
    """A frozen copy in which the numbers of classes and keypoints that are 0 are those of the data.

    Raises:
        ValueError: other numbers are given.
    """
    numbers = (
        ("MODEL.NUM_CLASSES", resolve_num_classes(cfg, records.metadata)),
        ("MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", resolve_num_keypoints(cfg, records.metadata)),
    )
    return changed(cfg, numbers)
