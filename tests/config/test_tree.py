"""The config tree: closed, typed, and it knows where values come from."""

from __future__ import annotations

import copy
import pickle

import pytest

from detframe.config import ConfigKeyError, ConfigNode, get_cfg


@pytest.fixture
def cfg() -> ConfigNode:
    return get_cfg()


def test_two_configs_share_nothing(cfg: ConfigNode):
    cfg.SOLVER.BASE_LR = 0.5
    assert get_cfg().SOLVER.BASE_LR == 0.02


# ---------------------------------------------------------------- closed
def test_unknown_key_in_an_override_names_the_nearest(cfg: ConfigNode):
    with pytest.raises(KeyError) as caught:
        cfg.merge_from_list(["SOLVER.BASE_RL", 0.1])
    assert str(caught.value).startswith(
        "unknown config key SOLVER.BASE_RL (an override); did you mean 'SOLVER.BASE_LR'"
    )


def test_unknown_key_in_an_assignment_names_the_nearest(cfg: ConfigNode):
    with pytest.raises(ConfigKeyError, match=r"unknown config key SOLVER\.MAX_ITERS; did you mean 'SOLVER\.MAX_ITER'"):
        cfg.SOLVER.MAX_ITERS = 3
    with pytest.raises(KeyError, match="MODEL"):
        cfg["MODLE"] = 1
    with pytest.raises(AttributeError, match=r"SOLVER\.BASE_LR"):
        _ = cfg.SOLVER.BASE_L
    assert not hasattr(cfg.SOLVER, "MAX_ITERS")


def test_a_section_cannot_become_a_value_nor_a_value_a_section(cfg: ConfigNode):
    with pytest.raises(ValueError, match="SOLVER is a section"):
        cfg.merge_from_list(["SOLVER", 3])
    with pytest.raises(ValueError, match="section"):
        cfg.SOLVER = {"BASE_LR": 1}
    with pytest.raises(ValueError, match=r"SOLVER\.BASE_LR is a value"):
        cfg.SOLVER.BASE_LR = ConfigNode()
    with pytest.raises(KeyError, match=r"SOLVER\.BASE_LR\.X"):
        cfg.merge_from_list(["SOLVER.BASE_LR.X", 3])


def test_overrides_come_in_pairs(cfg: ConfigNode):
    with pytest.raises(ValueError, match=r"KEY VALUE; got 1 word:.*not KEY=VALUE"):
        cfg.merge_from_list(["SOLVER.BASE_LR=0.1"])


# ---------------------------------------------------------------- types
@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("SOLVER.BASE_LR", 1, 1.0),
        ("SOLVER.BASE_LR", "1e-3", 0.001),
        ("SOLVER.BASE_LR", "0.25", 0.25),
        ("SOLVER.IMS_PER_BATCH", "4", 4),
        ("SOLVER.NESTEROV", "true", True),
        ("SOLVER.NESTEROV", "False", False),
        ("SOLVER.AMP", False, "off"),  # YAML reads the word off as False
        ("SOLVER.AMP", "off", "off"),
        ("DATASETS.TRAIN", "my_data", ("my_data",)),
        ("DATASETS.TRAIN", ["a", "b"], ("a", "b")),
        ("DATASETS.TRAIN", "('a', 'b')", ("a", "b")),
        ("DATASETS.TRAIN", "[]", ()),
        ("DATASETS.TRAIN", "a,b", ("a", "b")),
        ("DATASETS.TRAIN", "a, 007,no", ("a", "007", "no")),
        ("DATASETS.TRAIN", "[a,b]", ("a", "b")),
        ("DATASETS.TRAIN", '"[a,b]"', ("a", "b")),
        ("INPUT.MIN_SIZE_TRAIN", "640,800", (640, 800)),
        ("INPUT.MIN_SIZE_TRAIN", "[640,800]", (640, 800)),
        ("MODEL.RPN.ANCHOR_SIZES", "[8],[16,32]", ((8,), (16, 32))),
        ("SOLVER.STEPS", "8ep,11ep", ("8ep", "11ep")),
        ("SOLVER.BETAS", "0.9,0.99", (0.9, 0.99)),
        ("INPUT.MIN_SIZE_TRAIN", 640, (640,)),
        ("MODEL.RPN.ANCHOR_SIZES", [[8], [16, 32]], ((8,), (16, 32))),
        ("SOLVER.MAX_ITER", "12ep", "12ep"),
        ("SOLVER.MAX_ITER", "500", 500),
        ("OUTPUT_DIR", "out", "out"),
    ],
)
def test_what_a_value_becomes(cfg: ConfigNode, key: str, given: object, value: object):
    cfg.merge_from_list([key, given])
    node = cfg
    for name in key.split("."):
        node = node[name]
    assert node == value and type(node) is type(value)


def test_a_list_with_an_empty_part_is_an_error(cfg: ConfigNode):
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN must be a list, as a,b or \[a, b\], and ',a' is none"):
        cfg.merge_from_list(["DATASETS.TRAIN", ",a"])


def test_lists_of_a_file_may_be_written_with_commas(cfg: ConfigNode, tmp_path):
    (tmp_path / "x.yaml").write_text("DATASETS:\n  TRAIN: a,b\nINPUT:\n  MIN_SIZE_TRAIN: 640,800\n")
    cfg.merge_from_file(tmp_path / "x.yaml")
    assert (cfg.DATASETS.TRAIN, cfg.INPUT.MIN_SIZE_TRAIN) == (("a", "b"), (640, 800))


def test_an_int_widens_to_float_in_an_assignment(cfg: ConfigNode):
    cfg.SOLVER.BASE_LR = 1
    assert type(cfg.SOLVER.BASE_LR) is float


@pytest.mark.parametrize(
    ("key", "given", "wanted"),
    [
        ("SOLVER.IMS_PER_BATCH", 2.5, "a whole number"),
        ("SOLVER.IMS_PER_BATCH", True, "a whole number"),
        ("SOLVER.BASE_LR", "fast", "a number"),
        ("SOLVER.BASE_LR", True, "a number"),
        ("SOLVER.NESTEROV", 1, "True or False"),
        ("SOLVER.NESTEROV", "yes", "True or False"),
        ("OUTPUT_DIR", 5, "a string"),
        ("INPUT.MIN_SIZE_TRAIN", True, "a list"),
        ("SOLVER.MAX_ITER", 1.5, "iterations"),
        ("SOLVER.WARMUP_ITERS", 1.5, "a share of the training"),
    ],
)
def test_the_wrong_type_is_an_error_with_key_and_both_types(cfg: ConfigNode, key: str, given: object, wanted: str):
    with pytest.raises(ValueError, match=f"{key} must be {wanted} .*{given!r} of type {type(given).__name__}"):
        cfg.merge_from_list([key, given])


# ---------------------------------------------------------------- frozen, copied, dumped
def test_frozen_means_frozen_by_every_way(cfg: ConfigNode):
    cfg.freeze()
    for change in (
        lambda: setattr(cfg.SOLVER, "BASE_LR", 1.0),
        lambda: cfg["SOLVER"].__setitem__("BASE_LR", 1.0),
        lambda: cfg.merge_from_list(["SOLVER.BASE_LR", 1.0]),
    ):
        with pytest.raises(AttributeError, match=r"the config is frozen; SOLVER\.BASE_LR cannot change"):
            change()
    copied = cfg.clone()
    copied.defrost()
    copied.SOLVER.BASE_LR = 1.0
    assert (cfg.SOLVER.BASE_LR, copied.SOLVER.BASE_LR) == (0.02, 1.0)


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c)), lambda c: c.clone()])
def test_copies_stay_closed_typed_and_equal(cfg: ConfigNode, copy_of):
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.5])
    cfg.freeze()
    other = copy_of(cfg)
    assert other == cfg and other.is_frozen()
    other.defrost()
    with pytest.raises(KeyError, match=r"SOLVER\.BASE_LR"):
        other.SOLVER.BASE_L = 1
    other.SOLVER.BASE_LR = 2
    assert cfg.SOLVER.BASE_LR == 0.5 and other.SOLVER.BASE_LR == 2.0


def test_what_is_dumped_reads_back_the_same(cfg: ConfigNode, tmp_path):
    cfg.merge_from_list(["MODEL.RPN.ANCHOR_SIZES", [[8], [16]], "SOLVER.AMP", "off", "SOLVER.MAX_ITER", "12ep"])
    file = tmp_path / "config.yaml"
    file.write_text(cfg.dump(), encoding="utf-8")
    other = get_cfg()
    other.merge_from_file(file)
    assert other == cfg
    assert [type(value) for _, value in other.leaves()] == [type(value) for _, value in cfg.leaves()]


# ---------------------------------------------------------------- provenance
def test_it_knows_where_values_come_from(cfg: ConfigNode, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("SOLVER:\n  BASE_LR: 0.1\n  GAMMA: 0.5\n", encoding="utf-8")
    cfg.merge_from_file(file)
    cfg.merge_from_list(["SOLVER.GAMMA", 0.2])
    assert cfg.source("SOLVER.BASE_LR") == f"{file}:2"
    assert cfg.source("SOLVER.GAMMA") == "an override"
    assert cfg.source("SOLVER.MOMENTUM") == "the default"
    assert cfg.clone().source("SOLVER.BASE_LR") == f"{file}:2"


def test_changed_gives_a_frozen_copy_and_leaves_the_config_as_it_is():
    cfg = get_cfg()
    other = cfg.changed([("SOLVER.BASE_LR", 0.5), ("MODEL.DEVICE", "cpu")])
    assert (other.SOLVER.BASE_LR, other.MODEL.DEVICE, other.is_frozen()) == (0.5, "cpu", True)
    assert other.source("MODEL.DEVICE") == "an override"
    assert (cfg.SOLVER.BASE_LR, cfg.is_frozen()) == (get_cfg().SOLVER.BASE_LR, False)
