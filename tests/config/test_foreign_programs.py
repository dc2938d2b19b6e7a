"""The files of programs: every key of a program is translated or explained, and lands on keys that detframe has."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from detframe.config import get_cfg
from detframe.config.foreign import PROGRAMS, translation
from detframe.config.foreign.program import LOCAL, Program, UntranslatableError, resnet_body, single

BY_NAME = {program.name: program for program in PROGRAMS}


@pytest.fixture(params=sorted(BY_NAME))
def program(request) -> Program:
    return BY_NAME[request.param]


def test_the_tables_are_whole(program: Program):
    assert len(program.defaults) > 100 and len(program.rules) > 60


@pytest.fixture(params=[*sorted(BY_NAME), "of the page"])
def table(request) -> Program:
    """A program of detframe's own, or the one that docs/moving.md makes."""
    return BY_NAME.get(request.param) or page_program()


def test_every_key_is_translated_or_explained(table: Program):
    read = {key for rule in table.rules for key in rule.reads}
    assert [key for key in table.defaults if key not in read and table.reason(key) is None] == []
    assert [key for key in read if table.reason(key) is not None] == [], "translated and explained away"
    assert read <= table.defaults.keys()


def test_explanations_are_of_keys_that_exist(table: Program):
    for start in [*table.implied, *table.missing]:
        assert any(k == start or (start.endswith(".") and k.startswith(start)) for k in table.defaults), start
    assert not set(table.implied) & set(table.missing)


def test_the_defaults_land_on_known_keys_each_once(table: Program):
    native = dict(get_cfg().leaves())
    sets: dict[str, tuple[str, ...]] = {}
    for outcome in table.translate({}):
        for key in outcome.sets:
            assert key in native, f"{outcome.reads} set {key}"
            assert key not in sets, f"{outcome.reads} and {sets[key]} set {key}"
            sets[key] = outcome.reads


def test_what_depends_on_the_machine_stays_detframes(program: Program):
    defaults = dict(get_cfg().leaves())
    assert {key: defaults[key] for key in LOCAL} == {key: program.defaults[key] for key in LOCAL}


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


# ---------------------------------------------------------------- values of the wrong kind
@pytest.mark.parametrize(
    ("program", "key", "value", "kind"),
    [
        ("FCOS", "MODEL.FCOS_ON", "maybe", "True or False"),
        ("FCOS", "MODEL.FCOS_ON", None, "True or False"),
        ("FCOS", "MODEL.WEIGHT", ["a"], "a text"),
        ("FCOS", "MODEL.FCOS.NUM_CLASSES", "many", "a number"),
        ("maskrcnn-benchmark", "SOLVER.MAX_ITER", True, "a number"),
        ("detectron2", "MODEL.RESNETS.DEPTH", "50 layers", "a number"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_the_kind(program: str, key: str, value: object, kind: str):
    with pytest.raises(UntranslatableError, match=rf"not as {program} has it \(.*{key} must be {kind}"):
        BY_NAME[program].translate({key: value})


def test_no_arithmetic_of_a_rule_ends_in_a_traceback():
    with pytest.raises(UntranslatableError, match=r"BBOX_REG_WEIGHT 0: not as FCOS has it \(.*division by zero"):
        BY_NAME["FCOS"].translate({"MODEL.RETINANET.BBOX_REG_WEIGHT": 0})
    outcomes = BY_NAME["detectron2"].translate({"SOLVER.BASE_LR": 0})  # which detframe itself then refuses
    assert {"SOLVER.BASE_LR": 0} in [outcome.sets for outcome in outcomes]


def test_names_paths_and_numbers_of_other_libraries_are_read():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.WEIGHT", "007", "MODEL.ROI_BOX_HEAD.NUM_CLASSES", np.int64(4)])
    assert (cfg.MODEL.WEIGHTS, cfg.MODEL.NUM_CLASSES) == ("007", 3)
    cfg.merge_from_list(["MODEL.WEIGHT", Path("a.pth"), "TEST.DETECTIONS_PER_IMAGE", np.float32(7)])
    assert (cfg.MODEL.WEIGHTS, cfg.TEST.DETECTIONS_PER_IMG) == ("a.pth", 7)


def test_no_weights_are_none():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.WEIGHTS", "a.pth", "MODEL.WEIGHT", None])
    assert cfg.MODEL.WEIGHTS == ""


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("MODEL.FCOS_ON", "5", "True or False"),
        ("MODEL.ROI_BOX_HEAD.NUM_CLASSES", "True", "a number"),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "x", "a number"),
        ("MODEL.RESNETS.TRANS_FUNC", "[1]", "a text"),
        ("MODEL.WEIGHT", 5, "a text"),
    ],
)
def test_over_a_config_of_ours_too(key: str, value: object, kind: str):
    with pytest.raises(ValueError, match=f"{key} must be {kind}"):
        get_cfg().merge_from_list([key, value])


@pytest.mark.parametrize(
    ("program", "key", "sound", "other"),
    [
        ("maskrcnn-benchmark", "MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.25, 0.125, 0.0625, 0.03125), (0.25, 0.125)),
        ("maskrcnn-benchmark", "MODEL.ROI_MASK_HEAD.POOLER_SCALES", (0.0625,), (0.5, 0.25, 0.125, 0.0625)),
        ("maskrcnn-benchmark", "MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES", (0.03125,), (0.25,)),
        ("maskrcnn-benchmark", "MODEL.RPN.ANCHOR_STRIDE", (4, 8, 16, 32, 64), (2, 4, 8, 16, 32)),
        ("maskrcnn-benchmark", "MODEL.RETINANET.ANCHOR_STRIDES", (8, 16, 32, 64, 128), (4, 8, 16, 32, 64)),
        ("FCOS", "MODEL.FCOS.FPN_STRIDES", (8, 16, 32, 64, 128), (4, 8, 16, 32, 64)),
        ("FCOS", "MODEL.RPN.ANCHOR_STRIDE", (16,), (8,)),
    ],
)
def test_maps_that_the_body_does_not_have_are_refused(program: str, key: str, sound: object, other: object):
    """Left out, they would be another detector without a word."""
    assert BY_NAME[program].translate({key: sound})
    with pytest.raises(UntranslatableError, match=rf"{re.escape(f'{key} {other!r}')} of {program} has no counterpart"):
        BY_NAME[program].translate({key: other})


# ---------------------------------------------------------------- a program that grew out of another, and a new one
def test_a_descendant_has_its_parents_keys_and_rules_and_its_own():
    parent, child = BY_NAME["maskrcnn-benchmark"], BY_NAME["FCOS"]
    assert parent.defaults.items() <= child.defaults.items() and len(child.defaults) == len(parent.defaults) + 18
    assert parent.implied.items() <= child.implied.items() and parent.missing == child.missing
    with pytest.raises(UntranslatableError, match=r"MODEL\.GROUP_NORM\.NUM_GROUPS 8 of FCOS has no counterpart"):
        child.translate({"MODEL.GROUP_NORM.NUM_GROUPS": 8})
    assert child.override("INPUT.MIN_SIZE_TRAIN", 800) is None, "there it stands with the range"
    assert parent.override("INPUT.MIN_SIZE_TRAIN", 800) is not None


def page_program() -> Program:
    """The program of docs/moving.md."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "moving.md").read_text(encoding="utf-8")
    (text,) = [
        block for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE) if "SPARROW" in block
    ]
    names: dict[str, Program] = {}
    exec(compile(text, "docs/moving.md", "exec"), names)
    return names["SPARROW"]


def test_the_program_that_the_page_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "detframe")
    monkeypatch.setattr(translation, "PROGRAMS", (*PROGRAMS, page_program()))
    path = tmp_path / "birds.yaml"
    path.write_text("NET: {DEPTH: 101, BIRDS: 7}\nTRAIN: {RATE: 0.002}\nLOG: {COLOURS: False}\n")
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.merge_from_list(["TRAIN.STEPS", "100"])
    assert (cfg.MODEL.BACKBONE.CONV_BODY, cfg.MODEL.RESNETS.NORM, cfg.MODEL.NUM_CLASSES) == ("R-101-FPN", "GN", 7)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.MODEL.BACKBONE.FREEZE_CONV_BODY_AT) == (0.002, 100, 2)
    assert "Sparrow: NET.BIRDS 7 -> MODEL.NUM_CLASSES 7" in caplog.text
    assert "LOG.COLOURS False" in caplog.text and "has no meaning in detframe: the log has no colours" in caplog.text
    path.write_text("NET: {DEPTH: 18, BIRDS: 7}\n")
    with pytest.raises(ValueError, match=r"Sparrow asks for what detframe does not have:\n  NET\.DEPTH 18, only 50"):
        get_cfg().merge_from_file(path)
