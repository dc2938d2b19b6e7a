"""A trained detector out of one checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detframe.compat import read_weights
from detframe.compat.state import refuse_not_finite
from detframe.config import ConfigNode, carried_config, get_cfg, import_carried_modules
from detframe.errors import InvalidValueError
from detframe.modeling import GeneralizedRCNN, build_detection_model

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
    import_carried_modules(cfg.CUSTOM_IMPORTS, path, allow_custom_imports)
    model = build_detection_model(cfg)
    _fill(model, checkpoint["model"], path)
    return model.eval(), cfg, meta


def _checked_meta(checkpoint: Any, path: str | Path) -> dict[str, Any]:
    meta = checkpoint.get("meta") if isinstance(checkpoint, Mapping) else None
    wanted = ("config", "class_names", "category_ids")
    if not isinstance(meta, Mapping) or "model" not in checkpoint or any(key not in meta for key in wanted):
        raise InvalidValueError(
            f"{path} is no checkpoint of detframe: it should hold 'model' and 'meta' with {', '.join(wanted)}; it "
            f"{_looks_like(checkpoint)}. Weights of other programs go into MODEL.WEIGHTS of a config"
        )
    weights = checkpoint["model"]
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InvalidValueError(f"{path} is no checkpoint of detframe: its 'model' is no dict of tensors")
    for key, kind in (("class_names", str), ("category_ids", int)):
        if not isinstance(meta[key], (list, tuple)) or not all(isinstance(entry, kind) for entry in meta[key]):
            raise InvalidValueError(f"{path} is no checkpoint of detframe: its {key} are no list of {kind.__name__}")
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


def _fill(model: nn.Module, weights: Mapping[str, Any], path: str | Path) -> None:
    """Load strictly; a difference is an error that lists the first few."""
    own = model.state_dict()
    findings = [f"{name} is missing" for name in own if name not in weights]
    findings += [f"{name} is not part of the model" for name in weights if name not in own]
    findings += [
        f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if findings:
        listed = "\n".join(f"  {line}" for line in findings[:_SHOWN])
        more = f"\n  and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
        raise InvalidValueError(f"the weights in {path} do not fit the model of its own config:\n{listed}{more}")
    refuse_not_finite(weights, own, path)
    model.load_state_dict(weights)
