"""Checkpoints: whole or absent, readable safely, and the right ones kept."""

import collections
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.tv_tensors import Image

from detframe.checkpoint import Checkpoint, describe
from detframe.engine.checkpoint import best_weights, last_checkpoint
from detframe.engine.random_numbers import rng_state, set_rng_state
from detframe.files import atomic_write, write_text
from detframe.torch_files import archive, write_torch_file
from tests.engine.fakes import METADATA, STATE, make_checkpointer, make_config

MODEL = {"w": torch.arange(6.0)}


def save(folder, name, iteration=0, keep_last=3):
    state = {**STATE, "iteration": iteration}
    return make_checkpointer(folder, keep_last).save(name, MODEL, state, {"bbox/AP": 12.5})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_layout_loads_with_weights_only(tmp_path):
    path = save(tmp_path, "model_0000016.pth", 16)
    content = torch.load(path, weights_only=True)
    assert torch.equal(content["model"]["w"], MODEL["w"])
    assert content["meta"]["iteration"] == content["training"]["iteration"] == 16
    assert content["meta"]["metrics"] == {"bbox/AP": 12.5}
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000016.pth\n"


class Derived(float):
    pass


Pair = collections.namedtuple("Pair", "x")
FOREIGN = [
    *(np.float64(1), np.zeros(2), {1: np.int64(2)}, [{"y": (1, {Derived(1)})}], Path("x"), object(), Pair(1)),
    *(
        collections.deque([1]),
        {np.int64(1): 2},
        Image(torch.zeros(3, 2, 2)),
        torch.eye(2).to_sparse(),
        10**400,
        range(3),
    ),
]


@pytest.mark.parametrize("value", FOREIGN, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("background", [False, True])
def test_a_state_that_could_not_be_read_again_is_refused_before_anything_is_written(tmp_path, value, background):
    checkpointer = make_checkpointer(tmp_path, 3, background=background)
    state = {**STATE, "iteration": 2, "hooks": {"mine": {"seen": value}}}
    with pytest.raises(TypeError, match=r"it holds (the key )?hooks\.mine\.seen.*, a \w+.*Give numbers"):
        checkpointer.save("model_0000002.pth", MODEL, state, {})
    assert names(tmp_path) == []


def test_a_state_of_plain_values_is_the_same_when_it_is_read(tmp_path):
    plain = {"a": [1, 2.5, 2**1000, True, None], "b": (b"x", "\ud800"), 3: {1j}, "c": torch.Size([2]), "d": torch.int8}
    state = {
        **STATE,
        "iteration": 2,
        "hooks": {"mine": {**plain, "w": torch.nn.Parameter(torch.ones(2)), "e": collections.Counter("ab")}},
    }
    path = make_checkpointer(tmp_path, 3).save("model_0000002.pth", MODEL, state, {})
    found = Checkpoint.read(path).state["hooks"]["mine"]
    assert found.pop("w").tolist() == [1, 1] and found == {**plain, "e": {"a": 1, "b": 1}}


def test_meta_holds_all_that_inference_needs():
    cfg = make_config()
    meta = describe(cfg, METADATA)
    assert meta["class_names"] == ["cat", "dog"]
    assert meta["category_ids"] == [3, 7]
    assert meta["keypoint_names"] == ["nose"]
    assert meta["keypoint_sigmas"] == [0.025]
    assert meta["input_format"] == "RGB"
    assert meta["config"] == cfg.dump()
    assert meta["format"] == 1


@pytest.mark.parametrize("name", ["model_best.pth", "model_final.pth"])
def test_what_is_for_use_holds_weights_and_what_predicting_needs_and_no_more(tmp_path, name):
    save(tmp_path, name)
    save(tmp_path, "model_0000000.pth")
    kept, whole = (torch.load(tmp_path / path, weights_only=True) for path in (name, "model_0000000.pth"))
    assert set(kept) == {"model", "meta"} and set(whole) == {"model", "meta", "training"}
    assert torch.equal(kept["model"]["w"], MODEL["w"])
    assert {**kept["meta"], "checksum": 0} == {**whole["meta"], "checksum": 0}
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000000.pth\n"


def test_keep_last_removes_only_periodic_ones(tmp_path):
    save(tmp_path, "model_best.pth")
    for iteration in (4, 8, 12):
        save(tmp_path, f"model_{iteration:07d}.pth", iteration, keep_last=2)
    assert names(tmp_path) == ["last_checkpoint", "model_0000008.pth", "model_0000012.pth", "model_best.pth"]


def test_keep_last_zero_keeps_all(tmp_path):
    for iteration in range(5):
        save(tmp_path, f"model_{iteration:07d}.pth", iteration, keep_last=0)
    assert len(names(tmp_path)) == 6


def test_old_ones_go_only_after_the_new_one_is_there(tmp_path, monkeypatch):
    save(tmp_path, "model_0000004.pth", 4, keep_last=1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*model_0000008\.pth: No space left on device"):
        save(tmp_path, "model_0000008.pth", 8, keep_last=1)
    assert names(tmp_path) == ["last_checkpoint", "model_0000004.pth"]
    assert last_checkpoint(tmp_path).name == "model_0000004.pth"
    assert torch.equal(Checkpoint.read(tmp_path / "model_0000004.pth").model["w"], MODEL["w"])


def test_full_disk_leaves_the_earlier_file(tmp_path):
    """A real write error: the process may not write files beyond a limit."""
    path = tmp_path / "model_final.pth"
    write_torch_file({"model": 1}, path)
    before = path.read_bytes()
    code = (
        "import resource, sys, torch; from pathlib import Path; from detframe.torch_files import write_torch_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: write_torch_file({'w': torch.zeros(1_000_000)}, Path(sys.argv[1]))\n"
        "except OSError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert f"cannot write {path}: File too large; it needs 3.8 MB" in done.stdout
    assert "free on that disk" in done.stdout
    assert path.read_bytes() == before
    assert names(tmp_path) == ["model_final.pth"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_interrupted_write_leaves_nothing(tmp_path):
    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "x", interrupted)
    assert names(tmp_path) == []


@pytest.mark.parametrize("keep", [0, 100, 2000])
def test_half_written_file_is_named(tmp_path, keep):
    path = save(tmp_path, "model_0000004.pth")
    whole = path.read_bytes()
    path.write_bytes(whole[: min(keep, len(whole) - 1)])
    with pytest.raises(ValueError, match=r"model_0000004\.pth is (empty|half-written|damaged)"):
        Checkpoint.read(path)


def test_weights_without_training_state_are_no_checkpoint_to_go_on_from(tmp_path):
    torch.save({"model": MODEL}, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"w\.pth is no checkpoint of detframe: .* it holds 'model'\. Weights of other"
    ):
        Checkpoint.read(tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"model_best\.pth holds weights alone: MODEL\.WEIGHTS .* begins a new training"
    ):
        Checkpoint.read(save(tmp_path, "model_best.pth")).state  # noqa: B018
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Checkpoint.read(tmp_path / "absent.pth")


def test_last_checkpoint_falls_back_to_what_is_there(tmp_path, caplog):
    assert last_checkpoint(tmp_path) is None
    for iteration in (4, 8):
        save(tmp_path, f"model_{iteration:07d}.pth", iteration)
    write_text(tmp_path / "last_checkpoint", "model_0000012.pth\n")
    assert last_checkpoint(tmp_path).name == "model_0000008.pth"
    assert "model_0000012.pth, which does not exist" in caplog.text


def test_what_a_run_offers_for_use(tmp_path):
    assert best_weights(tmp_path).name == "model_final.pth"
    for name in ("model_9999999.pth", "model_10000000.pth", "model_final.pth", "model_best.pth"):
        save(tmp_path, name, keep_last=0)
        assert best_weights(tmp_path).name == name


def test_best_is_not_the_last(tmp_path):
    save(tmp_path, "model_0000004.pth", 4)
    save(tmp_path, "model_best.pth", 2)
    assert last_checkpoint(tmp_path).name == "model_0000004.pth"


def test_random_states_survive_a_file(tmp_path):
    before = rng_state()
    try:
        write_torch_file(before, tmp_path / "rng.pth")
        first = torch.rand(3).tolist(), np.random.randn(3).tolist(), random.gauss(0, 1), random.gauss(0, 1)
        set_rng_state(torch.load(tmp_path / "rng.pth", weights_only=True))
        again = torch.rand(3).tolist(), np.random.randn(3).tolist(), random.gauss(0, 1), random.gauss(0, 1)
        assert again == first
    finally:
        set_rng_state(before)


def test_size_of_nested_tensors():
    assert archive.tensor_bytes({"a": [torch.zeros(3), (torch.zeros(2, dtype=torch.uint8), 5)]}) == 14
