"""The code of docs/integrations.md runs, and the commands that it names exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import PIL.Image
import pytest

from tests.docs.test_docs import blocks
from tests.inference.conftest import picture
from tests.integrations.conftest import checkpoint_path, database

__all__ = ["checkpoint_path", "database"]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "integrations.md"


@pytest.fixture
def folder(checkpoint_path, tmp_path, monkeypatch):
    """What the page's code reads."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(checkpoint_path, "model_best.pth")
    PIL.Image.fromarray(picture(400, 500, seed=1)).save("field.png")
    writer = cv2.VideoWriter("street.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 25, (90, 60))
    for seed in range(4):
        writer.write(picture(60, 90, seed))
    writer.release()
    return tmp_path


@pytest.mark.parametrize("library", ["sahi", "supervision", "trackers"])
def test_the_code_of_the_page_runs(library, folder):
    pytest.importorskip(library)
    (code,) = (
        block for block in blocks(PAGE, "python") if re.search(rf"^(from|import) {library}\b", block, re.MULTILINE)
    )
    names: dict[str, object] = {}
    exec(compile(code, f"{PAGE.name}, {library}", "exec"), names)
    if library == "sahi":
        assert len(names["rows"]) == len(names["result"].object_prediction_list) > 0
        assert (folder / "drawn").is_dir()
    if library == "supervision":
        assert len(names["detections"]) > 0 and names["drawn"].size == (500, 400)
    if library == "trackers":
        assert len(names["numbers"]) > 0


def test_the_code_for_fiftyone_runs(folder, database):
    (code,) = blocks(PAGE, "python fiftyone")
    assert code.splitlines()[-1] == "session = fo.launch_app(dataset)"
    (folder / "photos").mkdir()
    PIL.Image.fromarray(picture(60, 90, seed=1)).save(folder / "photos" / "a.png")
    names: dict[str, object] = {}
    exec("\n".join(code.splitlines()[:-1]), names)
    assert len(names["dataset"].first()["detframe"].detections) > 0
    names["dataset"].delete()


def test_the_examples_have_the_options_that_the_page_names():
    commands = "\n".join(blocks(PAGE, "bash")).replace("\\\n", " ")
    found = re.findall(r"^python (examples/\w+\.py)(.*)$", commands, flags=re.MULTILINE)
    assert {script for script, _ in found} == {
        *("examples/track.py", "examples/cut_tiles.py", "examples/slicing.py", "examples/gradio_demo.py")
    }
    for script, rest in found:
        source = (ROOT / script).read_text(encoding="utf-8")
        assert not [option for option in re.findall(r"--[\w-]+", rest) if f'"{option}"' not in source]


def test_the_code_for_mlflow_runs(folder, monkeypatch):
    """In the form in which a skinny MLflow without a database keeps its runs."""
    pytest.importorskip("mlflow")
    (code,) = blocks(PAGE, "python mlflow")
    Path("output/cells").mkdir(parents=True)
    shutil.copy("model_best.pth", "output/cells")
    PIL.Image.fromarray(picture(60, 90, seed=1)).save("photo.jpg")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (folder / "runs").as_uri())
    names: dict[str, object] = {}
    exec(code.replace("0.5", "0.0"), names)
    assert len(names["table"]) > 0 and len(names["detector"].class_names) > 0


def test_the_code_for_the_hub_runs(folder, monkeypatch):
    """But for the hub itself, whose part is a folder here."""
    from detframe.inference import sharing

    (code,) = blocks(PAGE, "python hub")
    Path("output/cells").mkdir(parents=True)
    shutil.copy("model_best.pth", "output/cells")
    Path("output/cells/metrics.jsonl").write_text("")
    published = {}
    monkeypatch.setattr(sharing.Shared, "push_to_hub", lambda self, name, **how: published.update({name: how}))
    exec(code.replace('from_pretrained("me/cells"', 'from_pretrained("cells"'), {})
    assert published == {"me/cells": {"run": "output/cells", "private": True}}
    assert (folder / "cells" / "README.md").is_file()
