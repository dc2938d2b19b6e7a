"""Every key is explained, in the file, on the page and by --print-config KEY."""

from __future__ import annotations

import pytest

from detframe.config import get_cfg
from detframe.config.reference import explain, key_references, meaning, reference_page


def test_every_key_of_the_defaults_is_found_in_the_source():
    assert list(key_references()) == [key for key, _ in get_cfg().leaves()]


def test_every_key_has_a_comment():
    references = key_references()
    assert [key for key in references if not meaning(references, key)] == []


def test_comments_over_several_lines_are_joined():
    text = key_references()["MODEL.RPN.LOSS_NORMALIZER"].comment
    assert "torchvision) or by BATCH_SIZE_PER_IMAGE" in text and "#" not in text


def test_explaining_one_key():
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.AMP", "bf16"])
    lines = explain(cfg, "SOLVER.AMP").splitlines()
    assert lines[0] == "SOLVER.AMP"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["value", "default", "set in", "meaning", "choices"]
    assert '"bf16"' in lines[1] and '"auto"' in lines[2] and "an override" in lines[3]


def test_explaining_a_section_is_its_yaml():
    assert explain(get_cfg(), "TEST").startswith("TEST:\n  EVALUATOR: coco\n")


def test_explaining_what_is_not_there():
    with pytest.raises(KeyError, match=r"SOLVER\.BASE_LR"):
        explain(get_cfg(), "SOLVER.BASE_RL")


def test_the_page_names_every_key():
    page = reference_page()
    for key, _ in get_cfg().leaves():
        section, _, name = key.rpartition(".")
        assert f"## {section or 'Top level'}\n" in page and f"| `{name}` |" in page
