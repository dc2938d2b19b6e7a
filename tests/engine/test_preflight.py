"""Names that lead nowhere, and metrics that no evaluation makes, are told before data and model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from detframe.config import get_cfg
from detframe.config.bounds import Name
from detframe.config.check import doubts
from detframe.config.keys import all_keys
from detframe.engine.inputs import check_masks
from detframe.engine.preflight import check_data_sets, check_names, check_weights, choose_metric
from detframe.engine.run import train
from detframe.errors import InvalidValueError, MissingFileError, UnknownNameError
from detframe.parallel.environment import env_number
from detframe.parallel.joining import find_membership
from detframe.registry import LR_SCHEDULES
from tests.engine.fakes import config


# ---------------------------------------------------------------- registries
@pytest.mark.parametrize(
    ("key", "name", "nearest"),
    [
        ("MODEL.RPN.NAME", "FCSO", "FCOS"),
        ("MODEL.ROI_HEADS.NAME", "StandardRoiHead", "StandardROIHeads"),
        ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCN", "MaskRCNN"),
        ("MODEL.BACKBONE.CONV_BODY", "R-50-FNP", "R-50-FPN"),
        ("SOLVER.OPTIMIZER", "Adm", "AdamW"),
        ("SOLVER.LR_SCHEDULE", "cosin", "cosine"),
        ("TEST.EVALUATOR", "cocoo", "coco"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(key: str, name: str, nearest: str):
    with pytest.raises(UnknownNameError, match=rf"{key} \(from an override\): .*'{name}'.*did you mean.*'{nearest}'"):
        check_names(config(key, name))


def test_every_name_of_a_registry_is_looked_up_and_all_are_told_at_once():
    keys = [key for key, statement in all_keys().items() if isinstance(statement.rule, Name)]
    cfg = config(*(word for key in keys for word in (key, "nobody")))
    with pytest.raises(UnknownNameError) as caught:
        check_names(cfg)
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == keys
    check_names(get_cfg())
    check_names(config("MODEL.RPN.ANCHOR_SIZES", "8,16"))  # without inner brackets


def test_names_of_the_users_own_are_found():
    LR_SCHEDULES.register("of-my-own", lambda cfg: lambda iteration: 1.0)
    check_names(config("SOLVER.LR_SCHEDULE", "of-my-own"))
    check_names(config("MODEL.BACKBONE.CONV_BODY", "timm/anything-FPN", "MODEL.ROI_HEADS.NAME", ""))


def test_data_sets_are_looked_up_before_any_is_read(tmp_path, monkeypatch: pytest.MonkeyPatch):
    cfg = get_cfg()
    with pytest.raises(UnknownNameError, match="did you mean 'shapes_train'"):
        check_data_sets(cfg, ["shapes_trian"])
    monkeypatch.setenv("DETFRAME_DATASETS", str(tmp_path / "nowhere"))
    with pytest.raises(MissingFileError, match=r"DETFRAME_DATASETS is .*nowhere"):
        check_data_sets(cfg, ["shapes_train"])
    (tmp_path / "catalog.yaml").write_text("a: {format: cocoo, images: ., annotations: .}\n")
    cfg.DATASETS.CATALOG = str(tmp_path / "catalog.yaml")
    with pytest.raises(UnknownNameError, match="did you mean 'coco'"):
        check_data_sets(cfg, ["a"])


def test_training_fails_before_anything_is_made(tmp_path):
    out = tmp_path / "out"
    for words in (("SOLVER.OPTIMIZER", "Adm"), ("DATASETS.TRAIN", "nowhere")):
        with pytest.raises(UnknownNameError):
            train(config("OUTPUT_DIR", str(out), "MODEL.DEVICE", "cpu", *words))
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("MODEL.WEIGHTS", "absent.pth"), "weights file absent.pth does not exist"),
        (("MODEL.WEIGHTS", "list.pth"), "list.pth holds a list"),
        (("MODEL.DISTILL.TEACHER_WEIGHTS", "list.pth", "MODEL.DISTILL.ON", "True"), "no checkpoint of detframe"),
    ],
)
def test_weights_are_read_before_any_data(words: tuple[str, ...], match: str, tiny, tmp_path, monkeypatch):
    torch.save([1, 2], tmp_path / "list.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("detframe.engine.inputs.load_records", None)
    with pytest.raises((ValueError, OSError), match=match):
        train(tiny(*words))


def test_a_run_that_goes_on_needs_no_first_weights(tiny, tmp_path):
    check_weights(tiny("MODEL.WEIGHTS", "absent.pth"), goes_on=True)


# ---------------------------------------------------------------- the best metric
MASKS = ("MODEL.MASK_ON", True)
TWO = ("DATASETS.TEST", ("val", "a/b"))


@pytest.mark.parametrize(
    ("metric", "overrides", "chosen"),
    [
        ("bbox/AP", ("DATASETS.TEST", "val"), "bbox/AP"),
        ("val/bbox/AP50", ("DATASETS.TEST", "val"), "bbox/AP50"),
        ("bbox/AP", TWO, "val/bbox/AP"),
        ("a/b/bbox/AP", TWO, "a/b/bbox/AP"),
        ("segm/APs", (*TWO, *MASKS), "val/segm/APs"),
        ("bbox/AP-a/b", ("DATASETS.TEST", "val"), "bbox/AP-a/b"),
        ("tt100k/F1-small", ("TEST.EVALUATOR", "tt100k", "DATASETS.TEST", "val"), "tt100k/F1-small"),
        ("proposals/ARl@100", ("TEST.EVALUATOR", "proposals", "DATASETS.TEST", "val"), "proposals/ARl@100"),
        ("mine", ("TEST.EVALUATOR", "of-my-own", "DATASETS.TEST", "val"), "mine"),
    ],
)
def test_what_the_best_metric_is_called(metric: str, overrides: tuple[Any, ...], chosen: str):
    assert choose_metric(config("SOLVER.BEST_METRIC", metric, *overrides)) == chosen


@pytest.mark.parametrize(
    ("metric", "overrides", "match"),
    [
        ("segm/AP", TWO, "needs MODEL.MASK_ON, which is off"),
        ("keypoints/AP", (*TWO, *MASKS), "needs MODEL.KEYPOINT_ON, which is off"),
        ("bbox/APP", TWO, "no metric of the evaluator 'coco'; did you mean 'bbox/AP'"),
        ("test/bbox/AP", TWO, "the data sets of DATASETS.TEST are val, a/b"),
        ("keypoints/APs", (*TWO, "MODEL.KEYPOINT_ON", True), "did you mean 'keypoints/AP"),
        ("tt100k/F2", (*TWO, "TEST.EVALUATOR", "tt100k"), "did you mean 'tt100k/F1'"),
        ("proposals/AR@10", (*TWO, "TEST.EVALUATOR", "proposals"), "did you mean 'proposals/AR@100"),
        ("proposals/AP-a", (*TWO, "TEST.EVALUATOR", "proposals"), "no metric"),
        ("AP", TWO, "no metric"),
    ],
)
def test_a_metric_that_no_evaluation_makes_is_refused(metric: str, overrides: tuple[Any, ...], match: str):
    with pytest.raises(InvalidValueError, match=match):
        choose_metric(config("SOLVER.BEST_METRIC", metric, *overrides))


def records(classes: tuple[str, ...] = ("cat", "dog"), masks: bool = False) -> Any:
    metadata = SimpleNamespace(class_names=classes, keypoint_names=(), name="val")
    return SimpleNamespace(metadata=metadata, has_masks=masks, num_objects=SimpleNamespace(sum=lambda: 3))


def test_a_metric_must_be_of_the_data():
    val = {"val": records()}
    cfg = config("DATASETS.TEST", "val", "SOLVER.BEST_METRIC", "bbox/AP-dgo")
    with pytest.raises(InvalidValueError, match="the data set val has no class 'dgo'; did you mean 'dog'"):
        choose_metric(cfg, val)
    cfg.SOLVER.BEST_METRIC = "bbox/AP-dog"
    assert choose_metric(cfg, val) == "bbox/AP-dog"
    for metric, switch in (("segm/AP", "MASK_ON"), ("keypoints/AP", "KEYPOINT_ON")):
        wanted = config("DATASETS.TEST", "val", "SOLVER.BEST_METRIC", metric, f"MODEL.{switch}", True)
        with pytest.raises(InvalidValueError, match="and the data set val has none"):
            choose_metric(wanted, val)


def test_a_model_with_masks_needs_data_with_masks():
    with pytest.raises(InvalidValueError, match=r"MODEL\.MASK_ON trains on masks, but no object of the data set val"):
        check_masks(config(*MASKS), records())
    check_masks(config(*MASKS), records(masks=True))
    check_masks(config(), records())


def test_what_is_doubtful_is_said():
    cfg = config("SOLVER.MAX_ITER", 100, "SOLVER.STEPS", (50, 100), "SOLVER.WARMUP_ITERS", 200, "TEST.EVAL_PERIOD", 5)
    steps, warmup, evaluation = doubts(cfg)
    assert "[100] lie at or behind" in steps and "never reaches BASE_LR" in warmup and "nothing" in evaluation
    assert doubts(get_cfg()) == []


# ---------------------------------------------------------------- the environment
@pytest.mark.parametrize("text", ["abc", "1.5", "１２", "9" * 5000, "0x1", "1 2"])
def test_environment_variables_that_are_no_numbers_are_named(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(InvalidValueError, match="the environment variable WORLD_SIZE is"):
        env_number("WORLD_SIZE", 1)
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"):
        with pytest.raises(InvalidValueError, match=f"the environment variable {name} is"):
            find_membership({"WORLD_SIZE": "2", "RANK": "0", name: text})


def test_ranks_lie_within_the_world():
    for rank in ("2", "-1"):
        with pytest.raises(InvalidValueError, match=f"this is process {rank} of 2"):
            find_membership({"WORLD_SIZE": "2", "RANK": rank})
    assert find_membership({"WORLD_SIZE": "1", "RANK": "0"}) is None and find_membership({"WORLD_SIZE": ""}) is None
