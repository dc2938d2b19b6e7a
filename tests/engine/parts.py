"""One step of every kind of detector, in parts and on ranks: what the tests compare, also in processes of their own."""

from __future__ import annotations

from pathlib import Path

import torch

from detframe.modeling import build_detection_model
from detframe.parallel.collectives import mean_over_ranks, rank, world_size
from detframe.parallel.joining import process_group
from tests.engine.fakes import make_config, make_trainer
from tests.engine.ranks import EFPN, KINDS, kind_config, tiny_config

# All proposals enter the loss but those between the thresholds, whose number differs from image to image: what is drawn
# then depends neither on the order of proposals, which rounding may change, nor on a number that is always reached
EVERY = {
    "MODEL.RPN.NMS_THRESH": 1.0,
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 2000,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 4000,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
    "MODEL.ROI_HEADS.FG_IOU_THRESHOLD": 0.5,
    "MODEL.ROI_HEADS.BG_IOU_THRESHOLD": 0.2,
    # fewer anchors than wanted: their number differs, too
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 4000,
    "MODEL.RPN.POSITIVE_FRACTION": 1.0,
}
# Of thousands of RoIs times channels of a box head, one or another would be so near to the corner of a ReLU that it is
# rounding which decides whether there is a gradient; with these biases, none is
ABOVE_ZERO = {"fc6.bias": 10.0, "fc7.bias": 60.0}
RETINANET = {
    f"RetinaNet {name}": (*KINDS["RetinaNet"], "MODEL.RETINANET.LOSS_NORMALIZER", name)
    for name in ("image", "ema", "detectron")
}
UNSYNCED = "FCOS, each rank for itself"
DETECTORS = {
    **KINDS,
    **RETINANET,
    "Faster R-CNN": (),
    "RPN": ("MODEL.ROI_HEADS.NAME", ""),
    "RPN batch_size": ("MODEL.RPN.LOSS_NORMALIZER", "batch_size", "MODEL.RPN.BOX_LOSS_TYPE", "giou"),
    "FCOS iou": (*KINDS["FCOS"], "MODEL.FCOS.BOX_QUALITY", "iou", "MODEL.FCOS.IOU_LOSS_TYPE", "giou"),
    "FCOS unweighted": (*KINDS["FCOS"], "MODEL.FCOS.WEIGHT_BY_CENTERNESS", False),
    UNSYNCED: (*KINDS["FCOS"], "MODEL.FCOS.SYNC_NORMALIZER", False),
    "FCOS with ROI heads": ("MODEL.RPN.NAME", "FCOS"),
    "EFPN": (*EFPN, "MODEL.ROI_HEADS.NAME", "ExtendedROIHeads", "MODEL.EFPN.SEPARATE_HEAD", True),
    "static keypoints": (*KINDS["masks and keypoints"], "MODEL.ROI_KEYPOINT_HEAD.NORMALIZER", "static"),
    "boxes of the head": (*KINDS["masks and keypoints"], "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True),
    "FCOS quality focal": (*KINDS["FCOS"], "MODEL.FCOS.CLS_LOSS", "quality_focal"),
    "RetinaNet varifocal": (*KINDS["RetinaNet"], "MODEL.RETINANET.CLS_LOSS", "varifocal"),
    "Seesaw": ("MODEL.ROI_BOX_HEAD.CLS_LOSS", "seesaw"),
    "federated": ("MODEL.ROI_BOX_HEAD.CLS_LOSS", "federated", "MODEL.ROI_BOX_HEAD.FEDERATED_CLASSES", 1),
    "C4": (
        *("MODEL.BACKBONE.CONV_BODY", "R-18-C4", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads"),
        *("MODEL.RPN.ANCHOR_SIZES", ((16, 32),)),
    ),
}
# Objects of each of eight images: all in the first half, or in one image of a part whose other one has none
LAYOUTS = {"first": (2, 1, 2, 1, 0, 0, 0, 0), "scattered": (0, 2, 0, 0, 0, 0, 1, 0), "none": (0,) * 8}


def image_with(index: int, objects: int):
    """An image of noise and its target, with masks and keypoints; always the same for its index."""
    generator = torch.Generator().manual_seed(index)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator)
    corner = torch.rand(objects, 2, generator=generator) * 24
    boxes = torch.cat([corner, corner + 16 + torch.rand(objects, 2, generator=generator) * 20], 1)
    masks = torch.zeros(objects, 64, 64, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    keypoints = torch.cat([boxes[:, None, :2] + 8, torch.full((objects, 1, 1), 2.0)], 2).repeat(1, 4, 1)
    target = {"boxes": boxes, "labels": torch.ones(objects, dtype=torch.int64), "masks": masks, "keypoints": keypoints}
    return image, {**target, "image_id": index, "orig_size_hw": (64, 64), "seed": index}


def step(folder: Path, name: str, layout: str, num_parts: int, **settings):
    """Losses and gradients of a first step, over all parts and ranks, and the state it leaves, as arrays."""
    torch.manual_seed(0)
    cfg = kind_config(tiny_config(), name, DETECTORS)
    cfg.merge_from_list([word for pair in EVERY.items() for word in pair])
    model = build_detection_model(cfg)
    for part, bias in ABOVE_ZERO.items():
        for parameter in (p for n, p in model.named_parameters() if n.endswith(part)):
            torch.nn.init.constant_(parameter, bias)
    pairs = [image_with(index, objects) for index, objects in enumerate(LAYOUTS[layout])]
    share = len(pairs) // world_size()
    images, targets = zip(*pairs[rank() * share : (rank() + 1) * share], strict=True)
    found = {}

    def note(*_):
        found.update({f"gradient of {n}": p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})

    trainer = make_trainer(
        folder,
        make_config(MAX_ITER=1, IMS_PER_BATCH=8),
        model=model,
        data=iter([(list(images), list(targets))]),
        accumulate_steps=num_parts,
        **settings,
    )
    trainer.optimizer.register_step_pre_hook(note)
    trainer.train()
    found |= {key: mean_over_ranks(value) for key, value in trainer.last_step.losses.items()}
    found |= {f"buffer {n}": b for n, b in model.named_buffers() if n.endswith(("loss_normalizer", "cls_loss.counts"))}
    return {key: value.numpy() for key, value in found.items()}


def cases(name: str):
    """Layouts and numbers of parts that two ranks are tried with."""
    if name == UNSYNCED:
        return ()
    few = (("first", 1), ("scattered", 4))
    return (*few, ("first", 2)) if name in ("FCOS", "RetinaNet", "Faster R-CNN") else few


def on_two_ranks(folder: str):
    """Steps of all detectors in numbers of parts; rank 0 returns them."""
    torch.set_num_threads(1)
    with process_group("cpu"):
        return {(name, *case): step(Path(folder), name, *case) for name in DETECTORS for case in cases(name)}
