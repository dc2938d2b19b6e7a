"""The contract of mask heads, of which there is no skeleton: detframe's own keeps it, and what breaks it is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from detframe.contracts import models
from detframe.contracts.inputs import Place
from detframe.contracts.results import result_of
from detframe.modeling.roi_heads.mask import MaskBranch
from detframe.registry import MASK_HEADS


class Unused(MaskBranch):
    """A parameter that no loss depends on."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.unused = nn.Linear(2, 2)


class Needy(MaskBranch):
    """Takes a mean over regions, which there may be none of."""

    def losses(self, features, regions, gt, pooled=None):
        found = super().losses(features, regions, gt, pooled)
        return {"loss_mask": found["loss_mask"] + 0 * regions.boxes.mean()}


class Misnamed(MaskBranch):
    """A loss without the beginning that all have."""

    def losses(self, features, regions, gt, pooled=None):
        return {"mask": super().losses(features, regions, gt, pooled)["loss_mask"]}


class Chancy(MaskBranch):
    """Draws by chance in evaluation."""

    def predict(self, *args, **kwargs):
        return torch.rand_like(super().predict(*args, **kwargs))


@pytest.mark.parametrize(
    ("head", "test", "says"),
    [
        (MaskBranch, "shapes and types", "ok$"),
        (MaskBranch, "a gradient for every parameter", "ok$"),
        (MaskBranch, "images without objects", "ok$"),
        (Unused, "a gradient for every parameter", r"no gradient for unused\.weight, unused\.bias"),
        (Needy, "images without objects", "loss_mask is nan for images without objects"),
        (Misnamed, "losses", "must begin with 'loss_', not 'mask'"),
        (Chancy, "two evaluations are equal", "masks.*nothing may be drawn by chance"),
    ],
)
def test_mask_heads(head: type[MaskBranch], test: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(MASK_HEADS, "_members", {**dict(iter(MASK_HEADS)), "mine": head})
    path = tmp_path / "nothing_more.py"
    path.write_text("")
    result = result_of("MASK_HEADS mine", test, dict(models.tests_of(Place("MASK_HEADS", "mine", path)))[test], path)
    assert re.search(says, str(result)), result
