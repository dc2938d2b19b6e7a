"""EFPN's second stage: where regions are pooled, by which head, and what of it learns."""

import pytest
import torch

from detframe.compat import load_weights
from detframe.modeling import build_detection_model
from detframe.modeling.proposals import Proposals
from detframe.structures import ImageList
from tests.modeling.tiny import EMPTY, make_images, make_target, tiny_config

EXTENDED = {
    "MODEL.BACKBONE.CONV_BODY": "R-18-EFPN",
    "MODEL.EFPN.WIDTH": 16,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RPN.IN_FEATURES": ("p2", "p3", "p4", "p5", "p6"),
    "MODEL.ROI_HEADS.NAME": "ExtendedROIHeads",
    "MODEL.ROI_HEADS.SCORE_THRESH": 0.0,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
}
BOXES = torch.tensor([[4.0, 4, 34, 34], [4, 4, 84, 84], [0, 0, 150, 150], [20, 20, 50, 40]])  # levels 1, 2, 3, 1


def make(*opts):
    torch.manual_seed(0)
    return build_detection_model(tiny_config(EXTENDED, *opts))


def run(model, boxes=BOXES):
    """What the heads say of the boxes in one image, and the levels that they pooled from."""
    heads, seen = model.roi_heads, []
    heads.box_pooler.register_forward_pre_hook(lambda _, args: seen.append((args[1], args[3])))
    features = {f"p{i}": torch.randn(1, 16, 192 // 2**i, 192 // 2**i) for i in range(1, 6)}
    proposals = Proposals(boxes[None], torch.ones(1, len(boxes)), None, torch.ones(1, len(boxes), dtype=torch.bool))
    with torch.inference_mode():
        detections, _ = heads(ImageList(torch.zeros(1, 3, 192, 192), [(192, 192)]), features, proposals, None)
    return detections, features, seen[0]


def test_each_region_once():
    _, _, (boxes, level) = run(make().eval())
    assert torch.equal(boxes, BOXES) and level.tolist() == [1, 2, 3, 1]


@pytest.mark.parametrize("up_to, levels, copies", [(2, [2, 2, 3, 2], [0, 1, 3]), (1, [2, 2, 3, 2], [0, 3])])
def test_small_regions_twice(up_to, levels, copies):
    """Every region keeps its ordinary level, and those up to a level are pooled from the extended one as well."""
    model = make("MODEL.EFPN.ROI_ASSIGNMENT", "duplicate", "MODEL.EFPN.DUPLICATE_UP_TO", up_to).eval()
    detections, _, (boxes, level) = run(model)
    assert torch.equal(boxes, torch.cat([BOXES, BOXES[copies]]))
    assert level.tolist() == levels + [1] * len(copies)
    assert int(detections.valid.sum()) > 0


def test_duplicates_compete_in_the_suppression():
    """With one region, its two poolings give boxes that overlap; of each class, one is left."""
    model = make("MODEL.EFPN.ROI_ASSIGNMENT", "duplicate").eval()
    torch.nn.init.zeros_(model.roi_heads.box_predictor.bbox_pred.weight)
    detections, _, (_, level) = run(model, BOXES[:1])
    assert level.tolist() == [2, 1]
    assert sorted(detections.labels[detections.valid].tolist()) == [1, 2, 3]


def test_a_head_of_its_own_serves_the_extended_level_alone():
    model = make("MODEL.EFPN.SEPARATE_HEAD", True).eval()
    heads = model.roi_heads
    _, features, _ = run(model)
    image = torch.zeros(4, dtype=torch.int64)
    with torch.inference_mode():
        logits, deltas = heads._predict(features, BOXES, image)
        pooled = heads.box_pooler(features, BOXES, image, heads.box_pooler.levels(BOXES))
        own, shared = heads.extended_predictor(heads.extended_head(pooled)), heads.box_predictor(heads.box_head(pooled))
    for found, a, b in zip((logits, deltas), own, shared, strict=True):
        torch.testing.assert_close(found, torch.stack([a[0], b[1], b[2], a[3]]))
        assert not torch.allclose(a, b)


SMALL_AND_LARGE = make_target([[4.0, 4, 24, 24], [2, 2, 80, 68]], [1, 2], seed=3)


def test_where_the_shared_head_is_frozen_only_regions_of_the_extended_level_count():
    frozen = ("backbone.*", "rpn.*", "roi_heads.box_head.*", "roi_heads.box_predictor.*")
    model = make("MODEL.EFPN.SEPARATE_HEAD", True, "MODEL.FREEZE", frozen)
    levels = []
    model.roi_heads.box_pooler.register_forward_pre_hook(lambda _, args: levels.extend(args[3].tolist()))
    losses = model(make_images(), [SMALL_AND_LARGE, EMPTY])
    (losses["loss_roi_cls"] + losses["loss_roi_box"]).backward()
    assert levels and set(levels) == {1}
    with_gradient = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"extended_head", "extended_predictor"}


def test_both_heads_learn_where_both_may():
    model = make("MODEL.EFPN.SEPARATE_HEAD", True, "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0)
    sum(model(make_images(), [SMALL_AND_LARGE, EMPTY]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_the_head_starts_as_a_copy_of_the_shared_one():
    base, model = make(), make("MODEL.EFPN.SEPARATE_HEAD", True)
    report = load_weights(model, base.state_dict())
    assert report.missing == [] and report.reinitialised == []
    for name, value in base.roi_heads.box_head.state_dict().items():
        assert torch.equal(model.roi_heads.extended_head.state_dict()[name], value)
    with torch.no_grad():
        model.roi_heads.extended_predictor.cls_score.bias.fill_(7.0)
    again = make("MODEL.EFPN.SEPARATE_HEAD", True)
    load_weights(again, model.state_dict())
    assert again.roi_heads.extended_predictor.cls_score.bias.tolist() == [7.0] * 4


def test_one_level_has_no_extension():
    with pytest.raises(ValueError, match=r"\['p2'\]"):
        make("MODEL.BACKBONE.CONV_BODY", "R-18-FPN", "MODEL.ROI_HEADS.IN_FEATURES", ("p2",))


def test_a_small_object_is_found_where_it_is():
    """Squares of 10 pixels on a dark ground, drawn at random places in training: at a new place, the box is there."""
    torch.manual_seed(0)
    model = make(
        *("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, "MODEL.FPN.NORM", "GN", "MODEL.RESNETS.NORM", "GN"),
        *("MODEL.RESNETS.STEM_OUT_CHANNELS", 32, "MODEL.FPN.OUT_CHANNELS", 32),
        *("MODEL.RPN.ANCHOR_SIZES", ((10,), (20,), (40,), (80,), (160,)), "MODEL.RPN.POST_NMS_TOP_N_TRAIN", 50),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(2)
    for step in range(90):
        corners = torch.randint(0, 54, (4, 2), generator=generator).tolist()
        images, targets = zip(*(square(x, y, step) for x, y in corners), strict=True)
        loss = sum(model(list(images), list(targets)).values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    model.eval()
    for x, y in ((3, 5), (44, 21), (30, 47)):
        with torch.inference_mode():
            found = model([square(x, y, 0)[0]])[0]
        assert float(found["scores"][0]) > 0.5
        assert (found["boxes"][0] - torch.tensor([x, y, x + 10.0, y + 10])).abs().max() < 2.0


def square(x, y, seed):
    image = torch.full((3, 64, 64), 40, dtype=torch.uint8)
    image[:, y : y + 10, x : x + 10] = 220
    return image, make_target([[float(x), y, x + 10, y + 10]], [1], seed=seed)
