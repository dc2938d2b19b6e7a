"""Masks on boxes as arrays are pasted and encoded as tensors are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from detframe.structures import BoxMasks

SIZE_HW = (60, 80)
BOXES = [
    [10.0, 5.0, 50.5, 40.25],
    [-20.0, -5.0, 30.0, 30.0],  # begins outside
    [70.0, 50.0, 120.0, 90.0],  # ends outside
    [5.0, 5.0, 5.0, 9.0],  # without area
    [float("nan"), 0.0, 10.0, 10.0],
    [200.0, 200.0, 210.0, 210.0],
    [12.3, 12.4, 12.9, 12.8],
    [0.0, 0.0, 80.0, 60.0],
]


def both(seed: int = 0) -> tuple[BoxMasks, BoxMasks]:
    probs = np.random.default_rng(seed).random((len(BOXES), 28, 28), dtype=np.float32)
    boxes = np.array(BOXES, dtype=np.float32)
    tensors = BoxMasks(torch.from_numpy(probs), torch.from_numpy(boxes), SIZE_HW)
    return BoxMasks(probs, boxes, SIZE_HW), tensors


def test_pasted_as_tensors_are():
    arrays, tensors = both()
    pasted = arrays.paste()
    assert isinstance(pasted, np.ndarray) and pasted.dtype == np.float32 and pasted.shape == (len(BOXES), 1, *SIZE_HW)
    np.testing.assert_allclose(pasted, tensors.paste().numpy(), atol=2e-6)
    assert pasted[0].max() > 0.5 and not pasted[3:6].any()


def test_encoded_as_tensors_are():
    arrays, tensors = both()
    assert arrays.encode() == tensors.encode()


def test_none_at_all():
    none = BoxMasks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), SIZE_HW)
    assert none.paste().shape == (0, 1, *SIZE_HW) and none.encode() == []


def test_rows_and_sizes():
    arrays, tensors = both()
    some, wanted = arrays[np.array([0, 7])], tensors[torch.tensor([0, 7])]
    moved, expected = some.rescale(SIZE_HW, (123, 77)), wanted.rescale(SIZE_HW, (123, 77))
    assert len(some) == 2 and moved.shape == expected.shape == (2, 1, 123, 77)
    np.testing.assert_array_equal(moved.boxes, expected.boxes.numpy())


def test_a_threshold_that_everything_reaches():
    with pytest.raises(ValueError, match="must be above 0, not 0"):
        both()[0].encode(0.0)
