"""Reading weights: local files, a loopback HTTP server, and everything that can be wrong with a file."""

from __future__ import annotations

import functools
import http.server
import pickle
import threading
from collections import OrderedDict

import pytest
import torch

from detframe.compat import read_checkpoint, read_weights


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
    with pytest.raises(AttributeError):  # the fake download gives no Path
        read_weights("torchvision://ResNet50_Weights.IMAGENET1K_V1")
    assert asked[0].endswith("/resnet50-0676ba61.pth")


def test_unknown_torchvision_weights():
    with pytest.raises(ValueError, match=r"publishes no weights 'ResNet50_Weights\.NOPE'"):
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


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "touched"), "w")

    path = tmp_path / "evil.pth"
    torch.save({"model": Evil()}, path)
    with pytest.raises(ValueError, match="cannot be read safely"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match="cannot be read"):
        read_checkpoint(path)
    assert not (tmp_path / "touched").exists()


def test_a_text_file_is_no_checkpoint(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("MODEL:\n  NUM_CLASSES: 3\n")
    with pytest.raises(ValueError, match=r"config\.yaml"):
        read_checkpoint(path)
