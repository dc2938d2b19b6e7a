"""What a benchmark compares: detframe's detectors and those of another program with the same weights, and a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from detframe.errors import InvalidValueError, MissingModuleError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from detframe.config import ConfigNode

NUM_CLASSES, NUM_KEYPOINTS = 90, 17  # COCO's, where a config leaves them to the data set
# name -> torchvision's class, the config with which we compute the same
MODELS = {
    "faster_rcnn": ("FasterRCNN", ""),
    "mask_rcnn": ("MaskRCNN", "configs/Base-Mask-RCNN-torchvision.yaml"),
    "fcos": ("FCOS", "configs/Base-FCOS-torchvision.yaml"),
    "retinanet": ("RetinaNet", "configs/Base-RetinaNet-torchvision.yaml"),
}
DENSE = ("fcos", "retinanet")
# name -> the configs with which we compute the same as detectron2, one over the other
AS_DETECTRON2 = {
    "faster_rcnn": ("configs/Base-Faster-RCNN-FPN-detectron2.yaml",),
    "mask_rcnn": ("configs/Base-Faster-RCNN-FPN-detectron2.yaml", "configs/Base-Mask-RCNN.yaml"),
    "retinanet": ("configs/Base-RetinaNet-detectron2.yaml",),
}
PEERS = ("torchvision", "detectron2")
BOXES_PER_IMAGE = 10
# Random weights give every class a score of 1/91; with larger ones, some pass the threshold: 100 detections an image
SURE = 12.0


@dataclasses.dataclass(frozen=True)
class Side:
    """A program's model and the batch as its own loader gives it.

    Attributes:
        program: "detframe", or one of PEERS.
        model: called with images and targets in training, with images in evaluation.
    """

    program: str
    model: nn.Module
    images: Sequence[Any]
    targets: list[dict[str, Tensor]]


def models_of(peer: str) -> Sequence[str]:
    """Those of MODELS that the other program has."""
    return tuple(MODELS if peer == "torchvision" else AS_DETECTRON2)


def sides_beside(
    peer: str,
    cfg: ConfigNode,
    name: str,
    batch: tuple[list[Tensor], list[dict[str, Tensor]]],
    device: torch.device,
) -> tuple[Side, Side]:
    """The other program's model and ours, with the same random weights and images.

    Args:
        peer: one of PEERS.
        name: one of MODELS.
        batch: of `make_batch`, all images of one size.

    Raises:
        ValueError: the other program has no such model, or the config's model cannot take its weights.
        ImportError: it is not installed.
    """
    images, targets = batch
    if peer == "torchvision":
        height, width = images[0].shape[-2:]
        theirs, ours = model_pair(cfg, height, width, device, name)
        return Side(peer, theirs, images, targets), Side("detframe", ours, images, targets)
    theirs, ours = detectron2_pair(cfg, device, name)
    images = stored(images)
    return Side(peer, theirs, detectron2_inputs(images, targets), targets), Side("detframe", ours, images, targets)


def stored(images: Sequence[Tensor]) -> list[Tensor]:
    """Images as files hold them and loaders give them, uint8; of float in [0, 1], or uint8 already."""
    return [(image * 255).byte() if image.is_floating_point() else image for image in images]


def model_pair(
    cfg: ConfigNode, height: int, width: int, device: torch.device, name: str = "faster_rcnn"
) -> tuple[nn.Module, nn.Module]:
    """torchvision's model and ours with the same random weights; the config's other keys are detframe's.

    The dense detectors of torchvision count label 0 as a class, so that ours has the same number of columns.
    """
    from torchvision.models import detection
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    kind, base = MODELS[name]
    dense = name in DENSE
    top = {"extra_blocks": LastLevelP6P7(256, 256)} if dense else {}
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=FrozenBatchNorm2d,
        trainable_layers=3,
        returned_layers=[2, 3, 4] if dense else [1, 2, 3, 4],
        **top,
    )
    size = {"min_size": min(height, width), "max_size": max(height, width)}
    theirs = getattr(detection, kind)(backbone, num_classes=NUM_CLASSES + 1, **size)
    if name == "mask_rcnn":
        theirs.roi_heads.box_predictor.cls_score.weight.data.mul_(SURE)
    ours = _with_weights(cfg, [base] if base else [], NUM_CLASSES + dense, theirs, f"torchvision's {kind} R-50-FPN")
    return theirs.to(device), ours


def detectron2_pair(cfg: ConfigNode, device: torch.device, name: str) -> tuple[nn.Module, nn.Module]:
    """detectron2's model (ResNet-50 with a pyramid, its own defaults) and ours with the same random weights.

    Raises:
        ValueError: detectron2 has no such detector, or the config's model cannot take its weights.
        ImportError: it is not installed.
    """
    from torch import nn

    if name not in AS_DETECTRON2:
        raise InvalidValueError(f"detectron2 has no {name}; --beside detectron2 knows {', '.join(AS_DETECTRON2)}")
    try:
        from detectron2.config import get_cfg as their_cfg
        from detectron2.modeling import build_model
        from detectron2.utils.events import EventStorage
    except (ImportError, AttributeError) as error:
        raise MissingModuleError(
            f"--beside detectron2 needs it installed, and it cannot be imported: {error}"
        ) from error

    class Detectron2(nn.Module):
        """Called as the others are."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model, self.storage = model, EventStorage()

        def forward(self, inputs: Sequence[Mapping[str, Any]], targets: object = None) -> Any:
            with self.storage:  # where it counts its samples in training
                return self.model(inputs)

    chosen = their_cfg()
    chosen.merge_from_list([*_detectron2_keys()[name], "MODEL.DEVICE", str(device)])
    theirs = build_model(chosen)
    if name == "mask_rcnn":
        theirs.roi_heads.box_predictor.cls_score.weight.data.mul_(SURE)
    ours = _with_weights(cfg, AS_DETECTRON2[name], NUM_CLASSES, theirs, f"detectron2's {name} R-50-FPN")
    return Detectron2(theirs), ours


def _detectron2_keys() -> dict[str, list[Any]]:
    """What its config files of a ResNet-50 with a pyramid change, by detector."""
    two_stage = {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "BACKBONE.NAME": "build_resnet_fpn_backbone",
        "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
        "RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
        "RPN.PRE_NMS_TOPK_TRAIN": 2000,
        "RPN.PRE_NMS_TOPK_TEST": 1000,
        "RPN.POST_NMS_TOPK_TRAIN": 1000,
        "RPN.POST_NMS_TOPK_TEST": 1000,
        "ROI_HEADS.NAME": "StandardROIHeads",
        "ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "ROI_HEADS.NUM_CLASSES": NUM_CLASSES,
        "ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
        "ROI_BOX_HEAD.NUM_FC": 2,
        "ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    }
    masks = {
        "MASK_ON": True,
        "ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
        "ROI_MASK_HEAD.NUM_CONV": 4,
        "ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    }
    dense = {
        "META_ARCHITECTURE": "RetinaNet",
        "BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
        "RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
        "FPN.IN_FEATURES": ["res3", "res4", "res5"],
        "ANCHOR_GENERATOR.SIZES": [[side * 2 ** (third / 3) for third in range(3)] for side in (32, 64, 128, 256, 512)],
        "RETINANET.IOU_THRESHOLDS": [0.4, 0.5],
        "RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
        "RETINANET.NUM_CLASSES": NUM_CLASSES,
    }
    tables = {"faster_rcnn": two_stage, "mask_rcnn": two_stage | masks, "retinanet": dense}
    return {
        name: [word for key, value in table.items() for word in (f"MODEL.{key}", value)]
        for name, table in tables.items()
    }


def detectron2_inputs(images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """The batch as detectron2's loader gives it: BGR, classes from 0, masks as bitmaps."""
    from detectron2.structures import BitMasks, Boxes, Instances

    inputs = []
    for image, target in zip(images, targets, strict=True):
        height, width = image.shape[-2:]
        objects = Instances((height, width))
        objects.gt_boxes, objects.gt_classes = Boxes(target["boxes"]), target["labels"] - 1
        objects.gt_masks = BitMasks(target["masks"].bool())
        inputs.append({"image": image.flip(0), "height": height, "width": width, "instances": objects})
    return inputs


def _with_weights(cfg: ConfigNode, bases: Sequence[str], num_classes: int, theirs: nn.Module, whose: str) -> nn.Module:
    """Ours, of the config over which `bases` are laid, with their weights."""
    from detframe.compat import load_weights
    from detframe.modeling import build_detection_model

    cfg = cfg.clone()
    cfg.defrost()
    for base in bases:
        cfg.merge_from_file(base)
    cfg.MODEL.NUM_CLASSES = num_classes
    ours = build_detection_model(cfg)
    try:
        load_weights(ours, theirs.state_dict())
    except InvalidValueError as error:
        raise InvalidValueError(
            f"--what train, inference and stages give {whose} and detframe's the same weights, "
            f"which a detector on {cfg.MODEL.BACKBONE.CONV_BODY!r} cannot take; --what roofline and --what ops measure "
            "it alone"
        ) from error
    return ours


def make_batch(
    batch: int, height: int, width: int, device: torch.device, channels: int = 3
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of noise with random boxes and masks that fill them, on the device; the models do no resizing."""
    import torch

    generator = torch.Generator().manual_seed(1)
    limit = torch.tensor([width, height], dtype=torch.float32)
    images, targets = [], []
    for _ in range(batch):
        corner = torch.rand(BOXES_PER_IMAGE, 2, generator=generator) * limit * 0.6
        side = (torch.rand(BOXES_PER_IMAGE, 2, generator=generator) * 0.35 + 0.03) * limit
        labels = torch.randint(1, NUM_CLASSES + 1, (BOXES_PER_IMAGE,), generator=generator)
        images.append(torch.rand(channels, height, width, generator=generator).to(device))
        boxes = torch.cat([corner, corner + side], 1)
        masks = torch.zeros(BOXES_PER_IMAGE, height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        parts = {"boxes": boxes, "labels": labels, "masks": masks}
        targets.append({key: value.to(device) for key, value in parts.items()})
    return images, targets
