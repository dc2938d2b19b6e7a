"""What follows from shapes is made once for each, kept for the last ones only, and fit for training."""

from __future__ import annotations

import copy

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from detframe.layers import ByShape
from detframe.ops.exportable import exporting


def _asked(kept: ByShape, key, like=None):
    made = []
    value = kept.get(key, torch.zeros(1) if like is None else like, lambda: made.append(key) or torch.ones(3))
    return value, bool(made)


def test_each_key_is_made_once_and_the_last_ones_stay():
    kept = ByShape(most=2)
    assert [_asked(kept, key)[1] for key in ("a", "b", "a", "c", "a", "b")] == [True, True, False, True, False, True]
    assert len(kept) == 2


def test_what_inference_made_can_be_trained_with():
    kept = ByShape()
    with torch.inference_mode():
        value, _ = _asked(kept, "a")
    leaf = torch.ones(3, requires_grad=True)
    (leaf * value).sum().backward()
    assert _asked(kept, "a")[0] is value and not value.is_inference()


def test_graphs_and_fake_tensors_leave_nothing_and_take_nothing():
    kept = ByShape()
    with exporting():
        assert _asked(kept, "a")[1]
    with FakeTensorMode():
        assert _asked(kept, "a")[1]
    assert len(kept) == 0 and _asked(kept, "a")[1]
    with FakeTensorMode():
        assert _asked(kept, "a", torch.zeros(1))[1]


def test_a_copy_is_empty():
    kept = ByShape(most=3)
    _asked(kept, "a")
    other = copy.deepcopy(kept)
    assert len(other) == 0 and other.most == 3
