"""Reading weights: local files, a loopback HTTP server, and everything that can be wrong with a file."""

from __future__ import annotations

import argparse
import functools
import http.server
import os
import pickle
import subprocess
import threading
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from detframe.compat import read_checkpoint, read_weights
from tests.compat.pickled import Call


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"model": OrderedDict(a=torch.arange(1000.0))}, path)
    return path


@pytest.fixture
def server(tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_local_file(checkpoint):
    assert read_weights(str(checkpoint))["model"]["a"].sum() == 499500


def test_http_is_cached(checkpoint, server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    first = read_weights(f"{server}/weights.pth")
    checkpoint.unlink()
    second = read_weights(f"{server}/weights.pth")
    assert torch.equal(first["model"]["a"], second["model"]["a"])


def test_a_failed_download_says_where_to_put_the_file(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("DETFRAME_CACHE", raising=False)
    with pytest.raises(ConnectionError, match=r"404.*hub/checkpoints/\w+/absent\.pth.*MODEL\.WEIGHTS"):
        read_weights(f"{server}/absent.pth")


def test_torchvision_names_resolve_to_published_addresses(monkeypatch):
    asked = []
    monkeypatch.setattr("detframe.compat.files.download", lambda url: asked.append(url) or "nowhere.pth")
    monkeypatch.setattr("detframe.compat.files.read_checkpoint", lambda path: {})
    read_weights("torchvision://ResNet50_Weights.IMAGENET1K_V1")
    assert asked[0].endswith("/resnet50-0676ba61.pth")


def test_unknown_torchvision_weights():
    with pytest.raises(ValueError, match=r"publishes no weights 'torchvision://ResNet50_Weights\.NOPE'"):
        read_weights("torchvision://ResNet50_Weights.NOPE")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth does not exist"):
        read_weights(tmp_path / "none.pth")


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_half_written_file(checkpoint, share):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"weights\.pth is half-written"):
        read_checkpoint(checkpoint)


def test_empty_file(checkpoint):
    checkpoint.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        read_checkpoint(checkpoint)


def test_damaged_in_the_middle(checkpoint):
    content = bytearray(checkpoint.read_bytes())
    at = content.index(b"data.pkl") + 20
    content[at : at + 60] = b"\xff" * 60
    checkpoint.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(checkpoint)


def as_zip(content, path):
    torch.save(content, path)


def as_before_zip(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def as_pickle_of_any_protocol(protocol):
    return lambda content, path: path.write_bytes(pickle.dumps(content, protocol))


WRITERS = [as_zip, as_before_zip, *(as_pickle_of_any_protocol(i) for i in (2, 4, 5))]


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Call(os.system, "touch touched"), r"(posix|nt)\.system"),
        (Call(open, "touched", "w"), r"(io|_io)\.open"),
        (Call(exec, "open('touched', 'w')"), r"((builtins|__builtin__)\.)?exec"),
        (Call(subprocess.Popen, ["touch", "touched"]), r"(subprocess|commands)\.Popen"),
        (argparse.Namespace(lr=0.1), r"argparse\.Namespace"),
        (torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear|torch\._utils"),
    ],
)
def test_what_is_not_data_is_refused_by_name_and_not_run(suffix, write, value, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights{suffix}"
    write({"model": OrderedDict(a=1.0), "args": value}, path)
    with pytest.raises(ValueError, match=rf"weights\{suffix} cannot be read safely: it asks for ({named}), and"):
        read_checkpoint(path)
    assert not (tmp_path / "touched").exists()


def test_a_refusal_gives_no_advice_to_run_the_file(tmp_path):
    torch.save({"args": argparse.Namespace()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"save the weights alone: torch\.save\(model\.state_dict\(\)") as error:
        read_checkpoint(tmp_path / "a.pth")
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("write", [as_zip, as_before_zip])
def test_numbers_and_arrays_of_numpy_are_data(write, tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write(
        {"best": np.float64(0.5), "epoch": np.int64(3), "model": {"a": array, "b": torch.ones(2)}}, tmp_path / "a.pth"
    )
    out = read_checkpoint(tmp_path / "a.pth")
    assert out["best"] == 0.5 and out["epoch"] == 3 and (out["model"]["a"] == array).all()


@pytest.mark.parametrize("share", [0.002, 0.02, 0.3, 0.9, 0.999])
def test_half_written_before_zip(share, tmp_path):
    path = tmp_path / "weights.pth"
    as_before_zip({"model": OrderedDict(a=torch.arange(1000.0))}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"weights\.pth (is|is no pickle, or is) damaged or half-written"):
        read_checkpoint(path)


def test_pickles_and_files_of_before_zip_under_either_suffix(tmp_path):
    for name, write in (("a.pkl", as_before_zip), ("b.pth", as_pickle_of_any_protocol(4))):
        write({"a": np.ones(2) if name == "b.pth" else torch.ones(2)}, tmp_path / name)
        assert read_checkpoint(tmp_path / name)["a"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
@pytest.mark.parametrize(
    "text", ["<!DOCTYPE html>\n<html>404</html>", "\ufeff\n <HTML><title>Sign in</title>", "<?xml?>"]
)
def test_a_web_page_is_what_a_failed_download_leaves(suffix, text, tmp_path):
    path = tmp_path / f"weights{suffix}"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        ValueError, match=rf"weights\{suffix} is a web page, not weights .*<.*the download failed\. Delete"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid", r"a\.pth is a pointer of Git LFS.*git lfs pull"),
        ("a.safetensors", b"\x10", r"a\.safetensors is damaged or half-written"),
        ("a.pth", b'{"error": "not found"}', r"a\.pth is no PyTorch checkpoint: it begins with b'{\"error"),
        ("config.yaml", b"MODEL:\n  NUM_CLASSES: 3\n", r"config\.yaml is no PyTorch checkpoint"),
    ],
)
def test_other_files(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / name)


def test_a_zip_that_is_no_checkpoint_and_a_torchscript_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as file:
        file.writestr("a.txt", "text")
    with pytest.raises(ValueError, match=r"a\.pth is damaged or half-written"):
        read_checkpoint(tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as file:
        for member in ("version", "data.pkl", "constants.pkl", "code/a.py"):
            file.writestr(f"b/{member}", "3")
    with pytest.raises(ValueError, match=r"b\.pth is a TorchScript archive.* save the weights alone"):
        read_checkpoint(tmp_path / "b.pth")
