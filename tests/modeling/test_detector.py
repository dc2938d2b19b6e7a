"""Contract tests of the detectors: every backbone, empty batches, mixed sizes, gradients, repeatability."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

from detframe.modeling import build_backbone, build_detection_model
from detframe.modeling.detector import check_maps
from tests.modeling.tiny import EMPTY, FULL, make_images, make_target, tiny_config

KEYS = {
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM": 32,
    "MODEL.RPN.PRE_NMS_TOP_N_TRAIN": 100,
    "MODEL.RPN.PRE_NMS_TOP_N_TEST": 100,
}


def _cfg(*opts):
    return tiny_config(KEYS, *opts)


@pytest.mark.parametrize("targets", [[FULL, FULL], [FULL, EMPTY], [EMPTY, EMPTY]], ids=["full", "half", "empty"])
@pytest.mark.parametrize("norm", ["FrozenBN", "GN", "BN"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_are_finite_and_every_parameter_learns(targets, norm, agnostic):
    torch.manual_seed(0)
    model = build_detection_model(
        _cfg("MODEL.RESNETS.NORM", norm, "MODEL.FPN.NORM", "GN", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic)
    )
    losses = model(make_images(), targets)
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_box", "loss_roi_cls", "loss_roi_box"}
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in trained.values())


def test_crowd_rows_never_become_targets():
    model = build_detection_model(_cfg())
    crowd = {**FULL, "iscrowd": torch.tensor([False, True])}
    alone = make_target([[4.0, 4, 40, 40]], [1], seed=5)
    first, second = (model(make_images()[:1], [t]) for t in (crowd, alone))
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_the_draws_of_an_image_depend_on_its_seed_only():
    opts = ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8]
    model = build_detection_model(_cfg(*opts))
    images = make_images()
    torch.manual_seed(1)
    first = model(images, [FULL, EMPTY])
    torch.manual_seed(2)
    again = model(images, [FULL, EMPTY])
    other = model(images, [{**FULL, "seed": 77}, EMPTY])
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_mixed_batch_equals_its_images_one_by_one():
    model = build_detection_model(_cfg("MODEL.ROI_HEADS.SCORE_THRESH", 0.01)).eval()
    image = make_images()[0]
    wide = torch.cat([image, image], 2)
    with torch.inference_mode():
        alone = model([image])[0]
        together = model([image, image])
        padded = model([image, wide])
    for batch in (*together, padded[0]):
        assert (batch["boxes"][:, 2] <= 90).all() and (batch["boxes"][:, 3] <= 70).all()
    for key in alone:
        torch.testing.assert_close(together[0][key], alone[key], atol=1e-4, rtol=1e-4)
        assert torch.equal(together[0][key], together[1][key])


def test_float_and_uint8_images_agree():
    model = build_detection_model(_cfg("MODEL.ROI_HEADS.SCORE_THRESH", 0.01)).eval()
    image = make_images()[0]
    with torch.inference_mode():
        a, b = model([image])[0], model([image.float() / 255])[0]
    torch.testing.assert_close(a["boxes"], b["boxes"], atol=1e-3, rtol=1e-4)


def test_two_evaluation_passes_are_identical_and_predictions_keep_their_contract():
    model = build_detection_model(_cfg("MODEL.ROI_HEADS.SCORE_THRESH", 0.01, "TEST.DETECTIONS_PER_IMG", 7)).eval()
    with torch.inference_mode():
        first, second = model(make_images()), model(make_images())
    for a, b, image in zip(first, second, make_images(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert 0 < len(a["boxes"]) <= 7
        assert (a["scores"].diff() <= 0).all() and a["scores"].min() > 0.01 and a["scores"].max() <= 1
        assert a["labels"].dtype == torch.int64 and 1 <= a["labels"].min() and a["labels"].max() <= 3
        assert (a["boxes"] >= 0).all() and (a["boxes"][:, 2:] > a["boxes"][:, :2]).all()
        assert (a["boxes"][:, 2] <= image.shape[2]).all() and (a["boxes"][:, 3] <= image.shape[1]).all()


def test_nothing_found_is_an_empty_prediction():
    model = build_detection_model(_cfg("MODEL.ROI_HEADS.SCORE_THRESH", 0.999)).eval()
    with torch.inference_mode():
        predictions = model(make_images())
    assert [p["boxes"].shape for p in predictions] == [(0, 4), (0, 4)]
    assert predictions[0]["labels"].dtype == torch.int64


def test_rpn_alone_detects_objects_of_one_class():
    model = build_detection_model(_cfg("MODEL.ROI_HEADS.NAME", ""))
    assert set(model(make_images(), [FULL, EMPTY])) == {"loss_rpn_cls", "loss_rpn_box"}
    with torch.inference_mode():
        prediction = model.eval()(make_images())[0]
    assert len(prediction["boxes"]) > 0 and (prediction["labels"] == 1).all()


def test_proposals_per_level_keep_the_best_of_all_levels():
    opts = [
        "MODEL.RPN.POST_NMS_PER",
        "level",
        "MODEL.RPN.POST_NMS_TOP_N_TEST",
        20,
        "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST",
        30,
    ]
    model = build_detection_model(_cfg("MODEL.ROI_HEADS.NAME", "", *opts)).eval()
    with torch.inference_mode():
        for prediction in model(make_images()):
            assert 20 < len(prediction["boxes"]) <= 30
            assert (prediction["scores"].diff() <= 0).all()


@pytest.mark.parametrize(("stages", "expected"), [(0, 0), (1, 2), (2, 2 + 6 * 2), (5, 20 * 3)])
def test_frozen_stages(stages, expected):
    body = build_backbone(_cfg("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", stages, "MODEL.RESNETS.NORM", "BN")).body
    frozen = {name for name, p in body.named_parameters() if not p.requires_grad}
    assert all(name.startswith(("conv1", "bn1", *(f"layer{i}" for i in range(1, stages)))) for name in frozen)
    assert isinstance(body.bn1, FrozenBatchNorm2d) == (stages >= 1)
    assert bool(frozen) == (expected > 0)
    if stages == 5:
        assert not any(p.requires_grad for p in body.parameters())


def test_frozen_batch_norm_equals_plain_batch_norm_in_evaluation():
    torch.manual_seed(0)
    plain = build_backbone(_cfg("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0))
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    frozen = build_backbone(_cfg("MODEL.RESNETS.NORM", "FrozenBN"))
    state = {k: v for k, v in plain.state_dict().items() if not k.endswith("num_batches_tracked")}
    frozen.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        a, b = plain.eval()(x), frozen(x)
    for level in a:
        torch.testing.assert_close(a[level], b[level])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["MODEL.NUM_CLASSES", 0], "NUM_CLASSES is 0"),
        (["MODEL.BACKBONE.CONV_BODY", "R-51-FPN"], "did you mean"),
        (["MODEL.RPN.NAME", "AnchorRPM"], "did you mean 'AnchorRPN'"),
        (["MODEL.RPN.ANCHOR_SIZES", ((8,), (16,))], r"2 levels.*has 5: p2 \(stride 4\)"),
        (["MODEL.RPN.ANCHOR_SIZES", ((8,), (16,), (32,), (64,), (128, 256))], "equally many"),
        (["MODEL.RESNETS.NUM_GROUPS", 32], "basic blocks"),
        (
            ["MODEL.BACKBONE.CONV_BODY", "X-101-64x4d-FPN", "MODEL.RESNETS.STEM_OUT_CHANNELS", 8],
            r"NUM_GROUPS 64 must divide .*\[32, 64, 128, 256\]",
        ),
    ],
)
def test_a_wrong_config_is_named(change, message):
    with pytest.raises((ValueError, KeyError), match=message):
        build_detection_model(_cfg(*change))


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        ([], [], "empty"),
        ([torch.zeros(1, 64, 64)], [FULL], r"\(3, H, W\)"),
        ([torch.zeros(3, 64, 64)], None, "training needs targets"),
        ([torch.zeros(3, 64, 64)], [FULL, FULL], "1 images came with 2 targets"),
        ([torch.zeros(3, 64, 64)], [make_target([[0.0, 0, 9, 9]], [0])], "label 0"),
        ([torch.zeros(3, 64, 64)], [make_target([[0.0, 0, 9, 9]], [4])], "label 4, but labels run from 1 to 3"),
        ([torch.zeros(3, 64, 64)], [make_target([[9.0, 0, 9, 9]], [1], image_id=42)], "image 42: box .* has no area"),
        ([torch.zeros(3, 64, 64)], [{"boxes": torch.zeros(0, 4)}], "no 'labels'"),
        ([torch.zeros(3, 64, 64)], [make_target([[0.0, 0, 9, 9]], [1, 2])], "1 boxes but labels"),
    ],
)
def test_wrong_input_is_named(images, targets, message):
    model = build_detection_model(_cfg())
    with pytest.raises(ValueError, match=message):
        model(images, targets)


def test_the_loss_at_sampled_anchors_equals_the_dense_one(monkeypatch):
    """The RPN computes its loss from patches around the drawn anchors; values and gradients stay the same."""
    from detframe.modeling.rpn.head import RPNHead

    torch.manual_seed(0)
    model = build_detection_model(_cfg("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 32))
    images = [torch.randint(0, 256, (3, 128, 160), dtype=torch.uint8) for _ in range(2)]
    results = []
    for sparse in (True, False):
        monkeypatch.setattr(RPNHead, "pays_off_at", lambda *_, s=sparse: s)
        model.zero_grad()
        losses = model(images, [FULL, EMPTY])
        sum(losses.values()).backward()
        results.append((losses, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}))
    for key, loss in results[0][0].items():
        torch.testing.assert_close(loss, results[1][0][key], atol=1e-5, rtol=1e-5)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(gradient, results[1][1][name], atol=1e-4, rtol=1e-3, msg=name)


def test_an_extractor_that_misstates_its_maps_is_named():
    model = build_detection_model(_cfg())
    model.backbone.strides = {"p2": 4, "p3": 16, "p4": 16, "p5": 32, "p6": 64}
    with pytest.raises(ValueError, match=r"says that p3 has stride 16, but its map of 12x12 cells .* has stride 8"):
        model(make_images(), [FULL, EMPTY])
    with pytest.raises(ValueError, match=r"returned the maps \['p2'\], but its strides name \['c2', 'c3'\]"):
        check_maps({"p2": torch.zeros(1, 1, 8, 8)}, (32, 32), {"c2": 4, "c3": 8})
    with pytest.raises(TypeError, match=r"returned a list, not a dict of the maps that its strides name, \['c2'\]"):
        check_maps([torch.zeros(1, 1, 8, 8)], (32, 32), {"c2": 4})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own affairs
def test_a_compiled_model_equals_the_eager_one():
    torch.manual_seed(0)
    eager = build_detection_model(_cfg())
    compiled = build_detection_model(_cfg("MODEL.COMPILE", "dense"))
    compiled.load_state_dict(eager.state_dict())
    a, b = eager(make_images(), [FULL, EMPTY]), compiled(make_images(), [FULL, EMPTY])
    for name, loss in a.items():
        torch.testing.assert_close(b[name], loss, atol=1e-5, rtol=1e-4)
    sum(b.values()).backward()
    assert all(p.grad is not None for p in compiled.parameters() if p.requires_grad)


def test_each_stage_reads_the_maps_that_it_is_given():
    """The RPN on p2 and p3 alone, the regions from p3 and p4."""
    opts = ["MODEL.RPN.IN_FEATURES", ("p2", "p3"), "MODEL.RPN.ANCHOR_SIZES", ((16,), (32,))]
    model = build_detection_model(_cfg(*opts, "MODEL.ROI_HEADS.IN_FEATURES", ("p3", "p4"))).eval()
    assert list(model.roi_heads.box_pooler.strides) == ["p3", "p4"]
    seen = {}
    model.rpn.head.register_forward_hook(lambda module, args, out: seen.update(rpn=[f.shape[-2:] for f in args[0]]))
    model(make_images())
    assert seen["rpn"] == [(24, 24), (12, 12)]


def test_a_map_that_the_extractor_lacks_is_named():
    with pytest.raises(ValueError, match=r"MODEL\.RPN\.IN_FEATURES names \['p9'\], but 'R-18-FPN' gives \['p2'"):
        build_detection_model(_cfg("MODEL.RPN.IN_FEATURES", ("p2", "p9")))
