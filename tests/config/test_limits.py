"""Every number has a range and every list typed members; nonsense of each kind is an error that names the key."""

from __future__ import annotations

import math
from typing import Any

import pytest

from detframe.config import get_cfg, validate
from detframe.config.bounds import Choice, Duration, Each, Name, Number, Rule, Text, Truth
from detframe.config.by_class import ByClass
from detframe.config.key import Key
from detframe.config.keys import all_keys
from detframe.errors import UserError

DEFAULTS = dict(get_cfg().leaves())
RULES = {key: statement.rule for key, statement in all_keys().items()}
NOT_TRUTHS = [key for key, value in DEFAULTS.items() if not isinstance(value, bool)]


def set_to(key: str, value: Any):
    cfg = get_cfg()
    cfg.merge_from_list([key, value])
    validate(cfg)
    return dict(cfg.leaves())[key]


def refused(key: str, value: Any) -> str:
    """The message of the error that the value must end in."""
    try:
        became = set_to(key, value)
    except UserError as error:
        assert key in str(error)
        return str(error)
    pytest.fail(f"{key} took {value!r} as {became!r}")


def members(rule: Rule) -> list[Rule]:
    return [rule.member, *members(rule.member)] if isinstance(rule, Each) else []


# ---------------------------------------------------------------- the statements are whole
def numbers_of(rule: Rule) -> list[Number]:
    return [found for found in (rule, *members(rule)) if isinstance(found, Number)]


def test_every_number_states_a_bound_or_that_any_value_is_right():
    free = {key for key, rule in RULES.items() for number in numbers_of(rule) if number.any_value}
    assert free == {"INPUT.PIXEL_MEAN", "MODEL.EFPN.ATTENTION.HAT_CONV_SCALE"}
    for default in (3, 0.5):
        with pytest.raises(TypeError, match=r"a number states a bound .*, or any_value=True"):
            Key(default, "A number", ceiling=5)
        assert Key(default, "A number", any_value=True).rule.describe() == "any number"
    with pytest.raises(TypeError, match="a number states a bound"):
        Key((1.0,), "A list", each=Number())


def test_a_list_says_of_its_members_and_of_their_members_what_they_are():
    positive = Number(above=0, ceiling=9)
    assert Each(positive, sizes=(2, 4), filled=True, order="rising").describe() == (
        "each above 0, at most 9, 2 or 4 of them, not empty, rising"
    )
    assert Each(positive, sizes=tuple(range(1, 65))).describe() == "each above 0, at most 9, 1 to 64 of them"
    rows = Each(Each(positive, sizes=(4,)), filled=True)
    assert rows.describe() == "not empty, each a list of numbers: each above 0, at most 9, 4 of them"
    assert Each(Each(Choice(("a", "b")), filled=True)).describe() == (
        'each a list of words: each one of "a", "b", not empty'
    )
    assert Each(Each(Text())).describe() == "each a list of words"
    assert Each(rows).describe() == f"each a list of lists: {rows.describe()}"


def test_a_member_without_brackets_is_judged_as_the_list_that_it_stands_for():
    rule = Each(Each(Number(above=0, ceiling=9), filled=True), filled=True, bare=True)
    assert rule.wrong((3, (1, 2))) == ""
    wanted = "a list of lists, each a list of numbers, each above 0"
    assert rule.wrong((3, -1)) == rule.wrong(((3,), (-1,))) == wanted
    assert rule.wrong((3, ())) == "a list of lists, each a list of numbers, not empty"


@pytest.mark.parametrize("key", NOT_TRUTHS)
def test_the_rule_is_of_the_type_of_the_default(key: str):
    default, rule = DEFAULTS[key], RULES[key]
    if isinstance(default, tuple):
        assert isinstance(rule, Each) and members(rule)
    elif isinstance(default, str):
        assert isinstance(rule, (Choice, Text, Name, ByClass))
    elif isinstance(rule, Number):
        assert rule.whole == isinstance(default, int)
    else:
        assert isinstance(rule, (Choice, Duration))
    for number in numbers_of(rule):  # a bound on both sides, be it that of what is never meant
        assert math.isfinite(number.ceiling) and number.describe()
        assert number.wrong(-1e39) and number.wrong(1e39) and number.wrong(math.nan) and number.wrong(math.inf)


# ---------------------------------------------------------------- nonsense of each kind
OF_ANOTHER_TYPE = {
    int: [None, "words", "", 1.5, True, [1], "[1, 2]", {}, b"1", "１２", "1e400", "__import__('os')", "010"],
    float: [None, "words", "", True, [1.0], "[1.0]", {}, "１.５", "1,5", "0x", 10**400],
    str: [None, 5, 1.5, ["a"], {}, b"a", "a\0b", "a\udcff"],
    tuple: [None, True, {}, "[1, 2", "(1", [None], [{}], [[]] * 3, [[[1]]], [b"a"]],
}
OUT_OF_RANGE = (-1e39, 1e39, math.nan, math.inf, -math.inf, 10**400, -(10**400), "9" * 5000, "1e400", "nan", "-inf")


@pytest.mark.parametrize("key", NOT_TRUTHS)
def test_nonsense_is_refused(key: str):
    default, rule = DEFAULTS[key], RULES[key]
    for value in OF_ANOTHER_TYPE[type(default)]:
        if value == {} and isinstance(rule, ByClass):  # numbers of no class
            assert set_to(key, value) == ""
        elif not (isinstance(value, str) and isinstance(rule, Duration)):
            assert len(refused(key, value)) < 1200
    numbers = [found for found in (rule, *members(rule)) if isinstance(found, (Number, Duration))]
    for value in OUT_OF_RANGE if numbers else ():
        nested: Any = value
        for _ in range(len(members(rule))):
            nested = [nested]
        assert len(refused(key, nested)) < 1200


@pytest.mark.parametrize("key", [key for key, rule in RULES.items() if isinstance(rule, Choice)])
def test_only_the_choices_are_taken(key: str):
    assert "one of" in refused(key, "nothing" if isinstance(DEFAULTS[key], str) else 77)


@pytest.mark.parametrize("key", [key for key, value in DEFAULTS.items() if isinstance(value, bool)])
def test_switches_take_true_and_false_alone(key: str):
    for value in (None, 1, 0, "yes", "", [True], 1.0, "on"):
        refused(key, value)
    for value in (True, False, "True", "false"):
        cfg = get_cfg()
        cfg.merge_from_list([key, value])
        assert dict(cfg.leaves())[key] is (value in (True, "True"))


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("MODEL.ROI_HEADS.NMS", 50, "between 0 and 1"),
        ("SOLVER.MOMENTUM", -3, "0 or more and below 1"),
        ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", -7, "above 0"),
        ("SOLVER.GAMMA", 1e45, "at most 1000"),
        ("SOLVER.WEIGHT_DECAY_BIAS", -2, "0 or more or -1"),
        ("MODEL.RESNETS.STEM_OUT_CHANNELS", 7, "8 or more"),
        ("DATALOADER.NUM_WORKERS", 100_000, "at most 1000"),
        ("SOLVER.IMS_PER_BATCH", 10**9, "at most 100000"),
        ("MODEL.FPN.OUT_CHANNELS", 10**9, "at most"),
        ("SOLVER.MAX_ITER", 10**30, "at most 1000000000 iterations"),
        ("SOLVER.MAX_ITER", "1e5ep", "epochs"),
        ("SOLVER.MAX_ITER", "１２ep", "epochs"),
        ("SOLVER.MAX_ITER", "9" * 400 + "ep", "at most"),
        ("INPUT.MIN_SIZE_TEST", 10**6, "at most 32768"),
        ("SEED", 2**64, "at most"),
        ("SOLVER.BETAS", [0.9], "two numbers"),
        ("SOLVER.BETAS", [0.9, 1], "each 0 or more and below 1"),
        ("SOLVER.STEPS", [80000, 60000], "rising"),
        ("SOLVER.STEPS", ["8ep", -1], "not be negative"),
        ("MODEL.RPN.ASPECT_RATIOS", [0, 1, 2], "each above 0"),
        ("MODEL.RPN.ASPECT_RATIOS", [], "not empty"),
        ("MODEL.RPN.ANCHOR_SIZES", [[-32], [64]], "each above 0"),
        ("MODEL.RPN.ANCHOR_SIZES", [[32], [64, 128]], "equally many sizes"),
        ("MODEL.RPN.ANCHOR_SIZES", [[]], "not empty"),
        ("MODEL.RPN.BBOX_REG_WEIGHTS", [1, 1, 1], "four numbers"),
        ("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", [0.5], "as many as BBOX_REG_WEIGHTS, 3"),
        ("MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS", [[1, 2, 3, 0]] * 3, "above 0"),
        ("MODEL.FCOS.SIZES_OF_INTEREST", [128, 64], "rising"),
        ("MODEL.FPN.IMAGE_SCALES", [1, 2], "falling"),
        ("LOGGERS", "wandb,csv,wandb", "LOGGERS must be a list in which 'wandb' stands once"),
        ("DATASETS.TEST", ["a", "a"], "'a' stands once"),
        ("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p2"], "'p2' stands once"),
        ("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p2"], "'p2' stands once"),
        ("MODEL.FPN.IN_FEATURES", ["res2", "res2"], "'res2' stands once"),
        ("MODEL.DISTILL.FEATURES", ["p2", "p2"], "'p2' stands once"),
        ("MODEL.CHECKPOINT_ACTIVATIONS", ["res2", "res2"], "'res2' stands once"),
        ("MODEL.RESNETS.STAGE_WITH_DCN", [True], "True or False for each of res2"),
        ("MODEL.DISTILL.FEATURES", ["p4"], "one of 'p2', 'p3'"),
        ("DATASETS.TRAIN", [""], "each a name"),
        ("DATASETS.TRAIN", [2012], "member 1 must be a string"),
        ("OUTPUT_DIR", "", "must be a name, not ''"),
    ],
)
def test_what_is_wrong_is_said(key: str, value: Any, wanted: str):
    assert wanted in refused(key, value)


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (("SOLVER.NESTEROV", True, "SOLVER.MOMENTUM", 0), r"SOLVER\.MOMENTUM must be above 0"),
        (("SOLVER.EARLY_STOP_PATIENCE", 2, "DATASETS.TEST", "a"), "needs evaluations during training"),
        (("SOLVER.EARLY_STOP_PATIENCE", 2, "TEST.EVAL_PERIOD", 5), "needs data to evaluate on"),
        (("INPUT.LSJ.ON", True, "INPUT.LSJ.SIZE", 2**15, "INPUT.LSJ.MAX_SCALE", 50), "at most 65536 pixels"),
        (("INPUT.TILES.SIZE", 64, "INPUT.TILES.OVERLAP", 64), r"OVERLAP must be below INPUT\.TILES\.SIZE 64 .* 64\.0"),
        (("INPUT.TILES.SIZE", 1, "INPUT.TILES.OVERLAP", 1), r"OVERLAP must be below INPUT\.TILES\.SIZE 1"),
        (("MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.NORM_EPS", 0), "above 0 with MODEL.RESNETS.NORM BN"),
        (("MODEL.RESNETS.NUM_GROUPS", 4096, "MODEL.RESNETS.WIDTH_PER_GROUP", 4096), "at most 4096 channels"),
        (("MODEL.POINT_HEAD.SUBDIVISION_STEPS", 10), "masks have at most 2048 pixels a side"),
        (("MODEL.MASK_ON", True, "MODEL.ROI_HEADS.NAME", ""), "the ROI heads that MODEL.MASK_ON needs"),
    ],
)
def test_keys_that_must_agree(overrides: tuple[Any, ...], match: str):
    cfg = get_cfg()
    cfg.merge_from_list(list(overrides))
    with pytest.raises(ValueError, match=match):
        validate(cfg)


@pytest.mark.parametrize(
    "overrides", [("INPUT.TILES.OVERLAP", 600), ("INPUT.TILES.SIZE", 64, "INPUT.TILES.OVERLAP", 63)]
)
def test_an_overlap_of_tiles_that_leaves_a_step_or_of_tiles_that_are_off(overrides: tuple[Any, ...]):
    cfg = get_cfg()
    cfg.merge_from_list(list(overrides))
    validate(cfg)
    assert cfg.INPUT.TILES.OVERLAP == overrides[-1]


# ---------------------------------------------------------------- sense of each kind
@pytest.mark.parametrize(
    ("key", "value", "becomes"),
    [
        ("SOLVER.STEPS", ["6e4", 80000.0], (60000, 80000)),
        ("SOLVER.MAX_ITER", "9e4", 90000),
        ("SOLVER.MAX_ITER", 9e4, 90000),
        ("SOLVER.IMS_PER_BATCH", "16.0", 16),
        ("INPUT.PIXEL_STD", ["1e0", 1, 1.0], (1.0, 1.0, 1.0)),
        ("MODEL.RPN.ASPECT_RATIOS", [[0.5, 1.0, 2.0]], (0.5, 1.0, 2.0)),
        ("MODEL.RPN.ANCHOR_SIZES", "[[8], [16]]", ((8,), (16,))),
        ("MODEL.RPN.ANCHOR_SIZES", [32, 64], (32, 64)),
        ("MODEL.RESNETS.STAGE_WITH_DCN", "[true, False, True, false]", (True, False, True, False)),
        ("DATASETS.TRAIN", "[a-b, 2024_01, 'c d', e/f.x]", ("a-b", "2024_01", "c d", "e/f.x")),
        ("DATASETS.TRAIN", "(a, 007)", ("a", "007")),
        ("DATASETS.TRAIN", "null", ("null",)),
        ("SOLVER.WEIGHT_DECAY_NORM", -1, -1.0),
        ("OUTPUT_DIR", "'5'", "5"),
        ("OUTPUT_DIR", "None", None),
        ("SEED", "1_000", 1000),
    ],
)
def test_what_is_meant_is_taken(key: str, value: Any, becomes: Any):
    if becomes is None:
        refused(key, value)
    else:
        assert set_to(key, value) == becomes


def test_values_of_other_libraries_are_taken_and_dumped_as_plain_ones(tmp_path):
    import numpy as np
    import torch

    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("SOLVER.BASE_LR", np.float32(0.5), "SEED", torch.tensor(3), "SOLVER.NESTEROV", np.bool_(True)),
            *("SOLVER.BETAS", np.array([0.5, 0.75]), "INPUT.MIN_SIZE_TRAIN", torch.tensor([64, 96])),
            *(
                "OUTPUT_DIR",
                tmp_path / "out",
                "DATASETS.TRAIN",
                [np.str_("a")],
                "MODEL.RPN.ANCHOR_SIZES",
                [[np.int64(8)]],
            ),
        ]
    )
    cfg.SOLVER.GAMMA = np.float64(0.25)
    validate(cfg)
    assert (
        cfg.SOLVER.NESTEROV is True and cfg.INPUT.MIN_SIZE_TRAIN == (64, 96) and cfg.OUTPUT_DIR == str(tmp_path / "out")
    )
    (tmp_path / "c.yaml").write_text(cfg.dump())
    again = get_cfg()
    again.merge_from_file(tmp_path / "c.yaml")
    assert again == cfg and [type(value) for _, value in again.leaves()] == [type(value) for _, value in cfg.leaves()]


def test_a_truth_is_no_number_and_a_number_no_truth():
    for value in (True, [True], [[True]]):
        refused("INPUT.MIN_SIZE_TRAIN", value)
    refused("MODEL.RESNETS.STAGE_WITH_DCN", [1, 0, 0, 0])
    assert Truth().convert(1) is None


# ---------------------------------------------------------------- overrides
@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["SOLVER.BASE_LR"], "pairs KEY VALUE; got 1 word:"),
        (["SOLVER.BASE_LR=0.1"], "not KEY=VALUE"),
        (["SOLVER.BASE_LR=0.1", "SEED=3"], "not KEY=VALUE"),
        ("SEED 3", "overrides are a list"),
        ({"SEED": 3}, "overrides are a list"),
        (["SOLVER", "3"], "SOLVER is a section"),
        (["SOLVER", "{}"], "SOLVER is a section|unknown"),
        (["SOLVR.BASE_LR", "3"], "did you mean 'SOLVER.BASE_LR'"),
        (["", "3"], "unknown config key"),
        ([None, "3"], "unknown config key"),
        (["SOLVER.BASE_LR.X", "3"], "no key SOLVER.BASE_LR.X below it"),
        (["." * 5000, "3"], "unknown config key"),
    ],
)
def test_slips_in_overrides(words: Any, match: str):
    cfg = get_cfg()
    with pytest.raises(UserError, match=match):
        cfg.merge_from_list(words)
        validate(cfg)
