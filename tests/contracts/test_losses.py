"""The contract of losses by themselves: detframe's own keep it, and what breaks it is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from detframe.contracts.inputs import Place
from detframe.contracts.losses import tests_of_loss as loss_tests
from detframe.contracts.results import Result, result_of
from detframe.registry import LOSSES


def found(name: str, folder: Path) -> Result:
    """The result of the one test of a loss."""
    path = folder / "nothing_more.py"
    path.write_text("")
    ((title, body),) = loss_tests(Place("LOSSES", name, path))
    return result_of(name, title, body, path)


@pytest.mark.parametrize(
    "name",
    ["cross_entropy", "softmax_focal", "federated", "seesaw", "focal", "quality_focal", "varifocal"],
)
def test_those_of_detframe_keep_it(name: str, tmp_path: Path):
    result = found(name, tmp_path)
    assert result.state == "ok", result


def test_a_known_loss_under_another_name_is_left_out(tmp_path: Path):
    result = found("giou", tmp_path)
    assert result.state == "left out" and "'giou'" in result.why


def iou(pred, target):
    """The IoU of pairs, with a division by 0 nowhere in these tests."""
    low, high = torch.maximum(pred[..., :2], target[..., :2]), torch.minimum(pred[..., 2:], target[..., 2:])
    inner = (high - low).clamp(min=0).prod(-1)
    return inner / (sum((b[..., 2:] - b[..., :2]).prod(-1) for b in (pred, target)) - inner)


@pytest.mark.parametrize(
    ("fits", "loss", "says"),
    [
        ("boxes", lambda p, t: 1 - iou(p, t), "ok$"),
        ("boxes", lambda p, t: -iou(p, t).log(), "the loss of boxes with a side in common is inf"),
        ("boxes", lambda p, t: ((p - t) ** 2).sum(-1).sqrt(), r"the gradient of the loss of equal boxes is \[nan"),
        ("boxes", lambda p, t: (p - t).abs(), r"must be float32 \(6,\), not float32 \(6, 4\)"),
        ("boxes", lambda p, t: (p - t).abs().mean(), r"must be float32 \(6,\), not float32 \(\)"),
        ("boxes", lambda p, t: ((p - t).abs() / p.max()).sum(-1), "FAILED: .*Error"),  # there is no row
        ("regions", lambda x, t: F.cross_entropy(x, t.labels, ignore_index=-1, reduction="sum"), "ok$"),
        ("regions", lambda x, t: F.cross_entropy(x, t.labels, ignore_index=-1), "the loss of no RoIs is nan"),
        ("regions", lambda x, t: F.cross_entropy(x, t.labels.clamp(min=0), reduction="sum"), "label -1 counts: other"),
        ("regions", lambda x, t: (x - x.detach()).sum() + 1, r"label -1 counts: its logits have the gradient \[1\.0"),
        ("dense", lambda x, t: (torch.cat(x, 1).square().sum(-1) * t.weights).sum(), "ok$"),
        ("dense", lambda x, t: torch.cat(x, 1).square().sum(), "weight 0 counts: other logits there change the loss"),
        ("dense", lambda x, t: (torch.cat(x, 1).square().sum(-1) * t.weights).sum() + 1, "must be 0, not 1.0"),
        ("dense", lambda x, t: (torch.cat(x, 1).sum(-1) * t.weights).sum() / t.weights.sum(), "weights are 0 is nan"),
    ],
)
def test_what_is_broken_is_named(fits: str, loss: Callable, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def member(cfg, keys):
        return loss

    member.fits = fits
    monkeypatch.setattr(LOSSES, "_members", {**dict(iter(LOSSES)), "mine": member})
    result = found("mine", tmp_path)
    assert re.search(says, str(result)), result
