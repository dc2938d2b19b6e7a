"""MODEL.LEGACY_BOXES and the habits around it, against plain Python from the formulas; and the borders of the model."""

from __future__ import annotations

import pytest
import torch

from detframe.modeling import build_detection_model
from tests.modeling import pixel_reference as plain
from tests.modeling.tiny import DENSE, make_images, make_target, tiny_config

SIZES = ((12,), (24,), (40,), (64,), (90,))
ALL = 10**6  # more than there are: every anchor and every region that may be drawn is
RCNN = {
    "MODEL.LEGACY_BOXES": True,
    "MODEL.RPN.ANCHOR_STYLE": "detectron",
    "MODEL.RPN.ANCHOR_STEP": "stride",
    "MODEL.RPN.ANCHOR_SIZES": SIZES,
    "MODEL.RPN.BOUNDARY_THRESH": 0.0,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": ALL,
    "MODEL.RPN.LOSS_WEIGHT": 0.5,
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 3.0,
    "MODEL.RPN.MIN_SIZE": 11.0,
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 60,
    "MODEL.RPN.PRE_NMS_TOP_N_TEST": 50,
    "MODEL.RPN.POST_NMS_PER": "level",
    "MODEL.RPN.POST_NMS_TOP_N_TRAIN": 30,
    "MODEL.RPN.POST_NMS_TOP_N_TEST": 20,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN": 50,
    "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST": 40,
    "MODEL.RPN.FPN_POST_NMS_PER_BATCH": True,
    "MODEL.ROI_HEADS.FG_IOU_THRESHOLD": 0.4,
    "MODEL.ROI_HEADS.BG_IOU_THRESHOLD": 0.2,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": ALL,
    "MODEL.ROI_HEADS.SCORE_THRESH": 0.2,
    "MODEL.ROI_HEADS.MIN_SIZE": 14.0,
    "MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE": 48,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": 2.0,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
    "TEST.DETECTIONS_PER_IMG": 25,
}
RETINANET = {
    **DENSE,
    "MODEL.RPN.NAME": "RetinaNet",
    "MODEL.LEGACY_BOXES": True,
    "MODEL.RETINANET.NUM_CONVS": 1,
    "MODEL.RETINANET.PRIOR_PROB": 0.2,
    "MODEL.RETINANET.ANCHOR_STYLE": "detectron",
    "MODEL.RETINANET.ANCHOR_SIZES": ((16, 20.2), (32, 40.3), (64, 80.6), (96, 110.0), (128, 140.0)),
    "MODEL.RETINANET.SMOOTH_L1_BETA": 0.11,
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
    "MODEL.RETINANET.PRE_NMS_TOP_N": 40,
    "TEST.DETECTIONS_PER_IMG": 30,
}
FCOS = {
    **DENSE,
    "MODEL.RPN.NAME": "FCOS",
    "MODEL.FCOS.NUM_CONVS": 1,
    "MODEL.FCOS.PRIOR_PROB": 0.2,
    "MODEL.LEGACY_BOXES": True,
}
CASCADE = {**RCNN, "MODEL.ROI_HEADS.NAME": "CascadeROIHeads"}
MASKS = {"MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.NUM_CONV": 1, "MODEL.ROI_MASK_HEAD.CONV_DIM": 16}
# the last one is narrower than a pixel
TARGETS = [
    make_target([[4.0, 4, 40, 40], [20, 10, 60, 50], [70.2, 50, 70.7, 68]], [1, 3, 2], seed=5),
    make_target([[10.0, 12.5, 33, 40]], [2], seed=6),
]


def _model(keys, *opts):
    """A model whose random predictions differ from place to place."""
    cfg = tiny_config(keys, *opts)
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("backbone.") and parameter.ndim > 1:
                gain = 0.2 if "bbox" in name else 0.6
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * gain / fan_in**0.5)
    return model, cfg


def _batches():
    images = make_images()
    return [(images[:1], TARGETS[:1]), (images, TARGETS), (images[::-1], [TARGETS[1], make_target([], [], seed=7)])]


def _assert_detections(predictions, expected):
    """The same detections in the same order; ours end a pixel later."""
    for ours, found in zip(predictions, expected, strict=True):
        assert ours["labels"].tolist() == found.labels
        assert len(found.labels) > 3
        torch.testing.assert_close(ours["scores"], torch.tensor(found.scores), atol=1e-4, rtol=0)
        boxes = torch.tensor(found.boxes) + torch.tensor([0.0, 0, 1, 1])
        torch.testing.assert_close(ours["boxes"], boxes, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("batch", [0, 1, 2], ids=["one", "two", "without objects"])
def test_the_losses_of_an_rcnn(batch):
    model, cfg = _model(RCNN)
    images, targets = _batches()[batch]
    losses = model(images, targets)
    out = plain.run_head(model, images, cfg.MODEL.RPN)
    rpn = plain.rpn_losses(out, targets, cfg.MODEL.RPN)
    proposals = plain.rpn_proposals(out, cfg.MODEL.RPN, "TRAIN")
    assert sum(len(found.boxes) for found in proposals) == 50
    box = plain.box_losses(model, out, proposals, targets, cfg)
    names = ("loss_rpn_cls", "loss_rpn_box", "loss_roi_cls", "loss_roi_box")
    assert min(rpn + box) > 0
    assert [losses[name].item() for name in names] == pytest.approx([*rpn, *box], rel=1e-4)


@pytest.mark.parametrize("batch", [0, 1], ids=["one", "two"])
def test_the_detections_of_an_rcnn(batch):
    model, cfg = _model(RCNN)
    images = _batches()[batch][0]
    with torch.inference_mode():
        predictions = model.eval()(images)
    out = plain.run_head(model, images, cfg.MODEL.RPN)
    proposals = plain.rpn_proposals(out, cfg.MODEL.RPN, "TEST")
    _assert_detections(predictions, plain.box_detections(model, out, proposals, cfg))


@pytest.mark.parametrize("batch", [0, 1, 2], ids=["one", "two", "without objects"])
def test_the_losses_of_retinanet(batch):
    model, cfg = _model(RETINANET)
    images, targets = _batches()[batch]
    losses = model(images, targets)
    out = plain.run_head(model, images, cfg.MODEL.RETINANET)
    expected = plain.retinanet_losses(out, targets, cfg.MODEL.RETINANET)
    assert [losses[f"loss_retinanet_{name}"].item() for name in ("cls", "box")] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("batch", [0, 1], ids=["one", "two"])
def test_the_detections_of_retinanet(batch):
    model, cfg = _model(RETINANET)
    images = _batches()[batch][0]
    with torch.inference_mode():
        predictions = model.eval()(images)
    out = plain.run_head(model, images, cfg.MODEL.RETINANET)
    _assert_detections(predictions, plain.retinanet_detections(out, cfg))


def _seen(module):
    """What goes into a module and what comes out, call by call."""
    calls = []
    module.register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))
    return calls


def test_the_stages_of_a_cascade():
    """Each stage's losses, and the regions that it hands on, from its own logits and deltas."""
    model, cfg = _model(CASCADE)
    images, targets = _batches()[1]
    pooled = _seen(model.roi_heads.box_pooler)
    predicted = [_seen(predictor) for predictor in model.roi_heads.box_predictor]
    losses = model(images, targets)
    assert len(pooled[0][0][1]) == 50 + 4  # all proposals and objects: none lies between the thresholds
    sizes = [image.shape[-2:] for image in images]
    keys = cfg.MODEL.ROI_BOX_CASCADE_HEAD
    for stage, (iou, weights) in enumerate(zip(keys.IOUS, keys.BBOX_REG_WEIGHTS, strict=True)):
        (_, boxes, image), _ = pooled[stage]
        logits, deltas = (x.tolist() for x in predicted[stage][0][1])
        boxes, image = boxes.tolist(), image.tolist()
        cls = box = 0.0
        moved = []
        for i, region, row, (delta,) in zip(image, boxes, logits, deltas, strict=True):
            gt = plain.inner_boxes(targets[i])
            ((foreground, g),) = plain.match(gt, [region], iou, iou, False)
            label = targets[i]["labels"].tolist()[g] if foreground else 0
            cls += plain.cross_entropy(row, label)
            if label:
                box += plain.smooth_l1(delta, plain.encode(gt[g], region, weights), 1.0)
            moved.append(plain.clip(plain.decode(delta, region, weights), sizes[i]))
        expected = [cls / len(boxes), 2.0 * box / len(boxes)]
        found = [losses[f"loss_roi_{name}_stage{stage + 1}"].item() for name in ("cls", "box")]
        assert found == pytest.approx(expected, rel=1e-4)
        if stage + 1 < len(keys.IOUS):
            torch.testing.assert_close(pooled[stage + 1][0][1], torch.tensor(moved), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("keys", [RCNN, RETINANET, FCOS], ids=["rcnn", "retinanet", "fcos"])
def test_the_borders_take_and_give_boxes_between_pixels(keys):
    model, _ = _model(keys)
    heads = _seen(model.rpn)
    model(make_images(), TARGETS)
    inner = heads[0][0][2].boxes
    narrow = [70.2, 50, 70.2, 67]  # a pixel wide, as it is narrower
    torch.testing.assert_close(inner[0], torch.tensor([[4.0, 4, 39, 39], [20, 10, 59, 49], narrow]))
    torch.testing.assert_close(inner[1, 0], torch.tensor([10.0, 12.5, 32, 39]))
    last = heads if model.roi_heads is None else _seen(model.roi_heads)
    with torch.inference_mode():
        predictions = model.eval()(make_images())
    found = last[-1][1][0]
    for i, (prediction, image) in enumerate(zip(predictions, make_images(), strict=True)):
        ends = torch.tensor(image.shape[-2:]).flip(0)
        assert len(prediction["boxes"]) > 3
        assert (prediction["boxes"][:, 2:] <= ends).all()
        assert (prediction["boxes"][:, 2:] == ends).any()
        expected = found.boxes[i][found.valid[i]] + torch.tensor([0.0, 0, 1, 1])
        assert torch.equal(prediction["boxes"], expected)


def test_objects_of_resized_files_keep_their_last_pixel():
    """An object of w pixels from x on ends in pixel x + w - 1 of its file, and that is what is scaled."""
    model, _ = _model(RCNN)
    seen = _seen(model.rpn)
    images = make_images()
    height, width = images[0].shape[-2:]
    original = (height // 2, width // 4)
    targets = [{**TARGETS[0], "orig_size_hw": original}, TARGETS[1]]
    model(images, targets)
    x1, y1, x2, y2 = TARGETS[0]["boxes"][0].tolist()
    inner = seen[0][0][2].boxes
    torch.testing.assert_close(inner[0, 0], torch.tensor([x1, y1, x2 - width / original[1], y2 - height / original[0]]))
    x1, y1, x2, y2 = TARGETS[1]["boxes"][0].tolist()
    torch.testing.assert_close(inner[1, 0], torch.tensor([x1, y1, x2 - 1, y2 - 1]))


def test_masks_are_pasted_on_the_boxes_that_come_back():
    model, _ = _model({**RCNN, **MASKS})
    model.eval()
    with torch.inference_mode():
        for prediction in model(make_images(), paste_masks=False):
            assert torch.equal(prediction["masks"].boxes, prediction["boxes"])
            assert len(prediction["masks"]) > 3


@pytest.mark.parametrize(
    "keys",
    [
        {**RCNN, **MASKS},
        CASCADE,
        RETINANET,
        {**RETINANET, "MODEL.RETINANET.BOX_LOSS_TYPE": "giou"},
        FCOS,
        {
            "MODEL.LEGACY_BOXES": True,
            "MODEL.BACKBONE.CONV_BODY": "R-18-C4",
            "MODEL.ROI_HEADS.NAME": "Res5ROIHeads",
            "MODEL.RPN.ANCHOR_STYLE": "detectron",
            "MODEL.RPN.ANCHOR_SIZES": (SIZES[0] + SIZES[2],),
            "MODEL.RPN.BOUNDARY_THRESH": 8.0,
        },
    ],
    ids=["mask rcnn", "cascade", "retinanet", "giou", "fcos", "c4"],
)
def test_objects_of_one_pixel_and_images_without_any(keys):
    model, _ = _model(keys)
    masks = {"masks": torch.zeros(1, 64, 51, dtype=torch.bool)} if "MODEL.MASK_ON" in keys else {}
    no_masks = {"masks": torch.zeros(0, 70, 90, dtype=torch.bool)} if masks else {}
    if masks:
        masks["masks"][0, 5, 9] = True
    targets = [make_target([], [], seed=1, **no_masks), make_target([[9.0, 5, 10, 6]], [1], seed=2, **masks)]
    losses = model(make_images(), targets)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in parameters)


@pytest.mark.parametrize(("section", "keys"), [("RPN", RCNN), ("RETINANET", RETINANET)])
def test_the_offset_moves_the_anchors_of_each_level_by_its_stride(section, keys):
    (plain_model, _), (moved_model, _) = _model(keys), _model(keys, f"MODEL.{section}.ANCHOR_OFFSET", 0.5)
    batch = plain_model.preprocessor(make_images())
    maps = list(plain_model.backbone(batch.tensors).values())
    levels = zip(plain_model.rpn.anchors(maps, batch), moved_model.rpn.anchors(maps, batch), strict=True)
    for (before, after), stride in zip(levels, plain_model.backbone.strides.values(), strict=True):
        torch.testing.assert_close(after, before + stride / 2)
