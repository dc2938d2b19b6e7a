"""What contracts are tested with: images, targets, and the detector of a config with a member in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detframe.config import ConfigNode, import_custom_modules, read_config
from detframe.modeling import GeneralizedRCNN, build_detection_model
from detframe.modeling.build import build_backbone
from detframe.registry import BACKBONES, LOSSES, MASK_HEADS, META_ARCHITECTURES, ROI_HEADS, RPN_HEADS, Registry

BASE = "configs/quick/faster_rcnn_R_18_FPN_shapes.yaml"
NUM_CLASSES = 3
SIZE_HW = (96, 128)
_SMALL: dict[str, Any] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.COMPILE": "off",
    "MODEL.NUM_CLASSES": NUM_CLASSES,
    "MODEL.CLASS_WEIGHTS": "",
}
# no batch norm, whose statistics are of all images of a rank
_OF_BASE: dict[str, Any] = {"MODEL.RESNETS.NORM": "FrozenBN", "MODEL.FPN.OUT_CHANNELS": 32}
_FCOS: dict[str, Any] = {"MODEL.BACKBONE.CONV_BODY": "R-18-FPN-RETINANET", "MODEL.RPN.NAME": "FCOS"}


@dataclass(frozen=True)
class Place:
    """Where a member stands in a detector: its registry and name, and the config of the detector.

    Args:
        config: a YAML file that uses the member; "": a small detector of detframe's, with the member in it.
        overrides: of keys, in pairs.
        module: the name by which the file is imported, where it is part of a package; "": by its path.
    """

    registry: str
    name: str
    file: Path
    config: str = ""
    overrides: tuple[Any, ...] = ()
    module: str = ""

    @property
    def imported(self) -> str:
        """What CUSTOM_IMPORTS would name."""
        return self.module or str(self.file)

    def load(self) -> None:
        """Import the member's file, which a process of its own begins without."""
        import_custom_modules([self.imported])

    def read(self, keys: Mapping[str, Any], base: str = "") -> ConfigNode:
        """The config as it is written, with keys set that the overrides may set otherwise.

        Args:
            base: the YAML file of a place without a config; "": the defaults.
        """
        self.load()
        return read_config(self.config or base, [*(word for pair in keys.items() for word in pair), *self.overrides])

    def cfg(self) -> ConfigNode:
        """The config of the detector."""
        self.load()
        keys = {**_SMALL} if self.config else {**_SMALL, **_OF_BASE, **self._chosen()}
        cfg = self.read(keys, BASE)
        if self.registry == BACKBONES.name and not self.config:
            sizes = [[16 * 2**i] for i in range(len(build_backbone(cfg).strides))]  # type: ignore[arg-type]
            cfg = cfg.changed([("MODEL.RPN.ANCHOR_SIZES", sizes)])
        return cfg

    def model(self, seed: int = 0) -> GeneralizedRCNN:
        """The detector, with random weights of a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_detection_model(self.cfg())

    def part(self, model: GeneralizedRCNN) -> nn.Module:
        """The member inside of the detector; of a loss the head that asks for it."""
        parts: dict[str, Any] = {BACKBONES.name: model.backbone, RPN_HEADS.name: model.rpn}
        parts |= {ROI_HEADS.name: model.roi_heads, META_ARCHITECTURES.name: model}
        parts[MASK_HEADS.name] = getattr(model.roi_heads, "mask", None)
        found: nn.Module | None = parts.get(self.registry, model.roi_heads or model.rpn)
        return model if found is None else found

    def _chosen(self) -> dict[str, Any]:
        """The keys that choose the member."""
        alone: dict[str, Any] = {"MODEL.ROI_HEADS.NAME": ""}
        if self.registry == LOSSES.name:
            fits = getattr(LOSSES.get(self.name), "fits", "")
            if fits == "dense":
                return {**_FCOS, **alone, "MODEL.FCOS.CLS_LOSS": self.name}
            return {"MODEL.ROI_BOX_HEAD." + ("CLS_LOSS" if fits == "regions" else "BOX_LOSS_TYPE"): self.name}
        if self.registry == RPN_HEADS.name:
            proposes = getattr(RPN_HEADS.get(self.name), "class_agnostic", False)
            return {"MODEL.RPN.NAME": self.name, **({} if proposes else alone)}
        choices: dict[str, dict[str, Any]] = {
            BACKBONES.name: {"MODEL.BACKBONE.CONV_BODY": self.name},
            ROI_HEADS.name: {"MODEL.ROI_HEADS.NAME": self.name},
            MASK_HEADS.name: {"MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.NAME": self.name},
            META_ARCHITECTURES.name: {"MODEL.DETECTOR": self.name},
        }
        return choices[self.registry]


MODEL_REGISTRIES: tuple[Registry, ...] = (BACKBONES, RPN_HEADS, ROI_HEADS, MASK_HEADS, META_ARCHITECTURES, LOSSES)


def images(cfg: ConfigNode, count: int = 2) -> list[Tensor]:
    """Images of noise, float32 (C, H, W) from 0 to 1, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand((cfg.INPUT.CHANNELS, *SIZE_HW), generator=generator) for _ in range(count)]


def target(boxes: Sequence[Sequence[float]], labels: Sequence[int], seed: int) -> Any:
    """What an image shows: boxes, labels, masks that fill the boxes, and keypoints in the corners."""
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros((len(rows), *SIZE_HW), dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, rows.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return {"boxes": rows, "labels": torch.tensor(labels, dtype=torch.int64), "masks": masks, "seed": seed}


def with_objects() -> list[Any]:
    """Two targets, of a small and a large object, and of one in between."""
    return [target([[10, 12, 40, 44], [20, 10, 110, 90]], [1, 3], 5), target([[60, 30, 100, 80]], [2], 6)]


def without_objects() -> list[Any]:
    """Two targets without objects."""
    return [target([], [], 5), target([], [], 6)]
