"""Cross-resolution distillation: its loss by hand, its teacher, what trains and what does not."""

import pytest
import torch
from torch.nn import functional as F

from detframe import registry
from detframe.modeling import GeneralizedRCNN, build_detection_model
from detframe.modeling.distillation import DistilledRCNN, balanced_l1, box_mask
from tests.modeling.tiny import EMPTY, FULL, make_images, make_target, tiny_config

FROZEN = ("backbone.body.*", "backbone.fpn.*", "rpn.*", "roi_heads.*")
DISTILLED = {
    "MODEL.BACKBONE.CONV_BODY": "R-18-EFPN",
    "MODEL.EFPN.WIDTH": 16,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RPN.IN_FEATURES": ("p2", "p3", "p4", "p5", "p6"),
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
    "MODEL.DISTILL.ON": True,
    "MODEL.FREEZE": FROZEN,
}


def make(*opts):
    torch.manual_seed(0)
    return build_detection_model(tiny_config(DISTILLED, *opts))


def test_the_loss_by_hand():
    """Differences 1, 2, 3, 4 in one channel and 0 in the other; the object covers the cells of 2 and 4."""
    found = torch.tensor([[[[1.0, -2.0], [3.0, -4.0]], [[5.0, 5.0], [5.0, 5.0]]]])
    wanted = torch.tensor([[[[0.0, 0.0], [0.0, 0.0]], [[5.0, 5.0], [5.0, 5.0]]]])
    inside = torch.tensor([[[False, True], [False, True]]])
    everywhere, positive = (1 + 2 + 3 + 4) / 8, (2 + 4) / 4
    assert float(balanced_l1(found, wanted, inside, 1.0)) == pytest.approx(everywhere + positive)
    assert float(balanced_l1(found, wanted, inside, 0.5)) == pytest.approx(everywhere + positive / 2)
    assert float(balanced_l1(found, wanted, torch.zeros_like(inside), 1.0)) == pytest.approx(everywhere)


def test_the_cells_of_a_box_by_hand():
    """Boxes grow to whole cells of 4 pixels; overlapping ones count once; padding rows and empty boxes do not count."""
    boxes = torch.tensor([[[5.0, 1, 9, 4], [8, 0, 12, 4], [4, 8, 4, 8], [0, 0, 99, 99]]])
    valid = torch.tensor([[True, True, True, False]])
    wanted = torch.zeros(1, 3, 4, dtype=torch.bool)
    wanted[0, 0, 1:3] = True
    assert torch.equal(box_mask(boxes, valid, 4, (3, 4)), wanted)


def test_the_cells_of_many_boxes_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3, 20, 2, generator=generator) * 90 - 20
    boxes = torch.cat([corner, corner + torch.rand(3, 20, 2, generator=generator) * 30], 2)
    valid = torch.rand(3, 20, generator=generator) > 0.3
    wanted = torch.zeros(3, 9, 8, dtype=torch.bool)
    for i in range(3):
        for x1, y1, x2, y2 in boxes[i][valid[i]].tolist():
            for row in range(9):
                for column in range(8):
                    touches = x1 < 8 * column + 8 and x2 > 8 * column and y1 < 8 * row + 8 and y2 > 8 * row
                    wanted[i, row, column] |= touches
    assert torch.equal(box_mask(boxes, valid, 8, (9, 8)), wanted)


def test_no_box_at_all():
    assert not box_mask(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), 4, (3, 3)).any()


def test_the_teacher_is_the_same_detector_on_the_full_image():
    model = make()
    x = torch.randn(2, 3, 128, 64)
    with torch.no_grad():
        p3, p2 = model.backbone.targets(x)
        features = list(model.backbone.body(x).values())
        merged = model.backbone.fpn.merge(features)
        p3_prime, p2_prime, _ = model.backbone.extended(F.avg_pool2d(x, 2))
    torch.testing.assert_close(p3, merged[1])
    torch.testing.assert_close(p2, model.backbone.fpn.outputs(merged, features[-1])[0])
    assert p3_prime.shape == p3.shape and p2_prime.shape == p2.shape


@pytest.mark.parametrize("teacher", ["full", "enlarged"])
def test_the_losses_are_those_of_the_maps(teacher):
    """One image of 64x128 pixels, so that nothing is padded; the losses again, step by step."""
    model = make("MODEL.DISTILL.TEACHER", teacher, "MODEL.DISTILL.POSITIVE_WEIGHT", 2.0)
    image = torch.randint(0, 256, (3, 64, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    target = make_target([[10.0, 12, 33, 30]], [1], seed=1)
    losses = model([image], [target])
    x = model.preprocessor([image]).tensors
    scale = 2 if teacher == "enlarged" else 1
    large = F.interpolate(x, scale_factor=2, mode="bilinear") if scale == 2 else x
    small = x if scale == 2 else F.avg_pool2d(x, 2)
    with torch.no_grad():
        wanted = dict(zip(("p3", "p2"), model.backbone.targets(large), strict=True))
        found = dict(zip(("p3", "p2"), model.backbone.extended(small)[:2], strict=True))
    assert sorted(losses) == ["loss_distill_p2", "loss_distill_p3"]
    for name, stride in (("p2", 4), ("p3", 8)):
        difference = (found[name] - wanted[name]).abs()
        x1, y1, x2, y2 = (v * scale / stride for v in (10, 12, 33, 30))
        inside = difference[0, :, int(y1) : -int(-y2 // 1), int(x1) : -int(-x2 // 1)]
        expected = difference.mean() + 2.0 * inside.mean()
        torch.testing.assert_close(losses[f"loss_distill_{name}"], expected)


def test_only_the_extension_learns_and_the_teacher_stays_bit_identical():
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-3, weight_decay=0.1)
    first = None
    for _ in range(8):
        loss = sum(model(make_images(), [FULL, EMPTY]).values())
        first = loss if first is None else first
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in learning)
        optimizer.step()
    assert loss < first
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("backbone.extension."), name


def test_images_without_boxes():
    losses = make()(make_images(), [EMPTY, EMPTY])
    assert all(torch.isfinite(value) and value > 0 for value in losses.values())


def test_one_map_alone():
    assert list(make("MODEL.DISTILL.FEATURES", ("p3",))(make_images(), [FULL, FULL])) == ["loss_distill_p3"]


def test_with_the_losses_of_detection():
    model = make("MODEL.DISTILL.DETECTION", True, "MODEL.FREEZE", ("backbone.body.*", "backbone.fpn.*"))
    losses = model(make_images(), [FULL, FULL])
    assert {"loss_distill_p2", "loss_distill_p3", "loss_rpn_cls", "loss_roi_cls", "loss_roi_box"} <= set(losses)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_in_evaluation_it_is_the_ordinary_detector():
    model = make().eval()
    plain = make("MODEL.DISTILL.ON", False).eval()
    assert isinstance(model, DistilledRCNN) and type(plain) is GeneralizedRCNN
    plain.load_state_dict(model.state_dict())
    image = torch.randint(0, 256, (3, 64, 128), dtype=torch.uint8)
    with torch.inference_mode():
        for key, value in model([image])[0].items():
            assert torch.equal(value, plain([image])[0][key])


@pytest.mark.parametrize(
    "opts, words",
    [
        (("MODEL.BACKBONE.CONV_BODY", "R-18-FPN", "MODEL.RPN.IN_FEATURES", ()), ["R-50-EFPN", "R-18-FPN"]),
        (("MODEL.FREEZE", FROZEN[:2]), ["rpn, roi_heads", "MODEL.FREEZE"]),
        (("MODEL.FREEZE", (), "MODEL.DISTILL.DETECTION", True), ["statistics", "GN"]),
    ],
    ids=["no extension", "a part that would train", "statistics"],
)
def test_what_cannot_be_distilled(opts, words):
    with pytest.raises(ValueError) as error:
        make(*opts)
    assert all(word in str(error.value) for word in words)


def test_whole_detectors_are_members_of_a_registry():
    members = dict(registry.META_ARCHITECTURES)
    assert members == {"DistilledRCNN": DistilledRCNN, "GeneralizedRCNN": GeneralizedRCNN}
    assert make().preprocessor.divisor == 2 * make("MODEL.DISTILL.ON", False).preprocessor.divisor


def test_an_entry_owns_its_check(monkeypatch):
    def refuse(self, cfg):
        raise ValueError(f"refused with {cfg.MODEL.BACKBONE.CONV_BODY}")

    monkeypatch.setattr(DistilledRCNN, "check", refuse)
    with pytest.raises(ValueError, match="refused with R-18-EFPN"):
        make()
    assert type(make("MODEL.DISTILL.ON", False)) is GeneralizedRCNN
