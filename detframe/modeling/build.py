"""From config to model: the only place that knows both."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from detframe.arrays.pixels import PixelForm
from detframe.config import ConfigNode
from detframe.config.check import check_values
from detframe.errors import InvalidTypeError, InvalidValueError
from detframe.layers import freeze_matching, recompute, use_quick_gradients, use_resting_layers
from detframe.modeling.compiling import compile_model
from detframe.modeling.detector import GeneralizedRCNN, check_extractor
from detframe.modeling.preprocessor import Preprocessor
from detframe.modeling.receptive_fields import receptive_fields
from detframe.parallel.device import resolve_device
from detframe.registry import BACKBONES, META_ARCHITECTURES, ROI_HEADS, RPN_HEADS


def build_backbone(cfg: ConfigNode) -> nn.Module:
    """The extractor that MODEL.BACKBONE.CONV_BODY names: `Entry.from_config(cfg)` or, for a function, `entry(cfg)`.

    Raises:
        KeyError: no such entry; the nearest ones are named.
        TypeError: it is no extractor, or a class that does not say how it is made of a config.
    """
    name = cfg.MODEL.BACKBONE.CONV_BODY
    entry = BACKBONES.get(name)
    extractor = _made(entry, cfg)
    check_extractor(name, extractor)
    return extractor


def recompute_stages(cfg: ConfigNode, backbone: Any) -> None:
    """Have the stages that MODEL.CHECKPOINT_ACTIVATIONS names keep no activations in training.

    Raises:
        ValueError: the backbone has no such stage, or does not say what its stages are made of.
    """
    wanted = cfg.MODEL.CHECKPOINT_ACTIVATIONS
    if not wanted:
        return
    blocks_of = getattr(getattr(backbone, "body", backbone), "blocks", None)
    blocks = blocks_of() if callable(blocks_of) else {}
    known = [name for name, members in blocks.items() if members]
    missing = [name for name in wanted if name not in known]
    if missing:
        has = (
            f"it has {', '.join(known)}"
            if known
            else "it does not say what its stages are made of (docs/adding_a_module.md)"
        )
        raise InvalidValueError(
            f"MODEL.CHECKPOINT_ACTIVATIONS is {list(wanted)}, but the backbone {cfg.MODEL.BACKBONE.CONV_BODY!r} has no "
            f"stages made of blocks that are called {', '.join(missing)}: {has}"
        )
    for name in wanted:
        for block in blocks[name]:
            recompute(block)


def detector_class(cfg: ConfigNode) -> type[GeneralizedRCNN]:
    """The class of the detector that MODEL.DETECTOR and MODEL.DISTILL.ON choose.

    Raises:
        KeyError: no such member of META_ARCHITECTURES; the nearest ones are named.
        TypeError: it is no detector.
    """
    name = "DistilledRCNN" if cfg.MODEL.DISTILL.ON else cfg.MODEL.DETECTOR
    entry = META_ARCHITECTURES.get(name)
    if not (isinstance(entry, type) and issubclass(entry, GeneralizedRCNN)):
        raise InvalidTypeError(
            f"MODEL.DETECTOR {name!r} must be a subclass of detframe.modeling.GeneralizedRCNN, which brings what "
            f"training, evaluation and export ask of a detector (docs/adding_a_detector.md), not {entry!r}"
        )
    return entry


def build_detection_model(cfg: ConfigNode) -> GeneralizedRCNN:
    """The detector that the config describes, randomly initialised, on MODEL.DEVICE.

    Raises:
        ValueError: MODEL.NUM_CLASSES is 0 (training infers it from the data; here there is none).
        KeyError: a name that no registry has.
        ValueError: a pattern of MODEL.FREEZE that matches no parameter, or a TEST.NMS that the model cannot have.
        ValueError: words of MODEL that their keys do not choose from.
    """
    # numbers beyond their limits have their uses, as a threshold below 0 where models are measured
    check_values(cfg, "MODEL.", choices=True)
    if cfg.MODEL.NUM_CLASSES < 1:
        raise InvalidValueError(
            f"MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}; a model needs the number of foreground classes "
            "(training takes it from the data set when it is 0)"
        )
    form = _form(cfg)
    entry = detector_class(cfg)
    backbone: Any = build_backbone(cfg)
    rpn = None if entry.own_heads else _build_rpn(cfg, backbone)
    roi_heads = None
    if cfg.MODEL.ROI_HEADS.NAME and not entry.own_heads:
        roi_heads = _build(ROI_HEADS.get(cfg.MODEL.ROI_HEADS.NAME), cfg, backbone, "ROI_HEADS")
    preprocessor = Preprocessor(
        cfg.INPUT.PIXEL_MEAN,
        cfg.INPUT.PIXEL_STD,
        bgr=cfg.INPUT.FORMAT == "BGR",
        divisor=entry.divisor_factor * getattr(backbone, "size_divisibility", max(backbone.strides.values())),
        channels_last=cfg.MODEL.CHANNELS_LAST,
        buckets=cfg.INPUT.BUCKETS,
        form=form,
    )
    model: GeneralizedRCNN = entry.from_config(
        cfg,
        preprocessor=preprocessor,
        backbone=backbone,
        rpn=rpn,
        roi_heads=roi_heads,
        num_classes=cfg.MODEL.NUM_CLASSES,
        rpn_maps=list(_strides_for(cfg, backbone, "RPN")),
        roi_maps=list(_strides_for(cfg, backbone, "ROI_HEADS")),
        pixel=float(cfg.MODEL.LEGACY_BOXES),
        ignore_crowds=cfg.MODEL.IGNORE_REGIONS in ("crowd", "all"),
    )
    use_quick_gradients(model)
    use_resting_layers(model)
    freeze_matching(model, cfg.MODEL.FREEZE)
    recompute_stages(cfg, backbone)
    model.check(cfg)
    if cfg.MODEL.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)
    device = resolve_device(cfg.MODEL.DEVICE)
    model = model.to(device)
    compile_model(model, cfg.MODEL.COMPILE, device, len(preprocessor.canvases.shapes))
    return model


def _form(cfg: ConfigNode) -> PixelForm:
    """What images are.

    Raises:
        ValueError: nobody has said the mean and the deviation of as many channels, or stored channels are to be turned
            from RGB to BGR.
    """
    form = PixelForm.of(cfg)
    if form.as_stored and cfg.INPUT.FORMAT != "RGB":
        raise InvalidValueError(
            f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}, an order of colours, but INPUT.CHANNELS {form.channels} with "
            f"INPUT.DEPTH {cfg.INPUT.DEPTH} are the channels of the files in their own order: leave it at RGB"
        )
    for key in ("PIXEL_MEAN", "PIXEL_STD"):
        if len(cfg.INPUT[key]) != form.channels:
            raise InvalidValueError(
                f"INPUT.{key} has {len(cfg.INPUT[key])} numbers, and INPUT.CHANNELS is {form.channels}: images of "
                "other channels than RGB have no mean and deviation by default. `detframe check`, with the same "
                f"--config-file or --data and INPUT.CHANNELS {form.channels}, measures those of the training images "
                "and says how to set them"
            )
    return form


def build_outline(cfg: ConfigNode) -> GeneralizedRCNN:
    """The detector of a config without its weights, in a moment: it computes nothing, but knows its levels, anchors and
    locations. No random number is used.

    Raises:
        As `build_detection_model`.
    """
    cfg = cfg.changed([("MODEL.DEVICE", "meta"), ("MODEL.COMPILE", "off")])
    with torch.device("meta"):
        model = build_detection_model(cfg)
    # tensors that say something, as anchors do, stand there
    with torch.random.fork_rng(devices=[]):
        model.rpn = None if model.own_heads else _build_rpn(cfg, model.backbone)
    return model


def _build_rpn(cfg: ConfigNode, backbone: Any) -> nn.Module:
    """MODEL.RPN; where it assigns by receptive fields that nobody wrote down, by those of the backbone."""
    if cfg.MODEL.RPN.ASSIGNER == "rfla" and not cfg.MODEL.RPN.ASSIGNMENT.RFLA_FIELDS:
        fields = receptive_fields(backbone, _strides_for(cfg, backbone, "RPN"), cfg.INPUT.CHANNELS)
        cfg = cfg.changed([("MODEL.RPN.ASSIGNMENT.RFLA_FIELDS", fields)])
    return _build(RPN_HEADS.get(cfg.MODEL.RPN.NAME), cfg, backbone, "RPN")


def _build(entry: Any, cfg: ConfigNode, backbone: Any, section: str) -> nn.Module:
    parts = {"out_channels": backbone.out_channels, "strides": _strides_for(cfg, backbone, section)}
    return _made(entry, cfg, **parts)


def _made(entry: Any, cfg: ConfigNode, **parts: Any) -> Any:
    """`entry.from_config(cfg, ...)` or, for a function, `entry(cfg, ...)`.

    Raises:
        TypeError: a class without `from_config` that cannot be called so.
    """
    if hasattr(entry, "from_config"):
        return entry.from_config(cfg, **parts)
    if inspect.isclass(entry):
        try:
            inspect.signature(entry).bind(cfg, **parts)
        except TypeError as error:
            arguments = ", ".join(["cls", "cfg", *parts])
            raise InvalidTypeError(
                f"{entry.__name__} cannot be made of a config ({error}): give the class a classmethod "
                f"`from_config({arguments})`, which reads the config and returns cls(...)"
            ) from None
    return entry(cfg, **parts)


def _strides_for(cfg: ConfigNode, backbone: Any, section: str) -> dict[str, int]:
    """Of the extractor's maps, finest first, those that MODEL.SECTION.IN_FEATURES names."""
    strides: dict[str, int] = dict(backbone.strides)
    wanted = list(cfg.MODEL[section].IN_FEATURES)
    if section == "RPN" and cfg.MODEL.RPN.FINEST_LEVEL:
        wanted = _levels_from(cfg, strides)
    unknown = [name for name in wanted if name not in strides]
    if unknown:
        raise InvalidValueError(
            f"MODEL.{section}.IN_FEATURES names {unknown}, but {cfg.MODEL.BACKBONE.CONV_BODY!r} gives {list(strides)}"
        )
    return {name: stride for name, stride in strides.items() if not wanted or name in wanted}


def _levels_from(cfg: ConfigNode, strides: dict[str, int]) -> list[str]:
    """The levels from MODEL.RPN.FINEST_LEVEL on."""
    level, names = cfg.MODEL.RPN.FINEST_LEVEL, list(strides)
    if level not in strides:
        body = cfg.MODEL.BACKBONE.CONV_BODY
        raise InvalidValueError(
            f"MODEL.RPN.FINEST_LEVEL is {level!r}, but {body!r} gives {names}; {_finer(body, names)}"
        )
    return names[names.index(level) :]


def _finer(body: str, names: list[str]) -> str:
    """What to do for a level that a body does not give."""
    if not any(name in names for name in ("p2", "p3", "p4", "p5")):
        return "it has no pyramid: take one that has, as 'R-50-FPN', or leave FINEST_LEVEL empty"
    own = body.replace("-FPN-RETINANET", "-FPN")
    extended = f"{own.removesuffix('-FPN')}-EFPN" if own.endswith("-FPN") else "R-50-EFPN"
    return (
        f"'p1' needs an extended pyramid ({extended!r}, as 'R-50-EFPN'), and any other MODEL.FPN.IN_FEATURES that "
        "reach down to it, or are empty"
    )
