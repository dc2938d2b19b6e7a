"""Configs read line by line say what YAML says."""

from __future__ import annotations

import pytest
import yaml

from detframe.config import get_cfg
from detframe.engine.run_configs import differing_keys, flat_config, short_names


def flat(tree: dict, prefix: str = "") -> dict[str, object]:
    out = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return out


def test_every_value_of_a_dumped_config_is_what_yaml_reads():
    cfg = get_cfg()
    boxes = [[float(10 * i + j) for j in range(8)] for i in range(12)]  # too long for a line
    cfg.merge_from_list(["MODEL.RPN.ANCHOR_SIZES", boxes, "SOLVER.BASE_LR", 1.5e-7, "DATASETS.TRAIN", ["a: b", "c#d"]])
    text = cfg.dump()
    expected = flat(yaml.safe_load(text))
    found = {key: yaml.safe_load(value) for key, value in flat_config(text).items()}
    assert found == expected and len(found) > 300


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# only\n", {}),
        (
            "SOLVER:\n  BASE_LR: 0.1\n  STEPS: [1,\n    2]\nSEED: 3\n",
            {"SOLVER.BASE_LR": "0.1", "SOLVER.STEPS": "[1, 2]", "SEED": "3"},
        ),
        ("SOLVER:\n  BASE_LR: 0.1\n  STEPS: [1,\n", {"SOLVER.BASE_LR": "0.1", "SOLVER.STEPS": "[1,"}),
        ("A:\n  B:\n  - x\n  - y: 1\n", {"A.B": "- x - y: 1"}),
        ("\x00\x01 no config\n]]]\n", {}),
    ],
)
def test_other_texts_give_what_can_be_read(text: str, expected: dict[str, str]):
    assert flat_config(text) == expected


def test_a_key_that_an_older_version_lacks_has_its_default():
    default = flat_config(get_cfg().dump())
    older = {key: value for key, value in default.items() if key != "TEST.REPORT"}
    assert differing_keys([default, older]) == []
    assert differing_keys([{**default, "TEST.REPORT": "false", "OUTPUT_DIR": "b"}, older]) == ["TEST.REPORT"]


def test_names_are_as_short_as_they_may_be():
    assert short_names(["SOLVER.BASE_LR", "MODEL.FPN.NORM", "MODEL.RPN.NORM", "SEED"]) == [
        *("BASE_LR", "FPN.NORM", "RPN.NORM", "SEED"),
    ]
    assert short_names(["NORM", "A.NORM"]) == ["NORM", "A.NORM"]


POLYNOMIAL, STEP = {"SOLVER.LR_SCHEDULE": "polynomial"}, {"SOLVER.LR_SCHEDULE": "step"}


@pytest.mark.parametrize(
    ("configs", "keys"),
    [
        # nobody's schedule has the power, or those that have it agree
        ([{**STEP, "SOLVER.POLYNOMIAL_POWER": "2.0"}, {**STEP, "SOLVER.POLYNOMIAL_POWER": "3.0"}], []),
        ([{**STEP, "SOLVER.POLYNOMIAL_POWER": "2.0"}, POLYNOMIAL], ["SOLVER.LR_SCHEDULE"]),
        # one run has it, and with another value than by default
        ([{**POLYNOMIAL, "SOLVER.POLYNOMIAL_POWER": "2.0"}, STEP], ["SOLVER.LR_SCHEDULE", "SOLVER.POLYNOMIAL_POWER"]),
        ([{"INPUT.TILES.OVERLAP": "0.4"}, {}, {}], []),
        (
            [{"INPUT.TILES.OVERLAP": "0.4", "INPUT.TILES.SIZE": "64"}, {"INPUT.TILES.SIZE": "64"}],
            ["INPUT.TILES.OVERLAP"],
        ),
        # what turns it off is the same in all
        ([{"MODEL.ROI_HEADS.NAME": "''", "MODEL.ROI_BOX_HEAD.SEESAW_P": f"0.{i}"} for i in range(3)], []),
        # somebody's own keys, values that nobody can read, and no config at all
        ([{"MINE.OWN": "1"}, {"MINE.OWN": "2"}], ["MINE.OWN"]),
        ([{"SOLVER.STEPS": "[1,"}, {"SOLVER.STEPS": "many"}], ["SOLVER.STEPS"]),
        (
            [{"INPUT.TILES.OVERLAP": "0.4", "INPUT.TILES": "x", "MODEL": "7"}, {"INPUT.TILES.OVERLAP": "0.3"}],
            ["INPUT.TILES", "MODEL"],
        ),
        ([{"SEED": "3"}, {}], ["SEED"]),
    ],
)
def test_a_key_that_another_one_turns_off_makes_no_difference(configs: list[dict[str, str]], keys: list[str]):
    default = flat_config(get_cfg().dump())
    assert differing_keys([{**default, **config} for config in configs]) == keys
    assert differing_keys([{}, *({**default, **config} for config in configs)]) == keys  # one that cannot be read
