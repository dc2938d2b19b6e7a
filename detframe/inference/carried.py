"""The config that a checkpoint or an exported file carries, for use on this machine."""

from __future__ import annotations

from pathlib import Path

from detframe.config import ConfigNode, get_cfg
from detframe.errors import InvalidValueError

# Settings of the machine and run that trained, which mean nothing here
_NOT_CARRIED = ("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.COMPILE", "OUTPUT_DIR")


def forget_machine(cfg: ConfigNode) -> None:
    """Give the keys of the machine and run that trained their defaults."""
    defaults = dict(get_cfg().leaves())
    cfg.merge_from_list([word for key in _NOT_CARRIED for word in (key, defaults[key])])


def settled(cfg: ConfigNode, source: str | Path, named: int, numbered: int, device: str) -> ConfigNode:
    """The config of a training, frozen, with this machine's device.

    Args:
        source: the file, for messages.
        named, numbered: how many class names and category ids it has.

    Raises:
        ValueError: its numbers of classes differ.
    """
    forget_machine(cfg)
    cfg.MODEL.DEVICE = device
    if numbered != named or cfg.MODEL.NUM_CLASSES not in (0, named):
        raise InvalidValueError(
            f"{source} contradicts itself: {named} class names, {numbered} category ids, and "
            f"MODEL.NUM_CLASSES {cfg.MODEL.NUM_CLASSES}"
        )
    cfg.MODEL.NUM_CLASSES = named
    cfg.freeze()
    return cfg
