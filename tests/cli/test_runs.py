"""Whole runs through the commands, on a handful of pictures: train, resume, evaluate, look, predict, quickstart."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from detframe import data
from detframe.cli import benchmark, evaluate, predict, quickstart, train, visualize_data
from detframe.errors import InvalidValueError
from detframe.visualization import drawing

CONFIG = """
MODEL:
  DEVICE: cpu
  BACKBONE: {CONV_BODY: R-18-FPN, FREEZE_CONV_BODY_AT: 0}
  RESNETS: {NORM: BN, STEM_OUT_CHANNELS: 8}
  FPN: {OUT_CHANNELS: 16}
  RPN: {ANCHOR_SIZES: [[8], [16], [32], [64], [128]], POST_NMS_TOP_N_TRAIN: 30, POST_NMS_TOP_N_TEST: 30}
  ROI_BOX_HEAD: {MLP_HEAD_DIM: 32}
INPUT: {MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}
DATASETS: {TRAIN: [shapes_train], TEST: [shapes_val]}
DATALOADER: {NUM_WORKERS: 0}
SOLVER: {IMS_PER_BATCH: 2, BASE_LR: 0.01, WARMUP_ITERS: 1, MAX_ITER: 2, LOG_PERIOD: 1, CHECKPOINT_PERIOD: 1, AMP: off}
TEST: {VISUALIZE: 1, REPORT: false}
OUTPUT_DIR: out
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a config, and six training pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETFRAME_DATASETS", str(tmp_path / "data"))
    (tmp_path / "c.yaml").write_text(CONFIG, encoding="utf-8")
    small = quickstart.import_make_shapes()

    def few() -> Path:
        return small(train=6, val=3, size=64)

    few()
    monkeypatch.setattr(quickstart, "import_make_shapes", lambda: few)
    return tmp_path


def losses(folder: Path) -> list[int]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["iteration"] for row in rows if "loss" in row]


def test_train_resume_evaluate_and_predict(workplace: Path, capsys: pytest.CaptureFixture[str]):
    assert train.main(["--config-file", "c.yaml", "SOLVER.MAX_ITER", "1"]) == 0
    assert train.main(["--config-file", "c.yaml", "--resume"]) == 0
    out = workplace / "out"
    assert losses(out) == [1, 2]
    assert {"config.yaml", "log.txt", "model_best.pth", "model_final.pth"} <= {p.name for p in out.iterdir()}
    capsys.readouterr()
    assert train.main(["--config-file", "c.yaml", "--eval-only"]) == 0
    assert f"weights from {Path('out/model_best.pth')}" in capsys.readouterr().out
    words = ["--config-file", "out/config.yaml", "--weights", "out/model_final.pth", "OUTPUT_DIR", "evaluated"]
    assert evaluate.main(words) == 0
    assert "results on shapes_val" in capsys.readouterr().out
    words = ["--weights", "out/model_best.pth", "--input", "data/shapes/val", "--output", "found", "--device", "cpu"]
    assert predict.main(words) == 0
    assert len(list((workplace / "found").glob("*.jpg"))) == 3
    rows = json.loads((workplace / "found" / "predictions.json").read_text())
    assert {row["category_id"] for row in rows} <= {1, 3, 7, 8, 12}


def test_visualize_data(workplace: Path):
    assert visualize_data.main(["--config-file", "c.yaml", "--num-images", "3", "--output", "look"]) == 0
    assert len(list((workplace / "look").glob("*.jpg"))) == 3


def test_visualize_data_shows_the_images_that_a_training_takes(workplace: Path):
    words = ["--config-file", "c.yaml", "--num-images", "6", "--output", "look", "DATASETS.LIMIT", "2"]
    assert visualize_data.main(words) == 0
    drawn = [path.stem.partition("_")[2] for path in sorted((workplace / "look").glob("*.jpg"))]
    assert len(drawn) == 6 and len(set(drawn)) == 2


def test_visualize_data_shows_tiles_as_the_training_sees_them(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    captions = []
    draw = drawing.with_caption
    monkeypatch.setattr(drawing, "with_caption", lambda picture, text: captions.append(text) or draw(picture, text))
    words = ["--config-file", "c.yaml", "--num-images", "5", "--output", "look", "INPUT.TILES.SIZE", "32"]
    assert visualize_data.main(words) == 0
    assert len(list((workplace / "look").glob("*.jpg"))) == 5
    # 32 pixels of the file, at INPUT.MIN_SIZE_TRAIN 64
    assert all(re.search(r"\.\w+ \[\d+, \d+, \d+, \d+\]: 64 x 64, \d+ objects", text) for text in captions)


def test_visualize_data_shows_every_transform_of_an_image(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    captions = []
    draw = drawing.with_caption
    monkeypatch.setattr(drawing, "with_caption", lambda picture, text: captions.append(text) or draw(picture, text))
    words = ["--config-file", "c.yaml", "--num-images", "2", "--output", "look", "--steps"]
    listed = "[{Mosaic: {p: 1}}, {RandomCropWithObjects: {p: 1}}, {HorizontalFlip: {p: 0}}]"
    assert visualize_data.main([*words, "INPUT.TRANSFORMS", listed]) == 0
    assert len(list((workplace / "look").glob("*.jpg"))) == 2
    names = [text.partition(":")[0] for text in captions]
    assert names[1:4] == names[5:8] == ["1 Resize", "2 Mosaic", "3 RandomCropWithObjects"] and len(names) == 8


def test_benchmark_data_reads_the_images_that_a_training_takes(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    taken = []
    loader = data.build_train_loader

    def looked_at(cfg, records):
        taken.append(len(records))
        return loader(cfg, records)

    monkeypatch.setattr(data, "build_train_loader", looked_at)
    assert benchmark.main(["--what", "data", "--config-file", "c.yaml", "--rounds", "1", "DATASETS.LIMIT", "2"]) == 0
    assert taken == [2]


def test_quickstart(workplace: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    assert quickstart.main(["--config-file", "c.yaml"]) == 0
    made = workplace / "output" / "quickstart"
    assert (made / "curves.png").stat().st_size > 0 and (made / "predictions.png").stat().st_size > 0
    assert len(list((made / "predictions").glob("*.png"))) == 3
    for word in ("AP50", "predictions.png", "curves.png", "What to try next", "docs/own_data.md"):
        assert word in caplog.text


def test_quickstart_trains_from_the_folder(workplace: Path, caplog: pytest.LogCaptureFixture):
    assert quickstart.main(["SOLVER.MAX_ITER", "2", "MODEL.DEVICE", "cpu"]) == 0
    made = workplace / "output" / "quickstart"
    assert losses(made) == [1, 2]
    assert "STEM_OUT_CHANNELS: 32" in (made / "config.yaml").read_text(encoding="utf-8")  # of the shipped config
    assert (made / "recipe.yaml").is_file() and (made / "predictions.png").is_file()
    assert "--epochs 9 OUTPUT_DIR output/quickstart SOLVER.MAX_ITER 2 MODEL.DEVICE cpu" in caplog.text


def test_quickstart_ends_after_so_many_minutes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    taken: dict[str, object] = {}

    def stop(path: Path, **options: object) -> None:
        taken.update(options)
        raise InvalidValueError("far enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "import_make_shapes", lambda: lambda: Path("datasets/shapes"))
    monkeypatch.setattr("detframe.recipes.finetune.finetune", stop)
    assert quickstart.main(["--minutes", "2.5"]) == 2
    assert taken["minutes"] == 2.5 and "epochs" not in taken


def test_quickstart_of_a_config_takes_its_length_from_there(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        quickstart.main(["--config-file", "c.yaml", "--minutes", "2"])
    assert "SOLVER.MAX_MINUTES" in capsys.readouterr().err


def test_every_process_that_fails_says_so_and_the_exit_code_is_kept(workplace: Path, root: Path, run_python):
    words = ("--config-file", "c.yaml", "--num-gpus", "2", "SOLVER.IMS_PER_BATCH", "3")
    done = run_python(root / "tools" / "train_net.py", *words, cwd=workplace)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: SOLVER.IMS_PER_BATCH 3 cannot be divided among 2 ranks" in done.stderr
    assert done.stderr.startswith("[rank ")


def test_a_loss_that_is_not_finite_ends_with_code_1(workplace: Path, capsys: pytest.CaptureFixture[str]):
    words = ["--config-file", "c.yaml", "SOLVER.BASE_LR", "1e12", "SOLVER.MAX_ITER", "8"]
    assert train.main(words) == 1
    assert "is not finite, so all ranks stopped before its update" in capsys.readouterr().err
