"""Every key is explained, in its statement, on the page and by --print-config KEY."""

from __future__ import annotations

import pytest

from detframe.config import get_cfg
from detframe.config.keys import all_keys
from detframe.config.reference import explain, reference_page


def test_every_key_says_what_it_means_and_no_choice_twice():
    for key, statement in all_keys().items():
        assert statement.meaning.strip() and "see above" not in statement.meaning, key
        for choice in statement.choices:
            assert not choice or f'"{choice}"' not in statement.meaning, key


def test_explaining_one_key():
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.AMP", "bf16"])
    lines = explain(cfg, "SOLVER.AMP").splitlines()
    assert lines[0] == "SOLVER.AMP"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["value", "default", "set in", "meaning", "choices"]
    assert '"bf16"' in lines[1] and '"auto"' in lines[2] and "an override" in lines[3]


def test_a_choice_is_explained_where_it_is_listed():
    assert '"auto" (bf16 where the hardware computes in it), "off", ' in explain(get_cfg(), "SOLVER.AMP")
    assert '`"level"` (maskrcnn-benchmark, which then keeps FPN_POST_NMS_TOP_N of all levels) |' in reference_page()


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
