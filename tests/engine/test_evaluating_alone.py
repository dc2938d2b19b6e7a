"""A checkpoint is evaluated from itself alone: the config in it holds where the command names none."""

import json

import pytest
import torch

from detframe.cli.main import main
from detframe.config import read_config
from detframe.engine import train


@pytest.fixture
def trained(tiny, tmp_path):
    """A run in tmp_path/out, its metrics, and a folder elsewhere with the best of its weights."""
    metrics = train(tiny("SOLVER.MAX_ITER", 2))
    (tmp_path / "elsewhere").mkdir()
    weights = (tmp_path / "out" / "model_final.pth").rename(tmp_path / "elsewhere" / "mine.pth")
    return metrics, weights


def scored(folder):
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def test_as_in_its_training(trained, tmp_path):
    metrics, weights = trained
    assert main(["evaluate", "--weights", str(weights), "OUTPUT_DIR", str(tmp_path / "scored")]) == 0
    found = scored(tmp_path / "scored")
    assert found["weights"] == str(weights) and found["iteration"] == 2
    wanted = {key: value for key, value in metrics.items() if key in found["metrics"] and value == value}
    assert len(wanted) > 5 and {key: found["metrics"][key] for key in wanted} == pytest.approx(wanted)
    assert not (tmp_path / "out" / "evaluation.json").exists(), "the folder of the training is none of its own"


def test_the_results_lie_beside_the_weights_of_a_run_else_in_the_default_folder(trained, tmp_path, monkeypatch):
    _, weights = trained
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--weights", str(weights)]) == 0
    assert scored(tmp_path / "output")["weights"] == str(weights)
    weights.rename(tmp_path / "out" / "model_final.pth")
    assert main(["evaluate", "--weights", "out/model_final.pth"]) == 0
    assert scored(tmp_path / "out")["weights"] == "out/model_final.pth"
    assert scored(tmp_path / "output")["weights"] == str(weights)


def test_overrides_and_a_config_file_come_before_it(trained, tmp_path, capsys):
    _, weights = trained
    words = ["OUTPUT_DIR", str(tmp_path / "scored"), "TEST.DETECTIONS_PER_IMG", "1", "TEST.REPORT", "True"]
    assert main(["evaluate", "--weights", str(weights), *words, "--print-config", "TEST.DETECTIONS_PER_IMG"]) == 0
    assert main(["evaluate", "--weights", str(weights), *words]) == 0
    rows = json.loads((tmp_path / "scored" / "predictions_shapes_val.json").read_text(encoding="utf-8"))
    images = [row["image_id"] for row in rows]
    assert len(images) == len(set(images)) > 0
    (tmp_path / "mine.yaml").write_text(f"OUTPUT_DIR: {tmp_path / 'other'}\n", encoding="utf-8")
    assert main(["evaluate", "--config-file", str(tmp_path / "mine.yaml"), "--weights", str(weights)]) == 2
    assert "DATASETS.TEST is empty" in capsys.readouterr().err


def test_the_newest_in_a_folder(trained, tmp_path):
    _, weights = trained
    weights.rename(tmp_path / "elsewhere" / "model_best.pth")
    assert main(["evaluate", "OUTPUT_DIR", str(tmp_path / "elsewhere")]) == 0
    assert scored(tmp_path / "elsewhere")["iteration"] == 2


def test_code_of_its_author_needs_consent(trained, tmp_path, capsys):
    _, weights = trained
    content = torch.load(weights, weights_only=True)
    (tmp_path / "elsewhere" / "author.py").write_text("from pathlib import Path\nPath(__file__ + '.ran').touch()\n")
    content["meta"]["config"] = content["meta"]["config"].replace("CUSTOM_IMPORTS: []", "CUSTOM_IMPORTS: [author.py]")
    content["meta"].pop("checksum")
    torch.save(content, weights)
    command = ["evaluate", "--weights", str(weights), "OUTPUT_DIR", str(tmp_path / "scored")]
    assert main(command) == 2
    assert "allow it with --allow-custom-imports" in capsys.readouterr().err
    ran = tmp_path / "elsewhere" / "author.py.ran"
    assert not ran.exists() and not (tmp_path / "scored").exists()
    assert main([*command, "--allow-custom-imports"]) == 0
    assert ran.exists()


def test_weights_of_others_have_the_config_of_the_command(tiny, tmp_path, capsys):
    torch.save({"w": torch.ones(2)}, tmp_path / "other.pth")
    assert main(["evaluate", "--weights", str(tmp_path / "other.pth")]) == 2
    assert "DATASETS.TEST is empty" in capsys.readouterr().err
    assert read_config().DATASETS.TEST == ()
