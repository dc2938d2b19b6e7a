"""Masks, keypoints and cascades in every mix: losses, gradients, empty images, shapes."""

import pytest
import torch

from detframe.modeling import build_detection_model
from detframe.structures import BoxMasks, LazyMasks
from tests.modeling.tiny import make_images, make_target, tiny_config

BASE = {
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": 0,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (16, 16),
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 4,
    "MODEL.POINT_HEAD.FC_DIM": 16,
    "MODEL.POINT_HEAD.COARSE_FC_DIM": 16,
    "MODEL.ROI_HEADS.SCORE_THRESH": 0.0,
}
MASKS, KEYPOINTS = ("MODEL.MASK_ON", True), ("MODEL.KEYPOINT_ON", True)
CASCADE = ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads")
POINTS = (*MASKS, "MODEL.ROI_MASK_HEAD.NAME", "PointRend")
EFPN = ("MODEL.BACKBONE.CONV_BODY", "R-18-EFPN", "MODEL.EFPN.WIDTH", 16)
EFPN += ("MODEL.RPN.IN_FEATURES", ("p2", "p3", "p4", "p5", "p6"))
C4 = ("MODEL.BACKBONE.CONV_BODY", "R-18-C4", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads")
C4 += ("MODEL.RPN.ANCHOR_SIZES", ((32, 64),), "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14)
FCOS = ("MODEL.RPN.NAME", "FCOS", "MODEL.BACKBONE.CONV_BODY", "R-18-FPN-RETINANET", "MODEL.FCOS.NUM_CONVS", 1)
FCOS += ("MODEL.FCOS.INFERENCE_TH", 0.0)
MIXES = {
    "masks": MASKS,
    "keypoints": KEYPOINTS,
    "masks and keypoints": (*MASKS, *KEYPOINTS),
    "cascade": CASCADE,
    "cascade with masks": (*CASCADE, *MASKS),
    "cascade with both": (*CASCADE, *MASKS, *KEYPOINTS),
    "PointRend": POINTS,
    "PointRend on predicted boxes": (*POINTS, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True),
    "cascade with PointRend": (*CASCADE, *POINTS),
    "masks on EFPN": (*EFPN, "MODEL.ROI_HEADS.NAME", "ExtendedROIHeads", *MASKS, *KEYPOINTS),
    "cascade on EFPN": (*EFPN, *CASCADE, *MASKS),
    "masks on C4": (*C4, *MASKS, "MODEL.ROI_MASK_HEAD.NUM_CONV", 0),
    "masks on FCOS": (*FCOS, *MASKS),
    "masks of all classes in one": (*MASKS, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
    "masks with GN": (*MASKS, "MODEL.ROI_MASK_HEAD.NORM", "GN"),
}


def make(*opts):
    torch.manual_seed(0)
    return build_detection_model(tiny_config(BASE, *opts))


def full(size_hw, seed, lazy=True):
    """Two objects, one with two polygons and one with keypoints that nobody sees, and a crowd."""
    polygons = [
        [[4.0, 4, 40, 4, 40, 40], [4, 20, 20, 40, 4, 40]],
        [[20.0, 10, 60, 10, 60, 50, 20, 50]],
        [[0.0, 0, 9, 0, 9, 9]],
    ]
    masks = LazyMasks([[torch.tensor(p).numpy() for p in parts] for parts in polygons], size_hw)
    keypoints = torch.tensor([[[10.0, 10, 2], [30, 20, 1], [40, 40, 2], [99, 99, 2]], [[0, 0, 0]] * 4, [[0, 0, 0]] * 4])
    boxes = [[4.0, 4, 40, 40], [20, 10, 60, 50], [0, 0, 9, 9]]
    crowd = torch.tensor([False, False, True])
    kept = masks if lazy else masks.decode()
    return make_target(boxes, [1, 3, 2], seed=seed, masks=kept, keypoints=keypoints, iscrowd=crowd)


def empty(size_hw):
    return make_target([], [], seed=6, masks=LazyMasks([], size_hw), keypoints=torch.zeros(0, 4, 3))


@pytest.mark.parametrize("opts", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("second", ["objects", "empty", "both empty"])
def test_losses_and_gradients(opts, second):
    model = make(*opts)
    first = empty((70, 90)) if second == "both empty" else full((70, 90), 5)
    losses = model(make_images(), [first, full((64, 51), 7) if second == "objects" else empty((64, 51))])
    assert all(torch.isfinite(value) and value >= 0 for value in losses.values())
    assert ("loss_mask" in losses) == ("MODEL.MASK_ON" in opts)
    assert ("loss_keypoint" in losses) == ("MODEL.KEYPOINT_ON" in opts)
    assert ("loss_mask_point" in losses) == ("PointRend" in opts)
    assert ("loss_roi_cls_stage3" in losses) == ("CascadeROIHeads" in opts)
    sum(losses.values()).backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    copied = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.stride() != p.stride()]
    assert copied == []  # by DistributedDataParallel, with a warning
    if second == "objects" and "MODEL.MASK_ON" in opts:
        assert losses["loss_mask"] > 0.3


def test_gradients_lie_as_their_weights_without_channels_last():
    model = make("MODEL.MASK_ON", True, "MODEL.CHANNELS_LAST", False)
    sum(model(make_images(), [full((70, 90), 5), full((64, 51), 7)]).values()).backward()
    assert all(p.grad.stride() == p.stride() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("opts", MIXES.values(), ids=MIXES)
def test_predictions(opts):
    model = make(*opts).eval()
    with torch.inference_mode():
        predictions = model(make_images())
    for prediction, size in zip(predictions, ((70, 90), (64, 51)), strict=True):
        count = len(prediction["scores"])
        assert count > 0
        if "MODEL.MASK_ON" in opts:
            assert prediction["masks"].shape == (count, 1, *size)
            assert 0 <= prediction["masks"].min() and prediction["masks"].max() <= 1
        if "MODEL.KEYPOINT_ON" in opts:
            points, boxes = prediction["keypoints"], prediction["boxes"]
            assert points.shape == (count, 4, 3)
            wide = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
            inside = (points[..., :2] >= boxes[:, None, :2]) & (points[..., :2] <= boxes[:, None, 2:])
            assert inside[wide].all()


def test_masks_may_stay_on_their_boxes():
    model = make(*MASKS).eval()
    with torch.inference_mode():
        pasted = model(make_images())
        kept = model(make_images(), paste_masks=False)
    for a, b in zip(pasted, kept, strict=True):
        assert isinstance(b["masks"], BoxMasks) and torch.equal(b["masks"].paste(), a["masks"])


def test_polygons_and_pixels_train_alike():
    losses = [make(*MASKS)(make_images(), [full((70, 90), 5, lazy), full((64, 51), 7, lazy)]) for lazy in (True, False)]
    assert losses[0]["loss_mask"].item() == pytest.approx(losses[1]["loss_mask"].item(), rel=0.02)


@pytest.mark.parametrize("key, opts", [("masks", MASKS), ("keypoints", KEYPOINTS)])
def test_targets_without_what_is_to_be_learned(key, opts):
    target = full((70, 90), 5)
    del target[key]
    with pytest.raises(ValueError, match=key):
        make(*opts)(make_images(), [target, full((64, 51), 7)])


def test_the_number_of_keypoints_must_be_known():
    with pytest.raises(ValueError, match="NUM_KEYPOINTS"):
        make(*KEYPOINTS, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 0)


def test_cascade_stages_move_the_boxes_and_match_them_again():
    """The second stage sees the boxes that the first one makes; with its IoU, fewer of them are foreground."""
    model = make(*CASCADE)
    heads = model.roi_heads
    assert [stage.matching.fg for stage in heads.stages] == [0.5, 0.6, 0.7] and len(heads.box_head) == 3
    seen = []
    heads.box_pooler.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    model(make_images(), [full((70, 90), 5), full((64, 51), 7)])
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1])


def test_cascade_scores_are_averages_over_the_stages():
    model = make(*CASCADE).eval()
    heads, captured = model.roi_heads, []
    for predictor in heads.box_predictor:
        predictor.register_forward_hook(lambda _m, _a, out: captured.append(out[0].softmax(-1)))
    original = heads._detect
    heads._detect = lambda images, boxes, image, scores, deltas: (
        captured.append(scores) or original(images, boxes, image, scores, deltas)
    )
    with torch.inference_mode():
        model(make_images())
    torch.testing.assert_close(captured[3], (captured[0] + captured[1] + captured[2]) / 3)


def test_what_a_cascade_cannot_be():
    with pytest.raises(ValueError, match="IOUS has 2 stages, BBOX_REG_WEIGHTS 3"):
        make(*CASCADE, "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", (0.5, 0.6))
    with pytest.raises(ValueError, match="TRAIN_ON_PRED_BOXES"):
        make(*CASCADE, "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", True)


@pytest.mark.parametrize("opts", [MASKS, POINTS, (*CASCADE, *MASKS), (*C4, *MASKS, "MODEL.ROI_MASK_HEAD.NUM_CONV", 0)])
def test_objects_without_a_mask_give_no_mask_loss(opts):
    """The masks are learned as if the others were not there; boxes are learned from all."""
    model = make(*opts).train()
    size_hw = (70, 90)
    boxes, labels = [[4.0, 4, 40, 40], [20, 10, 60, 50]], [1, 3]
    segmentations = [[torch.tensor([4.0, 4, 40, 4, 40, 40]).numpy()], []]

    def losses(segmentations):
        target = make_target(boxes, labels, seed=5, masks=LazyMasks(segmentations, size_hw))
        torch.manual_seed(0)
        return model(make_images()[:1], [target])

    part, none = losses(segmentations), losses([[], []])
    whole = losses([segmentations[0], [torch.tensor([20.0, 10, 60, 10, 60, 50, 20, 50]).numpy()]])
    assert part.keys() == none.keys() == whole.keys()
    for key in part:
        assert torch.isfinite(part[key])
        if "mask" in key:
            assert none[key] == 0 and part[key] > 0 and part[key] != whole[key]
        else:
            assert part[key] == none[key] == whole[key]
    sum(none.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_mask_is_learned_from_the_objects_that_have_one():
    """With targets of the other object's box alone, the mask loss is that of the regions of the first object."""
    from detframe.modeling.ground_truth import pack_targets
    from detframe.modeling.proposals import Regions

    masks = LazyMasks([[torch.tensor([4.0, 4, 40, 4, 40, 40]).numpy()], []], (70, 90))
    crowd = torch.tensor([False, False])
    target = make_target([[4.0, 4, 40, 40], [20, 10, 60, 50]], [1, 3], seed=5, masks=masks, iscrowd=crowd)
    plain = make_target([[4.0, 4, 40, 40]], [1], seed=5, masks=masks[torch.tensor([0])], iscrowd=crowd[:1])
    gt = pack_targets([target, plain], 3, torch.device("cpu"))
    assert gt.has_mask is not None and gt.has_mask.tolist() == [[True, False], [True, False]]
    assert pack_targets([plain], 3, torch.device("cpu")).has_mask is None
    rows = torch.tensor([0, 1, 0, 0])
    regions = Regions(torch.rand(4, 4), torch.tensor([1, 3, 1, 1]), torch.tensor([0, 0, 0, 1]), torch.rand(4, 4), rows)
    assert torch.equal(regions.with_mask(gt.has_mask).boxes, regions.boxes[[0, 2, 3]])
    assert regions.with_mask(None) is regions
