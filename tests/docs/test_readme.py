"""Every command and program of README.md is run, in the order of the page, on data such as it speaks of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import can_export

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python|yaml)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [line.partition("  #")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
# Run elsewhere: tests/test_packaging.py installs detframe
INSTALLING = ["pip install .", 'pip install "detframe[export]"']
# Minutes of training are seconds here, and four processes are two
SHORTER = {"--minutes 10": "--minutes 0.1", "minutes=10": "minutes=0.1", "--num-gpus 4": "--num-gpus 2"}
# The same config on a smaller detector, for a few steps
SMALL_BASE = """\
_BASE_: configs/quick/faster_rcnn_R_18_FPN_shapes.yaml
INPUT: {MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}
MODEL: {RPN: {POST_NMS_TOP_N_TRAIN: 50, POST_NMS_TOP_N_TEST: 50}, ROI_BOX_HEAD: {MLP_HEAD_DIM: 32}}
DATALOADER: {NUM_WORKERS: 0}
"""


def shorter(text: str) -> str:
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raccoons/, cells/, photos/ and the YAML files of the page; and `detframe` on the path."""
    folder = tmp_path_factory.mktemp("readme")
    raccoons = folder / "raccoons"
    make = [sys.executable, ROOT / "datasets" / "make_shapes.py", "--output", raccoons, "--train", "8", "--val", "4"]
    subprocess.run([*map(str, make), "--size", "96"], check=True, env=environment(folder), capture_output=True)
    for name in ("train", "val"):
        shutil.copytree(raccoons / name, folder / "cells" / name)
        shutil.copy(raccoons / "annotations" / f"{name}.json", folder / "cells")
    shutil.copytree(raccoons / "val", folder / "photos")
    for name, picture in zip(("a.jpg", "b.jpg"), sorted((raccoons / "val").iterdir()), strict=False):
        shutil.copy(picture, folder / name)
    for kind, text in BLOCKS:
        if kind == "yaml":
            name = re.match(r"# (\w+\.yaml)", text)[1]
            text = re.sub(r"^(_BASE_: ).*", r"\1small.yaml", text, flags=re.MULTILINE)
            (folder / name).write_text(re.sub(r"\b(8|12|11)ep", "1ep", text.replace("[8ep, 11ep]", "[]")))
    (folder / "small.yaml").write_text(SMALL_BASE, encoding="utf-8")
    (folder / "bin").mkdir()
    script = folder / "bin" / "detframe"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m detframe "$@"\n')
    script.chmod(0o755)
    return folder


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_the_commands_are_those_of_detframe():
    assert len(COMMANDS) > 10
    assert [command for command in COMMANDS if not command.startswith("detframe ")] == INSTALLING
    for long in SHORTER:
        assert long in PAGE


@pytest.mark.slow
def test_every_command_and_program_runs(folder: Path):
    for kind, text in BLOCKS:
        lines = [line.partition("  #")[0].strip() for line in text.splitlines()] if kind == "bash" else []
        for command in lines:
            quickstart = command == "detframe quickstart"  # minutes: tests/cli/test_runs.py has it with fewer images
            exporting = "cells.onnx" in command and not can_export()
            if command not in INSTALLING and not quickstart and not exporting:
                run(["bash", "-c", shorter(command)], folder)
        if kind == "python":
            run([sys.executable, "-c", shorter(text)], folder)
    left = ["my.yaml", "output/raccoons/report.html", "output/cells/report.html", "output/cells/metrics.jsonl", "found"]
    assert not [name for name in left if not (folder / name).exists()]
