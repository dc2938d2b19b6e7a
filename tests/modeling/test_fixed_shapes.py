"""What an accelerator computes, padded rows and masks, equals what a CPU does without them."""

import pytest
import torch

from detframe.ops.compacting import fixed_shapes
from tests.modeling.test_instance_branches import EFPN, MASKS, MIXES, empty, full, make
from tests.modeling.tiny import make_images

MORE = {
    "boxes": (),
    "few proposals": ("MODEL.RPN.POST_NMS_TOP_N_TRAIN", 9, "MODEL.RPN.POST_NMS_TOP_N_TEST", 9),
    "proposals of levels": ("MODEL.RPN.POST_NMS_PER", "level", "MODEL.RPN.FPN_POST_NMS_PER_BATCH", True),
    "dense RPN loss": ("MODEL.RPN.CONV_DEPTH", 2),
    "giou": ("MODEL.RPN.BOX_LOSS_TYPE", "giou", "MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE", "giou"),
    "nwd": ("MODEL.RPN.BOX_LOSS_TYPE", "nwd", "MODEL.ROI_BOX_HEAD.BOX_LOSS_TYPE", "nwd"),
    "legacy": ("MODEL.LEGACY_BOXES", True),
    "threshold": ("MODEL.ROI_HEADS.SCORE_THRESH", 0.24),
}
HEADS = (*EFPN, "MODEL.ROI_HEADS.NAME", "ExtendedROIHeads")
CROPS = ("MODEL.EFPN.ON_CROPS", True, "MODEL.EFPN.CROP_SIZE", 4, "MODEL.EFPN.CROP_MARGIN", 2)
CROPS += ("MODEL.RESNETS.NORM", "FrozenBN")
EXTENDED = {
    "separate head": (*HEADS, "MODEL.EFPN.SEPARATE_HEAD", True),
    "duplicates": (*HEADS, "MODEL.EFPN.ROI_ASSIGNMENT", "duplicate"),
    "all duplicates": (*HEADS, "MODEL.EFPN.ROI_ASSIGNMENT", "duplicate", "MODEL.EFPN.DUPLICATE_UP_TO", 5),
    "both": (*HEADS, "MODEL.EFPN.SEPARATE_HEAD", True, "MODEL.EFPN.ROI_ASSIGNMENT", "duplicate"),
    "crops": (*HEADS, *CROPS),
}
ALL = {**MIXES, **MORE, **EXTENDED}


def trained(model, targets):
    model.zero_grad()
    losses = model(make_images(), targets)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("second", ["objects", "empty"])
@pytest.mark.parametrize("opts", ALL.values(), ids=ALL)
def test_losses_and_gradients(opts, second):
    model = make(*opts, "MODEL.RESNETS.NORM", "FrozenBN")
    targets = [full((70, 90), 5), full((64, 51), 7) if second == "objects" else empty((64, 51))]
    losses, gradients = trained(model, targets)
    with fixed_shapes():
        fixed, fixed_gradients = trained(model, targets)
    assert losses.keys() == fixed.keys() and gradients.keys() == fixed_gradients.keys()
    for key, loss in losses.items():
        torch.testing.assert_close(fixed[key], loss, rtol=1e-4, atol=1e-6, msg=key)
    for key, gradient in gradients.items():
        torch.testing.assert_close(fixed_gradients[key], gradient, rtol=1e-3, atol=1e-5, msg=key)


@pytest.mark.parametrize("opts", ALL.values(), ids=ALL)
def test_predictions(opts):
    model = make(*opts).eval()
    with torch.inference_mode():
        found = model(make_images())
        with fixed_shapes():
            fixed = model(make_images())
    for one, other in zip(found, fixed, strict=True):
        assert one.keys() == other.keys() and len(one["boxes"]) == len(other["boxes"])
        torch.testing.assert_close(other["scores"], one["scores"])
        places = same_detections(one, other)
        for key in one:
            torch.testing.assert_close(other[key][places], one[key], rtol=1e-3, atol=1e-3, msg=key)


def same_detections(one, other):
    """Where each detection of one is in the other: of scores that are equal but for rounding, either may come first."""
    rows = [torch.cat([x["boxes"], 1e3 * x["labels"][:, None], 1e3 * x["scores"][:, None]], 1) for x in (one, other)]
    places = torch.cdist(*rows, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    assert places.unique().numel() == len(places)
    assert (places - torch.arange(len(places))).abs().max() <= 5
    return places


def test_objects_without_a_mask():
    model = make(*MASKS, "MODEL.RESNETS.NORM", "FrozenBN")
    targets = [full((70, 90), 5), full((64, 51), 7)]
    targets[1]["masks"].segmentations[0] = []
    losses, gradients = trained(model, targets)
    with fixed_shapes():
        fixed, fixed_gradients = trained(model, targets)
    torch.testing.assert_close(fixed["loss_mask"], losses["loss_mask"])
    key = "roi_heads.mask.predictor.mask_fcn_logits.weight"
    torch.testing.assert_close(fixed_gradients[key], gradients[key], rtol=1e-3, atol=1e-6)
