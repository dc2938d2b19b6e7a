"""What a space may say, and what is told of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from detframe.config import get_cfg
from detframe.errors import MissingFileError
from detframe.tuning.space import Options, Range, read_space


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_ranges_and_lists_in_both_ways_to_write_keys(tmp_path: Path):
    text = """
SOLVER.BASE_LR: {low: 1e-4, high: 1e-1, log: true}
SOLVER:
  MAX_ITER: {low: 100, high: 300, step: 100}
  OPTIMIZER: [SGD, AdamW]
INPUT.MIN_SIZE_TRAIN: [64, [64, 96]]
"""
    assert read_space(written(tmp_path, text), get_cfg()) == {
        "SOLVER.BASE_LR": Range("SOLVER.BASE_LR", 1e-4, 0.1, log=True),
        "SOLVER.MAX_ITER": Range("SOLVER.MAX_ITER", 100, 300, step=100, whole=True, unit="it"),
        "SOLVER.OPTIMIZER": Options("SOLVER.OPTIMIZER", {"SGD": "SGD", "AdamW": "AdamW"}),
        "INPUT.MIN_SIZE_TRAIN": Options("INPUT.MIN_SIZE_TRAIN", {"[64]": (64,), "[64, 96]": (64, 96)}),
    }


def test_a_dict_is_read_as_a_file_is(tmp_path: Path):
    tree = {"SOLVER": {"MOMENTUM": {"low": 0.5, "high": 0.9}}, "SOLVER.NESTEROV": [True, False]}
    text = "SOLVER: {MOMENTUM: {low: 0.5, high: 0.9}}\nSOLVER.NESTEROV: [true, false]\n"
    assert read_space(tree, get_cfg()) == read_space(written(tmp_path, text), get_cfg())


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("SOLVER.BASE_RL: [1, 2]", "unknown config key SOLVER.BASE_RL; did you mean 'SOLVER.BASE_LR'"),
        ("SOLVER: [1, 2]", "SOLVER is a section; name its keys, as SOLVER."),
        ("SOLVER.BASE_LR: 0.1", "must be a list of the values to try, or {low: ..., high: ...}, not 0.1"),
        ("SOLVER.BASE_LR: {low: 0.1}", "a range needs low and high; high is missing"),
        ("SOLVER.BASE_LR: {low: 0.1, hihg: 1}", "unknown word 'hihg' (SPACE:1); did you mean 'high'?"),
        ("SOLVER.BASE_LR: {low: 1, high: 0.1}", "low must be below high, not 1 and 0.1"),
        ("SOLVER.BASE_LR: {low: 0.1, high: .inf}", "SOLVER.BASE_LR: high must be finite and above 0, not inf"),
        ("SOLVER.BASE_LR: {low: -.inf, high: 1}", "SOLVER.BASE_LR: low must be above 0, not -inf"),
        ("SOLVER.BASE_LR: {low: 0.1, high: 1, log: maybe}", "log must be true or false, not 'maybe'"),
        ("SOLVER.BASE_LR: {low: 0.1, high: 1, step: 0}", "step must be a number above 0, not 0"),
        ("SOLVER.BASE_LR: {low: 0.1, high: 1, step: 5}", "step 5 is longer than the range from 0.1 to 1"),
        ("SOLVER.BASE_LR: {low: 0.1, high: 1, step: 0.1, log: true}", "log and step exclude each other"),
        ("SOLVER.WEIGHT_DECAY: {low: 0, high: 1, log: true}", "with log, low must be above 0, not 0"),
        ("SOLVER.WEIGHT_DECAY: {low: -1, high: 1}", "SOLVER.WEIGHT_DECAY: low must be 0 or more, not -1.0"),
        ("SOLVER.MAX_ITER: {low: 10, high: 30, step: 0.5}", "step must be a whole number above 0, not 0.5"),
        ("SOLVER.MAX_ITER: {low: 1ep, high: 3000}", "in one unit, and low is epochs and high iterations"),
        ("SOLVER.WARMUP_ITERS: {low: 0.1, high: 3ep}", "low is a share of the training and high epochs"),
        ("SOLVER.MAX_ITER: {low: 0.1, high: 0.5}", "low must be iterations (90000) or epochs"),
        ("SOLVER.MAX_ITER: {low: 1ep, high: 3ep, step: 100it}", 'step must be epochs, as "0.5ep", and above 0'),
        ("SOLVER.OPTIMIZER: {low: 1, high: 2}", "is a string, which has no range; list the values"),
        ("MODEL.FCOS.BOX_QUALITY: [iou, uio]", "MODEL.FCOS.BOX_QUALITY, value 2 must be one of"),
        ("SOLVER.OPTIMIZER: [SGD, SGD]", "SGD is given twice"),
        ("SOLVER.OPTIMIZER: [SGD]", "one value is no choice (SGD); set it in the config instead"),
        ("SOLVER.OPTIMIZER: []", "one value is no choice (none)"),
        ("OUTPUT_DIR: [a, b]", "OUTPUT_DIR cannot be tried: every trial has a folder of its own"),
        ("SEED: {low: 0, high: 9}", "SEED cannot be tried: the best of several seeds is luck"),
        ("DATASETS.TEST: [[a], [b]]", "DATASETS.TEST cannot be tried: trials that are judged differently"),
        ("TEST.EVAL_PERIOD: [1, 2]", "TEST.EVAL_PERIOD cannot be tried: trials are compared with each other"),
        ("DATALOADER.NUM_WORKERS: [1, 2]", "cannot be tried: how the work is done or what is written"),
    ],
)
def test_what_is_wrong_is_told_with_its_key_and_line(tmp_path: Path, line: str, told: str):
    path = written(tmp_path, line)
    with pytest.raises(ValueError) as caught:
        read_space(path, get_cfg())
    assert told.replace("SPACE", str(path)) in str(caught.value)
    assert f"{path}:1" in str(caught.value)


def test_all_errors_are_told_at_once(tmp_path: Path):
    with pytest.raises(ValueError, match=r"(?s)SOLVER\.BASE_RL.*SEED cannot be tried"):
        read_space(written(tmp_path, "SOLVER.BASE_RL: [1, 2]\nSEED: [1, 2]\n"), get_cfg())


@pytest.mark.parametrize("text", ["", "# nothing\n"])
def test_an_empty_space_shows_what_one_looks_like(tmp_path: Path, text: str):
    with pytest.raises(ValueError, match=r"is empty; it names the keys to try, as\n  SOLVER\.BASE_LR: \{low"):
        read_space(written(tmp_path, text), get_cfg())


def test_what_is_no_space(tmp_path: Path):
    with pytest.raises(MissingFileError, match=r"nowhere\.yaml does not exist"):
        read_space(tmp_path / "nowhere.yaml", get_cfg())
    with pytest.raises(ValueError, match="a space is a YAML file or a dict"):
        read_space(["SOLVER.BASE_LR"], get_cfg())
    with pytest.raises(ValueError, match="is not valid YAML"):
        read_space(written(tmp_path, "SOLVER.BASE_LR: {low: 1"), get_cfg())


@pytest.mark.parametrize(
    ("value", "inside"), [(0.1, True), (0.5, True), (0.3, True), (0.25, False), (0.6, False), (True, False)]
)
def test_which_values_a_range_has(value: object, inside: bool):
    assert Range("SOLVER.MOMENTUM", 0.1, 0.5, step=0.1).holds(value) == inside


def test_ranges_of_durations_have_a_unit(tmp_path: Path):
    text = """
SOLVER:
  MAX_ITER: {low: 1ep, high: 3ep, step: 0.5ep}
  WARMUP_ITERS: {low: 0, high: 0.1}
  SWA_START: {low: 0, high: 5ep, step: 1}
"""
    space = read_space(written(tmp_path, text), get_cfg())
    epochs, share, swa = space.values()
    assert epochs == Range("SOLVER.MAX_ITER", 1, 3, step=0.5, unit="ep") and epochs.value(1.5) == "1.5ep"
    assert [epochs.holds(value) for value in ("2.5ep", "2.6ep", "4ep", 2, 0)] == [True, False, False, False, False]
    assert share == Range("SOLVER.WARMUP_ITERS", 0, 0.1, unit="share") and share.value(0.05) == 0.05
    assert [share.holds(value) for value in (0.05, 0, 0.2, 1, "0ep")] == [True, True, False, False, True]
    assert swa.unit == "ep" and swa.value(0.0) == "0ep" and swa.step == 1


def test_a_list_tells_true_from_one():
    assert Options("K", {"True": True, "False": False}).holds(True)
    assert not Options("K", {"True": True, "False": False}).holds(1)
