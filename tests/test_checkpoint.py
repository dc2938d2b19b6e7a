"""A checkpoint is one thing: read, written, asked; damaged, of other programs, of older and of later versions."""

from __future__ import annotations

import pytest
import torch

from detframe.checkpoint import FORMAT, Checkpoint, describe
from detframe.config import get_cfg
from tests.engine.fakes import METADATA, STATE

MODEL = {"layer.weight": torch.arange(6.0).view(2, 3)}


def checkpoint(**training):
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.125, "MODEL.NUM_CLASSES", 2])
    meta = {**describe(cfg, METADATA), "iteration": 7, "metrics": {"bbox/AP": 12.5}}
    return Checkpoint(MODEL, meta, {**STATE, "iteration": 7, **training} if training else None)


@pytest.mark.parametrize("training", [{}, {"stop_reason": "enough"}])
def test_what_is_written_is_what_is_read(tmp_path, training):
    written = checkpoint(**training)
    written.write(tmp_path / "a.pth")
    read = Checkpoint.read(tmp_path / "a.pth")
    assert torch.equal(read.model["layer.weight"], MODEL["layer.weight"])
    assert {**read.meta, "checksum": {}} == {**written.meta, "checksum": {}}
    assert read.training == written.training and read.source == tmp_path / "a.pth"
    assert (read.class_names, read.category_ids) == (("cat", "dog"), (3, 7))
    assert (read.iteration, read.metrics) == (7, {"bbox/AP": 12.5})
    cfg = read.config()
    assert (cfg.SOLVER.BASE_LR, cfg.MODEL.NUM_CLASSES) == (0.125, 2)
    assert read.settings()["SOLVER.BASE_LR"] == 0.125
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_for_use_it_holds_no_state_of_the_training(tmp_path):
    checkpoint(finished=True).for_use().write(tmp_path / "a.pth")
    assert set(torch.load(tmp_path / "a.pth", weights_only=True)) == {"model", "meta"}


def test_what_was_changed_on_the_disk_is_found(tmp_path):
    path = tmp_path / "a.pth"
    checkpoint().write(path)
    content = torch.load(path, weights_only=True)
    content["model"]["layer.weight"][0, 0] = 1e-30
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"a\.pth was damaged after it was written .* the checksum of its 'model' is"):
        Checkpoint.read(path)


def test_what_was_read_can_be_changed_and_written_again(tmp_path):
    checkpoint(finished=False).write(tmp_path / "a.pth")
    read = Checkpoint.read(tmp_path / "a.pth")
    read.state["finished"] = True
    read.write(tmp_path / "a.pth")
    assert Checkpoint.read(tmp_path / "a.pth").state["finished"] is True


def test_the_layout_of_the_first_version_is_read(tmp_path):
    """As written before there were checksums, and with the state of the training in model_final.pth."""
    meta = {"format": 1, "detframe_version": "0.1.0", "config": "SEED: 3\n", "class_names": ["a"], "category_ids": [1]}
    torch.save(
        {"model": MODEL, "meta": {**meta, "iteration": 4, "metrics": {}}, "training": {**STATE, "iteration": 4}},
        tmp_path / "model_final.pth",
    )
    read = Checkpoint.read(tmp_path / "model_final.pth")
    assert (read.iteration, read.state["iteration"], read.config().SEED) == (4, 4, 3)


def test_a_later_layout_is_refused_with_the_remedy(tmp_path):
    later = checkpoint()
    later.meta["format"], later.meta["detframe_version"] = FORMAT + 1, "9.9"
    later.write(tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth is of the format 2, written by detframe 9\.9; .* Update detframe"):
        Checkpoint.read(tmp_path / "a.pth")


OTHERS = {
    "a list": ([1], "is a list"),
    "bare weights": (MODEL, "looks like bare weights of 1 parameters \\('layer.weight'\\)"),
    "detectron2": ({"model": MODEL, "optimizer": {}}, "holds 'model', 'optimizer'"),
    "mmdetection": ({"state_dict": MODEL, "meta": {"config": "x = 1", "CLASSES": ["a"]}}, "holds 'state_dict', 'meta'"),
    "nothing": ({}, "is empty"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_files_of_other_programs_are_none_of_ours(name):
    content, words = OTHERS[name]
    assert not Checkpoint.recognise(content)
    with pytest.raises(ValueError, match=rf"a\.pth is no checkpoint of detframe: .*; it {words}\. Weights of other"):
        Checkpoint.of(content, "a.pth")


WRONG = [
    {"class_names": 3},
    {"class_names": ["a", 1]},
    {"class_names": "ab"},
    {"iteration": "x"},
    {"iteration": -1},
    {"category_ids": [1.5]},
    {"metrics": {"bbox/AP": "high"}},
    {"config": 3},
]


@pytest.mark.parametrize("meta", WRONG)
def test_parts_of_another_kind_are_refused(meta):
    content = {"model": MODEL, "meta": {"class_names": ["a"], **meta}}
    with pytest.raises(ValueError, match=rf"the meta of a\.pth: {next(iter(meta))}"):
        Checkpoint.of(content, "a.pth")


@pytest.mark.parametrize("key", ["config", "category_ids"])
def test_what_it_does_not_say_is_asked_for_in_vain(key):
    sparse = Checkpoint.of({"model": MODEL, "meta": {"class_names": ["a"]}}, "a.pth")
    with pytest.raises(ValueError, match=rf"a\.pth is no whole checkpoint of detframe: its 'meta' says no {key}"):
        sparse.config() if key == "config" else sparse.category_ids


@pytest.mark.parametrize("text", ["a", "[", "- 1", "SEED: [" + "[" * 10_000])
def test_what_is_no_config(text):
    read = Checkpoint(MODEL, {"config": text, "class_names": []}, source="a.pth")
    for ask in (read.config, read.settings):
        with pytest.raises(ValueError, match=r"the config in a\.pth|config in it"):
            ask()


def test_a_config_of_another_version_is_refused_where_it_must_be_whole_and_read_where_not():
    read = Checkpoint(
        MODEL, {"config": "FUTURE: {KEY: [1, 2]}\nSEED: 5\n", "class_names": [], "detframe_version": "9.9"}
    )
    with pytest.raises(ValueError, match=r"written by detframe 9\.9, and this version cannot read .*FUTURE\.KEY"):
        read.config()
    assert read.settings() == {"FUTURE.KEY": [1, 2], "SEED": 5}
