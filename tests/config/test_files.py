"""Config files: bases, errors with file and line, finding the shipped ones, user modules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detframe import registry
from detframe.config import find_config, get_cfg, import_custom_modules, shipped_folder, validate
from detframe.config.paths import with_docs
from detframe.errors import UserError

SHIPPED = sorted(shipped_folder("configs").rglob("*.yaml"))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(path: Path):
    cfg = get_cfg()
    cfg.merge_from_file(path)
    return cfg


# ---------------------------------------------------------------- _BASE_
def test_the_file_comes_after_its_base(tmp_path: Path):
    write(tmp_path / "base.yaml", "SOLVER: {BASE_LR: 0.1, GAMMA: 0.5}\n")
    file = write(tmp_path / "sub" / "a.yaml", "SOLVER: {BASE_LR: 0.3}\n_BASE_: ../base.yaml\n")
    cfg = load(file)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.GAMMA) == (0.3, 0.5)
    assert cfg.source("SOLVER.GAMMA").endswith("base.yaml:1")


def test_of_several_bases_the_later_wins(tmp_path: Path):
    write(tmp_path / "one.yaml", "SOLVER: {BASE_LR: 0.1, GAMMA: 0.1}\n")
    write(tmp_path / "two.yaml", "SOLVER: {BASE_LR: 0.2}\n")
    cfg = load(write(tmp_path / "a.yaml", "_BASE_: [one.yaml, two.yaml]\n"))
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.GAMMA) == (0.2, 0.1)


def test_a_circle_of_bases_is_shown(tmp_path: Path):
    write(tmp_path / "a.yaml", "_BASE_: b.yaml\n")
    file = write(tmp_path / "b.yaml", "_BASE_: a.yaml\n")
    with pytest.raises(ValueError, match=r"circle: .*b\.yaml -> .*a\.yaml -> .*b\.yaml"):
        load(file)


def test_a_shipped_config_serves_as_base_from_anywhere(tmp_path: Path):
    cfg = load(write(tmp_path / "a.yaml", "_BASE_: configs/faster_rcnn/faster_rcnn_R_101_FPN_1x.yaml\n"))
    assert cfg.MODEL.BACKBONE.CONV_BODY == "R-101-FPN"


def test_a_missing_base_names_the_file_that_wanted_it(tmp_path: Path):
    file = write(tmp_path / "a.yaml", "_BASE_: nothing.yaml\n")
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml does not exist \(_BASE_ of .*a\.yaml\)"):
        load(file)


def test_a_section_that_stands_twice_is_the_two_together(tmp_path: Path):
    text = "MODEL: {RESNETS: {NORM: GN}}\nSEED: 1\nMODEL: {RESNETS: {NUM_GROUPS: 32}}\n"
    cfg = load(write(tmp_path / "a.yaml", text))
    assert (cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.NUM_GROUPS) == ("GN", 32)


# ---------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("SOLVER:\n  BASE_LRR: 1\n", KeyError, r"SOLVER\.BASE_LRR \(.*a\.yaml:2\); did you mean 'SOLVER\.BASE_LR'"),
        ("SOLVR:\n  BASE_LR: 1\n", KeyError, r"SOLVR\.BASE_LR \(.*a\.yaml:2\); did you mean 'SOLVER\.BASE_LR'"),
        ("SEED: 1\nSEED: 2\n", ValueError, r"SEED is given twice \(.*a\.yaml:2\)"),
        (
            "SOLVER: {BASE_LR: 1}\nSEED: 1\nSOLVER: {BASE_LR: 2}\n",
            ValueError,
            r"SOLVER\.BASE_LR is given twice \(.*a\.yaml:3\)",
        ),
        ("SEED: [1\n", ValueError, r"a\.yaml is not valid YAML"),
        ("- SEED\n", ValueError, "must hold KEY: VALUE pairs"),
        ("SEED: x\n", ValueError, r"SEED must be a whole number.*a\.yaml:1"),
        ("SOLVER: 3\n", ValueError, "SOLVER is a section"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, error: type[Exception], match: str):
    with pytest.raises(error, match=match):
        load(write(tmp_path / "a.yaml", text))


def test_an_empty_file_and_an_empty_section_change_nothing(tmp_path: Path):
    assert load(write(tmp_path / "a.yaml", "")) == get_cfg()
    assert load(write(tmp_path / "b.yaml", "SOLVER:\n")) == get_cfg()


def test_words_that_yaml_reads_as_booleans(tmp_path: Path):
    assert load(write(tmp_path / "a.yaml", "SOLVER: {AMP: off}\n")).SOLVER.AMP == "off"
    assert load(write(tmp_path / "b.yaml", "SOLVER: {BASE_LR: 1e-3}\n")).SOLVER.BASE_LR == 0.001


# ---------------------------------------------------------------- shipped configs
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_config_is_valid(path: Path):
    cfg = load(path)
    validate(cfg)
    assert path.name.startswith("Base-") or (cfg.DATASETS.TRAIN and cfg.DATASETS.TEST)


@pytest.mark.parametrize("path", [p for p in SHIPPED if p.parent != shipped_folder("configs")], ids=lambda p: p.name)
def test_shipped_configs_are_called_after_what_they_train(path: Path):
    """DETECTOR/DETECTOR_BACKBONE_SCHEDULE.yaml, {quick,small}/DETECTOR_BACKBONE_DATASET.yaml; ablations name a variant.

    The stages of a training are 1_NAME.yaml, 2_NAME.yaml, ... in a folder that is called after the last one.
    """
    cfg = load(path)
    if path.stem[0].isdigit():
        last = load(sorted(path.parent.glob("*.yaml"))[-1])
        assert last.MODEL.BACKBONE.CONV_BODY.replace("-", "_") in path.parent.name
        return
    if path.parent.name not in ("quick", "small", "fpn_ablations", "efpn", "tt100k"):
        assert path.name.startswith(path.parent.name + "_")
    body = cfg.MODEL.BACKBONE.CONV_BODY.removesuffix("-RETINANET")
    if re.search(r"_(bottom_up|no_lateral|finest_only|image_pyramid)_", path.stem):
        body = body.rpartition("-")[0]
    if body.startswith("timm/"):
        name, _, pyramid = body.partition("/")[2].rpartition("-")
        body = "_".join(["timm", *name.split("_")[:2], pyramid])
    assert body.replace("-", "_") in path.stem
    schedules = {
        "1x": (90000, (60000, 80000)),
        "2x": (180000, (120000, 160000)),
        "3x": (270000, (210000, 250000)),
    }
    schedule = path.stem.rpartition("_")[2]
    if schedule in schedules:
        batch = re.search(r"_bs(\d+)_", path.stem)
        assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == schedules[schedule]
        assert cfg.SOLVER.IMS_PER_BATCH == (int(batch[1]) if batch else 16)


def test_shipped_configs_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    name = "faster_rcnn/faster_rcnn_R_50_FPN_1x.yaml"
    assert find_config(name) == find_config(f"configs/{name}") == shipped_folder("configs") / name
    mine = write(tmp_path / name, "SEED: 1\n")
    assert find_config(name).resolve() == mine


def test_a_missing_config_names_the_nearest():
    with pytest.raises(FileNotFoundError, match=r"among the shipped configs$"):
        find_config("cat.yaml")  # like none of them but for the suffix
    with pytest.raises(FileNotFoundError, match=r"did you mean configs/faster_rcnn/faster_rcnn_R_50_FPN_1x\.yaml"):
        find_config("configs/faster_rcnn/faster_rcnn_R50_FPN_1x.yaml")


def test_a_missing_config_names_the_one_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "raccoon.yaml", "SEED: 1\n")
    write(tmp_path / "mine" / "shapes.yml", "SEED: 1\n")
    for name, found in (("racoon.yaml", "raccoon.yaml"), ("mine/shape.yml", "mine/shapes.yml")):
        with pytest.raises(FileNotFoundError, match=rf"did you mean {re.escape(found)}\?"):
            find_config(name)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("data.yaml", "train: ../train/images\nnc: 1\nnames: [fish]\n", r"describes data, .* --data \S+data\.yaml`"),
        ("data.yaml", "path: .\nval: val/images\nnames:\n  0: fish\n", r"describes data, and is no config"),
        ("coco.json", '{"images": [], "annotations": [], "categories": []}', r"coco\.json describes data"),
        ("mine.yaml", "cells: {format: coco, images: a, annotations: b}\n", r"a catalog, .* DATASETS\.CATALOG"),
        ("fcos.py", "model = dict(type='FCOS')\n", r"fcos\.py is Python, and a config is YAML"),
    ],
)
def test_files_that_are_no_configs_are_told_apart(tmp_path: Path, name: str, text: str, said: str):
    with pytest.raises(UserError, match=said):
        load(write(tmp_path / name, text))


def test_a_folder_is_no_config(tmp_path: Path):
    with pytest.raises(ValueError, match=r"is a folder, and no config file; --data \S+ would train on it"):
        find_config(tmp_path)


def test_texts_name_only_the_pages_that_are_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    text = "a catalog (docs/own_data.md) or a page (docs/absent.md)."
    assert with_docs(text) == "a catalog (docs/own_data.md) or a page."
    monkeypatch.setattr("detframe.config.paths.PACKAGE", tmp_path / "site-packages" / "detframe")
    assert with_docs(text) == "a catalog or a page."


# ---------------------------------------------------------------- CUSTOM_IMPORTS
MODULE = """
from detframe import registry
@registry.BACKBONES.register("{name}")
def build(cfg):
    return None
"""


def test_a_file_beside_the_config_is_imported_once(tmp_path: Path):
    write(tmp_path / "mine.py", MODULE.format(name="custom-file"))
    import_custom_modules(["mine.py"], beside=tmp_path)
    import_custom_modules(["mine.py"], beside=tmp_path)
    assert "custom-file" in registry.BACKBONES


def test_a_module_in_the_working_folder_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path / "my_pkg_for_test" / "net.py", MODULE.format(name="custom-module"))
    write(tmp_path / "my_pkg_for_test" / "__init__.py", "")
    import_custom_modules(["my_pkg_for_test.net"])
    assert "custom-module" in registry.BACKBONES


def test_a_file_that_moved_with_its_checkpoint_is_found_beside_it(tmp_path: Path):
    write(tmp_path / "moved.py", MODULE.format(name="custom-moved"))
    import_custom_modules(["/another/machine/moved.py"], beside=tmp_path)
    assert "custom-moved" in registry.BACKBONES


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"CUSTOM_IMPORTS names 'no\.py'"):
        import_custom_modules(["no.py"], beside=tmp_path)
    with pytest.raises(ImportError, match="CUSTOM_IMPORTS names 'no_such_module_here'"):
        import_custom_modules(["no_such_module_here"])


def test_an_error_inside_a_users_file_is_the_users_to_see(tmp_path: Path):
    file = write(tmp_path / "broken.py", "import a_module_that_is_missing\n")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_missing"):
        import_custom_modules([str(file)])
