"""From a folder to recipe.yaml, catalog.yaml and a detector; mistakes leave nothing behind."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import detframe
from detframe.arrays.pixels import PixelForm
from detframe.config import read_config
from detframe.data import load_records
from detframe.data.images import load_pixels
from detframe.errors import InUseError, InvalidValueError, MissingFileError, UnknownNameError, UserError
from detframe.recipes.budget import Pace
from detframe.recipes.plan import Request, make_plan, output_folder
from detframe.recipes.trial import DoesNotFit
from detframe.recipes.writing import write, write_catalog, written
from tests.data.channel_sets import channel_set
from tests.recipes.conftest import make_squares

TINY = [
    "INPUT.MIN_SIZE_TRAIN", "[64]", "MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32,
    "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "TEST.VISUALIZE", 0, "TEST.REPORT", False,
]  # fmt: skip


def pace(*_):
    """What a trial would measure on a fast machine."""
    return Pace(step=0.1, image=0.01, start=1.0)


def plan(path: Path | str = "squares", **values):
    return make_plan(Request(str(path), **{"overrides": TINY, **values}), pace)


# ---------------------------------------------------------------- what is written
def test_both_files_are_written_and_read_back(squares: Path):
    made = plan(minutes=2)
    recipe = write(made)
    assert recipe == Path("output/squares/recipe.yaml") and recipe.with_name("catalog.yaml").is_file()
    cfg = read_config(recipe)
    assert cfg.OUTPUT_DIR == "output/squares"
    assert cfg.INPUT.MIN_SIZE_TRAIN == (64,) and cfg.MODEL.FPN.OUT_CHANNELS == 16
    assert len(load_records(cfg.DATASETS.TRAIN, cfg.DATASETS.CATALOG)) == 8
    assert len(load_records(cfg.DATASETS.TEST, cfg.DATASETS.CATALOG)) == 3
    text = " ".join(recipe.read_text(encoding="utf-8").replace("#", " ").split())
    assert "8 images to train with, 3 to evaluate on; 8 objects of one class (square)" in text
    assert "as given on the command line" in text and "random weights" in text
    assert {choice.key: choice.value for choice in made.choices}["MODEL.WEIGHTS"] == ""


def test_an_older_recipe_is_set_aside(squares: Path):
    write(plan(minutes=2))
    Path("output/squares/recipe.yaml").write_text("# mine\n", encoding="utf-8")
    write(plan(minutes=3))
    old = list(Path("output/squares").glob("previous_*/recipe.yaml"))
    assert len(old) == 1 and old[0].read_text(encoding="utf-8") == "# mine\n"


def test_the_catalog_alone(squares: Path):
    path = write_catalog(plan(minutes=2))
    assert [p.name for p in path.parent.iterdir()] == ["catalog.yaml"]


def test_the_catalog_alone_leaves_a_run_with_the_same_one_where_it_is(squares: Path):
    folder = write(plan(minutes=2)).parent
    (folder / "model_final.pth").touch()
    (folder / "last_checkpoint").write_text("model_final.pth", encoding="utf-8")
    write_catalog(plan(minutes=3))
    assert not list(folder.glob("previous_*")) and (folder / "model_final.pth").is_file()
    (folder / "catalog.yaml").write_text("{}", encoding="utf-8")
    write_catalog(plan(minutes=3))
    assert len(list(folder.glob("previous_*/model_final.pth"))) == 1


def test_other_data_evaluate(squares: Path):
    make_squares(Path("more"), train=2, val=5)
    cfg = read_config(write(plan(minutes=2, val_data="more")))
    assert cfg.DATASETS.TRAIN == ("squares_train",) and cfg.DATASETS.TEST == ("squares_val",)
    records = load_records(cfg.DATASETS.TEST, cfg.DATASETS.CATALOG)
    assert {Path(record["file_name"]).parts[-4] for record in records} == {"more"} and len(records) == 5


@pytest.mark.parametrize("there", [False, True])
def test_a_start_that_fails_takes_back_what_was_written(squares: Path, there: bool):
    if there:
        Path("output/squares").mkdir(parents=True)
        Path("output/squares/notes.txt").touch()
    with pytest.raises(InvalidValueError), written(plan(minutes=2)) as recipe:
        assert recipe.is_file()
        raise InvalidValueError("no")
    assert [p.name for p in Path().rglob("*.yaml")] == ["data.yaml"]
    assert Path("output/squares").exists() == there


def test_what_a_training_has_begun_stays(squares: Path):
    with pytest.raises(InvalidValueError), written(plan(minutes=2)) as recipe:
        recipe.with_name("config.yaml").touch()
        raise InvalidValueError("no")
    assert Path("output/squares/recipe.yaml").is_file()


def test_two_runs_do_not_share_a_folder(squares: Path):
    from detframe.engine.lock import locked

    Path("output/squares").mkdir(parents=True)
    with locked(Path("output/squares")), pytest.raises(InUseError):
        write(plan(minutes=2))


# ---------------------------------------------------------------- what was asked for
@pytest.mark.parametrize(
    ("path", "values", "folder"),
    [
        ("squares", {}, "output/squares"),
        ("squares/data.yaml", {}, "output/squares"),
        ("squares/train", {}, "output/squares"),
        ("squares", {"output": "here"}, "here"),
        ("squares", {"overrides": ["OUTPUT_DIR", "there"]}, "there"),
        ("squares", {"output": "x", "overrides": ["OUTPUT_DIR", "x/"]}, "x/"),
    ],
)
def test_the_output_is_called_like_the_data(squares: Path, path: str, values: dict, folder: str):
    assert output_folder(Request(path, **values)) == folder


def test_two_outputs_are_an_error(squares: Path):
    with pytest.raises(InvalidValueError, match=r"--output a and OUTPUT_DIR b are two folders"):
        output_folder(Request("squares", output="a", overrides=["OUTPUT_DIR", "b"]))


def test_a_config_is_the_model(squares: Path):
    recipe = write(plan(minutes=2, model="quick/fcos_R_18_FPN_bccd.yaml", overrides=TINY[:2]))
    assert "_BASE_: quick/fcos_R_18_FPN_bccd.yaml" in recipe.read_text(encoding="utf-8")
    cfg = read_config(recipe)
    assert cfg.MODEL.RPN.NAME == "FCOS" and cfg.DATASETS.TRAIN == ("squares_train",)
    assert cfg.INPUT.MIN_SIZE_TRAIN == (64,) and cfg.OUTPUT_DIR == "output/squares"


def test_few_steps_on_a_config_that_lowers_its_rate_in_steps(squares: Path):
    words = [*TINY[:2], "SOLVER.MAX_ITER", 1]
    recipe = write(plan(model="retinanet/retinanet_R_50_FPN_1x.yaml", weights="none", overrides=words))
    assert read_config(recipe).SOLVER.STEPS == (1,)


def test_a_config_of_ones_own_and_one_by_its_bare_name(squares: Path):
    Path("mine").mkdir()
    Path("mine/part.py").touch()
    Path("mine/m.yaml").write_text("CUSTOM_IMPORTS: [part.py]\nSEED: 5\n", encoding="utf-8")
    cfg = read_config(write(plan(minutes=2, model="mine/m.yaml", weights="none")))
    assert cfg.SEED == 5 and cfg.CUSTOM_IMPORTS == (str(Path("mine/part.py").resolve()),)
    assert plan(minutes=2, model="fcos_R_18_FPN_bccd", overrides=[]).base == "quick/fcos_R_18_FPN_bccd.yaml"


def test_an_unknown_model_names_the_sizes_and_the_nearest(squares: Path):
    with pytest.raises(UnknownNameError, match=r"'smal' is none of small, medium, large.*did you mean 'small'"):
        plan(model="smal")
    with pytest.raises(UnknownNameError, match=r"'xyz' is none of .*known: (.*) and \d+ more$") as error:
        plan(model="xyz")
    known = str(error.value).rpartition("known: ")[2].partition(" and ")[0].split(", ")
    assert len(known) == len(set(known)) and not any(name[:2] in ("1_", "2_") for name in known)


def test_a_model_that_several_configs_are_called_is_one_with_its_folder(squares: Path):
    with pytest.raises(UnknownNameError, match=r"'1_base' is the name of \d+ configs; with its folder it is one: \w+/"):
        plan(model="1_base")
    stage = "faster_rcnn_R_18_EFPN_distilled_bccd_half/1_base"
    assert plan(minutes=2, model=stage, overrides=[]).base == f"efpn/{stage}.yaml"


def test_missing_pictures_are_left_out_and_said(tmp_path: Path, squares: Path):
    make_squares(tmp_path / "holes", missing=2)
    made = {choice.key: choice for choice in plan("holes", minutes=2).choices}
    assert made["DATALOADER.ON_ERROR"].value == "skip" and made["DATALOADER.ON_ERROR"].reason.startswith("2 of 10 ")


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"path": "sqares"}, MissingFileError, r"sqares does not exist.*squares"),
        ({"task": "mask"}, InvalidValueError, r"--task mask trains on masks"),
        ({"overrides": ["SOLVER.BASE_RL", 1]}, UnknownNameError, r"SOLVER\.BASE_LR"),
        ({"overrides": ["SOLVER.BASE_LR"]}, InvalidValueError, r"pairs KEY VALUE"),
        ({"overrides": ["SOLVER.BASE_LR", -1]}, InvalidValueError, r"SOLVER\.BASE_LR"),
        ({"overrides": ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"]}, InvalidValueError, r"must be two rising values"),
        ({"overrides": ["DATASETS.TRAIN", "coco"]}, InvalidValueError, r"DATASETS\.TRAIN is set, but --data"),
        ({"weights": "none.pth"}, MissingFileError, r"--weights none\.pth: there is no such file"),
        ({"format": "coco"}, ValueError, r"coco"),
    ],
)
def test_a_mistake_is_told_and_leaves_no_folder(squares: Path, values: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        plan(**values)
    assert not Path("output").exists()


def test_data_without_objects_are_told(tmp_path: Path, squares: Path):
    make_squares(tmp_path / "nothing", empty=True)
    with pytest.raises(InvalidValueError, match=r"8 training images have no objects"):
        plan("nothing")


def break_images(folder: Path, count: int) -> None:
    for path in sorted(folder.glob("*.png"))[:count]:
        path.write_bytes(b"no image")


def exchange_sides(folder: Path, count: int) -> None:
    for path in sorted(folder.glob("*.png"))[:count]:
        cv2.imwrite(str(path), np.zeros((9, 5, 3), np.uint8))


def as_coco(folder: Path) -> Path:
    """The squares as one COCO file each for train and val, which states the sizes of images."""
    for split in ("train", "valid"):
        names = sorted(path.name for path in (folder / split / "images").glob("*.png"))
        tree = {
            "images": [{"id": i, "file_name": name, "width": 64, "height": 64} for i, name in enumerate(names)],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 1, "bbox": [9, 9, 24, 24]} for i in range(len(names))
            ],
            "categories": [{"id": 1, "name": "square"}],
        }
        shutil.rmtree(folder / split / "labels")
        (folder / split / "images" / "_annotations.coco.json").write_text(json.dumps(tree), encoding="utf-8")
    (folder / "data.yaml").unlink()
    return folder


@pytest.mark.parametrize("spoil", [break_images, exchange_sides])
def test_images_that_cannot_be_used_are_skipped_and_said(squares: Path, spoil, caplog: pytest.LogCaptureFixture):
    spoil(as_coco(squares) / "train" / "images", 2)
    with caplog.at_level("INFO"):
        choices = {choice.key: choice for choice in plan(epochs=1).choices}
    assert choices["DATALOADER.ON_ERROR"].value == "skip"
    assert choices["DATALOADER.ON_ERROR"].reason.startswith("2 images cannot be read or are not of the size")
    assert any(line.startswith("  train: 2 images ") for line in caplog.messages)


@pytest.mark.parametrize("spoil", [break_images, exchange_sides])
def test_data_whose_images_cannot_be_used_are_refused(squares: Path, spoil):
    spoil(as_coco(squares) / "train" / "images", 8)
    with pytest.raises(InvalidValueError, match=r"none of the 8 training images can be used.*: \S*train0\.png "):
        plan(epochs=1)
    assert not Path("output").exists()


def test_what_is_true_of_both_splits_is_told_once_and_else_of_which(squares: Path, caplog: pytest.LogCaptureFixture):
    (squares / "data.yaml").write_text("train: train/images\nval: valid/images\n", encoding="utf-8")
    for number in (0, 1):
        (squares / "valid" / "labels" / f"valid{number}.txt").write_text("0 0.5 0.5 0.01 0.3\n", encoding="utf-8")
    with caplog.at_level("INFO"):
        plan(epochs=1)
    assert sum("nothing names the classes" in line for line in caplog.messages) == 1
    assert any(line.startswith("  val: 2 boxes are less than 2 pixels wide") for line in caplog.messages)


def test_data_without_images_are_told(tmp_path: Path, squares: Path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "labels.csv").write_text("filename,width,height,class,xmin,ymin,xmax,ymax\n", encoding="utf-8")
    with pytest.raises(InvalidValueError, match=r"the data set has no image to train with"):
        plan("none")


# ---------------------------------------------------------------- the budget
@pytest.mark.parametrize("slowness", [1.0, 2.0])
def test_the_time_that_went_by_is_counted(squares: Path, slowness: float):
    started = time.time() - 40
    made = {c.key: c.value for c in make_plan(
        Request("squares", minutes=1, overrides=TINY, started=started),
        lambda *_: Pace(step=0.05 * slowness, image=0.01, start=2),
    ).choices}  # fmt: skip
    assert 10 <= made["SOLVER.MAX_ITER"] * 0.05 * slowness <= 18


def test_time_that_is_too_short_is_a_warning(squares: Path, caplog: pytest.LogCaptureFixture):
    make_plan(Request("squares", minutes=0.01, overrides=TINY), lambda *_: Pace(step=1.0))
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert any("10 steps of 4 images: the fewest steps" in line for line in said)


def test_a_batch_that_does_not_fit_is_halved(squares: Path):
    tried = []

    def measure(cfg, *_):
        tried.append(cfg.SOLVER.IMS_PER_BATCH)
        if tried[-1] > 1:
            raise DoesNotFit
        return pace()

    made = {c.key: c.value for c in make_plan(Request("squares", minutes=1, overrides=TINY), measure).choices}
    assert tried == [4, 2, 1] and made["SOLVER.IMS_PER_BATCH"] == 1
    with pytest.raises(InvalidValueError, match="do not fit into the memory"):
        make_plan(Request("squares", overrides=[*TINY, "SOLVER.IMS_PER_BATCH", 4], minutes=1), measure)


# ---------------------------------------------------------------- all of it
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"minutes": 0}, "minutes must be above 0, not 0"),
        ({"minutes": -1}, "minutes must be above 0"),
        ({"epochs": float("nan")}, "epochs must be above 0, not nan"),
        ({"epochs": "few"}, "epochs must be a number, not 'few'"),
        ({"minutes": True}, "minutes must be a number, not True"),
        ({"minutes": 1, "epochs": 2}, "minutes 1 and epochs 2: each says how long to train; give one of them"),
    ],
)
def test_finetune_refuses_a_length_that_is_none(given: dict, said: str):
    """Zero and less were ten steps, and epochs beside minutes made those count for nothing."""
    with pytest.raises(UserError, match=said):
        detframe.finetune("nowhere", **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"path": None}, "path must name a folder, .* not None"),
        ({"path": ["squares"]}, r"path must be a text or a path, not \['squares'\]"),
        ({"weights": {}}, "weights must be a text or a path, not {}"),
        ({"task": ["mask"]}, "task must be a text or a path, not"),
        ({"overrides": "SOLVER.MAX_ITER 4"}, "overrides must be a dict .* not 'SOLVER.MAX_ITER 4'"),
        ({"overrides": None}, "overrides must be a dict .* not None"),
    ],
)
def test_finetune_names_an_argument_of_another_kind(given: dict, said: str):
    with pytest.raises(TypeError, match=said):
        detframe.finetune(**{"path": "nowhere", **given})


def test_none_is_an_argument_that_was_left_out(squares: Path):
    none = dict.fromkeys(("model", "weights", "output", "task", "val_data", "format"))
    detframe.finetune("squares", **none, overrides=[*TINY, "SOLVER.MAX_ITER", 1])
    assert Path("output/squares/recipe.yaml").is_file() and not Path("None").exists()


def test_finetune_returns_a_detector(squares: Path):
    detector = detframe.finetune("squares", output="out", overrides=[*TINY, "SOLVER.MAX_ITER", 4])
    assert detector.class_names == ("square",)
    assert {"boxes", "labels", "scores"} <= set(detector.predict(sorted(map(str, squares.glob("valid/images/*"))))[0])
    names = {path.name for path in Path("out").iterdir()}
    assert {"recipe.yaml", "catalog.yaml", "config.yaml", "model_best.pth", "log.txt"} <= names
    assert read_config("out/config.yaml").DATASETS.CATALOG == str(Path("out/catalog.yaml").absolute())


def test_a_trial_gives_the_length(squares: Path):
    choices = make_plan(Request("squares", minutes=1, overrides=TINY)).choices
    length = next(choice for choice in choices if choice.key == "SOLVER.MAX_ITER")
    assert 10 <= length.value <= 600 and length.reason


def test_what_is_odd_about_the_data_is_told_in_short(squares: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = squares / "train" / "images" / "train0.png"
    first.write_bytes(b"")
    with caplog.at_level("INFO", "detframe"):
        plan("squares")
    assert any(first.name in record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert "  all about the data: detframe check --data squares" in caplog.text


def test_images_of_the_test_split_are_no_leftovers(squares: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("images", "labels"):
        shutil.copytree(squares / "valid" / kind, squares / "test" / kind)
    for image in (squares / "test" / "images").iterdir():
        cv2.imwrite(str(image), 255 - cv2.imread(str(image)))
    (squares / "data.yaml").write_text((squares / "data.yaml").read_text() + "test: test/images\n")
    plan("squares")
    assert "in no split" not in caplog.text


# ---------------------------------------------------------------- images of other channels
def test_mean_and_deviation_of_other_channels_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    channel_set(Path("bands"), ".tif", 4, "uint16", 6)
    four = [*TINY, "INPUT.CHANNELS", 4]
    cfg = read_config(write(plan("bands", epochs=1, overrides=four)))
    train = load_records(cfg.DATASETS.TRAIN, cfg.DATASETS.CATALOG)
    pixels = np.concatenate([load_pixels(train.file_name(i), form=PixelForm.of(cfg)) for i in range(len(train))])
    assert cfg.INPUT.PIXEL_MEAN == pytest.approx(pixels.mean((0, 1), dtype=float), rel=1e-3)
    assert cfg.INPUT.PIXEL_STD == pytest.approx(pixels.std((0, 1), dtype=float), rel=1e-3)
    reasons = {choice.key: choice.reason for choice in plan("bands", epochs=1, overrides=four).choices}
    assert reasons["INPUT.PIXEL_MEAN"] == f"measured over the pixels of {len(train)} training images"
    given = plan("bands", epochs=1, overrides=[*four, "INPUT.PIXEL_MEAN", "1,2,3,4"])
    assert {c.key: c.value for c in given.choices}["INPUT.PIXEL_MEAN"] == (1.0, 2.0, 3.0, 4.0)


def test_a_config_that_has_a_mean_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    channel_set(Path("bands"), ".npy", 3, "uint16", 6)
    Path("own.yaml").write_text("INPUT: {DEPTH: file, PIXEL_MEAN: [1, 2, 3], PIXEL_STD: [4, 5, 6]}\n", encoding="utf-8")
    keys = {choice.key for choice in plan("bands", model="own.yaml", epochs=1, overrides=TINY).choices}
    assert "INPUT.PIXEL_MEAN" not in keys
    keys = {choice.key for choice in plan("bands", epochs=1, overrides=[*TINY, "INPUT.DEPTH", "file"]).choices}
    assert {"INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD"} <= keys
