"""A trained detector out of one checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detframe.compat import read_weights
from detframe.compat.state import refuse_not_finite
from detframe.config import ConfigNode, carried_config, get_cfg, import_carried
from detframe.errors import InvalidValueError
from detframe.modeling import GeneralizedRCNN, build_detection_model
from detframe.structures.forms import NAME, WHOLE, check_fit, check_form

# Settings of the machine and run that trained, which mean nothing here
_NOT_CARRIED = ("MODEL.DEVICE", "MODEL.WEIGHTS", "MODEL.COMPILE", "OUTPUT_DIR")
_SHOWN = 5


def read_detector(
    path: str | Path, device: str, allow_custom_imports: bool = False
) -> tuple[GeneralizedRCNN, ConfigNode, dict[str, Any]]:
    """Model (in evaluation mode, on the device), config and meta of a checkpoint that detframe's training wrote.

    Args:
        allow_custom_imports: import what CUSTOM_IMPORTS of the checkpoint's config names, which runs its author's code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not whole, not detframe's, or its parts do not fit each other; what it is instead. Or it needs
            imports that are not allowed.
    """
    checkpoint = read_weights(path)
    meta = _checked_meta(checkpoint, path)
    cfg = _config(meta, path, device)
    import_carried(cfg, path, allow_custom_imports)
    model = build_detection_model(cfg)
    check_fit(checkpoint["model"], model.state_dict(), f"the weights in {path}")
    refuse_not_finite(checkpoint["model"], model.state_dict(), path)
    model.load_state_dict(checkpoint["model"])
    return model.eval(), cfg, meta


def _checked_meta(checkpoint: Any, path: str | Path) -> dict[str, Any]:
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    wanted = ("config", "class_names", "category_ids")
    if not isinstance(meta, Mapping) or "model" not in checkpoint or any(key not in meta for key in wanted):
        raise InvalidValueError(
            f"{path} is no checkpoint of detframe: it should hold 'model' and 'meta' with {', '.join(wanted)}; it "
            f"{_looks_like(checkpoint)}. Weights of other programs go into MODEL.WEIGHTS of a config"
        )
    check_form(meta, {"class_names": [NAME], "category_ids": [WHOLE]}, f"the meta of {path}")
    return dict(meta)


def _looks_like(checkpoint: Any) -> str:
    if not isinstance(checkpoint, Mapping):
        return f"is a {type(checkpoint).__name__}"
    keys = [str(key) for key in checkpoint]
    listed = ", ".join(repr(key) for key in keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
    if keys and all(hasattr(value, "shape") for value in checkpoint.values()):
        return f"looks like bare weights of {len(keys)} parameters ({listed})"
    return f"holds {listed}" if keys else "is empty"


def _config(meta: Mapping[str, Any], path: str | Path, device: str) -> ConfigNode:
    """The config of the training, on this machine's device."""
    cfg = carried_config(meta["config"], path, meta.get("detframe_version", "?"))
    defaults = dict(get_cfg().leaves())
    cfg.merge_from_list([word for key in _NOT_CARRIED for word in (key, defaults[key])])
    cfg.MODEL.DEVICE = device
    named = len(meta["class_names"])
    if len(meta["category_ids"]) != named or cfg.MODEL.NUM_CLASSES not in (0, named):
        raise InvalidValueError(
            f"{path} contradicts itself: {named} class names, {len(meta['category_ids'])} category ids, and "
            f"MODEL.NUM_CLASSES {cfg.MODEL.NUM_CLASSES}"
        )
    cfg.MODEL.NUM_CLASSES = named
    cfg.freeze()
    return cfg
