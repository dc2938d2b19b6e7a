"""MODEL_ZOO.md is what its tool makes of the configs, the measurements and the docs."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
from pathlib import Path

import pytest

from detframe import model_zoo
from detframe.compat.detector_weights import DETECTOR_WEIGHTS
from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "make_model_zoo.py"
MEASURED = json.loads((ROOT / "docs" / "model_zoo.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/make_model_zoo.py")


def test_every_config_was_measured_and_stands_on_the_page_once():
    configs = model_zoo.list_configs()
    assert sorted(MEASURED["models"]) == configs, "run `make docs`"
    tables = PAGE.partition("## Weights of others")[0]
    assert sorted(re.findall(r"^\| \[[\w/]+\]\(configs/([\w/]+\.yaml)\)", tables, flags=re.MULTILINE)) == configs


def test_the_page_is_up_to_date(tool):
    assert tool.page(PAGE, tool.read_measured()) == PAGE, "run `make docs`"


def test_parameters(tool):
    counts = {}
    has_timm = importlib.util.find_spec("timm") is not None
    rows = {name: row for name, row in MEASURED["models"].items() if has_timm or "timm" not in name}
    assert len(rows) > 100
    for name, row in rows.items():
        cfg = tool.model_config(name, "cpu")
        key = cfg.MODEL.dump()
        if key not in counts:
            counts[key] = tool.count_parameters(name)
        assert (counts[key], cfg.MODEL.NUM_CLASSES) == (row["parameters"], row["classes"]), name


@pytest.mark.parametrize("name", ["quick/faster_rcnn_R_18_FPN_shapes.yaml", "quick/retinanet_R_18_FPN_shapes.yaml"])
def test_operations_of_small_models(tool, name):
    assert list(tool.SIZE_HW) == MEASURED["size_hw"]
    assert tool.count_gmac(name) == MEASURED["models"][name]["gmac"]


def test_every_checkpoint_stands_on_the_page_with_its_address():
    addresses = re.findall(r"^\| \[\w+\]\(configs/.*?\]\((https://[^)]+)\)", PAGE, flags=re.MULTILINE)
    assert len(addresses) == len(set(addresses)) == len(DETECTOR_WEIGHTS)
    wanted = {entry.weights.partition("#")[0] for entry in DETECTOR_WEIGHTS if entry.owner != "torchvision"}
    assert wanted <= set(addresses)


def test_a_new_config_comes_in_by_itself(tool, monkeypatch):
    new = "rpn/rpn_new.yaml"
    listed = [*model_zoo.list_configs(), new]
    monkeypatch.setattr(model_zoo, "list_configs", lambda pattern="*": fnmatch.filter(listed, pattern))
    monkeypatch.setattr(tool, "config_table", lambda names, _rows: ", ".join(names))
    rows = {name: MEASURED["models"][name] for name in listed if name.startswith("rpn/") and name != new}
    page = tool.page("<!-- configs: rpn/* -->\n<!-- end -->\n", {**rows, new: next(iter(rows.values()))})
    assert new in page and len(rows) > 2 and all(name in page for name in rows) and page.endswith("<!-- end -->\n")


def test_results_are_copied_with_links_from_the_root(tool):
    assert tool.rebased("[a](b.md), [c](../configs/d.yaml), [e](https://f.g)") == (
        "[a](docs/b.md), [c](configs/d.yaml), [e](https://f.g)"
    )
    assert "68.4" in tool.results() and "python tools/train_efpn.py --stages" in tool.results()


def test_a_config_in_no_table_is_an_error(tool):
    text = PAGE.replace(" fcos/*dcnv2* fcos/* -->", " -->")
    assert text != PAGE
    with pytest.raises(SystemExit, match=r"MODEL_ZOO\.md has no table for fcos/fcos_\S+\.yaml.*: write a pattern"):
        tool.page(text, tool.read_measured())
