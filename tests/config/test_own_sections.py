"""Sections that outside code adds: stated once, waited for, and never guessed."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from detframe import registry
from detframe.config import (
    CONTINUES,
    REFUSED,
    Key,
    Resume,
    add_section,
    carried_config,
    get_cfg,
    import_carried,
    import_modules,
    read_config,
    resolve_durations,
    section,
    validate,
)
from detframe.config.bounds import Number
from detframe.config.check import check_names
from detframe.config.key import UNSAID
from detframe.config.keys import all_keys
from detframe.config.reference import explain
from detframe.engine.resuming import changes_since, check_changes
from detframe.registry import Registry

pytestmark = pytest.mark.usefixtures("own_sections")
MODULE = """
from detframe.config import Key, add_section, section
add_section("MODEL.MY_HEAD", section(DIM=Key(64, "Channels of my head", at_least=1, ceiling=999), ON=Key(True, "On")))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that adds MODEL.MY_HEAD, and a config that sets a key of it, in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("head.py").write_text(MODULE)
    Path("c.yaml").write_text("MODEL:\n  MY_HEAD: {DIM: 128}\nCUSTOM_IMPORTS: [head.py]\n")
    return tmp_path / "head.py"


# ---------------------------------------------------------------- from files, overrides, checkpoints
def test_a_file_and_overrides_set_them(module: Path):
    cfg = read_config("c.yaml")
    assert (cfg.MODEL.MY_HEAD.DIM, cfg.MODEL.MY_HEAD.ON, cfg.is_frozen()) == (128, True, True)
    assert cfg.source("MODEL.MY_HEAD.DIM") == "c.yaml:2"
    assert read_config("c.yaml", ["MODEL.MY_HEAD.DIM", "7"]).MODEL.MY_HEAD.DIM == 7
    assert read_config("", ["MODEL.MY_HEAD.DIM", "7", "CUSTOM_IMPORTS", "head.py"]).MODEL.MY_HEAD.DIM == 7
    again = get_cfg()
    again.merge_from_text(cfg.dump(), "what was dumped")
    assert again == cfg


def test_they_wait_until_the_module_is_imported(module: Path):
    cfg = get_cfg()
    cfg.merge_from_file("c.yaml")
    cfg.freeze()
    validate(cfg)
    with pytest.raises(KeyError, match=r"unknown config key MODEL\.MY_HEAD\.DIM \(c\.yaml:2\)"):
        cfg.dump()
    other = pickle.loads(pickle.dumps(cfg.clone()))
    import_modules(other)
    assert other.MODEL.MY_HEAD.DIM == 128 and other.is_frozen()
    import_modules(cfg)
    assert cfg == other and cfg.dump() == other.dump()


def test_a_config_made_before_takes_the_section_in(module: Path):
    cfg = get_cfg()
    exec(MODULE)
    cfg.merge_from_list(["MODEL.MY_HEAD.DIM", 3])
    assert cfg.MODEL.MY_HEAD.DIM == 3 and cfg.MODEL.MY_HEAD.full_key("DIM") == "MODEL.MY_HEAD.DIM"
    with pytest.raises(KeyError, match=r"MODEL\.MY_HEAD\.DMI; did you mean 'MODEL\.MY_HEAD\.DIM'"):
        cfg.MODEL.MY_HEAD.DMI = 3


def test_what_nobody_adds_is_unknown(module: Path):
    module.write_text("")
    with pytest.raises(KeyError, match=r"unknown config key MODEL\.MY_HEAD\.DIM \(c\.yaml:2\)"):
        read_config("c.yaml")
    Path("c.yaml").write_text("MODEL:\n  MY_HEAD: {DIM: 128}\n")
    with pytest.raises(KeyError, match=r"unknown config key MODEL\.MY_HEAD\.DIM"):
        get_cfg().merge_from_file("c.yaml")
    Path("c.yaml").write_text("CUSTOM_IMPORTS: [head.py]\nSOLVER: {BASE_RL: 1}\n")
    with pytest.raises(KeyError, match=r"did you mean 'SOLVER\.BASE_LR'"):  # that section takes no keys
        get_cfg().merge_from_file("c.yaml")


def test_their_limits_are_checked(module: Path):
    with pytest.raises(ValueError, match=r"MODEL\.MY_HEAD\.DIM must be 1 or more, not 0 \(from an override\)"):
        read_config("c.yaml", ["MODEL.MY_HEAD.DIM", 0])
    with pytest.raises(ValueError, match=r"MODEL\.MY_HEAD\.DIM must be a whole number .* 'many' .*an override"):
        read_config("c.yaml", ["MODEL.MY_HEAD.DIM", "many"])


def test_the_config_of_a_checkpoint_waits_for_consent(module: Path):
    text = "MODEL:\n  MY_HEAD: {DIM: 128}\nCUSTOM_IMPORTS: [head.py]\n"
    cfg, bad = (carried_config(text.replace("128", dim), "model.pth") for dim in ("128", "0"))
    with pytest.raises(ValueError, match="allow_custom_imports=True"):
        import_carried(cfg, "model.pth")
    import_carried(cfg, "model.pth", allow=True)
    assert cfg.MODEL.MY_HEAD.DIM == 128
    with pytest.raises(ValueError, match=r"MY_HEAD\.DIM must be 1 or more"):
        import_carried(bad, "model.pth", allow=True)


def test_what_a_resumed_run_does_with_a_change(module: Path):
    cfg = read_config("c.yaml")
    before = {**dict(cfg.leaves()), "MODEL.MY_HEAD.DIM": 64}
    (change,) = changes_since(before, cfg)
    with pytest.raises(ValueError, match=r"MODEL\.MY_HEAD\.DIM 64, the config says 128 \(its Key does not say what"):
        check_changes([change])


# ---------------------------------------------------------------- what can be stated
def test_every_kind_of_key():
    mine = Registry("MINE", "MY_TRICKS.NAME")
    mine.register("here", len)
    add_section(
        "MY_TRICKS",
        section(
            resume=Resume(CONTINUES, "it holds from here on"),
            NAME=Key("here", "A member of my registry", registry=mine),
            BODIES=Key((), "Members of detframe's", registry="BACKBONES"),
            WAIT=Key("1ep", "How long", duration=True),
            TIMES=Key((5, "2ep"), "When", duration=True),
            SIZES=Key([0.5, 1.0], "A list", each=Number(above=0), filled=True),
            MODE=Key("a", "How", choices={"a": "so", "b": ""}, resume=UNSAID),
        ),
    )
    cfg = get_cfg()
    cfg.merge_from_list(["MY_TRICKS.NAME", "heer", "MY_TRICKS.BODIES", "R-50-FNP,R-50-FPN", "MY_TRICKS.MODE", "b"])
    __import__("detframe.modeling")
    with pytest.raises(KeyError, match=r"MY_TRICKS\.NAME .*'heer'(.|\n)*MY_TRICKS\.BODIES .*'R-50-FNP'"):
        check_names(cfg)
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", 10])
    whole = resolve_durations(cfg, num_images=100)
    assert (whole.MY_TRICKS.WAIT, whole.MY_TRICKS.TIMES) == (10, (5, 20))
    assert 'choices: "a" (so), "b"' in explain(cfg, "MY_TRICKS.MODE")
    assert all_keys()["MY_TRICKS.NAME"].resume.kind == CONTINUES
    assert all_keys()["MY_TRICKS.MODE"].resume.kind == REFUSED
    assert registry.BACKBONES.name in explain(cfg, "MY_TRICKS.BODIES")


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        (lambda: Key(1, "A number"), "states a bound .*, or any_value=True"),
        (lambda: Key(1, "A number", at_leats=0), "a Key with the default 1 has no at_leats"),
        (lambda: Key("a", "A text", above=0), "a Key with the default 'a' has no above"),
        (lambda: Key("a", "A word", choices=("a", "b"), empty=True), "a Key with the default 'a' has no empty"),
        (lambda: Key(True, "A switch", any_value=True), "a Key with the default True has no any_value"),
        (
            lambda: Key("2epochs", "How long", duration=True),
            "the default must be a share .*, iterations .* not '2epochs'",
        ),
        (lambda: Key((1, -2), "When", duration=True), "the default must not be negative, got -2"),
        (lambda: Key(1, " ", above=0), "must say what the key means"),
        (lambda: Key(0, "A number", above=0), "the default must be above 0"),
        (lambda: Key("c", "A word", choices=("a", "b")), "the default must be one of 'a', 'b'"),
        (lambda: Key((1,), "A list"), "says with each="),
        (lambda: Key((-1,), "A list", each=Number(above=0)), "the default must be a list of numbers, each above 0"),
        (lambda: Key(None, "Nothing"), "the default of a Key is"),
        (lambda: Key("x", "A name", registry="BACKBONE"), "no registry 'BACKBONE' .* 'BACKBONES'"),
        (lambda: section(dim=Key(1, "A number", above=0)), "'dim' must be in capitals"),
        (lambda: section(DIM=3), "DIM must be a Key or a section, not 3"),
    ],
)
def test_a_statement_that_says_too_little_is_refused(statement, match: str):
    with pytest.raises((TypeError, ValueError, KeyError), match=match):
        statement()


def test_where_a_section_may_be_added():
    own = section(A=Key(1, "A number", above=0))
    add_section("MODEL.MY_HEAD", own)
    add_section("MODEL.MY_HEAD", own)  # a module that is imported under two names
    add_section("MODEL.MY_HEAD.PART", own)
    for path, match in (
        ("MODEL.MY_HEAD", "has other keys of that name"),
        ("MODEL.RPN", "has other keys of that name"),
        ("MODEL.NOWHERE.MINE", r"has no section MODEL\.NOWHERE"),
        ("SEED.MINE", "has no section SEED"),
        ("mine", "must be in capitals"),
    ):
        with pytest.raises(ValueError, match=match):
            add_section(path, section(B=Key(1, "A number", above=0)))
    assert get_cfg().MODEL.MY_HEAD.A == 1 and get_cfg().MODEL.MY_HEAD.PART.A == 1
