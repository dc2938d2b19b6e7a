"""Which checkpoint a run goes on from when some are damaged."""

import math
import os

import pytest
import torch

from detframe.engine.checkpoint import last_checkpoint
from detframe.engine.newest import find_newest, open_newest
from detframe.torch_files import write_torch_file
from tests.engine.fakes import STATE, make_checkpointer
from tests.engine.fakes import save_state as save
from tests.engine.written import checkpoints


def run(folder):
    """A run of 12 steps: periodic checkpoints, the best one at 4, the final one at 12."""
    for iteration in (4, 8, 12):
        save(folder, f"model_{iteration:07d}.pth", iteration)
    save(folder, "model_best.pth", 4)
    save(folder, "model_final.pth", 12)


def flip(path):
    """Change one byte in the middle of the first tensor."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-700]),
    "half": lambda path: path.write_bytes(path.read_bytes()[:900]),
    "one byte": flip,
    "text": lambda path: path.write_text("<html>502 Bad Gateway</html>"),
    "foreign": lambda path: torch.save({"state_dict": {"w": torch.ones(2)}}, path),
    "weights alone": lambda path: torch.save({"model": {"w": torch.ones(2)}}, path),
    "half a state": lambda path: torch.save({"model": {}, "meta": {}, "training": {"iteration": 12}}, path),
    "a list": lambda path: torch.save([1, 2], path),
    "no iteration": lambda path: write_torch_file(
        {
            "model": {},
            "meta": {"config": "", "class_names": [], "metrics": {}},
            "training": {**STATE, "iteration": "twelve"},
        },
        path,
    ),
    "not finite": lambda path: save(path.parent, path.name, 12, v=torch.tensor([1.0, math.nan])),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_file_is_named_and_passed_over(tmp_path, caplog, kind):
    run(tmp_path)
    (tmp_path / "model_final.pth").unlink()
    damaged = tmp_path / "model_0000012.pth"
    DAMAGE[kind](damaged)
    (tmp_path / "last_checkpoint").write_text("model_0000012.pth\n")
    before = damaged.read_bytes()
    found = open_newest(tmp_path)
    assert (found.source.name, found.iteration) == ("model_0000008.pth", 8)
    assert str(damaged) in caplog.text
    assert "going on from the newest whole checkpoint, model_0000008.pth, of iteration 8" in caplog.text
    assert damaged.read_bytes() == before


def test_what_is_no_file_is_no_checkpoint(tmp_path):
    run(tmp_path)
    replace_by_folder(tmp_path / "model_final.pth")
    (tmp_path / "model_0000016.pth").mkdir()
    assert find_newest(tmp_path).source.name == "model_0000012.pth"
    (tmp_path / "last_checkpoint").unlink()
    assert find_newest(tmp_path).source.name == "model_0000012.pth"


POINTERS = {
    "empty": b"",
    "blank": b" \n",
    "binary": bytes(range(256)),
    "nothing there": b"model_0000099.pth\n",
    "outside": b"../elsewhere/model_0000004.pth\n",
    "absolute": b"/etc/passwd\n",
    "a folder": b".\n",
    "two lines": b"model_0000004.pth\nmodel_0000008.pth\n",
    "a null byte": b"model\0.pth",
    "long": b"x" * 100_000,
}


@pytest.mark.parametrize("kind", POINTERS)
def test_a_damaged_pointer_is_named_and_the_highest_iteration_counts(tmp_path, caplog, kind):
    run(tmp_path)
    (tmp_path / "last_checkpoint").write_bytes(POINTERS[kind])
    found = find_newest(tmp_path)
    assert (found.source.name, found.iteration) == ("model_0000012.pth", 12)
    assert "last_checkpoint" in caplog.text and "model_final.pth" not in caplog.text
    assert last_checkpoint(tmp_path).name == "model_0000012.pth"


def test_a_pointer_to_an_earlier_file_is_obeyed(tmp_path, caplog):
    run(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth\n")
    assert find_newest(tmp_path).iteration == 4
    assert caplog.text == ""


def test_a_final_one_of_a_shorter_run_is_not_the_newest(tmp_path):
    run(tmp_path)
    save(tmp_path, "model_0000016.pth", 16)
    (tmp_path / "last_checkpoint").unlink()
    assert find_newest(tmp_path).source.name == "model_0000016.pth"
    save(tmp_path, "model_10000000.pth", 10_000_000)
    (tmp_path / "last_checkpoint").unlink()
    assert find_newest(tmp_path).source.name == "model_10000000.pth"


def test_a_run_of_an_older_version_goes_on_from_its_final_checkpoint(tmp_path, caplog):
    """It held the state of the training, and `last_checkpoint` named it."""
    run(tmp_path)
    content = torch.load(tmp_path / "model_0000012.pth", weights_only=True)
    (tmp_path / "model_0000012.pth").unlink()
    write_torch_file(content, tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").write_text("model_final.pth\n")
    assert (find_newest(tmp_path).source.name, caplog.text) == ("model_final.pth", "")
    (tmp_path / "last_checkpoint").unlink()
    assert (find_newest(tmp_path).source.name, caplog.text) == ("model_final.pth", "")
    save(tmp_path, "model_0000016.pth", 16)
    (tmp_path / "last_checkpoint").unlink()
    assert find_newest(tmp_path).source.name == "model_0000016.pth"


def test_the_best_one_is_for_predicting_and_no_run_goes_on_from_it(tmp_path):
    run(tmp_path)
    for path in tmp_path.glob("model_0*.pth"):
        flip(path)
    (tmp_path / "model_final.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint in") as caught:
        open_newest(tmp_path)
    for name in ("0000004", "0000008", "0000012", "best", "final"):
        assert f"model_{name}.pth" in str(caught.value)
    assert "model_best.pth holds weights alone: MODEL.WEIGHTS" in str(caught.value)
    assert "model_final.pth is empty" in str(caught.value)
    save(tmp_path, "model_final.pth", 12)
    with pytest.raises(ValueError, match=r"model_final\.pth holds weights alone: MODEL\.WEIGHTS .* begins a new"):
        open_newest(tmp_path)
    assert "without --resume" in str(caught.value)


def test_nothing_at_all(tmp_path):
    assert open_newest(tmp_path) is None
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    with pytest.raises(ValueError, match=r"names model_0000004\.pth, which does not exist"):
        open_newest(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read(tmp_path):
    run(tmp_path)
    (tmp_path / "model_final.pth").chmod(0)
    assert find_newest(tmp_path).source.name == "model_0000012.pth"


def test_infinite_buffers_of_the_model_are_no_damage(tmp_path):
    mask = torch.tensor([0.0, -math.inf])
    state = {**STATE, "iteration": 4, "infinite_buffers": ["mask"]}
    make_checkpointer(tmp_path).save("model_0000004.pth", {"mask": mask}, state, {})
    assert find_newest(tmp_path).iteration == 4


# ---------------------------------------------------------------------------------------------- removing old ones
def test_a_damaged_later_file_does_not_push_out_whole_ones(tmp_path):
    save(tmp_path, "model_0000008.pth", 8)
    (tmp_path / "model_0000008.pth").write_bytes(b"")
    save(tmp_path, "model_0000004.pth", 4)
    save(tmp_path, "model_0000006.pth", 6, keep_last=1)  # another period, so the damaged one is not written again
    assert checkpoints(tmp_path) == ["model_0000006.pth", "model_0000008.pth"]
    assert find_newest(tmp_path).iteration == 6


def test_a_damaged_earlier_file_is_not_counted(tmp_path):
    for iteration in (4, 8):
        save(tmp_path, f"model_{iteration:07d}.pth", iteration)
    (tmp_path / "model_0000008.pth").write_bytes(b"half")
    save(tmp_path, "model_0000012.pth", 12, keep_last=2)
    assert checkpoints(tmp_path) == ["model_0000004.pth", "model_0000008.pth", "model_0000012.pth"]
    save(tmp_path, "model_0000016.pth", 16, keep_last=2)
    assert checkpoints(tmp_path) == ["model_0000008.pth", "model_0000012.pth", "model_0000016.pth"]


def test_iterations_count_as_numbers(tmp_path):
    save(tmp_path, "model_9999999.pth", 9_999_999)
    save(tmp_path, "model_10000000.pth", 10_000_000, keep_last=1)
    assert checkpoints(tmp_path) == ["model_10000000.pth"]
