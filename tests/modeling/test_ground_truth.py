"""The targets of a batch as padded tensors, which have a row even where no image has an object."""

import pytest
import torch

from detframe.modeling.ground_truth import pack_targets
from detframe.modeling.proposals import NMS, Candidates
from detframe.structures import LazyMasks
from tests.fake_device import CUDA, fake_device, needs_fake_device, on_host
from tests.modeling.tiny import make_target

CPU = torch.device("cpu")
BOX = [[1.0, 2, 5, 6]]


def target(count: int, crowd: bool = False):
    """An image of 8 x 8 with up to two objects, the second of which has no mask; both are crowds, if any."""
    masks = LazyMasks([[[1.0, 2, 5, 2, 5, 6]], []][:count], (8, 8))
    keypoints = torch.full((count, 3, 3), 2.0)
    iscrowd = torch.tensor([crowd] * count, dtype=torch.bool)
    return make_target(BOX * count, [2] * count, seed=7, masks=masks, keypoints=keypoints, iscrowd=iscrowd)


@pytest.mark.parametrize(("counts", "rows"), [((0,), 1), ((0, 0), 1), ((1, 0), 1), ((2, 0, 1), 2)])
def test_rows_beyond_an_images_own_are_invalid_zeros(counts, rows):
    gt = pack_targets([target(count) for count in counts], 3, CPU)
    assert gt.valid.tolist() == [[row < count for row in range(rows)] for count in counts]
    assert gt.labels.tolist() == [[2 if row < count else 0 for row in range(rows)] for count in counts]
    assert gt.boxes.tolist() == [[BOX[0] if row < count else [0] * 4 for row in range(rows)] for count in counts]
    assert gt.keypoints.shape == (len(counts), rows, 3, 3)
    assert torch.equal(gt.keypoints, 2.0 * gt.valid[..., None, None].expand(-1, -1, 3, 3))
    if rows == 2:
        assert gt.has_mask.tolist() == [[True, False], [False, False], [True, False]]
    else:
        assert gt.has_mask is None
    assert [len(masks) for masks in gt.masks] == list(counts)


def test_crowds_leave_the_same_as_no_objects():
    gt, none = (pack_targets([target(count, crowd=True)], 3, CPU) for count in (2, 0))
    assert torch.equal(gt.valid, none.valid) and torch.equal(gt.boxes, none.boxes) and not gt.valid.any()


@pytest.mark.parametrize("images", [1, 3])
def test_suppression_of_nothing(images):
    none = torch.zeros(0, dtype=torch.int64)
    kept = NMS(0.5, 10)(Candidates(torch.zeros(0, 4), torch.zeros(0), none, none, none), images)
    assert kept.boxes.shape == (images, 1, 4) and not kept.boxes.any()  # a row, so that no shape depends on values
    assert kept.valid.shape == kept.scores.shape == kept.labels.shape == (images, 1) and not kept.valid.any()
    assert (kept.valid.dtype, kept.labels.dtype, kept.scores.dtype) == (torch.bool, torch.int64, torch.float32)


@needs_fake_device
def test_targets_on_a_device_are_checked_without_a_wait_and_crowds_are_no_objects():
    """On a device without values, a look at one would fail; what types and shapes tell is still checked."""
    with fake_device() as mode:
        on_device = {k: on_host(mode, v) for k, v in target(2, crowd=True).items() if k != "masks"}
        on_device = {k: v.to(CUDA) if isinstance(v, torch.Tensor) else v for k, v in on_device.items()}
        gt = pack_targets([on_device], 3, CUDA, [(8, 8)], ignore_crowds=True)
        assert gt.boxes.shape == (1, 2, 4)
        assert gt.valid.device.type == gt.seeds.device.type == gt.ignored.device.type == "cuda"
        with pytest.raises(ValueError, match="2 boxes but labels of shape"):
            pack_targets([{**on_device, "labels": on_device["labels"][:1]}], 3, CUDA)
        with pytest.raises(ValueError, match="labels must be whole numbers"):
            pack_targets([{**on_device, "labels": on_device["labels"].float()}], 3, CUDA)
