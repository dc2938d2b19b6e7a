"""A recipe as YAML: comments, and the same config when it is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from detframe.config import get_cfg, read_config
from detframe.recipes.choices import choose
from detframe.recipes.text import recipe_text
from detframe.recipes.wish import Choice
from tests.recipes.made import FOUR_GPUS, ONE_GPU, TWO_CORES, facts, wish


def read_back(tmp_path: Path, text: str):
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    return read_config(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("machine", [TWO_CORES, ONE_GPU, FOUR_GPUS])
def test_the_text_reads_back_as_the_choices(machine, tmp_path: Path):
    made = choose(facts(missing=1), machine, wish(overrides={"SEED": -1, "SOLVER.MAX_ITER": "12ep"}))
    cfg = get_cfg()
    cfg.merge_from_list([word for choice in made for word in (choice.key, choice.value)])
    assert read_back(tmp_path, recipe_text(["A heading", ""], made)) == cfg


def test_each_choice_stands_below_its_reason():
    made = choose(facts(), TWO_CORES, wish())
    lines = recipe_text([], made).splitlines()
    assert max(map(len, lines)) <= 120
    for choice in made:
        name = choice.key.rpartition(".")[2]
        above = " ".join(line.strip().removeprefix("# ") for line in lines if line.strip().startswith("#"))
        assert choice.reason in above, choice
        at = next(i for i, line in enumerate(lines) if line.strip().startswith(f"{name}: "))
        assert lines[at - 1].strip().startswith("#")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("OUTPUT_DIR", "out: put/ä #1"),
        ("OUTPUT_DIR", "007"),
        ("OUTPUT_DIR", "no"),
        ("OUTPUT_DIR", "1e5"),
        ("OUTPUT_DIR", "two\nlines"),
        ("DATASETS.TRAIN", ("2024_01", "x, y", "it's")),
        ("SOLVER.BASE_LR", 1e-7),
        ("SOLVER.EMA_DECAY", 0.0),
        ("MODEL.MASK_ON", True),
        ("MODEL.RPN.ANCHOR_SIZES", ((16, 20), (32, 40), (64.5, 80))),
        ("MODEL.WEIGHTS", ""),
    ],
)
def test_any_value_reads_back(key: str, value: Any, tmp_path: Path):
    cfg = read_back(tmp_path, recipe_text([], [Choice(key, value, "any reason\nin two lines")]))
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    assert node == value


def test_a_reason_cannot_leave_its_comment(tmp_path: Path):
    text = recipe_text(["a\rSEED: 5", "b\x85SEED: 6\u2028SEED: 7"], [Choice("SEED", 1, "x\nSEED: 2\r\x0bSEED: 3")])
    assert read_back(tmp_path, text).SEED == 1


def test_a_base_comes_first(tmp_path: Path):
    text = recipe_text([], [Choice("SEED", 1, "why not")], "quick/fcos_R_18_FPN_bccd.yaml")
    cfg = read_back(tmp_path, text)
    assert cfg.SEED == 1 and cfg.MODEL.RPN.NAME == "FCOS"
