"""Evaluating an exported file: what of the config is the file's, and what the caller's."""

from __future__ import annotations

import logging
from typing import Any

from detframe.backends import Session, open_model
from detframe.config import ConfigNode, carried_config, get_cfg, import_modules
from detframe.config.paths import expanded, where_there
from detframe.errors import InvalidValueError, listed
from detframe.storage.folders import copy_of

logger = logging.getLogger(__name__)

# What the graph of a file holds, or what it was made for
_FIXED = ("MODEL.", "INPUT.", "TEST.NMS", "TEST.SOFT_NMS_SIGMA", "TEST.DETECTIONS_PER_IMG", "TEST.AUG.")
# Among these, what stays the caller's; and what is resized outside of a file that takes any size
_FREE, _SIZES = ("MODEL.WEIGHTS", "MODEL.DEVICE"), ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
# How images are cut before they come to it
_OUTSIDE = "INPUT.TILES."
# Of the machine that trained, or of training alone
_NOT_CARRIED = ("OUTPUT_DIR", "CUSTOM_IMPORTS", "PLUGINS", "TEST.LOSS", "TEST.AUG.ENABLED", *_FREE)


def open_exported(cfg: ConfigNode) -> tuple[Session, ConfigNode]:
    """The file that MODEL.WEIGHTS names, and the config that it is evaluated with, frozen.

    That is the config in the file, with what the caller has set: the data, the evaluator, OUTPUT_DIR. Without data of
    the caller they are those of the training.

    Raises:
        ValueError: an override of what the file holds, or of what it cannot do. Otherwise as `open_model`.
    """
    with copy_of(cfg.MODEL.WEIGHTS) as path:
        session = open_model(expanded(path), cfg.MODEL.DEVICE)
    carried = carried_config(session.card.config, session.path, session.card.version)
    import_modules(cfg)
    carried.complete(leniently=True)
    defaults = dict(get_cfg().leaves())
    given = {key: value for key, value in cfg.leaves() if cfg.source(key) != "the default" or value != defaults[key]}
    taken = {key: given.get(key, defaults[key]) for key in _NOT_CARRIED}
    if "DATASETS.TEST" in given:
        taken |= {
            "DATASETS.TEST": given["DATASETS.TEST"],
            "DATASETS.CATALOG": given.get("DATASETS.CATALOG", where_there(carried.DATASETS.CATALOG)),
        }
    static = session.card.input.static_hw is not None
    for key, value in given.items():
        if not key.startswith(_FIXED) or key.startswith(_OUTSIDE) or (key in _SIZES and not static):
            taken[key] = value
    _check(cfg, {key: value for key, value in given.items() if key not in taken}, dict(carried.leaves()), session)
    _check_possible(cfg, session)
    form = session.card.input
    sizes = (0, 0) if static else (form.min_size, form.max_size)
    return session, carried.changed([*zip(_SIZES, sizes, strict=True), *taken.items()])


def _check(cfg: ConfigNode, ignored: dict[str, Any], carried: dict[str, Any], session: Session) -> None:
    """Nobody may believe that a key had an effect which the file does not know.

    Raises:
        ValueError: an override says something else than the file; what a config file says is warned of.
    """
    differing = [key for key, value in ignored.items() if value != carried.get(key)]
    overridden = [key for key in differing if cfg.source(key) == "an override"]
    if overridden:
        key = overridden[0]
        raise InvalidValueError(
            f"{key} cannot be set for {session.path}: what is in an exported file is fixed, and it was exported with "
            f"{carried.get(key)!r}, not {ignored[key]!r}; evaluate the checkpoint, or export it again"
        )
    if differing:
        logger.warning(
            "%s was exported with other values than the config has of %s; those of the file count",
            session.path,
            listed(differing, 5),
        )


def _check_possible(cfg: ConfigNode, session: Session) -> None:
    wanted = {"TEST.LOSS": cfg.TEST.LOSS, "TEST.AUG.ENABLED": cfg.TEST.AUG.ENABLED}
    for key, value in wanted.items():
        if value:
            raise InvalidValueError(
                f"{key} is True, but an exported file only predicts, in one view: evaluate the checkpoint that "
                f"{session.path} was made from"
            )
