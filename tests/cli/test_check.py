"""`detframe check`: the screen as a user sees it, as JSON, and the clean copy that it writes."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detframe.cli.check import main
from tests.data.screen.faults import picture
from tests.data.tiffs import write_tiff

BOXES = "0 0.25 0.3 0.3 0.4\n1 0.7 0.6 0.2 0.3\n"
NAMES = ("cat", "dog")
TINY = (
    "MODEL.BACKBONE.CONV_BODY", "R-18-FPN",
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0,
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 8,
    "MODEL.RESNETS.NORM", "BN",
    "MODEL.FPN.OUT_CHANNELS", 16,
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32,
    "MODEL.DEVICE", "cpu",
    "SOLVER.IMS_PER_BATCH", 2,
)  # fmt: skip
Check = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETFRAME_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("DETFRAME_DATASETS", raising=False)


@pytest.fixture(autouse=True)
def _without_model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data alone, where a test is not about the model."""
    if "model" not in request.node.name:
        monkeypatch.setattr("detframe.cli.check._model", lambda *_: None)


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Run the command: check("--data", path) -> exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def write_yolo(
    folder: Path, train: int = 12, val: int = 10, names: tuple[str, ...] = NAMES, boxes: str = BOXES
) -> Path:
    """A YOLO data set without a fault."""
    rows = [("train", n) for n in range(train)] + [("val", n) for n in range(100, 100 + val)]
    for split, n in rows:
        picture(folder / split / "images" / f"{n}.png", n)
        (folder / split / "labels").mkdir(parents=True, exist_ok=True)
        (folder / split / "labels" / f"{n}.txt").write_text(boxes)
    splits = "".join(f"{split}: {split}/images\n" for split in dict.fromkeys(split for split, _ in rows))
    (folder / "data.yaml").write_text(f"{splits}names: {list(names)}\n")
    return folder


def spoil(folder: Path) -> Path:
    """Faults of many kinds; returns the folder."""
    train, labels = folder / "train/images", folder / "train/labels"
    (train / "0.png").write_bytes((train / "0.png").read_bytes()[:200])
    shutil.copy(train / "1.png", train / "copy.png")
    shutil.copy(labels / "1.txt", labels / "copy.txt")
    shutil.copy(train / "2.png", folder / "val/images/leak.png")
    shutil.copy(labels / "2.txt", folder / "val/labels/leak.txt")
    (labels / "3.txt").write_text(f"{BOXES}0 0.25 0.3 0.3 0.4\n1 0.5 0.5 0.01 0.2\n1 0.5 0.5 0 0.2\n")
    cv2.imwrite(str(train / "4.png"), np.full((48, 64, 3), 90, np.uint8))
    return folder


def test_a_clean_data_set(tmp_path: Path, check: Check) -> None:
    code, out, err = check("--data", write_yolo(tmp_path / "pets"))
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith("is read as yolo: data.yaml names 2 classes; train is") or "yolo" in out
    assert out.splitlines()[-1] == "READY to train on: nothing is odd about it."
    assert "class  train  val\ncat       12   10\ndog       12   10\n" in out
    assert "train      12                0       24" in out
    assert max(map(len, out.splitlines()[1:])) < 80


def test_a_terminal_shows_how_many_pictures_are_read(
    tmp_path: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    folder, screen = write_yolo(tmp_path / "data"), Screen()
    with monkeypatch.context() as patched:
        patched.setattr("sys.stderr", screen)
        code, out, _ = check("--data", folder)
    assert code == 0 and "reading images 10/22" in screen.getvalue() and "reading" not in out
    assert screen.getvalue().endswith("\r"), "and takes the line away at the end"


def test_faults_by_severity(tmp_path: Path, check: Check) -> None:
    code, out, err = check("--data", spoil(write_yolo(tmp_path / "pets", 30)))
    assert (code, err) == (0, "")
    assert "warnings: look at these before training" in out and "errors" not in out.split("READY")[0]
    for line in (
        "- train: 1 image cannot be read",
        "- train: 1 image is equal, byte for byte, to another one of its split",
        "    train/images/copy.png = train/images/1.png",
        "- val: 1 image is in train too, byte for byte, so AP is better here than on new",
        "    train/images/2.png and val/images/leak.png",
        "- train: 1 box is less than 2 pixels wide or high; it is kept",
        "- train: 1 image shows one colour and nothing else; it is kept",
    ):
        assert line in out
    assert "READY to train on: no errors; " in out


def test_what_would_spoil_a_training_is_exit_code_1(tmp_path: Path, check: Check) -> None:
    folder = write_yolo(tmp_path / "pets", boxes="")
    code, out, _ = check("--data", folder)
    assert code == 1 and "errors: these would spoil a training" in out and "NOT READY: 2 errors" in out
    assert "train: 12 images, and not one object in them" in out


def test_tiles_that_are_smaller_than_objects_are_an_error_that_proposes_a_size(tmp_path: Path, check: Check) -> None:
    folder = write_yolo(tmp_path / "pets")
    code, out, _ = check("--data", folder, "INPUT.TILES.SIZE", 16)
    text = " ".join(out.split())
    assert (
        code == 1 and "train: 12 of 24 objects (50%) are longer than a tile of 16 pixels (the longest has 19)" in text
    )
    assert "set INPUT.TILES.SIZE 64, which leaves all images whole, or INPUT.TILES.WHOLE_IMAGE_TOO True" in text
    code, out, _ = check("--data", folder, "INPUT.TILES.SIZE", 40)
    assert code == 0 and "errors" not in out.split("READY")[0]
    code, out, _ = check("--data", folder, "INPUT.TILES.SIZE", 64)
    assert code == 0 and "no image is larger than a tile of 64 pixels" in " ".join(out.split())
    assert "INPUT.TILES" not in check("--data", folder)[1]


def test_a_tiff_beyond_the_limit_of_pixels_is_no_error_where_images_are_cut_into_tiles(
    tmp_path: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_yolo(tmp_path / "pets")
    for old in folder.rglob("*.png"):
        write_tiff(old.with_suffix(".tif"), cv2.imread(str(old))[..., ::-1], tile=16)
        old.unlink()
    monkeypatch.setenv("DETFRAME_MAX_IMAGE_PIXELS", "2000")
    code, out, _ = check("--data", folder)
    assert "12 images cannot be read" in out and "64x48 = 3072 pixels, and the limit is 2000" in " ".join(out.split())
    code, out, _ = check("--data", folder, "INPUT.TILES.SIZE", 40)
    assert code == 0 and "cannot be read" not in out


def test_json_is_one_object_on_standard_output(tmp_path: Path, check: Check) -> None:
    code, out, err = check("--data", spoil(write_yolo(tmp_path / "pets", 30)), "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["version"] == 1 and found["ready"] is True and found["written"] is None
    assert found["recognised"]["format"] == "yolo"
    assert found["splits"]["train"]["images"] == 31 and found["splits"]["val"]["images"] == 11
    assert found["splits"]["val"]["objects_per_image"] == {"mean": 2.0, "median": 2.0, "most": 2}
    assert found["splits"]["val"]["image_sizes"] == {"smallest": [64, 48], "largest": [64, 48]}
    assert found["classes"][1] == {"name": "dog", "objects": {"train": 32, "val": 11}}
    codes = {(f["split"], f["code"]): (f["severity"], f["count"]) for f in found["findings"]}
    assert codes["train", "unreadable-image"] == ("warning", 1)
    assert codes["train", "duplicate-image"] == ("warning", 1)
    assert codes["val", "image-in-both-splits"] == ("warning", 1)
    assert codes["train", "blank-image"] == ("warning", 1)
    assert found["counts"]["warning"] == sum(f["severity"] == "warning" for f in found["findings"])
    keys = {"severity", "code", "split", "count", "text", "examples", "remedy"}
    assert all(set(f) == keys for f in found["findings"])


def test_json_of_what_would_spoil_a_training(tmp_path: Path, check: Check) -> None:
    code, out, _ = check("--data", write_yolo(tmp_path / "pets", boxes=""), "--json", "--quick")
    assert code == 1 and json.loads(out)["ready"] is False


def test_quick_does_not_read_pixels(tmp_path: Path, check: Check) -> None:
    code, out, _ = check("--data", spoil(write_yolo(tmp_path / "pets", 30)), "--quick")
    assert code == 0 and "(the pixels of images were not looked at: --quick)" in " ".join(out.split())
    assert "one colour" not in out and "byte for byte" in out


# ---------------------------------------------------------------------------------------------- the clean copy
def test_the_clean_copy_has_no_finding(tmp_path: Path, check: Check) -> None:
    target = tmp_path / "clean" / "pets.json"
    code, out, _ = check("--data", spoil(write_yolo(tmp_path / "pets", 30)), "--write", target)
    assert code == 0
    assert sorted(path.name for path in target.parent.iterdir()) == ["pets_train.json", "pets_val.json"]
    for line in ("left out: 1 images that cannot be read", "left out: 2 images that are there twice"):
        assert line in out
    data = json.loads((target.parent / "pets_train.json").read_text())
    assert len(data["images"]) == 28  # of 31 without the broken one, the copy and the one in val
    assert [image["id"] for image in data["images"]] == list(range(1, 29))
    assert [a["id"] for a in data["annotations"]] == list(range(1, len(data["annotations"]) + 1))
    assert data["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert all((target.parent / image["file_name"]).resolve().is_file() for image in data["images"])


# ---------------------------------------------------------------------------------------------- a config's data sets
def test_the_data_sets_of_a_config(tmp_path: Path, check: Check) -> None:
    write_coco_sets(tmp_path)
    (tmp_path / "c.yaml").write_text(
        f"DATASETS: {{CATALOG: {tmp_path}/catalog.yaml, TRAIN: [a], TEST: [b]}}\nMODEL: {{DEVICE: cpu}}\n"
    )
    code, out, _ = check("--config-file", tmp_path / "c.yaml")
    assert code == 0 and "the data sets of this config" in " ".join(out.split()) and "READY to train on: nothing" in out
    (tmp_path / "a" / "3.png").write_bytes(b"")
    code, out, _ = check("--config-file", tmp_path / "c.yaml")
    assert code == 1 and "train: 1 image cannot be read" in out  # DATALOADER.ON_ERROR is raise
    code, out, _ = check("--config-file", tmp_path / "c.yaml", "DATALOADER.ON_ERROR", "skip")
    assert code == 0 and "train: 1 image cannot be read" in out


def write_coco_sets(folder: Path) -> None:
    """Two data sets and their catalog."""
    entries = []
    for first, name in ((0, "a"), (50, "b")):
        images, annotations = [], []
        for n in range(first, first + 12):
            picture(folder / name / f"{n}.png", n)
            images.append({"id": n + 1, "file_name": f"{n}.png", "height": 48, "width": 64})
            box = {"bbox": [4, 4, 30, 20], "area": 600, "iscrowd": 0, "category_id": 1}
            annotations.append({"id": n + 1, "image_id": n + 1, **box})
        data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
        (folder / f"{name}.json").write_text(json.dumps(data))
        entries.append(f"{name}: {{format: coco, images: {name}, annotations: {name}.json}}\n")
    (folder / "catalog.yaml").write_text("".join(entries))


# ---------------------------------------------------------------------------------------------- the model
def test_the_chosen_model_against_the_data(tmp_path: Path, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETFRAME_OFFLINE", "1")
    folder = write_yolo(tmp_path / "pets")
    code, out, err = check("--data", folder, "--quick")
    assert (code, err) == (0, "")
    assert "the model that `detframe train --data` chooses, against train" in out
    assert "sides of objects, px" in out and "model on" not in out
    found = json.loads(check("--data", folder, "--quick", "--json")[1])["model"]
    assert found["reach"]["objects"] == 24 and 0 <= found["reach"]["attainable_recall"] <= 1
    assert found["trial"] is None


def test_overrides_win_over_what_the_chosen_model_is_for_the_data(
    tmp_path: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETFRAME_OFFLINE", "1")
    settings = ("INPUT.MIN_SIZE_TRAIN", "[96]", "MODEL.RPN.ASSIGNER", "nwd", "MODEL.RPN.ASSIGNMENT.ATSS_K", "5")
    body = ("MODEL.BACKBONE.CONV_BODY", "R-18-FPN", "MODEL.WEIGHTS", "", "INPUT.TILES.SIZE", "32")
    _, out, _ = check("--data", write_yolo(tmp_path / "pets"), "--quick", *settings, *body)
    text = " ".join(out.split())
    assert "R-18-FPN, AnchorRPN, from random weights" in text and "shorter side 96" in text
    assert "each IoU size" in text  # the table of anchors that are ranked
    assert "MODEL.RPN.ASSIGNMENT.ATSS_K has no effect: MODEL.RPN.ASSIGNER is 'nwd'" in text
    sizes = {name: facts["reach"]["objects"] for name, facts in _models(check, tmp_path / "pets").items()}
    assert sizes["tiles"] > sizes["whole"]  # what the tiles show, cut objects twice


def _models(check: Check, folder: Path) -> dict[str, Any]:
    words = ("--data", folder, "--quick", "--json", "MODEL.WEIGHTS", "")
    tiles = ("INPUT.TILES.SIZE", 24, "INPUT.TILES.OVERLAP", 0.5)
    return {name: json.loads(check(*words, *more)[1])["model"] for name, more in (("whole", ()), ("tiles", tiles))}


def test_the_model_of_a_config_is_tried(tmp_path: Path, check: Check) -> None:
    write_coco_sets(tmp_path)
    (tmp_path / "c.yaml").write_text(f"DATASETS: {{CATALOG: {tmp_path}/catalog.yaml, TRAIN: [a], TEST: [b]}}\n")
    settings = [str(word) for word in (*TINY, "MODEL.NUM_CLASSES", 0, "INPUT.MIN_SIZE_TRAIN", 48)]
    code, out, _ = check("--config-file", tmp_path / "c.yaml", *settings, "--json")
    found = json.loads(out)
    trial = found["model"]["trial"]
    assert trial["device"] == "cpu" and trial["parameters"] > 0 and trial["seconds_per_step"] > 0
    assert [batch["batch"] for batch in trial["batches"]][:2] == ["empty", "ordinary"]
    assert all(batch["failure"] == "" for batch in trial["batches"])
    assert code == (not found["ready"]) == 0


def test_a_training_of_the_chosen_model_that_ends_early_says_so(
    tmp_path: Path, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detframe.recipes.budget.DEFAULT_MINUTES", {"cpu": 0.2, "gpu": 0.2})
    keys = ("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "INPUT.MIN_SIZE_TRAIN", "[48]")
    words = ("--data", write_yolo(tmp_path / "pets"), *keys)
    said = re.search(
        r"(\d+) iterations with .*? `detframe train --data` makes about (\d+) iterations, as it ends after "
        r"0\.2 minutes; --minutes or --epochs change that",
        " ".join(check(*words)[1].split()),
    )
    assert said is not None and 0 < int(said[2]) < int(said[1])
    assert "too seldom" not in said.string  # sizes are given
    free = " ".join(check(*words[:-2], "INPUT.MIN_SIZE_TEST", "48")[1].split())
    assert "Its images come too seldom for other sizes and colours each time: all are resized as in test" in free
    early = json.loads(check(*words, "--json")[1])["model"]["trial"]["ends_early"]
    assert early["minutes"] == 0.2 and early["iterations"] > 0
    text = " ".join(check(*words, "SOLVER.MAX_ITER", "5", "SOLVER.MAX_MINUTES", "2")[1].split())
    assert "5 iterations with" in text and "`detframe train --data` makes about" not in text  # nothing but the keys
    assert "SOLVER.MAX_MINUTES makes as many of them as fit into 2 minutes, evaluation included" in text


def test_a_model_that_cannot_be_made_is_an_error(tmp_path: Path, check: Check) -> None:
    write_coco_sets(tmp_path)
    (tmp_path / "c.yaml").write_text(f"DATASETS: {{CATALOG: {tmp_path}/catalog.yaml, TRAIN: [a], TEST: [b]}}\n")
    code, out, _ = check("--config-file", tmp_path / "c.yaml", "MODEL.DEVICE", "cpu", "MODEL.NUM_CLASSES", "7")
    assert code == 1
    assert "- model: it cannot be made: MODEL.NUM_CLASSES is 7, but the data set a" in " ".join(out.split())


def test_a_model_is_not_asked_where_there_is_nothing_to_learn(tmp_path: Path, check: Check) -> None:
    code, out, _ = check("--data", write_yolo(tmp_path / "pets", boxes=""), "--json")
    assert code == 1 and json.loads(out)["model"] is None


# ---------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no data set is named: --data PATH takes"),
        (("--data", "nowhere"), "nowhere does not exist"),
        (
            ("--data", ".", "--write", "x.txt"),
            "--write takes the name of a COCO file, which ends in .json, not 'x.txt'",
        ),
        (("--config-file", "c.yaml"), "names no data sets"),
    ],
)
def test_mistakes(
    words: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Check
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("MODEL: {DEVICE: cpu}\n")
    code, out, err = check(*words)
    assert code == 2 and out == "" and err.startswith("error: ") and message in err


def test_real_data(shared: Path, check: Check) -> None:
    code, out, _ = check("--data", shared / "data" / "fingerlings", "--quick", "--json")
    found = json.loads(out)
    assert code == 0 and found["splits"]["val"]["images"] == 208
    assert [finding["code"] for finding in found["findings"]] == ["tiny-box"]


def test_one_file_where_the_data_set_has_one_part(tmp_path: Path, check: Check) -> None:
    folder = write_yolo(tmp_path / "pets", 60, 0)
    code, out, _ = check("--data", folder, "--write", tmp_path / "clean" / "pets.json")
    assert code == 0 and "pets.json: 60 images, 120 objects" in " ".join(out.split())
    assert [path.name for path in (tmp_path / "clean").iterdir()] == ["pets.json"] and "nothing had to be left" in out
    code, out, _ = check("--data", tmp_path / "clean" / "pets.json")  # and it loads again, images and all
    assert code == 0 and "warnings" not in out and "errors:" not in out
    assert "is read as coco" in " ".join(out.split())


def test_crowds_are_counted_apart_before_and_after(tmp_path: Path, check: Check) -> None:
    write_coco_sets(tmp_path)
    data = json.loads((tmp_path / "a.json").read_text())
    for annotation in data["annotations"][:3]:
        annotation["iscrowd"] = 1
    (tmp_path / "a.json").write_text(json.dumps(data))
    (tmp_path / "c.yaml").write_text(f"DATASETS: {{CATALOG: {tmp_path}/catalog.yaml, TRAIN: [a], TEST: [b]}}\n")
    words = ("--config-file", tmp_path / "c.yaml", "--quick", "--write", tmp_path / "clean.json")
    found = json.loads(check(*words, "--json")[1])
    numbers = {split: (facts["objects"], facts["crowds"]) for split, facts in found["splits"].items()}
    assert numbers == {"train": (9, 3), "val": (12, 0)}
    assert {row["split"]: (row["objects"], row["crowds"]) for row in found["written"]["files"]} == numbers
    assert found["classes"] == [{"name": "cat", "objects": {"train": 9, "val": 12}}]
    text = " ".join(check(*words)[1].split())
    assert "clean_train.json: 12 images, 9 objects, 3 crowds" in text
    assert "clean_val.json: 12 images, 12 objects" in text and " 0 crowds" not in text
