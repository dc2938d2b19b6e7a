"""RetinaNet keeps the contract of a detector: empty batches, gradients, normalisers, repeatability, errors."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from detframe.config import get_cfg, shipped_folder, validate
from detframe.modeling import build_backbone, build_detection_model
from detframe.modeling.rpn.dense import best_pairs
from detframe.ops import Matching, match_boxes
from detframe.registry import RPN_HEADS
from tests.modeling.tiny import DENSE, EMPTY, FULL, make_images, make_target, tiny_config

KEYS = {**DENSE, "MODEL.RPN.NAME": "RetinaNet", "MODEL.RETINANET.NUM_CONVS": 1}
SHIPPED = sorted(path for path in shipped_folder("configs").rglob("*retinanet_*.yaml") if "EFPN" not in path.stem)
LOSSES = {"loss_retinanet_cls", "loss_retinanet_box"}


def _cfg(*opts):
    return tiny_config(KEYS, *opts)


def _model(*opts):
    torch.manual_seed(0)
    return build_detection_model(_cfg(*opts))


@pytest.mark.parametrize("targets", [[FULL, FULL], [FULL, EMPTY], [EMPTY, EMPTY]], ids=["full", "half", "empty"])
@pytest.mark.parametrize("norm", ["", "GN", "BN"])
@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
@pytest.mark.parametrize("normalizer", ["batch", "image", "ema", "detectron"])
def test_losses_are_finite_and_every_parameter_learns(targets, norm, box_loss, normalizer):
    keys = {"NORM": norm, "BOX_LOSS_TYPE": box_loss, "LOSS_NORMALIZER": normalizer}
    model = _model(*(word for key, value in keys.items() for word in (f"MODEL.RETINANET.{key}", value)))
    losses = model(make_images(), targets)
    assert set(losses) == LOSSES
    assert all(loss.ndim == 0 and loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    assert (losses["loss_retinanet_box"] > 0) == (targets[0] is FULL)
    sum(losses.values()).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None or not torch.isfinite(p.grad).all()] == []


def _positives(model, targets):
    """Positive anchors of each image, from the anchors and the rule."""
    batch = model.preprocessor(make_images())
    anchors = torch.cat(model.rpn.anchors(list(model.backbone(batch.tensors).values()), batch))
    counts = []
    for target in targets:
        if len(target["labels"]) == 0:
            counts.append(0)
            continue
        valid = torch.ones(1, len(target["labels"]), dtype=torch.bool)
        counts.append(
            int((match_boxes(target["boxes"][None], valid, anchors, Matching(0.5, 0.4), True).label > 0).sum())
        )
    return counts


def test_the_normalisers_divide_by_what_they_say():
    """The sum of the losses is the same under all; alone in a batch, an image's sum is its own."""
    models = {n: _model("MODEL.RETINANET.LOSS_NORMALIZER", n) for n in ("batch", "image", "ema", "detectron")}
    one, two = FULL, make_target([[10.0, 10, 30, 30]], [2])
    counts = _positives(models["batch"], [one, two])
    assert min(counts) > 0 and counts[0] != counts[1]
    with torch.no_grad():
        batch = models["batch"](make_images(), [one, two])
        image = models["image"](make_images(), [one, two])
        ema = models["ema"](make_images(), [one, two])
        detectron = models["detectron"](make_images(), [one, two])
        without = models["detectron"](make_images(), [EMPTY, EMPTY])["loss_retinanet_cls"] * 2
        # with the other image empty, "batch" divides by the positives of the one that is left
        alone = models["batch"](make_images(), [one, EMPTY])["loss_retinanet_box"] * counts[0]
        other = models["batch"](make_images(), [EMPTY, two])["loss_retinanet_box"] * counts[1]
    total = batch["loss_retinanet_box"] * sum(counts)
    torch.testing.assert_close(alone + other, total)
    torch.testing.assert_close(image["loss_retinanet_box"], (alone / counts[0] + other / counts[1]) / 2)
    # Detectron adds the images to the positives for the classes, so that empty images have a normaliser of their own
    assert detectron["loss_retinanet_box"] == batch["loss_retinanet_box"]
    cls = detectron["loss_retinanet_cls"] * (sum(counts) + 2)
    torch.testing.assert_close(cls, batch["loss_retinanet_cls"] * sum(counts))
    torch.testing.assert_close(without, models["batch"](make_images(), [EMPTY, EMPTY])["loss_retinanet_cls"])
    for name in LOSSES:
        torch.testing.assert_close(ema[name] * (0.9 * 100 + 0.1 * sum(counts)), batch[name] * sum(counts))


def test_the_moving_average_is_state_of_training_alone():
    model = _model("MODEL.RETINANET.LOSS_NORMALIZER", "ema")
    count = sum(_positives(model, [FULL, EMPTY]))
    model(make_images(), [FULL, EMPTY])
    torch.testing.assert_close(model.state_dict()["rpn.loss_normalizer"], torch.tensor(90 + 0.1 * count))
    model.eval()(make_images())
    torch.testing.assert_close(model.rpn.loss_normalizer, torch.tensor(90 + 0.1 * count))
    # two forward passes before one backward pass, as when the caller adds up losses
    model.train()
    first, second = (sum(model(make_images(), [FULL, EMPTY]).values()) for _ in range(2))
    (first + second).backward()
    fresh = _model("MODEL.RETINANET.LOSS_NORMALIZER", "ema")
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.rpn.loss_normalizer, model.rpn.loss_normalizer)
    assert "rpn.loss_normalizer" not in _model().state_dict()


def test_the_loss_does_not_depend_on_chance():
    model = _model()
    torch.manual_seed(1)
    first = model(make_images(), [{**FULL, "seed": 1}, EMPTY])
    torch.manual_seed(2)
    second = model(make_images(), [{**FULL, "seed": 2}, EMPTY])
    assert all(torch.equal(first[name], second[name]) for name in LOSSES)


def test_padding_changes_nothing():
    """The anchors of an image stay where they are when a larger image shares its batch."""
    model = _model("MODEL.RETINANET.INFERENCE_TH", 0.0105).eval()
    image = make_images()[0]
    with torch.inference_mode():
        alone, padded = model([image])[0], model([image, torch.cat([image, image], 2)])[0]
    assert len(alone["boxes"]) > 0
    assert (padded["boxes"][:, 2] <= 90).all() and (padded["boxes"][:, 3] <= 70).all()


def test_two_evaluation_passes_are_identical_and_predictions_keep_their_contract():
    model = _model("MODEL.RETINANET.INFERENCE_TH", 0.0095, "TEST.DETECTIONS_PER_IMG", 7).eval()
    with torch.inference_mode():
        first, second = model(make_images()), model(make_images())
    for a, b, image in zip(first, second, make_images(), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert 0 < len(a["boxes"]) <= 7
        assert (a["scores"].diff() <= 0).all() and a["scores"].min() > 0.0095 and a["scores"].max() <= 1
        assert a["labels"].dtype == torch.int64 and 1 <= a["labels"].min() and a["labels"].max() <= 3
        assert (a["boxes"] >= 0).all() and (a["boxes"][:, 2:] > a["boxes"][:, :2]).all()
        assert (a["boxes"][:, 2] <= image.shape[2]).all() and (a["boxes"][:, 3] <= image.shape[1]).all()


def test_nothing_found_is_an_empty_prediction():
    model = _model("MODEL.RETINANET.INFERENCE_TH", 0.999).eval()
    with torch.inference_mode():
        predictions = model(make_images())
    assert [p["boxes"].shape for p in predictions] == [(0, 4), (0, 4)]
    assert predictions[0]["labels"].dtype == torch.int64


@pytest.mark.parametrize("clip_before", [True, False])
def test_boxes_outside_the_image_are_cut_or_dropped(clip_before):
    model = _model("MODEL.RETINANET.INFERENCE_TH", 0.0, "MODEL.RETINANET.CLIP_BEFORE_NMS", clip_before).eval()
    # every box moves one width to the right: those of the last columns leave the image
    model.rpn.head.regression_head.bbox_reg.bias.data.copy_(torch.tensor([1.0, 0, 0, 0]).repeat(9))
    with torch.inference_mode():
        for prediction, image in zip(model(make_images()), make_images(), strict=True):
            boxes = prediction["boxes"]
            assert len(boxes) > 0 and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2] <= image.shape[2]).all()
            assert (prediction["scores"] > 0).all() and (prediction["scores"].diff() <= 0).all()
            assert (prediction["labels"] >= 1).all()


def test_roi_heads_refine_its_proposals():
    opts = ["MODEL.ROI_HEADS.NAME", "StandardROIHeads", "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 16]
    model = _model(*opts, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 3)
    losses = model(make_images(), [FULL, EMPTY])
    assert set(losses) == LOSSES | {"loss_roi_cls", "loss_roi_box"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_training_on_one_image_finds_its_objects():
    model = _model("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0, "MODEL.RETINANET.NORM", "GN")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    image = torch.full((3, 64, 96), 90, dtype=torch.uint8)
    image[0, 8:40, 8:40] = 250
    image[2, 16:56, 50:90] = 250
    target = make_target([[8.0, 8, 40, 40], [50, 16, 90, 56]], [1, 3])
    for _ in range(60):
        optimizer.zero_grad()
        sum(model([image, image], [target, target]).values()).backward()
        optimizer.step()
    with torch.inference_mode():
        model.eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.train()  # 60 steps do not settle the running statistics
        found = model([image, image])[0]
    assert sorted(found["labels"][:2].tolist()) == [1, 3]
    assert found["scores"][1] > 0.3


@pytest.mark.parametrize(("threshold", "keep"), [(0.05, 20), (0.6, 1000), (0.0, 7), (0.999, 5)])
def test_the_best_pairs_of_each_level_are_those_of_the_plain_rule(threshold, keep):
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(3, rows, 4, generator=generator) for rows in (50, 6, 1)]
    for level in levels:
        level[2] -= 12  # nothing to find in the last image
    quality = torch.rand(3, 57, generator=generator)

    def scoring(logits, rows):
        factor = quality if rows is None else quality.gather(1, rows)
        scores = logits.sigmoid() * factor[..., None]
        return torch.where(scores > threshold, scores, -1.0)

    with torch.no_grad():
        row, label, score = best_pairs(levels, keep, scoring)
        every = scoring(torch.cat(levels, 1), None)
    for image in range(3):
        expected = []
        for start, end in ((0, 50), (50, 56), (56, 57)):
            pairs = [(float(every[image, r, c]), r, c + 1) for r in range(start, end) for c in range(4)]
            expected += sorted((pair for pair in pairs if pair[0] >= 0), reverse=True)[:keep]
        there = score[image] >= 0
        found = zip(score[image, there].tolist(), row[image, there].tolist(), label[image, there].tolist(), strict=True)
        assert list(found) == expected
    assert score.shape[1] == sum(min(keep, 4 * level.shape[1]) for level in levels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["MODEL.RETINANET.ANCHOR_SIZES", ((8, 9), (16, 18))], r"RETINANET.ANCHOR_SIZES has 2 levels.*has 5: p3 \(st"),
        (["MODEL.BACKBONE.CONV_BODY", "R-18-FPN", "MODEL.RETINANET.ANCHOR_SIZES", ((8,),) * 4], "4 levels.*has 5: p2"),
        (["MODEL.RETINANET.ANCHOR_SIZES", ((8,), (16,), (32,), (64,), (128, 256))], "equally many"),
    ],
)
def test_anchors_that_do_not_fit_the_pyramid_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        build_detection_model(_cfg(*change))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("LOSS_NORMALIZER", "mean", "'batch', 'image', 'ema'"),
        ("NORM", "LN", "'GN'"),
        ("BG_IOU_THRESHOLD", 0.6, "at most FG_IOU_THRESHOLD 0.5"),
        ("PRIOR_PROB", 1.0, "below 1"),
        ("NMS_TH", 1.5, "between 0 and 1"),
    ],
)
def test_wrong_keys_are_found_before_anything_is_built(key, value, message):
    with pytest.raises(ValueError, match=rf"MODEL\.RETINANET\.{key} must be .*{message}"):
        validate(_cfg(f"MODEL.RETINANET.{key}", value))


def test_bf16_changes_the_losses_by_rounding_only():
    model = _model()
    plain = copy.deepcopy(model)(make_images(), [FULL, EMPTY])
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(make_images(), [FULL, EMPTY])
        sum(mixed.values()).backward()
    for name in LOSSES:
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name], plain[name], rtol=0.05, atol=0.01)
    model.rpn.inference = dataclasses.replace(model.rpn.inference, score_threshold=0.0095)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for prediction in model.eval()(make_images()):
            assert len(prediction["boxes"]) > 0
            assert prediction["boxes"].dtype == prediction["scores"].dtype == torch.float32


def test_the_prior_is_what_an_untrained_model_scores():
    model = _model("MODEL.RETINANET.PRIOR_PROB", 0.2)
    bias = model.rpn.head.classification_head.cls_logits.bias
    torch.testing.assert_close(F.sigmoid(bias), torch.full_like(bias, 0.2))
    assert (model.rpn.head.regression_head.bbox_reg.bias == 0).all()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configs_have_nine_anchors_a_cell_on_p3_to_p7(path: Path):
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.merge_from_list(["MODEL.NUM_CLASSES", 80, "MODEL.DEVICE", "cpu"])
    with torch.device("meta"):  # without memory for the weights
        backbone = build_backbone(cfg)
    head = RPN_HEADS.get(cfg.MODEL.RPN.NAME).from_config(cfg, backbone.out_channels, backbone.strides)
    assert list(backbone.strides.values()) == [8, 16, 32, 64, 128]
    assert head.anchors.num_anchors == 9
    assert head.head.classification_head.cls_logits.out_channels == 9 * 80
    assert cfg.MODEL.ROI_HEADS.NAME == ""


def test_the_weight_of_the_box_loss():
    models = [_model("MODEL.RETINANET.BBOX_REG_LOSS_WEIGHT", weight) for weight in (1.0, 0.25)]
    plain, weighted = (model(make_images(), [FULL, FULL]) for model in models)
    torch.testing.assert_close(weighted["loss_retinanet_box"], plain["loss_retinanet_box"] / 4)
    assert weighted["loss_retinanet_cls"] == plain["loss_retinanet_cls"]
