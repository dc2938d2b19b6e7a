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


class Logits(MaskBranch):
    """Forgets the sigmoid."""

    def predict(self, features, boxes, labels, image, pooled=None):
        return self._logits(features, boxes, labels, image, pooled) - 1


class EveryClass(MaskBranch):
    """Predicts a map for each class."""

    def predict(self, *args, **kwargs):
        return super().predict(*args, **kwargs)[:, None].expand(-1, 3, -1, -1)


class Tall(MaskBranch):
    """Predicts maps that are higher than wide."""

    def predict(self, *args, **kwargs):
        return super().predict(*args, **kwargs)[:, :, 1:]


class Binary(MaskBranch):
    """Predicts what is decided already."""

    def predict(self, *args, **kwargs):
        return super().predict(*args, **kwargs) > 0.5


class Whole(MaskBranch):
    """Predicts one map for all boxes of an image."""

    def predict(self, *args, **kwargs):
        return super().predict(*args, **kwargs)[:2]


class NeedsBoxes(MaskBranch):
    """Fails where nothing was detected."""

    def predict(self, features, boxes, labels, image, pooled=None):
        assert len(boxes), "no boxes"
        return super().predict(features, boxes, labels, image, pooled)


SHAPES = "shapes and types"


@pytest.mark.parametrize(
    ("head", "test", "says"),
    [
        (MaskBranch, SHAPES, "ok$"),
        (Logits, SHAPES, "masks of 3 boxes must be probabilities from 0 to 1: is a sigmoid missing"),
        (EveryClass, SHAPES, r"must be float32 \(R, S, S\), one map for each box, not float32 \(3, 3, 28, 28\)"),
        (Tall, SHAPES, r"must be float32 \(R, S, S\), one map for each box, not float32 \(3, 28, 27\)"),
        (Binary, SHAPES, r"masks of 3 boxes must be float32 \(3, 28, 28\), not bool \(3, 28, 28\)"),
        (Whole, SHAPES, r"masks of 3 boxes must be float32 \(3, 28, 28\), not float32 \(2, 28, 28\)"),
        (NeedsBoxes, SHAPES, "AssertionError: no boxes"),
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
