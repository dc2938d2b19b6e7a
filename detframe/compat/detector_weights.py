"""Detectors that others trained on COCO: the shipped config of each, and the keys that make it compute as theirs.

Facts: torchvision's weight enums (addresses and classes are read from there); the model zoos of detectron2 and of its
PointRend project; the README of FCOS, its configs, and the files that its author keeps on Hugging Face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from detframe.compat.body_weights import TORCHVISION
from detframe.compat.download import DETECTRON2_FILES

_FCOS = "https://huggingface.co/tianzhi/FCOS/resolve/main/FCOS_"
COCO_CLASSES = 80


@dataclass(frozen=True)
class DetectorWeights:
    """One published checkpoint of a detector.

    Attributes:
        config: the shipped config that has its architecture, as "faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml".
        owner: "torchvision", "detectron2" or "FCOS" (its authors).
        weights: as MODEL.WEIGHTS takes them.
        dialect: the shipped config whose keys of MODEL, INPUT and TEST make the owner's choices; "" where none differ.
        keys: what differs beyond that.
        ap: what the owner published for COCO val2017 (FCOS: minival, the same images): AP of "box", "mask", "keypoint",
            or of "proposal" the average recall of 1000.
        num_classes: foreground classes of its outputs: 90 category ids, 80 classes in their order, or persons alone.
    """

    config: str
    owner: str
    weights: str
    dialect: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)
    ap: Mapping[str, float] = field(default_factory=dict)
    num_classes: int = COCO_CLASSES


# ---------------------------------------------------------------------------------------------------- torchvision
_EPS = {"MODEL.RESNETS.NORM_EPS": 0.0}
_SOFT = {"MODEL.ROI_MASK_HEAD.TARGET_MODE": "soft"}


def _torchvision(
    config: str, name: str, ap: Mapping[str, float], dialect: str = "", keys: Mapping[str, Any] | None = None
) -> DetectorWeights:
    num_classes = 1 if "keypoint" in ap else 90
    return DetectorWeights(
        f"{config}.yaml", "torchvision", f"{TORCHVISION}{name}", dialect, keys or {}, ap, num_classes
    )


# ----------------------------------------------------------------------------------------------------- detectron2
_X101 = {"MODEL.RESNETS.STRIDE_IN_1X1": False, "INPUT.PIXEL_STD": (57.375, 57.12, 58.395)}


def _detectron2(folder: str, file: str, name: str = "", **ap: float) -> DetectorWeights:
    """An entry of its model zoo.

    Args:
        folder: of the shipped config.
        file: the address, without what all have in common.
        name: of the shipped config, where detectron2 has another for it.
    """
    run, number, digits = file.rsplit("/", 2)
    config = f"{folder}/{name or PurePosixPath(run).name}.yaml"
    keys: dict[str, Any] = dict(_X101) if "_X_101_32x8d_" in config else {}
    if config.endswith("_gn_3x.yaml"):
        keys["MODEL.RESNETS.STRIDE_IN_1X1"] = False
    for branch in ("mask", "keypoint"):
        if branch in ap:
            keys[f"MODEL.ROI_{branch.upper()}_HEAD.POOLER_SAMPLING_RATIO"] = 0
    dialect = "Base-RetinaNet-detectron2" if "retinanet" in config else "Base-Faster-RCNN-FPN-detectron2"
    address = f"{DETECTRON2_FILES}{run}/{number}/model_final_{digits}.pkl"
    return DetectorWeights(config, "detectron2", address, dialect, keys, ap, 1 if "keypoint" in ap else COCO_CLASSES)


# ----------------------------------------------------------------------------------------------------------- FCOS
def _fcos(name: str, ap: float, sha256: str = "") -> DetectorWeights:
    keys = {"MODEL.RESNETS.STRIDE_IN_1X1": False} if "X_101" in name else {}
    address = f"{_FCOS}{name}.pth" + (f"#sha256={sha256}" if sha256 else "")
    return DetectorWeights(f"fcos/fcos_{name}.yaml", "FCOS", address, "Base-FCOS-original", keys, {"box": ap})


# Of several for one config, the first is the one that `pretrained=True` takes.
# Not here, since no shipped config has their architecture, or their keys are not known for certain: detectron2's with
# large-scale jitter (four convolutions in the box head, two in the RPN), and FCOS_X_101_32x8d_FPN_2x, whose published
# configs disagree about STRIDE_IN_1X1.
DETECTOR_WEIGHTS: tuple[DetectorWeights, ...] = (
    _torchvision(
        "faster_rcnn/faster_rcnn_R_50_FPN_1x", "FasterRCNN_ResNet50_FPN_Weights.COCO_V1", {"box": 37.0}, keys=_EPS
    ),
    _detectron2("faster_rcnn", "COCO-Detection/faster_rcnn_R_50_FPN_1x/137257794/b275ba", box=37.9),
    _detectron2("faster_rcnn", "COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/280758", box=40.2),
    _detectron2("faster_rcnn", "COCO-Detection/faster_rcnn_R_101_FPN_3x/137851257/f6e8b1", box=42.0),
    _detectron2("faster_rcnn", "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x/139173657/68b088", box=43.0),
    _detectron2("faster_rcnn", "COCO-Detection/faster_rcnn_R_50_C4_1x/137257644/721ade", box=35.7),
    _detectron2("faster_rcnn", "COCO-Detection/faster_rcnn_R_50_C4_3x/137849393/f97cb7", box=38.4),
    _detectron2("faster_rcnn", "COCO-Detection/faster_rcnn_R_101_C4_3x/138204752/298dad", box=41.1),
    _detectron2("faster_rcnn", "COCO-Detection/faster_rcnn_R_50_DC5_1x/137847829/51d356", box=37.3),
    _detectron2("faster_rcnn", "COCO-Detection/faster_rcnn_R_50_DC5_3x/137849425/68d202", box=39.0),
    _detectron2("faster_rcnn", "COCO-Detection/faster_rcnn_R_101_DC5_3x/138204841/3e0943", box=40.6),
    _torchvision(
        "faster_rcnn/faster_rcnn_R_50_FPN_v2_400ep", "FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1", {"box": 46.7}
    ),
    _detectron2("rpn", "COCO-Detection/rpn_R_50_FPN_1x/137258492/02ce48", proposal=58.0),
    _detectron2("rpn", "COCO-Detection/rpn_R_50_C4_1x/137258005/450694", proposal=51.6),
    _fcos("R_50_FPN_1x", 37.1),
    _fcos("R_101_FPN_2x", 41.4),
    _fcos("X_101_64x4d_FPN_2x", 43.0, "37d41c532c701cd3c9d27e1f794a198925c43c68bb6152c06ed1f88223f98d7e"),
    _fcos("imprv_R_50_FPN_1x", 38.7, "d4d033eeec3dba37ab593f6940a350f262d8753141087cb4286076c5011a9c80"),
    _torchvision(
        "fcos/fcos_imprv_R_50_FPN_1x", "FCOS_ResNet50_FPN_Weights.COCO_V1", {"box": 39.2}, "Base-FCOS-torchvision"
    ),
    _fcos("imprv_R_101_FPN_2x", 43.0, "0f528cf3efb04853f80487c1a78266d66805868c6fbf8e2626c3d7edc4638dc2"),
    _fcos("imprv_X_101_32x8d_FPN_2x", 44.0),
    _fcos("imprv_X_101_64x4d_FPN_2x", 44.7),
    _fcos("imprv_dcnv2_R_50_FPN_1x", 42.3),
    _fcos("imprv_dcnv2_R_101_FPN_2x", 45.6),
    _fcos("imprv_dcnv2_X_101_32x8d_FPN_2x", 46.4),
    _fcos("imprv_dcnv2_X_101_64x4d_FPN_2x", 46.6),
    _fcos("bn_bs16_MNV2_FPN_1x", 31.0, "f9aa9bc51d8e9312a1057d148203b7c5301ebae472ef6ba049978a4ec188ff32"),
    _fcos("syncbn_bs32_MNV2_FPN_1x", 33.1),
    _fcos("syncbn_bs32_c128_MNV2_FPN_1x", 30.9),
    _torchvision(
        "retinanet/retinanet_R_50_FPN_1x",
        "RetinaNet_ResNet50_FPN_Weights.COCO_V1",
        {"box": 36.4},
        "Base-RetinaNet-torchvision",
        _EPS,
    ),
    _torchvision("retinanet/retinanet_R_50_FPN_v2_26ep", "RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1", {"box": 41.5}),
    _detectron2("retinanet", "COCO-Detection/retinanet_R_50_FPN_1x/190397773/bfca0b", box=37.4),
    _detectron2("retinanet", "COCO-Detection/retinanet_R_50_FPN_3x/190397829/5bd44e", box=38.7),
    _detectron2("retinanet", "COCO-Detection/retinanet_R_101_FPN_3x/190397697/971ab9", box=40.4),
    _torchvision(
        "mask_rcnn/mask_rcnn_R_50_FPN_1x",
        "MaskRCNN_ResNet50_FPN_Weights.COCO_V1",
        {"box": 37.9, "mask": 34.6},
        keys={**_EPS, **_SOFT},
    ),
    _detectron2("mask_rcnn", "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x/137260431/a54504", box=38.6, mask=35.2),
    _detectron2("mask_rcnn", "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/f10217", box=41.0, mask=37.2),
    _detectron2(
        "mask_rcnn",
        "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x/138205316/a3ec72",
        box=42.9,
        mask=38.6,
    ),
    _detectron2(
        "mask_rcnn",
        "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x/139653917/2d9806",
        box=44.3,
        mask=39.5,
    ),
    _detectron2("mask_rcnn", "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x/137259246/9243eb", box=36.8, mask=32.2),
    _detectron2("mask_rcnn", "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x/137849525/4ce675", box=39.8, mask=34.4),
    _detectron2("mask_rcnn", "COCO-InstanceSegmentation/mask_rcnn_R_101_C4_3x/138363239/a2914c", box=42.6, mask=36.7),
    _detectron2("mask_rcnn", "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x/137260150/4f86c3", box=38.3, mask=34.2),
    _detectron2("mask_rcnn", "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x/137849551/84107b", box=40.0, mask=35.9),
    _detectron2(
        "mask_rcnn",
        "COCO-InstanceSegmentation/mask_rcnn_R_101_DC5_3x/138363294/0464b7",
        box=41.9,
        mask=37.3,
    ),
    _torchvision(
        "mask_rcnn/mask_rcnn_R_50_FPN_v2_400ep",
        "MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1",
        {"box": 47.4, "mask": 41.8},
    ),
    _detectron2(
        "mask_rcnn",
        "Misc/scratch_mask_rcnn_R_50_FPN_3x_gn/138602908/01ca85",
        name="mask_rcnn_R_50_FPN_gn_3x",
        box=39.9,
        mask=36.6,
    ),
    _detectron2(
        "mask_rcnn",
        "Misc/mask_rcnn_R_50_FPN_3x_gn/138602888/dc5d9e",
        name="mask_rcnn_R_50_FPN_gn_3x",
        box=42.6,
        mask=38.6,
    ),
    _detectron2(
        "point_rend",
        "PointRend/InstanceSegmentation/pointrend_rcnn_R_50_FPN_1x_coco/164254221/736f5a",
        name="point_rend_R_50_FPN_1x",
        mask=36.2,
    ),
    _detectron2(
        "point_rend",
        "PointRend/InstanceSegmentation/pointrend_rcnn_R_50_FPN_3x_coco/164955410/edd263",
        name="point_rend_R_50_FPN_3x",
        mask=38.3,
    ),
    _detectron2(
        "point_rend",
        "PointRend/InstanceSegmentation/pointrend_rcnn_R_101_FPN_3x_coco/28119983/3f4d2a",
        name="point_rend_R_101_FPN_3x",
        mask=40.1,
    ),
    _detectron2(
        "point_rend",
        "PointRend/InstanceSegmentation/pointrend_rcnn_X_101_32x8d_FPN_3x_coco/28119989/ba17b9",
        name="point_rend_X_101_32x8d_FPN_3x",
        mask=41.1,
    ),
    _detectron2(
        "cascade_rcnn",
        "Misc/cascade_mask_rcnn_R_50_FPN_1x/138602847/e9d89b",
        name="cascade_rcnn_mask_R_50_FPN_1x",
        box=42.1,
        mask=36.4,
    ),
    _detectron2(
        "cascade_rcnn",
        "Misc/cascade_mask_rcnn_R_50_FPN_3x/144998488/480dd8",
        name="cascade_rcnn_mask_R_50_FPN_3x",
        box=44.3,
        mask=38.5,
    ),
    _torchvision(
        "keypoint_rcnn/keypoint_rcnn_R_50_FPN_1x",
        "KeypointRCNN_ResNet50_FPN_Weights.COCO_V1",
        {"box": 54.6, "keypoint": 65.0},
        keys=_EPS,
    ),
    _torchvision(
        "keypoint_rcnn/keypoint_rcnn_R_50_FPN_1x",
        "KeypointRCNN_ResNet50_FPN_Weights.COCO_LEGACY",
        {"box": 50.6, "keypoint": 61.1},
    ),
    _detectron2(
        "keypoint_rcnn",
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x/137261548/04e291",
        box=53.6,
        keypoint=64.0,
    ),
    _detectron2(
        "keypoint_rcnn",
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x/137849621/a6e10b",
        box=55.4,
        keypoint=65.5,
    ),
    _detectron2(
        "keypoint_rcnn",
        "COCO-Keypoints/keypoint_rcnn_R_101_FPN_3x/138363331/997cc7",
        box=56.4,
        keypoint=66.1,
    ),
    _detectron2(
        "keypoint_rcnn",
        "COCO-Keypoints/keypoint_rcnn_X_101_32x8d_FPN_3x/139686956/5ad38f",
        box=57.3,
        keypoint=66.0,
    ),
)
