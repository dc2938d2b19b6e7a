"""Publishing on the Hugging Face hub and fetching from it, by its own library and a server on the loopback."""

from __future__ import annotations

import ast
import sys

import pytest
import torch

from detframe.inference import Detector
from tests.conftest import ROOT
from tests.inference.conftest import picture
from tests.inference.fake_hub import TOKEN, FakeHub

huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:huggingface_hub.*")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub, whose token this account has."""
    from huggingface_hub import constants

    server = FakeHub()
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_DISABLE_XET": True,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("DETFRAME_OFFLINE", raising=False)
    yield server
    server.close()


def same_predictions(a, b):
    image = picture(60, 90, seed=0)
    (ours,), (theirs,) = a.predict(image), b.predict(image)
    return len(ours["scores"]) > 0 and all(torch.equal(ours[k], theirs[k]) for k in ("boxes", "scores", "labels"))


def test_published_and_fetched_it_predicts_bit_for_bit(hub, detector):
    assert detector.push_to_hub("me/cells", license="mit") == f"{hub.address}/me/cells"
    repo = hub.repos["me/cells"]
    assert sorted(repo.files) == ["README.md", "config.json", "config.yaml", "model.safetensors"] and not repo.private
    card = repo.files["README.md"].decode()
    assert "license: mit" in card and "Detector.from_pretrained('me/cells')" in card
    fetched = Detector.from_pretrained("me/cells", device="cpu", amp="off")
    assert same_predictions(detector, fetched) and fetched.class_names == detector.class_names
    assert same_predictions(detector, Detector.from_pretrained("me/cells", revision=repo.sha, device="cpu", amp="off"))


def test_a_name_alone_is_of_the_account_and_private_is_private(hub, detector, monkeypatch):
    assert detector.push_to_hub("cells", private=True).endswith("/me/cells")
    assert hub.repos["me/cells"].private
    assert "from_pretrained('me/cells')" in hub.repos["me/cells"].files["README.md"].decode()
    Detector.from_pretrained("me/cells", device="cpu")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConnectionError, match=r"no repository me/cells on http.* that this account may read; log in"):
        Detector.from_pretrained("me/cells", device="cpu", cache_dir="elsewhere")
    Detector.from_pretrained("me/cells", device="cpu", token=TOKEN)


def test_published_again_it_replaces_all_but_a_card_that_somebody_wrote(hub, detector):
    detector.push_to_hub("me/cells")
    first = dict(hub.repos["me/cells"].files)
    hub.repos["me/cells"].files["config.json"] = b"{}"
    hub.repos["me/cells"].files["README.md"] = b"# My words\n"
    detector.push_to_hub("me/cells", license="mit")
    assert hub.repos["me/cells"].files == {**first, "README.md": b"# My words\n"}
    hub.repos["me/cells"].files["README.md"] = first["README.md"]
    detector.push_to_hub("me/cells", license="mit")
    assert b"license: mit" in hub.repos["me/cells"].files["README.md"]


def test_only_what_is_needed_is_fetched(hub, detector):
    detector.push_to_hub("me/cells")
    files = hub.repos["me/cells"].files
    files |= {"model_best.pth": b"a pickle", "evil.py": b"raise SystemExit", "model.onnx": b"onnx", "model.xml": b"x"}
    files["model.bin"] = b"weights"
    from detframe.inference.hub import local_copy

    hub.requests.clear()
    folder = local_copy("me/cells")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "config.yaml", "model.safetensors"]
    assert local_copy("me/cells", "model.onnx").read_bytes() == b"onnx"
    assert local_copy("me/cells", "model.xml").with_suffix(".bin").read_bytes() == b"weights"
    assert not [request for request in hub.requests if "pth" in request or "evil" in request]
    assert (local_copy("me/cells", code=True) / "evil.py").exists()


def test_what_was_fetched_is_there_without_a_connection(hub, detector, monkeypatch):
    detector.push_to_hub("me/cells")
    Detector.from_pretrained("me/cells", device="cpu")
    hub.requests.clear()
    assert same_predictions(
        detector, Detector.from_pretrained("me/cells", local_files_only=True, device="cpu", amp="off")
    )
    monkeypatch.setenv("DETFRAME_OFFLINE", "1")
    Detector.from_pretrained("me/cells", device="cpu")
    with pytest.raises(ConnectionError, match=r"me/other on http.* has not been fetched before"):
        Detector.from_pretrained("me/other")
    assert hub.requests == []


def test_what_the_hub_does_not_have(hub, detector):
    with pytest.raises(ConnectionError, match=r"no folder here .*no repository me/none on http"):
        Detector.from_pretrained("me/none")
    detector.push_to_hub("me/cells")
    with pytest.raises(ConnectionError, match="me/cells has no branch, tag or commit 'v9'"):
        Detector.from_pretrained("me/cells", revision="v9")
    with pytest.raises(FileNotFoundError, match=r"me/cells has no model\.onnx"):
        Detector.from_pretrained("me/cells", "model.onnx")
    hub.repos["me/cells"].files = {"config.json": b'{"model_type": "detr"}', "pytorch_model.bin": b""}
    with pytest.raises(
        FileNotFoundError, match=r"me/cells has no config\.yaml, model\.safetensors; it holds no detector"
    ):
        Detector.from_pretrained("me/cells")


@pytest.mark.parametrize("name", ["/no/such/folder", "./cells", "a/b/c", "../x", "me/", "me/ce lls", "-x/y"])
def test_what_can_be_no_repository_is_a_folder_that_is_missing(hub, name):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*no repository on the hub can be called so"):
        Detector.from_pretrained(name)
    assert hub.requests == []


def test_names_that_the_hub_refuses(hub, detector):
    for name in ("me/a..b", "me/x.git", "m" * 120):
        with pytest.raises(ValueError, match="is no name of a repository"):
            Detector.from_pretrained(name)
    with pytest.raises(ValueError, match="'a/b/c' is no name of a repository on the hub; it looks"):
        detector.push_to_hub("a/b/c")
    assert hub.repos == {}


def test_nothing_is_published_without_a_right_or_with_a_mistake(hub, detector, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no folder nowhere of a run"):
        detector.push_to_hub("me/cells", run="nowhere")
    with pytest.raises(ConnectionError, match=r"me/cells on http.*401.*hf auth login"):
        detector.push_to_hub("me/cells", token="hf_wrong")
    assert hub.repos == {}


@pytest.mark.filterwarnings("ignore::UserWarning:huggingface_hub.*")
def test_a_hub_that_does_not_answer(hub, detector, monkeypatch):
    from huggingface_hub import constants

    hub.broken = True
    with pytest.raises(ConnectionError, match="me/cells on http"):
        Detector.from_pretrained("me/cells")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"me/cells on http://127.0.0.1:9"):
        Detector.from_pretrained("me/cells")
    with pytest.raises(ConnectionError, match=r"me/cells on http://127.0.0.1:9"):
        detector.push_to_hub("me/cells")


def test_without_the_library_it_says_what_to_install(detector, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    folder = detector.save_pretrained(tmp_path / "cells")
    assert same_predictions(detector, Detector.from_pretrained(folder, device="cpu", amp="off"))
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        Detector.from_pretrained("me/cells")
    with pytest.raises(ImportError, match="pip install huggingface_hub"):
        detector.push_to_hub("me/cells")


def test_the_library_is_imported_where_it_is_needed_and_not_before():
    """By functions alone, so that neither `import detframe` nor a Detector brings it."""
    wanted = {"huggingface_hub", "mlflow"}
    for path in (ROOT / "detframe").rglob("*.py"):
        if path.parent.name == "integrations":
            continue
        at_top = ast.parse(path.read_text(encoding="utf-8")).body
        names = [alias.name for node in at_top if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in at_top if isinstance(node, ast.ImportFrom)]
        assert not wanted & {name.partition(".")[0] for name in names}, path
