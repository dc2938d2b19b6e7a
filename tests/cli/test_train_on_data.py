"""`detframe train --data` and `detframe configure`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detframe.cli import check, configure, evaluate, train, visualize_data
from detframe.cli.recipe import classes_of, recipe_arguments
from detframe.config import read_config
from tests.recipes.conftest import make_squares
from tests.recipes.test_plan import TINY

WORDS = [str(word) for word in TINY]


def iterations(folder: str) -> list[int]:
    rows = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["iteration"] for row in rows if "loss" in row]


def test_training_on_a_folder_and_going_on(squares: Path, capsys: pytest.CaptureFixture[str]):
    assert train.main(["--data", "squares", *WORDS, "SOLVER.MAX_ITER", "2"]) == 0
    told = capsys.readouterr().err
    assert told.startswith("looking at squares\n")
    assert "8 images to train with, 3 to evaluate on; 8 objects of one class (square)" in told
    out = Path("output/squares")
    recipe = (out / "recipe.yaml").read_text(encoding="utf-8")
    assert {"catalog.yaml", "config.yaml", "log.txt", "model_final.pth"} <= {path.name for path in out.iterdir()}
    words = ["--data", "squares", "--resume", "SOLVER.MAX_ITER", "3", "SOLVER.LOG_PERIOD", "1"]
    assert train.main(words) == 0
    assert iterations("output/squares") == [1, 2, 3]
    assert (out / "recipe.yaml").read_text(encoding="utf-8") == recipe
    assert not list(out.glob("previous_*"))


def test_the_recipe_is_a_config_as_any_other(squares: Path):
    assert configure.main(["--data", "squares", "--output", "out", *WORDS, "SOLVER.MAX_ITER", "2"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["catalog.yaml", "recipe.yaml"]
    assert train.main(["--config-file", "out/recipe.yaml"]) == 0
    assert read_config("out/config.yaml").SOLVER.MAX_ITER == 2
    assert {"catalog.yaml", "recipe.yaml", "model_final.pth"} <= {path.name for path in Path("out").iterdir()}


def test_configure_writes_the_config_alone_to_the_output(squares: Path, capsys: pytest.CaptureFixture[str]):
    assert configure.main(["--data", "squares", "--epochs", "3", *WORDS]) == 0
    done = capsys.readouterr()
    Path("my.yaml").write_text(done.out, encoding="utf-8")
    cfg = read_config("my.yaml")
    assert cfg.DATASETS.TRAIN == ("squares_train",) and cfg.SOLVER.MAX_ITER == 6
    assert str(Path("output/squares/catalog.yaml")) in done.err and Path(cfg.DATASETS.CATALOG).is_file()
    assert [path.name for path in Path("output/squares").iterdir()] == ["catalog.yaml"]


def test_images_are_drawn_as_that_training_would_show_them(squares: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--data", "squares", "--output", "look", "--num-images", "2", *WORDS, "SOLVER.MAX_ITER", "2"]
    assert visualize_data.main(words) == 0
    assert len(list(Path("look").glob("*.jpg"))) == 2
    assert "8 images to train with" in capsys.readouterr().err
    assert visualize_data.main(["--classes", "square", "--config-file", "output/squares/catalog.yaml"]) == 2
    assert "--classes goes with --data PATH" in capsys.readouterr().err


@pytest.mark.parametrize("command", [train, check, configure, visualize_data])
def test_a_path_without_its_option_is_told_which(command: Any, squares: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        command.main(["squares", "SOLVER.MAX_ITER", "2", *(["--data", "x"] if command is configure else [])])
    assert "squares is a path, and overrides are pairs KEY VALUE" in (said := capsys.readouterr().err)
    assert said.rstrip().endswith("--data squares")
    with pytest.raises(SystemExit):
        train.main(["data=squares", "epochs=3"])
    assert capsys.readouterr().err.rstrip().endswith("write --data squares")
    Path("my.yaml").touch()
    with pytest.raises(SystemExit):
        evaluate.main(["my.yaml"])
    assert capsys.readouterr().err.rstrip().endswith("takes it: --config-file my.yaml")


def test_two_processes_train_with_one_recipe(squares: Path, root: Path, run_python):
    words = ["--data", "squares", "--num-gpus", "2", *WORDS, "SOLVER.MAX_ITER", "2", "SOLVER.LOG_PERIOD", "1"]
    done = run_python(root / "tools/train_net.py", *words, cwd=squares.parent, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("looking at squares") == 1
    assert iterations("output/squares") == [1, 2]
    assert "2 ranks on 1 host" in Path("output/squares/log.txt").read_text(encoding="utf-8")


def test_a_mistake_in_two_processes_is_told_once(squares: Path, root: Path, run_python):
    words = ["--data", "sqares", "--num-gpus", "2"]
    done = run_python(root / "tools/train_net.py", *words, cwd=squares.parent, timeout=400)
    assert done.returncode == 2 and done.stderr.count("sqares does not exist") == 1
    assert "Traceback" not in done.stderr and not Path("output").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "5"], r"--minutes goes with --data PATH, which is missing"),
        (["--val-data", "squares"], r"--val-data goes with --data PATH, which is missing"),
        (["--data", "squares", "--val-data", "sqares"], r"sqares does not exist"),
        (["--task", "mask", "--model", "small"], r"--model, --task go with --data"),
        (["--data", "sqares"], r"sqares does not exist"),
        (["--data", "squares", "--eval-only"], r"--eval-only goes with a config"),
        (["--data", "squares", "--print-config"], r"--print-config goes with a config"),
        (["--data", "squares", "--model", "small", "--config-file", "x.yaml"], r"both name a model"),
        (["--data", "squares", "--model", "x.yaml"], r"'x\.yaml' is none of small, medium, large"),
        (["--data", "squares", "SOLVER.MAX_ITERS", "5"], r"SOLVER\.MAX_ITER"),
        (["--data", "squares", "--output", "squares/data.yaml"], r"is, or lies below, a file"),
        (["--data", "squares", "--weights", "x.pth"], r"--weights x\.pth: there is no such file"),
        (["--data", "squares", "MODEL.DEVICE", "cuda:77"], r"MODEL\.DEVICE"),
        (["--data", "squares", "--task", "keypoint"], r"--task keypoint"),
        (["--data", "squares", "--classes", "sqare"], r"sqare"),
        (["--data", ""], r"nothing to train"),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing(squares: Path, words, message, capsys: pytest.CaptureFixture[str]):
    import re

    assert train.main(words) == 2
    assert re.search(rf"error: (?s:.*){message}", capsys.readouterr().err)
    assert sorted(path.name for path in Path().iterdir() if path.name != "cache") == ["squares"]


@pytest.mark.parametrize("words", [["--minutes", "0"], ["--minutes", "nan"], ["--epochs", "-1"], ["--task", "masks"],
                                   ["--minutes", "1", "--epochs", "2"]])  # fmt: skip
def test_arguments_that_mean_nothing_are_refused_at_once(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        train.main(["--data", "squares", *words])
    assert words[0] in capsys.readouterr().err


def test_training_with_one_image_of_one_class(tmp_path: Path, squares: Path):
    make_squares(tmp_path / "single", train=1, val=1)
    assert train.main(["--data", "single", *WORDS, "SOLVER.MAX_ITER", "2"]) == 0
    assert read_config("output/single/recipe.yaml").SOLVER.IMS_PER_BATCH == 1


@pytest.mark.parametrize(
    ("words", "classes"),
    [
        (None, None),
        (["car", "truck"], ["car", "truck"]),
        (["car,traffic light"], ["car", "traffic light"]),
        (["car=vehicle", "truck=vehicle", "van"], {"car": "vehicle", "truck": "vehicle", "van": "van"}),
    ],
)
def test_classes(words, classes):
    assert classes_of(words) == classes


def test_overrides_may_stand_behind_classes():
    import argparse

    args = recipe_arguments(argparse.Namespace(classes=["a", "b", "SEED", "1"], opts=["OUTPUT_DIR", "x"]))
    assert (args.classes, args.opts) == (["a", "b"], ["SEED", "1", "OUTPUT_DIR", "x"])
