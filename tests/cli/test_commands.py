"""The commands as a user types them: help, config, mistakes."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import yaml

from detframe.cli.main import COMMANDS

TOOLS = ("train_net", "test_net", "check_data", "predict", "visualize_data", "quickstart", "replay", "analyze")
CONFIG = "faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml"


@pytest.mark.parametrize("tool", TOOLS)
def test_help_is_quick_and_does_not_load_torch(tool: str, root: Path, run_python):
    start = time.perf_counter()
    done = run_python("-X", "importtime", root / "tools" / f"{tool}.py", "--help")
    assert time.perf_counter() - start < 2
    assert done.returncode == 0 and f"usage: python tools/{tool}.py" in done.stdout
    assert not re.search(r"\| +(torch|cv2|numpy)$", done.stderr, flags=re.MULTILINE)


def test_help_of_training_names_what_users_look_for(root: Path, run_python):
    text = run_python(root / "tools/train_net.py", "--help").stdout
    for word in ("--config-file", "--resume", "--eval-only", "--num-gpus", "--print-config", "torchrun", "OUTPUT_DIR"):
        assert word in text


def test_the_command_lists_its_programs(run_python):
    done = run_python("-m", "detframe", "--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert run_python("-m", "detframe", "train", "--help").stdout.startswith("usage: detframe train")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_program_of_the_command_exists(name: str, run_python):
    done = run_python("-m", "detframe.cli.main", name, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: detframe {name}")


def test_an_unknown_program_names_the_nearest(run_python):
    done = run_python("-m", "detframe", "trian")
    assert done.returncode == 2 and "did you mean 'train'" in done.stderr


def test_the_effective_config_is_printed_and_reads_back(root: Path, tmp_path: Path, run_python):
    tool = root / "tools/train_net.py"
    done = run_python(tool, "--config-file", CONFIG, "SOLVER.BASE_LR", "0.001", "--print-config")
    assert yaml.safe_load(done.stdout)["SOLVER"]["BASE_LR"] == 0.001
    (tmp_path / "c.yaml").write_text(done.stdout, encoding="utf-8")
    assert run_python(tool, "--config-file", "c.yaml", "--print-config").stdout == done.stdout


def test_one_key_is_explained(root: Path, run_python):
    done = run_python(root / "tools/train_net.py", "--config-file", CONFIG, "--print-config", "SOLVER.MAX_ITER")
    assert re.search(r"set in: +.*Base-Faster-RCNN-FPN\.yaml:\d+\n", done.stdout)
    assert "Length of the training" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-file", "faster_rcnn_R50_FPN_1x.yaml"], r"did you mean configs/faster_rcnn/faster_rcnn_R_50_FPN_1x"),
        (["--config-file", CONFIG, "SOLVER.BASE_RL", "1"], r"unknown config key SOLVER\.BASE_RL .*SOLVER\.BASE_LR"),
        (["--config-file", CONFIG, "SOLVER.BASE_LR"], r"overrides come in pairs KEY VALUE; got 1 word:"),
        (["--config-file", CONFIG, "SOLVER.BASE_LR=1"], r"not KEY=VALUE"),
        (["--config-file", CONFIG, "SOLVER.BASE_LR", "fast"], r"SOLVER\.BASE_LR must be a number"),
        (["--config-file", CONFIG, "SOLVER.AMP", "fp8"], r"SOLVER\.AMP must be one of"),
        (["--config-file", CONFIG, "CUSTOM_IMPORTS", "no.py"], r"CUSTOM_IMPORTS names 'no\.py'"),
    ],
)
def test_a_mistake_is_one_paragraph_and_code_2(words: list[str], message: str, root: Path, run_python):
    done = run_python(root / "tools/train_net.py", *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert re.search(message, done.stderr)


def test_debug_shows_where(root: Path, run_python):
    done = run_python(root / "tools/train_net.py", "--debug", "SEEED", "1")
    assert "Traceback" in done.stderr and done.returncode == 1


def test_a_reader_that_goes_away_is_no_error(root: Path, run_python):
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, {str(root / 'tools/train_net.py')!r}, "
    code += "'--print-config'], stdout=subprocess.PIPE, stderr=subprocess.PIPE); p.stdout.close(); "
    code += "print(p.stderr.read().decode())"
    assert "Traceback" not in run_python("-c", code).stdout


def test_evaluating_without_weights_says_what_to_do(root: Path, tmp_path: Path, run_python):
    (tmp_path / "c.yaml").write_text("DATASETS: {TEST: [shapes_val]}\n", encoding="utf-8")
    done = run_python(root / "tools/test_net.py", "--config-file", "c.yaml")
    assert done.returncode == 2 and "MODEL.WEIGHTS path/to/model_final.pth" in done.stderr


@pytest.mark.parametrize("words", [[], ["--resume"], ["OUTPUT_DIR", "out"], ["--num-gpus", "2"]])
def test_training_nothing_says_what_is_missing_and_leaves_no_folder(words: list[str], root: Path, tmp_path, run_python):
    done = run_python(root / "tools/train_net.py", *words)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: nothing to train: ") and "--config-file" in done.stderr
    assert "Traceback" not in done.stderr and list(tmp_path.iterdir()) == []
