"""Tensors that go over together arrive as they were, of every type and shape, on a device that is not the host's."""

import numpy as np
import torch
from torch._subclasses import FakeTensorMode

from detframe.structures.transfer import move_together
from tests.fake_device import needs_fake_device

TENSORS = [
    torch.tensor([True, False, True]),
    torch.arange(6.0).reshape(2, 3).t(),
    torch.arange(4),
    torch.zeros(0, 4),
    torch.arange(3, dtype=torch.float16),
    torch.tensor(7),
    torch.tensor(7).expand(1),  # in steps of 0
    torch.from_numpy(np.zeros(0, np.int64)),  # as the labels of an image without objects, of NumPy 2.4 in steps of 0
    torch.empty_strided((0, 4), (0, 0)),
]


def test_on_the_host_nothing_is_copied():
    assert all(a is b for a, b in zip(move_together(TENSORS, torch.device("cpu")), TENSORS, strict=True))
    assert move_together([], torch.device("cuda")) == []


def test_values_come_apart_as_they_were(monkeypatch):
    """The bytes stay on the host here: as the device of the arguments alone is asked, the way is the same."""
    copies = []
    original = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda t, *a, **k: (copies.append(t), original(t, "cpu"))[1])
    moved = move_together(TENSORS, torch.device("meta"))
    assert len(copies) == 1
    for a, b in zip(moved, TENSORS, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@needs_fake_device
def test_shapes_types_and_device_of_cuda():
    with FakeTensorMode() as mode:
        moved = move_together([mode.from_tensor(tensor) for tensor in TENSORS], torch.device("cuda"))
    assert [(t.dtype, t.shape, t.device.type) for t in moved] == [(t.dtype, t.shape, "cuda") for t in TENSORS]
