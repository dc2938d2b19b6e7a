"""docs/moving.md: every command and every Python block runs, in order, on files as its reader would have them."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from detframe.cli import quickstart
from detframe.compat.export import to_detectron2
from detframe.config import ConfigNode, get_cfg
from detframe.inference import Detector
from detframe.modeling import build_detection_model
from tests.compat.models import renamed
from tests.compat.programs.test_maskrcnn_benchmark import BODY, BOX, FPN, RPN
from tests.config.foreign import TABLES
from tests.modeling.parity import formula, reference

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "moving.md").read_text(encoding="utf-8")
MODULES = {"train_net": "train", "test_net": "evaluate"}
SHAPES = ["circle", "square", "triangle", "star", "cross"]
# What a reader's own small config says beside the standard one
INPUT = {"MIN_SIZE_TRAIN": [64], "MAX_SIZE_TRAIN": 96, "MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 96}
SOLVER = {"IMS_PER_BATCH": 2, "BASE_LR": 0.0001, "CHECKPOINT_PERIOD": 10}


def steps() -> list[tuple[str, str]]:
    """(language, text) of the page: each Python block, and each command of the others."""
    out = []
    for language, text in re.findall(r"^```(bash|python)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE):
        commands = text.replace("\\\n", " ").splitlines() if language == "bash" else [text]
        out += [(language, command) for command in commands]
    return out


def run(command: str) -> None:
    """A command of the page in this process, its standard output into the file after ">"."""
    command, _, target = command.partition(" > ")
    python, script, *words = shlex.split(command)
    name = re.fullmatch(r"tools/(\w+)\.py", script)
    assert python == "python" and name and (ROOT / script).is_file(), command
    module = importlib.import_module(f"detframe.cli.{MODULES.get(name[1], name[1])}")
    with contextlib.redirect_stdout(io.StringIO()) if target else contextlib.nullcontext() as out:
        assert module.main(words) == 0, command
    if target:
        Path(target.strip()).write_text(out.getvalue(), encoding="utf-8")


def own_config(path: Path, tree: dict[str, Any], section: str, classes: int) -> ConfigNode:
    """A reader's file: a standard config with small images and other classes; returns what detframe makes of it."""
    tree = copy.deepcopy(tree)
    tree["INPUT"] = {**tree.get("INPUT", {}), **INPUT}
    tree["INPUT"].pop("MIN_SIZE_RANGE_TRAIN", None)
    tree["SOLVER"] = {**tree.get("SOLVER", {}), **SOLVER}
    tree["MODEL"].setdefault(section, {})["NUM_CLASSES"] = classes
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu"])
    return cfg


def table(program: str) -> dict[str, Any]:
    text = re.sub(r"!!python\S*", "", (TABLES / f"{program}.yaml").read_text(encoding="utf-8"))
    return yaml.safe_load(text)


def bring_detectron2(folder: Path) -> None:
    trees = table("detectron2")
    folder.mkdir(parents=True)
    (folder / "Base-RCNN-FPN.yaml").write_text(yaml.safe_dump(trees["Base-RCNN-FPN.yaml"]), encoding="utf-8")
    tree = {**trees["COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"], "_BASE_": "Base-RCNN-FPN.yaml"}
    model = build_detection_model(own_config(folder / "faster_rcnn.yaml", tree, "ROI_HEADS", 5))
    torch.save({"model": to_detectron2(model), "iteration": 9}, folder / "model_final.pth")


def bring_maskrcnn_benchmark(folder: Path) -> None:
    tree = table("maskrcnn_benchmark")["e2e_faster_rcnn_R_50_FPN_1x.yaml"]
    model = build_detection_model(own_config(folder / "faster_rcnn.yaml", tree, "ROI_BOX_HEAD", 6))
    state = renamed(model, BODY | FPN | RPN | BOX, background=True)
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, folder / "model_final.pth")


def bring_fcos(folder: Path) -> None:
    own_config(folder / "fcos_imprv.yaml", table("fcos")["fcos/fcos_imprv_R_50_FPN_1x.yaml"], "FCOS", 6)
    state = {}
    for name, (shape, kind) in reference("fcos_imprv_R_50_FPN")[0]["state"].items():
        shape = (5, *shape[1:]) if ".cls_logits." in name else shape
        state[name] = torch.from_numpy(formula.fill(name, tuple(shape), kind))
    torch.save({"model": state}, folder / "model_final.pth")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with old files, photos and a little data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETFRAME_DATASETS", str(tmp_path / "data"))
    quickstart.import_make_shapes()(train=4, val=2, size=64)
    bring_detectron2(tmp_path / "old" / "detectron2")
    bring_maskrcnn_benchmark(tmp_path / "old" / "maskrcnn_benchmark")
    bring_fcos(tmp_path / "old" / "fcos")
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    return tmp_path


def test_every_command_runs(workplace: Path):
    found = steps()
    assert len([1 for language, _ in found if language == "bash"]) > 15
    for language, text in found:
        if language == "bash":
            run(text)
        else:
            exec(compile(text, "docs/moving.md", "exec"), {})
    for file, line in (("faster_rcnn", "LOSS_NORMALIZER: batch_size"), ("e2e_faster_rcnn", "LEGACY_BOXES: true")):
        assert line in Path(f"{file}.yaml").read_text()
    for name in ("detector", "detector_mrb", "detector_fcos", "detector_tv"):
        assert list(Detector.load(f"{name}.pth", device="cpu").class_names) == SHAPES
    for folder in ("tuned", "tuned_mrb", "tuned_fcos"):
        rows = [json.loads(row) for row in Path(f"output/{folder}/metrics.jsonl").read_text().splitlines()]
        assert "bbox/AP" in rows[-1]
        # FCOS was tuned from its own file, which does not name its classes
        named = "class rows copied: 5 of 5" in Path(f"output/{folder}/log.txt").read_text()
        assert named == (folder != "tuned_fcos")
    for name in ("for_detectron2.pth", "for_torchvision.pth", "found/a.png", "found_mrb/a.png", "found_fcos/a.png"):
        assert Path(name).is_file()
