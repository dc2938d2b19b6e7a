"""The tables of rules: every key of a program is translated or explained, and lands on keys that detframe has."""

from __future__ import annotations

import pytest

from detframe.config import get_cfg
from detframe.config.dialects import DIALECTS
from detframe.config.foreign.rules import LOCAL, Dialect, UntranslatableError, resnet_body, single

BY_NAME = {dialect.name: dialect for dialect in DIALECTS}


@pytest.fixture(params=sorted(BY_NAME))
def dialect(request) -> Dialect:
    return BY_NAME[request.param]


def test_every_key_of_the_program_is_translated_or_explained(dialect: Dialect):
    read = {key for rule in dialect.rules for key in rule.reads}
    assert len(dialect.defaults) > 100
    assert [key for key in dialect.defaults if key not in read and dialect.reason(key) is None] == []
    assert [key for key in read if dialect.reason(key) is not None] == [], "translated and explained away"
    assert read <= dialect.defaults.keys()


def test_explanations_are_of_keys_that_exist(dialect: Dialect):
    for start in [*dialect.implied, *dialect.missing]:
        assert any(k == start or (start.endswith(".") and k.startswith(start)) for k in dialect.defaults), start
    assert not set(dialect.implied) & set(dialect.missing)


def test_the_defaults_land_on_known_keys_each_once(dialect: Dialect):
    native = dict(get_cfg().leaves())
    sets: dict[str, tuple[str, ...]] = {}
    for outcome in dialect.translate({}):
        for key in outcome.sets:
            assert key in native, f"{outcome.reads} set {key}"
            assert key not in sets, f"{outcome.reads} and {sets[key]} set {key}"
            sets[key] = outcome.reads
    assert len(sets) > 80


def test_what_depends_on_the_machine_stays_detframes(dialect: Dialect):
    defaults = dict(get_cfg().leaves())
    assert {key: defaults[key] for key in LOCAL} == {key: dialect.defaults[key] for key in LOCAL}


def test_all_refusals_come_in_one_message():
    given = {"MODEL.META_ARCHITECTURE": "PanopticFPN", "SOLVER.LR_SCHEDULER_NAME": "Mine"}
    with pytest.raises(UntranslatableError) as error:
        BY_NAME["detectron2"].translate(given)
    assert "PanopticFPN" in str(error.value) and "'Mine', only WarmupMultiStepLR or WarmupCosineLR" in str(error.value)


def test_a_value_of_the_wrong_form_is_named():
    with pytest.raises(UntranslatableError, match=r"MODEL\.RPN\.ANCHOR_SIZES 32.*not as maskrcnn-benchmark has it"):
        BY_NAME["maskrcnn-benchmark"].translate({"MODEL.RPN.ANCHOR_SIZES": 32})


def test_resnext_names():
    assert resnet_body(101, 32, 8, "FPN")["MODEL.BACKBONE.CONV_BODY"] == "X-101-32x8d-FPN"
    body = resnet_body(152, 32, 8, "FPN")
    assert body["MODEL.BACKBONE.CONV_BODY"] == "R-152-FPN" and body["MODEL.RESNETS.NUM_GROUPS"] == 32
    assert resnet_body(50, 1, 64, "C4")["MODEL.RESNETS.WIDTH_PER_GROUP"] == 0


def test_one_value_for_all():
    assert single("K", [(1, 2), [1, 2]]) == (1, 2)
    with pytest.raises(UntranslatableError, match="K"):
        single("K", [1, 2])
