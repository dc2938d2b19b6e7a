"""safetensors files, as the library writes them, and as they are not meant to be."""

from __future__ import annotations

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import save_file

from detframe.compat import load_weights, read_checkpoint, read_weights
from detframe.compat.export import to_detectron2
from detframe.compat.state import find_state_dict
from tests.compat.models import random_model
from tests.compat.test_hostile import check_reading_of_damaged


def written(state, path, **metadata):
    """The file that the library writes of a state dict."""
    save_file({name: value.contiguous() for name, value in state.items()}, path, metadata or None)
    return path


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin", "model.pth", "model"])
def test_a_file_is_known_by_its_content(name, tmp_path):
    source, model = random_model(), random_model()
    path = written(source.state_dict(), tmp_path / name, format="pt")
    report = load_weights(model, path)
    assert report.kind == "detframe" and not (report.missing or report.unused or report.reinitialised)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in source.state_dict().items())


def test_a_detector_of_another_program(tmp_path):
    source, model = random_model("MODEL.MASK_ON", True), random_model("MODEL.MASK_ON", True)
    report = load_weights(model, written(to_detectron2(source), tmp_path / "model_final.safetensors"))
    assert report.kind == "detectron2" and not (report.missing or report.unused or report.reinitialised)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in source.state_dict().items())


def test_numbers_of_every_width_views_and_scalars(tmp_path):
    state = {
        "half": torch.arange(3).half(), "brain": torch.arange(4).bfloat16(), "double": torch.arange(5.0).double(),
        "whole": torch.arange(6), "truth": torch.tensor([True, False]), "scalar": torch.tensor(2.5),
        "nothing": torch.zeros(0, 3), "row": torch.arange(6.0).view(2, 3)[1],
    }  # fmt: skip
    path = written(state, tmp_path / "a.safetensors")
    content = read_checkpoint(path)
    assert content.keys() == state.keys()
    assert all(torch.equal(content[k], v) and content[k].dtype == v.dtype for k, v in state.items())
    found = find_state_dict(content, "it")
    assert found.notes == ["stored as bfloat16, float16, float64, loaded as float32"]
    # what was read is not the file any more
    shutil.copyfile(written({"other": torch.zeros(99)}, tmp_path / "b.safetensors"), path)
    assert content["double"].tolist() == [0, 1, 2, 3, 4] and content["double"].add_(1) is not None


def table(**entries):
    """A file with these entries in its table, and 16 bytes of numbers."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


def entry(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "a table of 2^60 bytes": struct.pack("<Q", 2**60) + b'{"',
    "a table of 90 MB in 18 bytes": struct.pack("<Q", 90 * 2**20) + b'{"a":1234}',
    "a table that is none": struct.pack("<Q", 8) + b'{"a":12}' + bytes(16),
    "lists in lists": struct.pack("<Q", 100_006) + b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "numbers behind the end": table(a=entry(shape=(400,), offsets=(0, 1600))),
    "numbers before the beginning": table(a=entry(offsets=(-16, 0))),
    "more numbers than bytes": table(a=entry(shape=(10**6, 10**6))),
    "a product that overflows": table(a=entry(shape=(2**62, 4))),
    "numbers of two names": table(a=entry(), b=entry()),
    "a hole": table(a=entry(shape=(2,), offsets=(8, 16))),
    "a kind of number that nobody knows": table(a=entry(dtype="F33")),
    "numbers of six bits": table(a=entry(dtype="F6_E2M3", shape=(16,))),
    "text in place of a size": table(a=entry(shape=("4",))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_whole_is_refused_in_one_line(name, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(
        ValueError, match=r"model\.safetensors is damaged or half-written and cannot be read \(."
    ) as error:
        read_weights(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 20, 100, -2000, -1])
def test_cut_files(size, tmp_path):
    path = written(random_model().state_dict(), tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or half-written and cannot be read"):
        read_weights(path)


def test_what_failed_downloads_leave_and_other_files(tmp_path):
    path = tmp_path / "model.safetensors"
    for content, message in (
        (b"", "is empty"),
        (b"<!DOCTYPE html>\n<title>Sign in", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "is a pointer of Git LFS"),
        (struct.pack("<Q", 2) + b"{}", "holds no tensors: the dict is empty"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"model\.safetensors {message}"):
            load_weights(random_model(), path)


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "uint8", "int8", "bool"])
def test_numbers_that_stand_for_others_are_refused(kind, tmp_path):
    state = random_model().state_dict() | {"rpn.head.cls_logits.bias": torch.ones(3).to(getattr(torch, kind))}
    with pytest.raises(ValueError, match=rf"are {kind}, where the model has real numbers: rpn\.head\.cls_logits\.bias"):
        load_weights(random_model(), written(state, tmp_path / "model.safetensors"))


def test_changed_files_never_end_in_a_traceback(tmp_path):
    path = written({"w": torch.arange(9.0), "b": torch.ones(2, 2).half()}, tmp_path / "a.safetensors", format="pt")
    check_reading_of_damaged(path)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("where", ["local", "address"])
def test_a_body_of_a_repository_of_timm_on_the_hub(file, where, site, tmp_path):
    """timm/resnet10t.c3_in1k holds a classifier in either form."""
    timm = pytest.importorskip("timm")
    files, requests, address = site
    theirs, path = timm.create_model("resnet10t", pretrained=False), tmp_path / file
    if file.endswith(".bin"):
        torch.save(theirs.state_dict(), path)
    else:
        written(theirs.state_dict(), path, format="pt")
    place = f"/timm/resnet10t.c3_in1k/resolve/main/{file}"
    files[place] = path.read_bytes(), path.stat().st_size
    model = random_model("MODEL.BACKBONE.CONV_BODY", "timm/resnet10t-FPN")
    report = load_weights(model, path if where == "local" else address + place)
    assert requests == ([] if where == "local" else [place])
    assert report.kind == "timm classifier" and sorted(report.unused) == ["fc.bias", "fc.weight"]
    assert not [name for name in report.missing if name.startswith("backbone.body.")]
    assert torch.equal(model.backbone.body.model.layer2[0].conv1.weight, theirs.layer2[0].conv1.weight)
