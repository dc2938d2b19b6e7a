"""The choices of a recipe: from which numbers they follow, and that every wish is heeded."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from detframe.config import get_cfg, read_config, validate
from detframe.config.effects import without_effect
from detframe.errors import InvalidValueError
from detframe.recipes.budget import Pace, default_epochs
from detframe.recipes.choices import MODELS, choose, size_of
from detframe.recipes.machine import GIGABYTE, Machine
from detframe.recipes.spelling import given_words
from detframe.recipes.weights import FoundWeights
from detframe.solver import resolve_base_lr
from tests.recipes.made import FOUR_GPUS, ONE_GPU, TWO_CORES, facts, wish

NO_WEIGHTS = FoundWeights("", "there are none")


def values(*args: Any) -> dict[str, Any]:
    return {choice.key: choice.value for choice in choose(*args)}


def test_the_choices_make_a_valid_config_and_each_has_a_reason():
    for machine in (TWO_CORES, ONE_GPU, FOUR_GPUS):
        for task in ("box", "mask", "keypoint"):
            made = choose(facts(has_masks=True, keypoints=("nose",)), machine, wish(task=task))
            cfg = get_cfg()
            cfg.merge_from_list([word for choice in made for word in (choice.key, choice.value)])
            validate(cfg)
            assert all(choice.reason for choice in made)
            assert len({choice.key for choice in made}) == len(made)


def test_the_same_facts_give_the_same_choices():
    assert choose(facts(), TWO_CORES, wish()) == choose(facts(), TWO_CORES, wish())


# ---------------------------------------------------------------- model
@pytest.mark.parametrize(
    ("machine", "model", "body"),
    [
        (TWO_CORES, "", "MNV2-FPN"),
        (ONE_GPU, "", "R-50-FPN"),
        (FOUR_GPUS, "", "R-101-FPN"),
        (TWO_CORES, "medium", "R-18-FPN"),
        (Machine(8, 0, "NVIDIA T1000", 4 * GIGABYTE), "", "R-18-FPN"),
        (ONE_GPU, "small", "MNV2-FPN"),
        (TWO_CORES, "large", "R-101-FPN"),
    ],
)
def test_the_model_suits_the_machine_unless_one_is_named(machine: Machine, model: str, body: str):
    assert size_of(machine, model).body == body
    made = {choice.key: choice for choice in choose(facts(), machine, wish(model=model))}
    assert made["MODEL.BACKBONE.CONV_BODY"].value == body
    assert (f"--model {model}" if model else machine.words) in made["MODEL.BACKBONE.CONV_BODY"].reason


def test_an_unknown_size_is_an_error():
    with pytest.raises(InvalidValueError, match="small, medium, large"):
        size_of(TWO_CORES, "tiny")


def test_without_weights_everything_learns():
    for machine, key in ((TWO_CORES, "MODEL.MOBILENET.NORM"), (ONE_GPU, "MODEL.RESNETS.NORM")):
        made = values(facts(), machine, wish(weights=NO_WEIGHTS))
        assert (made["MODEL.WEIGHTS"], made["MODEL.BACKBONE.FREEZE_CONV_BODY_AT"], made[key]) == ("", 0, "BN")


def test_with_weights_a_large_body_keeps_its_first_layers_and_statistics():
    made = values(facts(), ONE_GPU, wish())
    assert (made["MODEL.BACKBONE.FREEZE_CONV_BODY_AT"], made["MODEL.RESNETS.NORM"]) == (2, "FrozenBN")
    made = values(facts(), TWO_CORES, wish())
    assert (made["MODEL.BACKBONE.FREEZE_CONV_BODY_AT"], made["MODEL.MOBILENET.NORM"]) == (2, "BN")


def test_a_model_of_timm_has_the_norms_it_comes_with():
    for weights in (NO_WEIGHTS, FoundWeights("mine.pth", "given")):
        named = wish(weights=weights, overrides={"MODEL.BACKBONE.CONV_BODY": "timm/resnet18-FPN"})
        made = values(facts(), ONE_GPU, named)
        assert not [key for key in made if key.startswith(("MODEL.RESNETS.", "MODEL.MOBILENET."))]
        base = read_config("retinanet/retinanet_R_50_FPN_1x.yaml", ["MODEL.BACKBONE.CONV_BODY", "timm/resnet18-FPN"])
        made = values(facts(), ONE_GPU, wish(base=base, base_name="x", weights=weights))
        assert "MODEL.RESNETS.NORM" not in made


# ---------------------------------------------------------------- input, anchors, regions
def test_small_objects_get_larger_images_and_finer_anchors():
    large, small = values(facts(side=200), TWO_CORES, wish()), values(facts(side=24), TWO_CORES, wish())
    assert small["INPUT.MIN_SIZE_TEST"] > large["INPUT.MIN_SIZE_TEST"]
    assert small["MODEL.RPN.ANCHOR_SIZES"][0] == (27,)
    assert large["INPUT.MIN_SIZE_TEST"] == MODELS["small"].shorter[0]


def test_a_rare_class_of_small_objects_counts_as_much_as_any():
    labels = np.ones(800, dtype=np.int64)
    sides = np.full(800, 200.0)
    labels[:40], sides[:40] = 2, 20.0
    mixed = facts(classes=("a", "b"), labels=labels, widths=sides, heights=sides)
    assert values(mixed, TWO_CORES, wish())["INPUT.MIN_SIZE_TEST"] == 384
    labels[:40] = 1  # the same sizes in one class
    assert values(mixed, TWO_CORES, wish())["INPUT.MIN_SIZE_TEST"] == 192


def test_images_are_not_enlarged_beyond_use():
    made = values(facts(size_hw=(100, 100), side=5), TWO_CORES, wish())
    assert made["INPUT.MIN_SIZE_TEST"] == 192


def test_long_images_get_room():
    made = values(facts(size_hw=(300, 600), side=80), TWO_CORES, wish())
    assert made["INPUT.MAX_SIZE_TEST"] == 2 * made["INPUT.MIN_SIZE_TEST"]


def test_tiles_of_one_longer_side_keep_one_scale():
    tiles = facts(size_hw=(640, 640), side=24)
    tiles.sizes_hw[::3] = (430, 640)
    made = values(tiles, TWO_CORES, wish())
    assert made["INPUT.MIN_SIZE_TEST"] == made["INPUT.MAX_SIZE_TEST"] == 448


@pytest.mark.parametrize(("side", "finest"), [(6, 16), (20, 24), (25, 30), (40, 32), (200, 32)])
def test_the_finest_anchor_is_a_little_above_the_typical_object(side: float, finest: int):
    given = {"INPUT.MIN_SIZE_TRAIN": (0,), "INPUT.MAX_SIZE_TRAIN": 640, "MODEL.RPN.ASSIGNER": "iou"}
    made = {choice.key: choice for choice in choose(facts(side=side, spread=1.01), ONE_GPU, wish(overrides=given))}
    assert made["MODEL.RPN.ANCHOR_SIZES"].value[0] == (finest,)
    assert f"a side of {side}" in made["MODEL.RPN.ANCHOR_SIZES"].reason


def test_anchors_of_small_images_begin_finer():
    given = {"INPUT.MIN_SIZE_TRAIN": (240,), "INPUT.MAX_SIZE_TRAIN": 320}
    assert values(facts(side=200), TWO_CORES, wish(overrides=given))["MODEL.RPN.ANCHOR_SIZES"][0] == (20,)


def test_anchors_reach_the_largest_objects_and_never_begin_below_what_trains():
    made = values(facts(side=60, spread=8), ONE_GPU, wish())
    sizes = [size for (size,) in made["MODEL.RPN.ANCHOR_SIZES"]]
    assert sizes == sorted(sizes) and len(sizes) == 5
    assert 16 <= sizes[0] <= 32 and sizes[-1] >= 400
    assert made["MODEL.ROI_BOX_HEAD.POOLER_CANONICAL_SIZE"] == 7 * sizes[0]


@pytest.mark.parametrize(("side", "task", "cascade"), [(100, "box", True), (100, "mask", True), (20, "box", False)])
def test_large_objects_get_a_cascade(side: float, task: str, cascade: bool):
    made = {choice.key: choice for choice in choose(facts(side=side, has_masks=True), TWO_CORES, wish(task=task))}
    assert ("MODEL.ROI_HEADS.NAME" in made) == ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG" in made) == cascade
    if cascade:
        assert made["MODEL.ROI_HEADS.NAME"].value == "CascadeROIHeads"
        assert re.search(r"large enough \(\d+ pixels at this size\)", made["MODEL.ROI_HEADS.NAME"].reason)


def test_no_cascade_where_none_is_wanted():
    made = values(facts(), TWO_CORES, wish(overrides={"MODEL.ROI_HEADS.NAME": "StandardROIHeads"}))
    assert made["MODEL.ROI_HEADS.NAME"] == "StandardROIHeads"
    assert "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG" not in made
    assert "MODEL.ROI_HEADS.NAME" not in values(facts(keypoints=("nose",)), TWO_CORES, wish(task="keypoint"))


TINY = {
    "MODEL.RPN.ASSIGNER": "rfla",
    "MODEL.BACKBONE.CONV_BODY": "MNV2-EFPN",
    "MODEL.EFPN.TRANSFER": "plain",
    "MODEL.RPN.FINEST_LEVEL": "p2",
    "MODEL.ROI_HEADS.NAME": "ExtendedROIHeads",
}
AS_THEY_ARE = {"INPUT.MIN_SIZE_TRAIN": (0,), "INPUT.MAX_SIZE_TRAIN": 640}


@pytest.mark.parametrize(
    ("side", "task", "tiny"), [(9, "box", True), (9, "mask", True), (9, "keypoint", False), (12, "box", False)]
)
def test_tiny_objects_get_a_finer_level_and_receptive_fields(side: float, task: str, tiny: bool):
    data = facts(side=side, spread=1.01, has_masks=True, keypoints=("nose",))
    chosen = choose(data, TWO_CORES, wish(task=task, overrides=AS_THEY_ARE))
    made = {choice.key: choice.value for choice in chosen}
    assert (made.items() >= TINY.items()) == tiny
    assert tiny or not made.keys() & (TINY.keys() - {"MODEL.BACKBONE.CONV_BODY"})
    assert tiny != ("MODEL.RPN.ANCHOR_SIZES" in made)  # which would be said to have no effect
    if tiny:
        cfg = get_cfg()
        cfg.merge_from_list([word for pair in made.items() for word in pair])
        validate(cfg)
        assert not list(without_effect(cfg))
        (reason,) = [choice.reason for choice in chosen if choice.key == "MODEL.RPN.ASSIGNER"]
        assert "a side of 9 at this size" in reason


@pytest.mark.parametrize(
    "given",
    [
        {"MODEL.RPN.ASSIGNER": "iou"},
        {"MODEL.RPN.ANCHOR_SIZES": ((8,), (16,), (32,), (64,), (128,))},
        {"MODEL.BACKBONE.CONV_BODY": "R-18-FPN"},
        {"MODEL.ROI_HEADS.NAME": "StandardROIHeads"},
    ],
)
def test_who_says_how_tiny_objects_are_found_is_heeded(given: dict[str, Any]):
    made = values(facts(side=9, spread=1.01), TWO_CORES, wish(overrides={**AS_THEY_ARE, **given}))
    assert made.items() >= given.items()
    assert not (made.keys() - given.keys()) & (TINY.keys() - {"MODEL.BACKBONE.CONV_BODY"})


@pytest.mark.parametrize(("machine", "body"), [(ONE_GPU, "R-50-EFPN"), (FOUR_GPUS, "R-101-EFPN")])
def test_every_model_has_a_finer_level(machine: Machine, body: str):
    made = values(facts(side=9, spread=1.01), machine, wish(overrides=AS_THEY_ARE))
    assert made["MODEL.BACKBONE.CONV_BODY"] == body and made["MODEL.RPN.ASSIGNER"] == "rfla"


def test_ratios_follow_the_objects():
    tall = values(facts(ratio=3.0), TWO_CORES, wish())["MODEL.RPN.ASPECT_RATIOS"]
    assert tall[1] == pytest.approx(3.0, rel=0.05) and tall[0] < tall[1] < tall[2]
    assert tall[2] / tall[1] == pytest.approx(1.4, rel=0.05)


# ---------------------------------------------------------------- detections, batch, rate
def test_crowded_images_get_detections_and_proposals_enough():
    made = values(facts(per_image=60, most_objects=400), TWO_CORES, wish())
    assert made["TEST.DETECTIONS_PER_IMG"] == 600
    assert made["MODEL.RPN.POST_NMS_TOP_N_TEST"] == 600 and made["MODEL.RPN.PRE_NMS_TOP_N_TEST"] == 600
    made = values(facts(most_objects=5), TWO_CORES, wish())
    assert made["TEST.DETECTIONS_PER_IMG"] == 100 and made["MODEL.RPN.POST_NMS_TOP_N_TEST"] == 300


def test_the_batch_is_what_fits_and_the_rate_follows_it():
    made = values(facts(), TWO_CORES, wish())
    assert (made["SOLVER.IMS_PER_BATCH"], made["SOLVER.BASE_LR"]) == (2, 1e-3)
    assert values(facts(), FOUR_GPUS, wish())["SOLVER.IMS_PER_BATCH"] % 4 == 0
    small = Machine(8, 0, "NVIDIA", 6 * GIGABYTE)
    assert values(facts(side=20), small, wish())["SOLVER.IMS_PER_BATCH"] < MODELS["medium"].batch
    halved = values(facts(), TWO_CORES, wish(most_per_process=1))
    assert (halved["SOLVER.IMS_PER_BATCH"], halved["SOLVER.BASE_LR"]) == (1, 7.07e-4)
    scratch = values(facts(), TWO_CORES, wish(weights=FoundWeights("", "none")))
    assert scratch["SOLVER.IMS_PER_BATCH"] == 4  # batch norm that starts at random


@pytest.mark.parametrize("images", [1, 2, 3])
def test_a_handful_of_images_is_a_batch_of_no_more(images: int):
    made = values(facts(images=images), TWO_CORES, wish(weights=FoundWeights("", "none")))
    assert made["SOLVER.IMS_PER_BATCH"] == images


def test_two_processes_on_a_cpu_share_the_batch():
    assert values(facts(), Machine(8, ranks=2), wish())["SOLVER.IMS_PER_BATCH"] == 2


# ---------------------------------------------------------------- overrides
def test_an_override_wins_and_the_rest_follows_from_it():
    given = {"INPUT.MIN_SIZE_TRAIN": (640,), "SOLVER.IMS_PER_BATCH": 16, "SEED": 3}
    made = {choice.key: choice for choice in choose(facts(), TWO_CORES, wish(overrides=given))}
    assert made["INPUT.MIN_SIZE_TRAIN"].value == (640,) and made["INPUT.MIN_SIZE_TRAIN"].reason == given_words()
    assert made["INPUT.MIN_SIZE_TEST"].value == 640 and made["INPUT.MAX_SIZE_TRAIN"].value >= 853
    assert made["MODEL.RPN.ANCHOR_SIZES"].value[0] == (32,)
    assert made["SOLVER.BASE_LR"].value == 2.83e-3
    assert made["SEED"].value == 3 and made["SEED"].reason == given_words()


def test_an_override_of_the_length_shapes_the_schedule():
    made = values(facts(), TWO_CORES, wish(overrides={"SOLVER.MAX_ITER": 40}))
    assert made["SOLVER.MAX_ITER"] == 40 and made["SOLVER.WARMUP_ITERS"] == 4
    made = values(facts(images=200), TWO_CORES, wish(overrides={"SOLVER.MAX_ITER": "12ep"}))
    assert made["SOLVER.MAX_ITER"] == "12ep" and made["SOLVER.WARMUP_ITERS"] == 100


def test_no_resizing_can_be_asked_for():
    made = values(facts(), TWO_CORES, wish(overrides={"INPUT.MIN_SIZE_TRAIN": (0,)}))
    assert made["INPUT.MIN_SIZE_TEST"] == 0 and made["SOLVER.IMS_PER_BATCH"] == 2


# ---------------------------------------------------------------- tasks
def test_tasks_switch_their_heads_on():
    made = values(facts(has_masks=True), TWO_CORES, wish(task="mask"))
    assert made["MODEL.MASK_ON"] and made["SOLVER.BEST_METRIC"] == "segm/AP"
    made = values(facts(keypoints=("nose",), objects=np.array([4] * 199 + [0])), TWO_CORES, wish(task="keypoint"))
    assert made["MODEL.KEYPOINT_ON"] and made["DATALOADER.EMPTY"] == "drop"
    assert "MODEL.MASK_ON" not in values(facts(has_masks=True), TWO_CORES, wish())


@pytest.mark.parametrize(("task", "lacks"), [("mask", "no object of these data has one"), ("keypoint", "name none")])
def test_a_task_that_the_data_cannot_teach_is_an_error(task: str, lacks: str):
    with pytest.raises(InvalidValueError, match=f"--task {task} .*{lacks}.*--task box"):
        choose(facts(), TWO_CORES, wish(task=task))


def test_which_files_of_coco_have_keypoints_is_said():
    with pytest.raises(
        InvalidValueError, match=r"person_keypoints_train\.json and the like .* name the folder that holds"
    ):
        choose(facts(), TWO_CORES, wish(task="keypoint"))


def test_an_unknown_task_is_an_error():
    with pytest.raises(InvalidValueError, match="box, mask, keypoint"):
        choose(facts(), TWO_CORES, wish(task="boxes"))


def test_missing_pictures_are_skipped_and_said():
    made = {choice.key: choice for choice in choose(facts(images=198, missing=2), TWO_CORES, wish())}
    assert made["DATALOADER.ON_ERROR"].value == "skip"
    assert made["DATALOADER.ON_ERROR"].reason.startswith("2 of 200 images do not exist")
    assert "DATALOADER.ON_ERROR" not in values(facts(), TWO_CORES, wish())


# ---------------------------------------------------------------- length
def test_epochs_are_taken_at_their_word():
    made = values(facts(images=200), TWO_CORES, wish(epochs=12))
    assert made["SOLVER.MAX_ITER"] == 1200 and made["SOLVER.WARMUP_ITERS"] == 100
    assert made["SOLVER.KEEP_LAST"] == 2
    assert made["TEST.EVAL_PERIOD"] == 150


def test_minutes_become_steps_by_the_pace():
    pace = Pace(step=0.5, image=0.1, start=6, spent=24)
    made = {choice.key: choice for choice in choose(facts(), TWO_CORES, wish(minutes=10), pace)}
    steps = made["SOLVER.MAX_ITER"].value
    evaluations = steps // made["TEST.EVAL_PERIOD"].value
    assert 24 + 6 + steps * 0.5 + evaluations * 50 * 0.1 == pytest.approx(600 * 0.96, rel=0.03)
    assert "10 minutes" in made["SOLVER.MAX_ITER"].reason and "0.50 s a step" in made["SOLVER.MAX_ITER"].reason
    slower = values(facts(), TWO_CORES, wish(minutes=10), Pace(step=1.0, image=0.2, start=12, spent=48))
    assert slower["SOLVER.MAX_ITER"] == pytest.approx(steps / 2, rel=0.15)


def test_time_beyond_use_is_not_filled():
    made = {choice.key: choice for choice in choose(facts(images=20), TWO_CORES, wish(minutes=600), Pace(step=0.1))}
    assert made["SOLVER.MAX_ITER"].value == 1000 and "more would overfit" in made["SOLVER.MAX_ITER"].reason


def test_without_a_wish_the_length_is_chosen_and_said():
    made = {choice.key: choice for choice in choose(facts(images=200), TWO_CORES, wish(), Pace(step=0.1))}
    assert made["SOLVER.MAX_ITER"].value == 6000 and "neither --minutes nor --epochs" in made["SOLVER.MAX_ITER"].reason
    slow = {choice.key: choice for choice in choose(facts(images=200), TWO_CORES, wish(), Pace(step=2.0))}
    assert slow["SOLVER.MAX_ITER"].value == 855 and "30 minutes" in slow["SOLVER.MAX_ITER"].reason


def test_default_epochs_shrink_with_the_data_and_grow_without_weights():
    found = [default_epochs(images, True) for images in (1, 200, 500, 10**6)]
    assert found == [60, 60, 24, 12]
    assert default_epochs(500, False) == 72


def test_the_average_is_longer_in_longer_trainings():
    decays = [values(facts(), TWO_CORES, wish(epochs=epochs))["SOLVER.EMA_DECAY"] for epochs in (10, 100, 1000)]
    assert decays == [0.99, 0.999, 0.9998]


# ---------------------------------------------------------------- on a config
def based(name: str, machine: Machine = TWO_CORES, **others: Any) -> dict[str, Any]:
    base = read_config(name)
    found = FoundWeights(base.MODEL.WEIGHTS, "of the config")
    return values(facts(**others), machine, wish(base=base, base_name=name, weights=found))


def test_a_config_keeps_its_model_and_gets_batch_rate_and_schedule():
    made = based("retinanet/retinanet_R_50_FPN_1x.yaml", images=400)
    assert not [key for key in made if key.startswith(("MODEL.RETINANET", "MODEL.BACKBONE", "MODEL.FPN", "INPUT"))]
    assert made["SOLVER.IMS_PER_BATCH"] == 4 and made["SOLVER.BASE_LR"] == pytest.approx(0.01 / 4)
    steps = made["SOLVER.MAX_ITER"]
    assert made["SOLVER.STEPS"] == (round(steps * 60 / 90), round(steps * 80 / 90))
    assert made["SOLVER.WARMUP_ITERS"] <= math.ceil(steps / 10)


@pytest.mark.parametrize(("rule", "share"), [("linear", 1 / 16), ("sqrt", 1 / 4)])
def test_a_rule_of_the_rate_is_not_applied_twice(rule: str, share: float):
    base = read_config("retinanet/retinanet_R_50_FPN_1x.yaml", ["SOLVER.LR_RULE", rule, "SOLVER.REFERENCE_BATCH", 64])
    found = FoundWeights(base.MODEL.WEIGHTS, "of the config")
    made = values(facts(images=400), TWO_CORES, wish(base=base, base_name="x", weights=found))
    cfg = base.changed(list(made.items()))
    assert cfg.SOLVER.IMS_PER_BATCH == 4
    assert resolve_base_lr(cfg).SOLVER.BASE_LR == cfg.SOLVER.BASE_LR
    assert cfg.SOLVER.BASE_LR == pytest.approx(base.SOLVER.BASE_LR * share, rel=1e-2)


def test_a_config_without_its_weights_learns_all_of_the_body():
    base = read_config("retinanet/retinanet_R_50_FPN_1x.yaml")
    made = values(facts(), TWO_CORES, wish(base=base, base_name="x", weights=NO_WEIGHTS))
    assert (made["MODEL.BACKBONE.FREEZE_CONV_BODY_AT"], made["MODEL.RESNETS.NORM"]) == (0, "BN")
