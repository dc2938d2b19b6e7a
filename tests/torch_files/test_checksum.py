"""Checksums: what was written into a checkpoint is what is read, and every changed byte is found."""

from __future__ import annotations

import random

import pytest
import torch

from detframe.compat import read_checkpoint
from detframe.torch_files import write_torch_file
from detframe.torch_files.checksum import KEY, checksums, with_checksum


def content():
    return {
        "model": {
            "w": torch.arange(6.0).view(2, 3),
            "half": torch.ones(3, dtype=torch.bfloat16),
            "count": torch.tensor(7),
            "last": torch.arange(120.0).view(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
            "none": torch.zeros(0, 4),
            "none in steps of 0": torch.empty_strided((0,), (0,), dtype=torch.int64),
            "one in steps of 0": torch.tensor(7).expand(1),
        },
        "meta": {"config": "SEED: 0\n", "class_names": ["a", "b"], "metrics": {"AP": float("nan")}},
        "training": {"iteration": 3, "rng": [torch.arange(5), (1, 2.5, None)], "finished": False, 1: "\ud800"},
    }


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.pth"
    write_torch_file(content(), path)
    return path


def test_a_checkpoint_keeps_its_checksums_and_stays_plain(saved):
    plain = torch.load(saved, weights_only=True)
    assert plain["meta"][KEY] == checksums(content())
    assert set(plain["meta"][KEY]) == {"model", "meta", "training"}
    assert torch.equal(read_checkpoint(saved)["model"]["last"], content()["model"]["last"])


CHANGES = {
    "a value": lambda c: c["model"]["w"].__setitem__((0, 0), 1e-30),
    "a sign of zero": lambda c: c["model"]["w"].__setitem__((0, 0), -0.0),
    "a value of half precision": lambda c: c["model"]["half"].__setitem__(2, 2.0),
    "a name": lambda c: c["model"].__setitem__("v", c["model"].pop("w")),
    "a shape": lambda c: c["model"].__setitem__("w", c["model"]["w"].view(3, 2)),
    "a type": lambda c: c["model"].__setitem__("count", c["model"]["count"].int()),
    "an empty shape": lambda c: c["model"].__setitem__("none", torch.zeros(0, 5)),
    "the config": lambda c: c["meta"].__setitem__("config", "SEED: 1\n"),
    "a number": lambda c: c["training"].__setitem__("iteration", 4),
    "a truth": lambda c: c["training"].__setitem__("finished", 0),
    "a number deep inside": lambda c: c["training"]["rng"].__setitem__(1, (1, 2.50001, None)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_changed_is_found(change, saved):
    changed = torch.load(saved, weights_only=True)
    change(changed)
    torch.save(changed, saved)
    with pytest.raises(ValueError, match=r"model\.pth was damaged after it was written.*'(model|meta|training)' is"):
        read_checkpoint(saved)


def test_every_changed_byte_is_found_or_means_nothing(saved):
    """A changed byte of the archive ends in an error, or in the content that was written."""
    whole, wanted = saved.read_bytes(), checksums(content())
    draw = random.Random(0)
    places = range(len(whole)) if len(whole) < 1000 else sorted(draw.sample(range(len(whole)), 1000))
    refused = 0
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        saved.write_bytes(changed)
        try:
            read = read_checkpoint(saved)
        except ValueError as error:
            assert "model.pth" in str(error)
            refused += 1
        else:
            assert checksums(read) == wanted
    assert refused > len(places) / 4


def test_a_byte_of_another_programs_file(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.arange(1000.0)}, path)
    changed = bytearray(path.read_bytes())
    changed[changed.index(torch.tensor([500.0, 501.0]).numpy().tobytes())] ^= 1
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=r"weights\.pth was damaged after it was written.*data/0'.*download it again"):
        read_checkpoint(path)


def test_files_without_checksums_are_read(tmp_path):
    """Older checkpoints, parts taken out, and archives whose writer left their checksums out."""
    path = tmp_path / "a.pth"
    torch.save(content(), path)
    assert read_checkpoint(path)["training"]["iteration"] == 3
    without = with_checksum(content())
    del without["training"]
    torch.save(without, path)
    assert "training" not in read_checkpoint(path)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(path)["w"].sum() == 3


def test_content_without_meta_is_written_as_it_is(tmp_path):
    write_torch_file({"w": torch.ones(3)}, tmp_path / "a.pth")
    assert set(read_checkpoint(tmp_path / "a.pth")) == {"w"}
