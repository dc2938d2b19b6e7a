"""Every form of registering and looking up."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import detframe
from detframe import registry
from detframe.config import import_custom_modules
from detframe.registry import Registry, nearest


@pytest.fixture
def backbones() -> Registry:
    return Registry("BACKBONES", "MODEL.BACKBONE.CONV_BODY")


class Net:
    pass


def build() -> None:
    return None


def test_without_parentheses_registers_under_its_own_name_and_returns_the_object(backbones: Registry):
    decorated = backbones.register(Net)
    assert decorated is Net and backbones["Net"] is Net


def test_with_empty_parentheses(backbones: Registry):
    assert backbones.register()(build) is build
    assert backbones.get("build") is build


def test_with_a_name(backbones: Registry):
    assert backbones.register("R-50-FPN")(Net) is Net
    assert "R-50-FPN" in backbones and "Net" not in backbones


def test_with_name_and_object(backbones: Registry):
    assert backbones.register("R-50-FPN", Net) is Net
    assert backbones["R-50-FPN"] is Net


def test_stacked_decorators_give_several_names(backbones: Registry):
    @backbones.register("a")
    @backbones.register("b")
    @backbones.register
    def resnet() -> None:
        return None

    assert [name for name, obj in backbones if obj is resnet] == ["a", "b", "resnet"]
    assert len(backbones) == 3


def test_the_same_object_twice_changes_nothing(backbones: Registry):
    backbones.register("net", Net)
    backbones.register("net", Net)
    assert len(backbones) == 1


def test_a_reloaded_file_may_register_again(backbones: Registry):
    source = "def reloaded():\n    return None\n"
    for _ in range(2):
        names: dict[str, object] = {"__name__": "my_module"}
        exec(compile(source, "/tmp/my_module.py", "exec"), names)
        backbones.register(names["reloaded"])
    assert len(backbones) == 1


def test_a_taken_name_is_an_error_that_names_the_owner(backbones: Registry):
    backbones.register("net", Net)
    with pytest.raises(ValueError, match=r"BACKBONES: the name 'net' is taken by .*Net \(.*test_registry\.py:\d+\)"):
        backbones.register("net", build)
    assert backbones["net"] is Net


def test_local_objects_of_one_name_are_different_objects(backbones: Registry):
    def make():
        def inner() -> None:
            return None

        return inner

    backbones.register("x", make())
    with pytest.raises(ValueError, match="taken by"):
        backbones.register("x", make())


def test_an_unknown_name_lists_the_nearest_and_the_key_that_chose_it(backbones: Registry):
    backbones.register("R-50-FPN", Net)
    backbones.register("R-101-FPN", Net)
    with pytest.raises(KeyError) as caught:
        backbones.get("R50-FPN")
    message = caught.value.args[0]
    assert "'R-50-FPN'" in message and "MODEL.BACKBONE.CONV_BODY" in message and "CUSTOM_IMPORTS" in message


def test_a_name_like_no_other_lists_all(backbones: Registry):
    backbones.register("R-50-FPN", Net)
    with pytest.raises(KeyError, match="known: R-50-FPN"):
        backbones["zzz"]


@pytest.mark.parametrize(("args", "match"), [((3,), "neither"), (("name", 3), "neither"), (("", Net), "non-empty")])
def test_what_is_no_class_function_or_name_is_refused(backbones: Registry, args: tuple, match: str):
    with pytest.raises(TypeError, match=match):
        backbones.register(*args)


def test_repr_is_a_table(backbones: Registry):
    backbones.register("R-50-FPN", Net)
    assert "BACKBONES (MODEL.BACKBONE.CONV_BODY), 1 members" in repr(backbones)
    assert "R-50-FPN" in repr(backbones)


def test_every_registry_of_the_page_has_its_own_name_as_name():
    found = {name: value for name, value in vars(registry).items() if isinstance(value, Registry)}
    assert {"BACKBONES", "RPN_HEADS", "ROI_HEADS", "DATASET_FORMATS", "EVALUATORS", "OPTIMIZERS"} <= set(found)
    assert all(value.name == name for name, value in found.items())


def test_a_family_owns_the_names_that_begin_with_it():
    things = Registry("THINGS", "a key")

    @things.register("zoo/")
    def family():
        return "any"

    @things.register("zoo/own")
    def own():
        return "own"

    assert things.get("zoo/some-FPN") is family and things["zoo/own"] is own
    assert "zoo/some-FPN" in things and "park/x" not in things
    with pytest.raises(KeyError, match="THINGS has no 'park/x'"):
        things.get("park/x")


def test_an_unknown_name_says_what_was_imported(tmp_path, monkeypatch):
    """A stale copy of detframe, or a file of one's own that was not imported, or registers something else, is seen."""
    monkeypatch.setattr("detframe.registry._imported", {})
    things = Registry("THINGS", "a key")
    package = str(Path(detframe.__file__).parent)
    with pytest.raises(KeyError, match=rf"what was imported is {re.escape(package)}\."):
        things.get("x")
    things.register("own", test_a_family_owns_the_names_that_begin_with_it)
    things.register("theirs", Registry)
    things.register("none", type("Made", (), {"__module__": "no_module"}))
    with pytest.raises(KeyError, match=rf"what was imported is {re.escape(package)} and {re.escape(__file__)}\."):
        things.get("x")
    mine = tmp_path / "forgot_its_decorator.py"
    mine.write_text("class Mine:\n    pass\n")
    import_custom_modules([str(mine), "json"])
    where = rf"{re.escape(package)} and {re.escape(str(mine))}, {re.escape(json.__file__)}, {re.escape(__file__)}\."
    with pytest.raises(KeyError, match=f"what was imported is {where}"):
        things.get("x")


def test_of_more_names_than_a_screen_holds_the_first_few_are_shown():
    said = nearest("zzzz", [f"model{number:04}" for number in range(1300)])
    assert said.startswith("known: model0000, ") and said.endswith("model0019 and 1280 more")
    assert nearest("zzzz", ["b", "a"]) == "known: a, b"
    assert nearest("BOLT", ["Bolt", "bolt", "nut"]) == "did you mean 'Bolt' or 'bolt'?"
