"""Ranges, choices, durations and keys that must agree: every finding in one error."""

from __future__ import annotations

import pytest

from detframe.config import get_cfg, parse_duration, resolve_durations, validate


def test_the_defaults_are_valid():
    cfg = get_cfg()
    validate(cfg)
    assert cfg == get_cfg()  # looking changes nothing


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("SOLVER.IMS_PER_BATCH", 0, "above 0"),
        ("SOLVER.BASE_LR", -0.1, "above 0"),
        ("INPUT.FLIP_PROB", 1.5, "between 0 and 1"),
        ("MODEL.NUM_CLASSES", -1, "0 or more"),
        ("SOLVER.AMP", "fp8", "one of 'auto', 'off', 'bf16', 'fp16'"),
        ("DATALOADER.EMPTY", "skip", "one of 'keep', 'drop'"),
        ("MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 6, "0 to 5"),
        ("SOLVER.EMA_DECAY", 1.0, "below 1"),
        ("SOLVER.ACCUMULATE_STEPS", 3, "a divisor of SOLVER.IMS_PER_BATCH 16"),
        ("SOLVER.MAX_ITER", "12 apples", "epochs"),
        ("SOLVER.STEPS", ("8ep", "x"), "SOLVER.STEPS"),
        ("INPUT.MIN_SIZE_TRAIN", (), "whole numbers"),
        ("INPUT.PIXEL_MEAN", (1.0, 2.0), "a number for each of the 3 INPUT.CHANNELS"),
        ("INPUT.PIXEL_STD", (1.0, 0.0, 1.0), "above 0"),
        ("MODEL.EFPN.EXTRACTOR", "vit", "one of 'residual', 'swin', 'hat'"),
        ("MODEL.EFPN.ATTENTION.HEADS", 0, "above 0"),
        ("MODEL.EFPN.ATTENTION.WINDOW", 0, "above 0"),
        ("MODEL.EFPN.ATTENTION.HAT_OVERLAP", -0.5, "0 or more"),
        ("MODEL.RPN.BG_IOU_THRESHOLD", 0.9, "at most FG_IOU_THRESHOLD 0.7"),
        ("MODEL.ROI_HEADS.BG_IOU_THRESHOLD", 0.6, "at most FG_IOU_THRESHOLD 0.5"),
        ("TEST.NMS", "hard", "one of 'class', 'agnostic', 'soft', 'soft_linear'"),
        ("TEST.AUG.MERGE", "mean", "one of 'nms', 'soft', 'wbf'"),
        ("TEST.AUG.MIN_SIZES", (-1,), "0 or more"),
        ("MODEL.RPN.ANCHOR_STYLE", "round", "one of 'torchvision', 'exact', 'detectron'"),
    ],
)
def test_each_finding_names_key_value_and_origin(key: str, value: object, match: str):
    cfg = get_cfg()
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match="the config has errors") as caught:
        validate(cfg)
    text = str(caught.value)
    assert key in text and match in text and "an override" in text


def test_mean_and_deviation_may_be_those_of_32_bits():
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.PIXEL_MEAN", (2.4e8, 2.7e9, -1e12), "INPUT.PIXEL_STD", (2.9e8, 3.4e9, 1e-9)])
    validate(cfg)
    assert cfg.INPUT.PIXEL_MEAN == (2.4e8, 2.7e9, -1e12) and cfg.INPUT.PIXEL_STD == (2.9e8, 3.4e9, 1e-9)


@pytest.mark.parametrize("extractor", ["residual", "swin", "hat"])
def test_heads_of_attention_divide_the_width(extractor: str):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.EFPN.EXTRACTOR", extractor, "MODEL.EFPN.WIDTH", 130, "MODEL.EFPN.ATTENTION.HEADS", 4])
    if extractor == "residual":  # has no heads
        validate(cfg)
        return
    with pytest.raises(ValueError, match=r"ATTENTION\.HEADS must be a divisor of MODEL\.EFPN\.WIDTH 130, not 4"):
        validate(cfg)


def test_all_findings_are_listed_at_once():
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", -1, "INPUT.FLIP_PROB", 2.0, "DATALOADER.ON_ERROR", "ignore"])
    with pytest.raises(ValueError, match="errors") as caught:
        validate(cfg)
    assert len(str(caught.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("value", "iterations"),
    [(90000, 90000), ("500", 500), ("500it", 500), ("12ep", 12 * 25), ("0.5ep", 13), (" 1 ep ", 25), (0, 0)],
)
def test_durations_of_100_images_in_batches_of_4(value: int | str, iterations: int):
    if value == "500":  # an override reads this as a number
        cfg = get_cfg()
        cfg.merge_from_list(["SOLVER.MAX_ITER", value])
        value = cfg.SOLVER.MAX_ITER
    assert parse_duration(value, 100, 4) == iterations


@pytest.mark.parametrize("value", [-1, "-1ep", "ep", "12 epochs of it", ""])
def test_what_is_no_duration(value: int | str):
    with pytest.raises(ValueError, match="MAX_ITER must"):
        parse_duration(value, 100, 4, "MAX_ITER")


def test_resolving_changes_a_copy_only():
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", "2ep", "SOLVER.STEPS", ("1ep", 30), "SOLVER.IMS_PER_BATCH", 10])
    cfg.freeze()
    out = resolve_durations(cfg, num_images=100)
    assert (out.SOLVER.MAX_ITER, out.SOLVER.STEPS) == (20, (10, 30))
    assert cfg.SOLVER.MAX_ITER == "2ep" and out.is_frozen()
