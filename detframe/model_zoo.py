"""The shipped configs by name, models built from them, and the weights that torchvision, detectron2 and FCOS publish.

from detframe import model_zoo

model = model_zoo.get_model("faster_rcnn_R_50_FPN_1x", pretrained=True)
detector = model_zoo.get_detector("retinanet_R_50_FPN_1x", pretrained="detectron2")
"""

from __future__ import annotations

import difflib
import fnmatch
import logging
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from detframe.compat import load_weights
from detframe.compat.detector_weights import COCO_CLASSES, DETECTOR_WEIGHTS, DetectorWeights
from detframe.config import ConfigKeyError, ConfigNode, find_config, get_cfg, shipped_folder
from detframe.config.yaml_files import read_yaml
from detframe.data.coco_categories import coco_labels
from detframe.errors import InvalidValueError
from detframe.inference import Detector
from detframe.modeling import GeneralizedRCNN, build_detection_model

logger = logging.getLogger(__name__)

Pretrained = bool | str
"""Whose weights: True for the first owner that has some, or the owner's name, as "torchvision"; False for none."""
COCO_KEYPOINTS = 17
"""Keypoints of a person in COCO."""
# What the data sets that shipped configs name have: how the name begins -> classes, keypoints
_DATA = {
    "keypoints_coco_": (1, COCO_KEYPOINTS),
    "tiny_coco_keypoints_": (1, COCO_KEYPOINTS),
    "tiny_coco_": (COCO_CLASSES, 0),
    "coco_": (COCO_CLASSES, 0),
    "voc_": (20, 0),
    "tt100k_": (45, 0),
    "bccd_": (3, 0),
    "fingerlings_": (1, 0),
    "aerial_cars_": (5, 0),
    "shapes_": (5, 4),
}
# Of a dialect, the keys that are no choice of its owner's: what a config is, and how it trains
_NOT_OF_A_DIALECT = ("MODEL.WEIGHTS", "MODEL.BACKBONE.", "DATASETS.", "SOLVER.", "INPUT.MIN_", "INPUT.MAX_")
_SHOWN = 5


def list_configs(pattern: str = "*") -> list[str]:
    """The shipped configs as "faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml", sorted; those that fit `pattern`.

    What others only build on (`Base-*.yaml`) is not among them.

    Args:
        pattern: of the shell, for the name with or without its folder and suffix: `fcos_*`, `quick/*`, `*_3x`.
    """
    folder = shipped_folder("configs")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/**/*.yaml"))
    return [name for name in names if any(fnmatch.fnmatchcase(word, pattern) for word in _spellings(name))]


def short_names() -> list[str]:
    """The shortest name of each shipped config that stands for it alone: with its folder where others have the same."""
    spelled = [_spellings(path)[1:-1] for path in list_configs()]
    count = Counter(word for words in spelled for word in words)
    return [next(word for word in reversed(words) if count[word] == 1) for words in spelled]


def get_config(name: str, pretrained: Pretrained = False) -> ConfigNode:
    """The config that a name stands for, not frozen.

    Args:
        name: "faster_rcnn_R_50_FPN_1x", with or without its folder and ".yaml".
        pretrained: put the published weights into MODEL.WEIGHTS and set the keys that make the model compute as their
            owner's; see `get_model`.

    Raises:
        KeyError: no such config, or several; the message names the nearest.
        ValueError: no published weights for it, or not of this owner; the message names the nearest that have some.
    """
    path = _find(name)
    cfg = get_cfg()
    cfg.merge_from_file(shipped_folder("configs") / path)
    if pretrained:
        _apply(cfg, find_weights(path, pretrained))
    return cfg


def find_weights(name: str, pretrained: Pretrained = True) -> DetectorWeights:
    """The published weights that belong to a config; errors and arguments are those of `get_config`."""
    config = _find(name)
    known = [entry for entry in DETECTOR_WEIGHTS if entry.config == config]
    chosen = [entry for entry in known if pretrained is True or pretrained in (entry.owner, entry.weights)]
    if chosen:
        return chosen[0]
    if known:
        words = sorted({word for entry in known for word in (entry.owner, entry.weights)})
        raise InvalidValueError(
            f"{config} has no weights {pretrained!r}; pretrained may be True or one of {', '.join(words)}"
        )
    names = list(dict.fromkeys(entry.config for entry in DETECTOR_WEIGHTS))
    near = difflib.get_close_matches(config, names, n=3, cutoff=0.0)
    raise InvalidValueError(
        f"nobody has published weights for {config} that are known here; the nearest configs that have some: "
        f"{', '.join(near)}. detframe publishes none of its own"
    )


def get_model(
    name: str, pretrained: Pretrained = False, num_classes: int | None = None, device: str = "cpu"
) -> GeneralizedRCNN:
    """The model of a shipped config, in evaluation mode.

    Args:
        name: as of `get_config`.
        pretrained: False for random weights, True for published ones, or whose: "torchvision", "detectron2", "FCOS", or
            an entry's `weights`. They are fetched once, checked, and kept in the cache of `detframe.compat`.
        num_classes: foreground classes; left out, those of the weights (torchvision's COCO models: 90, labels being
            category ids), else those of the config's data set. With another number than theirs, published weights fill
            everything but the layers that depend on it.
        device: "cpu", "cuda", "auto", ...

    Raises:
        KeyError, ValueError: as of `get_config`; also a checkpoint that lacks a part of the model, or a wrong digest.
        FileNotFoundError: the weights are not in the cache, and DETFRAME_OFFLINE is set.
        ConnectionError: a failed download.
    """
    return _build(_complete(name, pretrained, num_classes, device), pretrained)


def get_detector(name: str, pretrained: Pretrained = True, device: str = "auto", amp: str = "auto") -> Detector:
    """Published weights as a `Detector`: it reads files, resizes as the config says, and knows the classes' names.

    Errors and arguments are those of `get_model`. Weights that were never trained make no detector.
    """
    if not pretrained:
        raise InvalidValueError(f"get_detector({name!r}) needs weights; pretrained is {pretrained!r}")
    cfg = _complete(name, pretrained, None, device)
    labels = coco_labels(cfg.MODEL.NUM_CLASSES)
    meta = {"category_ids": [index for index, _ in labels], "class_names": [name for _, name in labels]}
    return Detector(_build(cfg, pretrained), cfg, meta, amp)


def data_classes(cfg: ConfigNode) -> tuple[int, int]:
    """Classes and keypoints (0: none) of a config's data set; what the config says comes first.

    Raises:
        ValueError: a data set that is not known here.
    """
    stated = cfg.MODEL.NUM_CLASSES, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    first = next(iter(cfg.DATASETS.TRAIN), "")
    known = next((counts for start, counts in _DATA.items() if first.startswith(start)), (0, 0))
    if not (stated[0] or known[0]):
        raise InvalidValueError(f"how many classes {first!r} has is not known here; say num_classes")
    return stated[0] or known[0], stated[1] or known[1]


# --------------------------------------------------------------------------------------------------------- inside
def _complete(name: str, pretrained: Pretrained, num_classes: int | None, device: str) -> ConfigNode:
    """The config with classes, keypoints and device, frozen."""
    cfg = get_config(name, pretrained)
    if pretrained and num_classes is None:
        num_classes = find_weights(name, pretrained).num_classes
    cfg.MODEL.NUM_CLASSES = cfg.MODEL.NUM_CLASSES if num_classes is None else num_classes
    cfg.MODEL.NUM_CLASSES, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = data_classes(cfg)
    cfg.MODEL.DEVICE = device
    cfg.freeze()
    return cfg


def _build(cfg: ConfigNode, pretrained: Pretrained) -> GeneralizedRCNN:
    model = build_detection_model(cfg)
    if pretrained:
        report = load_weights(model, cfg.MODEL.WEIGHTS)
        logger.info("%s", report.table())
        report.check_complete(other_classes=True)
    return model.eval()


def _apply(cfg: ConfigNode, entry: DetectorWeights) -> None:
    values: dict[str, Any] = {}
    if entry.dialect:
        rows = read_yaml(find_config(f"{entry.dialect}.yaml"))
        values = {key: value for key, value, _ in rows if not key.startswith(_NOT_OF_A_DIALECT)}
    values |= {**entry.keys, "MODEL.WEIGHTS": entry.weights}
    cfg.merge_from_list([word for pair in values.items() for word in pair])


def _find(name: str) -> str:
    """The path of a config below the shipped folder."""
    wanted = PurePosixPath(name.removeprefix("configs/"))
    bare = wanted.with_suffix("").as_posix() if wanted.suffix == ".yaml" else wanted.as_posix()
    configs = list_configs()
    found = [path for path in configs if bare in _spellings(path)]
    found = [path for path in found if bare == path.removesuffix(".yaml")] or found
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigKeyError(f"{name!r} is the name of several configs; with the folder it is one: {', '.join(found)}")
    near = difflib.get_close_matches(wanted.stem, [Path(path).stem for path in configs], n=3, cutoff=0.4)
    listed = [path for path in configs if Path(path).stem in near][:_SHOWN]
    hint = f"the nearest: {', '.join(listed)}" if listed else "model_zoo.list_configs() lists them"
    raise ConfigKeyError(f"no shipped config is called {name!r}; {hint}")


def _spellings(path: str) -> tuple[str, ...]:
    """ "a/b/c.yaml" and what it may be called: "a/b/c", "b/c", "c"; all without the suffix too."""
    bare = path.removesuffix(".yaml")
    parts = bare.split("/")
    return (path, *("/".join(parts[i:]) for i in range(len(parts))), parts[-1] + ".yaml")
