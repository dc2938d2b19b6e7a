"""Numbers by the names of classes: MODEL.CLASS_WEIGHTS in files, on the command line and in Python."""

from __future__ import annotations

import pytest

from detframe.config import get_cfg, validate

PAIRS = (("white cell", 2.0), ("7", 0.5))


def read(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    cfg = get_cfg()
    cfg.merge_from_file(tmp_path / "a.yaml")
    return cfg


@pytest.mark.parametrize(
    "written",
    [
        "{white cell: 2, 7: 0.5}",
        "\n    white cell: 2\n    7: 0.5",
        "[[white cell, 2], [7, 0.5]]",
        '"{white cell: 2, 7: 0.5}"',
    ],
)
def test_a_mapping_of_a_file_is_its_value_and_reads_back(tmp_path, written):
    cfg = read(tmp_path, f"MODEL:\n  CLASS_WEIGHTS: {written}\n  NUM_CLASSES: 2\n")
    assert (cfg.MODEL.CLASS_WEIGHTS, cfg.MODEL.NUM_CLASSES) == (PAIRS, 2)
    validate(cfg)
    again = get_cfg()
    again.merge_from_text(cfg.dump(), "a dump")
    assert again == cfg


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("{white cell: 2, 7: 0.5}", PAIRS),
        ("{'white cell': 2, '7': 0.5}", PAIRS),
        ({"white cell": 2, "7": 0.5}, PAIRS),
        (PAIRS, PAIRS),
        ("auto", "auto"),
        ("", ""),
        ("{}", ""),
    ],
)
def test_values_of_the_command_line_and_of_python(value, found):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.CLASS_WEIGHTS", value])
    assert cfg.MODEL.CLASS_WEIGHTS == found
    validate(cfg)


def test_a_file_puts_its_own_in_place_of_those_of_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text("MODEL: {CLASS_WEIGHTS: {car: 2, bus: 3}}\n")
    own = read(tmp_path, "_BASE_: base.yaml\nMODEL: {CLASS_WEIGHTS: {car: 4}}\n")
    assert own.MODEL.CLASS_WEIGHTS == (("car", 4.0),)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{car: -1}", r"MODEL\.CLASS_WEIGHTS must be numbers from 0 to 1e\+06 \(that of 'car' is -1\), not .*override"),
        ("{car: .nan}", r"numbers from 0 to 1e\+06 \(that of 'car' is nan\)"),
        ("autom", r"MODEL\.CLASS_WEIGHTS must be 'auto' or numbers by the names of classes, as \{car: 2.*not 'autom'"),
        ("[[car, 2], [car, 3]]", r"a number once for each class, 'car' among them"),
    ],
)
def test_wrong_values_are_refused(value, message):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.CLASS_WEIGHTS", value])
    with pytest.raises(ValueError, match=message):
        validate(cfg)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{car: much}", r"MODEL\.CLASS_WEIGHTS: the number of class 'car' must be a number, not 'much'"),
        ("[car, bus]", r"MODEL\.CLASS_WEIGHTS must be 'auto' or numbers by the names .*not \['car', 'bus'\]"),
        ("[1, 2]", r"as \{car: 2, bus: 0\.5\} \(it is '' now\), not \[1, 2\]"),
        (3, r"MODEL\.CLASS_WEIGHTS must be 'auto' or numbers"),
    ],
)
def test_what_is_of_another_kind_is_refused_at_once(value, message):
    with pytest.raises(ValueError, match=message):
        get_cfg().merge_from_list(["MODEL.CLASS_WEIGHTS", value])
