"""The commands of the page on predicting run as they stand there, and it names every option."""

from __future__ import annotations

import re
import shlex
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detframe.cli import predict
from detframe.cli.video_writer import VideoWriter
from detframe.inference.writers import FORMATS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "predict.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^detframe predict (.*)$", PAGE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A folder with what the commands of the page name."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("out", "photos", "more/deep"):
        (folder / name).mkdir(parents=True)
    shutil.copy(checkpoint, folder / "out" / "model_best.pth")
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    for name in ("photos/a.jpg", "photos/b.png", "more/deep/c.jpg"):
        Image.fromarray(noise).save(folder / name)
    Image.fromarray(np.tile(noise, (12, 9, 1))).save(folder / "survey.tif")  # larger than a tile
    writer = VideoWriter(folder / "clip.mp4", 10)
    for number in range(4):
        writer.write(noise, Fraction(number, 10))
    writer.close()
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(place)
    words = shlex.split(command)
    words[words.index("--output") + 1] = str(tmp_path / "found")
    has_camera = "0" not in words
    assert predict.main([*words, "--device", "cpu"]) == (0 if has_camera else 1)
    assert (tmp_path / "found" / "predictions.json").is_file()


def test_the_page_names_every_option_and_format(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        predict.main(["--help"])
    options = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, flags=re.MULTILINE))
    general = {"--debug", "--quiet", "--verbose", "--version", "--allow-custom-imports"}
    assert len(options) > 15 and not {name for name in options - general if name not in PAGE}
    assert all(f"`{name}/`" in PAGE for name in FORMATS)
