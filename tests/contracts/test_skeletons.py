"""`detframe new`: what it writes trains as it is; what it refuses."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import pytest
from PIL import Image

from detframe import registry
from detframe.cli import new, test_module
from detframe.config import get_cfg, validate
from detframe.contracts import train_steps
from detframe.contracts.skeletons import KINDS, write_skeleton
from detframe.errors import InvalidValueError, UnknownNameError
from detframe.modeling import build_detection_model

ROOT = Path(__file__).resolve().parents[2]
NAMES = {kind: f"my_{kind.replace('-', '_')}" for kind in KINDS}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "format"])
def test_a_skeleton_trains_as_it_is(kind: str, tmp_path: Path):
    written = write_skeleton(kind, NAMES[kind], tmp_path)
    names = {f"{NAMES[kind]}.py", f"{NAMES[kind]}.yaml", f"test_{NAMES[kind]}.py"}
    assert {path.name for path in written} == names == {path.name for path in tmp_path.iterdir()}
    losses = train_steps(tmp_path / f"{NAMES[kind]}.yaml", steps=3)
    assert len(losses) == 3 and all(math.isfinite(loss) and loss > 0 for loss in losses)


@pytest.mark.parametrize("kind", ["format", "transform"])
def test_the_test_of_a_skeleton_passes(kind: str, tmp_path: Path, run_python):
    write_skeleton(kind, NAMES[kind], tmp_path)
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_{NAMES[kind]}.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{4 if kind == 'format' else 2} passed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["backbone", "rpn-head", "roi-head", "detector", "loss", "evaluator", "optimizer", "schedule", "logger"]
)
def test_the_test_of_any_skeleton_passes(kind: str, tmp_path: Path, run_python):
    write_skeleton(kind, NAMES[kind], tmp_path)
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_{NAMES[kind]}.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_skeletons_keep_the_rules_of_detframe(tmp_path: Path, run_python):
    """So that a module of one's own may move into detframe as it is: layout, lint, types."""
    pytest.importorskip("mypy")
    for kind, name in NAMES.items():
        write_skeleton(kind, name, tmp_path)
    config, modules = ROOT / "pyproject.toml", sorted(tmp_path.glob("my_*.py"))
    assert len(modules) == len(KINDS)
    for words in (("check",), ("format", "--check")):
        done = run_python("-m", "ruff", *words, "--config", config, "--no-cache", tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    done = run_python("-m", "mypy", "--config-file", config, *modules, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_other_words_for_a_kind(tmp_path: Path):
    assert "RPN_HEADS.register" in write_skeleton("head", "one", tmp_path)[0].read_text()
    assert "class OtherHead(StandardROIHeads)" in write_skeleton("ROI_head", "other_head", tmp_path)[0].read_text()


@pytest.mark.parametrize(
    ("kind", "name", "error", "says"),
    [
        ("backbonne", "a", UnknownNameError, r"no skeleton of a 'backbonne'; did you mean 'backbone'\?"),
        ("loss", "my-loss", InvalidValueError, r"'my-loss' cannot be the name of a Python file.*for example 'my_loss'"),
        ("loss", "class", InvalidValueError, r"for example 'my_class'"),
        ("loss", "3d", InvalidValueError, r"for example 'my_3d'"),
        ("loss", "", InvalidValueError, r"for example 'my_module'"),
        ("loss", "verlüst", InvalidValueError, "letters that not every file system"),
        (
            "loss",
            "giou",
            InvalidValueError,
            r"the name 'giou' is taken in LOSSES \(by detframe\.modeling\.losses.*'my_giou'",
        ),
        ("format", "coco", InvalidValueError, "taken in DATASET_FORMATS"),
        ("optimizer", "AdamW", InvalidValueError, r"taken in OPTIMIZERS.*'my_AdamW'"),
        ("lr_schedule", "cosine", InvalidValueError, "taken in LR_SCHEDULES"),
        ("logger", "tensorboard", InvalidValueError, "taken in LOGGERS"),
    ],
)
def test_what_is_refused(kind: str, name: str, error: type[Exception], says: str, tmp_path: Path):
    with pytest.raises(error, match=says):
        write_skeleton(kind, name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "test_mine.py").write_text("precious")
    assert new.main(["loss", "mine", "--output", str(tmp_path)]) == 2
    assert "test_mine.py is there already, and nothing was written" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("test_mine.py", "precious")]


def test_the_command_says_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert new.main(["head", "mine", "--output", str(tmp_path / "deep")]) == 0
    *paths, following = capsys.readouterr().out.splitlines()
    assert [Path(path).name for path in paths] == ["mine.py", "mine.yaml", "test_mine.py"]
    assert following == f"next: detframe test-module {tmp_path / 'deep' / 'mine.py'}"


def test_what_comes_next_tests_a_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The second command, of data of one's own, leaves nothing out; the first is that of another test here."""
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path / "cache"))
    deep = tmp_path / "a folder"
    assert new.main(["format", "mine", "--output", str(deep)]) == 0
    first, second = capsys.readouterr().out.splitlines()[-2:]
    command = f"cd {shlex.quote(str(deep))} && detframe test-module mine.py --config-file mine.yaml"
    assert first == f"next: python -m pytest {shlex.quote(str(deep / 'test_mine.py'))}"
    assert second == f"and once {deep / 'mine_catalog.yaml'} names your files: {command}"
    (deep / "mine_data").mkdir()
    Image.new("RGB", (80, 60)).save(deep / "mine_data" / "a.png")
    for part in ("train", "val"):
        (deep / "mine_data" / f"{part}.txt").write_text("a.png cat 10 10 50 45\n")
    monkeypatch.chdir(deep)
    assert test_module.main(command.partition(" test-module ")[2].split()) == 0
    assert "2 tests, all is well" in capsys.readouterr().out


class TestDetectorKey:
    """MODEL.DETECTOR."""

    def config(self, *words):
        cfg = get_cfg()
        cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.NUM_CLASSES", 2, *words])
        return cfg

    def test_an_unknown_one_names_the_nearest(self):
        with pytest.raises(KeyError, match="did you mean 'GeneralizedRCNN'"):
            build_detection_model(self.config("MODEL.DETECTOR", "GeneralisedRCNN"))

    def test_what_is_no_detector(self):
        registry.META_ARCHITECTURES.register("lambda", lambda cfg: None)
        with pytest.raises(TypeError, match=r"must be a subclass of detframe\.modeling\.GeneralizedRCNN"):
            build_detection_model(self.config("MODEL.DETECTOR", "lambda"))

    @pytest.mark.parametrize(
        "words", [("MODEL.DETECTOR", "DistilledRCNN"), ("MODEL.DETECTOR", "x", "MODEL.DISTILL.ON", 1)]
    )
    def test_distillation_has_a_key_of_its_own(self, words):
        with pytest.raises(ValueError, match=r"MODEL\.DETECTOR must be the default 'GeneralizedRCNN'"):
            validate(self.config(*words[:2], *(("MODEL.DISTILL.ON", True) if len(words) > 2 else ())))
