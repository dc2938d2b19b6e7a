"""The tutorial "adding a loss" is run as it stands."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torchvision.ops import box_iou

from detframe.modeling.ground_truth import pack_targets
from detframe.modeling.losses import RegionTargets
from tests.docs.blocks import BLOCK
from tests.docs.test_tutorial import ROOT, SMALL
from tests.modeling.tiny import EMPTY

PAGE = ROOT / "docs" / "adding_a_loss.md"


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """The module of the tutorial."""
    path = tmp_path_factory.mktemp("tutorial") / "my_losses.py"
    path.write_text(dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))["my_losses.py"], encoding="utf-8")
    spec = importlib.util.spec_from_file_location("tests_my_losses", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    from detframe.config.keys import SCHEMA, all_keys
    from detframe.registry import LOSSES

    del SCHEMA["MODEL"]["MY_LOSSES"]
    all_keys.cache_clear()
    for name in ("alpha-iou", "poly1"):
        del LOSSES._members[name]


def test_the_losses_are_what_they_say(losses):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 20, 2, generator=generator) * 10
    pred, target = torch.cat([corner, corner + 5 + torch.rand(2, 20, 2, generator=generator) * 9], 2)
    torch.testing.assert_close(losses.AlphaIoU()(pred, target), 1 - box_iou(pred, target).diagonal() ** 3)
    logits, labels = torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 3, -1, 0])
    gt = pack_targets([EMPTY], 3, torch.device("cpu"))
    found = losses.Poly1(2.0, [1.0, 3.0, 1.0])(logits, RegionTargets(labels, torch.zeros_like(labels), gt))
    p = logits.softmax(1)[torch.arange(6), labels.clamp(min=0)]
    weights = torch.tensor([1.0, 1, 3, 1, 0, 1])
    torch.testing.assert_close(found, (weights * (-p.log() + 2 * (1 - p))).sum())


def test_the_losses_train(tutorial: Path, run_python):
    make_shapes, train, *_ = [line.split()[1:] for line in (tutorial / "run.sh").read_text().splitlines()]
    environment = {"DETFRAME_DATASETS": str(tutorial / "datasets")}
    made = run_python(ROOT / make_shapes[0], "--train", 6, "--val", 3, cwd=tutorial, **environment)
    assert made.returncode == 0, made.stderr
    done = run_python(ROOT / train[0], *train[1:], *SMALL, cwd=tutorial, **environment)
    assert done.returncode == 0, done.stderr + done.stdout
    rows = [json.loads(line) for line in (tutorial / "output/my_losses/metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "loss" in row]
    assert [row["iteration"] for row in trained] == [1, 2]
    assert all(row["loss_roi_cls"] > 0 and 0 < row["loss_roi_box"] < 1 for row in trained)
    chosen = ("MODEL.ROI_BOX_HEAD.CLS_LOSS", "alpha-iou")
    wrong = run_python(ROOT / train[0], *train[1:], *SMALL, *chosen, cwd=tutorial, **environment)
    assert wrong.returncode == 2 and "CLS_LOSS cannot be 'alpha-iou'" in wrong.stderr and "poly1" in wrong.stderr
