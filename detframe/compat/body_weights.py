"""Published weights by short names, and the input that belongs to them: channel order, mean, deviation, stride.

Facts: the model catalog and the configs of detectron2 (addresses, pixel means and deviations, STRIDE_IN_1X1); the
transforms that torchvision publishes with its weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detframe.arrays.pixels import COLOURS, PixelForm
from detframe.config import ConfigNode, get_cfg
from detframe.errors import InvalidValueError
from detframe.registry import nearest

logger = logging.getLogger(__name__)

TORCHVISION = "torchvision://"
# Body, as CONV_BODY names it before the pyramid -> what torchvision calls its weights
IMAGENET = {
    "MNV2": "MobileNet_V2_Weights.IMAGENET1K_V1",
    "R-18": "ResNet18_Weights.IMAGENET1K_V1",
    "R-34": "ResNet34_Weights.IMAGENET1K_V1",
    "R-50": "ResNet50_Weights.IMAGENET1K_V1",
    "R-101": "ResNet101_Weights.IMAGENET1K_V1",
    "R-152": "ResNet152_Weights.IMAGENET1K_V1",
    "X-101-32x8d": "ResNeXt101_32X8D_Weights.IMAGENET1K_V1",
}
_HOST = "https://dl.fbaipublicfiles.com/"
_DETECTRON2 = "detectron2://"
_SCHEMES = ("msra://", "caffe2://")


@dataclass(frozen=True)
class InputFormat:
    """How a backbone expects its images, as the values of config keys."""

    order: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    stride_in_1x1: bool

    def values(self) -> dict[str, Any]:
        """Config key -> value."""
        return {
            "INPUT.FORMAT": self.order,
            "INPUT.PIXEL_MEAN": self.mean,
            "INPUT.PIXEL_STD": self.std,
            "MODEL.RESNETS.STRIDE_IN_1X1": self.stride_in_1x1,
        }


_BGR_MEAN = (103.53, 116.28, 123.675)
_RGB = InputFormat("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False)
_MSRA = InputFormat("BGR", _BGR_MEAN, (1.0, 1.0, 1.0), True)
_CAFFE2 = InputFormat("BGR", _BGR_MEAN, (1.0, 1.0, 1.0), False)
_CAFFE2_SCALED = InputFormat("BGR", _BGR_MEAN, (57.375, 57.12, 58.395), False)

# name -> address below _HOST, input
BODY_WEIGHTS: dict[str, tuple[str, InputFormat]] = {
    "msra://R-50": ("detectron2/ImageNetPretrained/MSRA/R-50.pkl", _MSRA),
    "msra://R-101": ("detectron2/ImageNetPretrained/MSRA/R-101.pkl", _MSRA),
    "caffe2://X-101-32x8d": ("detectron2/ImageNetPretrained/FAIR/X-101-32x8d.pkl", _CAFFE2_SCALED),
    "caffe2://X-101-64x4d": ("detectron/ImageNetPretrained/FBResNeXt/X-101-64x4d.pkl", _CAFFE2),
    "caffe2://R-50-GN": ("detectron/ImageNetPretrained/47261647/R-50-GN.pkl", _CAFFE2),
    "caffe2://R-101-GN": ("detectron/ImageNetPretrained/47592356/R-101-GN.pkl", _CAFFE2),
}


def address_of(weights: str) -> str:
    """The address that a short name stands for; anything else is returned as it is.

    "detectron2://ImageNetPretrained/MSRA/R-50.pkl", as detectron2's configs have it, is understood as well.

    Raises:
        ValueError: an unknown name, with the nearest known one.
    """
    if weights in BODY_WEIGHTS:
        return _HOST + BODY_WEIGHTS[weights][0]
    if weights.startswith(_DETECTRON2):
        return f"{_HOST}detectron2/{weights.removeprefix(_DETECTRON2)}"
    if weights.startswith(_SCHEMES):
        raise InvalidValueError(f"unknown weights {weights!r}; {nearest(weights, list(BODY_WEIGHTS))}")
    return weights


def imagenet_weights(conv_body: str) -> str:
    """The weights of ImageNet that torchvision publishes for a body, as MODEL.WEIGHTS takes them; "" where it has none.

    Args:
        conv_body: MODEL.BACKBONE.CONV_BODY, whose name begins with that of the body: R-50 of "R-50-FPN".
    """
    named = [body for body in IMAGENET if conv_body == body or conv_body.startswith(f"{body}-")]
    return f"{TORCHVISION}{IMAGENET[max(named, key=len)]}" if named else ""


def input_format(weights: str) -> InputFormat | None:
    """The input that belongs to published weights, by short name or address; None for other files."""
    if weights.startswith(TORCHVISION):
        return _RGB
    address = address_of(weights).partition("#")[0]
    return next((entry for path, entry in BODY_WEIGHTS.values() if address == _HOST + path), None)


def apply_input_format(cfg: ConfigNode) -> ConfigNode:
    """The config with the input that belongs to MODEL.WEIGHTS, where they are published weights known here.

    Keys that nobody has set take the value of the weights. One that was set to another value stays, with a warning.
    Images as they are stored have no order of colours, and their own mean and deviation.
    """
    entry = input_format(cfg.MODEL.WEIGHTS)
    return cfg if entry is None else set_untouched(cfg, _fitting(cfg, entry.values(), COLOURS), cfg.MODEL.WEIGHTS)


def apply_saved_format(cfg: ConfigNode, saved: Mapping[str, Any]) -> ConfigNode:
    """The same for a checkpoint of detframe, with the config that it was trained with, by dotted keys."""
    found = {key: saved[key] for key in _RGB.values() if key in saved}  # an older version may not have had the key
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    channels, depth = saved.get("INPUT.CHANNELS", COLOURS.channels), saved.get("INPUT.DEPTH", "auto")
    return set_untouched(cfg, _fitting(cfg, values, PixelForm.named(channels, depth)), "the checkpoint")


def _fitting(cfg: ConfigNode, values: dict[str, Any], form: PixelForm) -> dict[str, Any]:
    """The input of weights that were made with images of a form, without what means nothing to those of a config."""
    own = PixelForm.of(cfg)
    if not own.as_stored or own == form:
        return values
    return {key: value for key, value in values.items() if not key.startswith("INPUT.")}


def set_untouched(cfg: ConfigNode, values: Mapping[str, Any], owner: str) -> ConfigNode:
    """A copy of the config in which keys that nobody has set have the values of `owner`; the log says what happened."""
    out, defaults = cfg.clone(), get_cfg()
    out.defrost()
    changed = []
    for key, value in values.items():
        section, name = _section(out, key)
        own = section[name]
        if own == value:
            continue
        if cfg.source(key) != "the default" or own != _value(defaults, key):
            if not _alike(own, value):
                logger.warning(
                    "%s is %s (set by %s), but %s was made with %s; they may not work together",
                    key, own, cfg.source(key), owner, value,
                )  # fmt: skip
            continue
        section[name] = value
        changed.append(f"{key} {value}")
    if changed:
        logger.info("set with the weights %s: %s", owner, ", ".join(changed))
    if cfg.is_frozen():
        out.freeze()
    return out


def _alike(own: Any, value: Any) -> bool:
    """Pixel values less than a grey level apart, as the means that Detectron and detectron2 have of ImageNet."""
    both = isinstance(own, tuple) and isinstance(value, tuple) and len(own) == len(value)
    return both and all(abs(a - b) < 1 for a, b in zip(own, value, strict=True))


def _section(cfg: ConfigNode, key: str) -> tuple[ConfigNode, str]:
    *parents, name = key.split(".")
    node = cfg
    for parent in parents:
        node = node[parent]
    return node, name


def _value(cfg: ConfigNode, key: str) -> Any:
    section, name = _section(cfg, key)
    return section[name]
